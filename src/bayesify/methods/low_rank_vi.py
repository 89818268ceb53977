"""Variational inference with a Gaussian of diagonal plus low-rank covariance (Ong, Nott & Smith, JCGS 2018).

    q = N(m, Σ),   Σ = D + F Fᵀ,   D = diag e^{2ρ},   F (P, R),      θ = m + e^ρ ε + F z,                        (1)

maximises the evidence lower bound. With g the gradient of the tempered log likelihood of all N examples at θ,

    ∂F/∂m = E[g] − A (m − μ),                                                                                   (2)
    ∂F/∂ρ = E[g e^ρ ε] − A e^{2ρ} + e^{2ρ} diag(Σ⁻¹),                                                           (3)
    ∂F/∂F = E[g zᵀ] − A F + Σ⁻¹ F,                                                                              (4)

A = P/T, prior N(μ, P⁻¹): its part and the entropy ½ log |Σ| are in closed form, by Woodbury's identity with matrices of
R × R. A Gaussian posterior whose covariance is of the form (1) is found exactly; others as KL(q ‖ p) will have it.

Cost: `num_samples` gradients of the batch per step, and P R² operations. Not here: several modes
(multi(low_rank_vi, 5)); natural gradients.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from bayesify.covariance import Covariance, LowRank
from bayesify.methods.base import Exactness, MethodInfo, Range, require_positive
from bayesify.methods.variational import Sampled, Variational
from bayesify.model.prior import GaussianPrior
from bayesify.model.problem import Problem

FACTOR_SHARE = 0.1
"""Of the variance at the start, all factors together: enough to tell the factors apart, too little to matter."""


class Parts(NamedTuple):
    """φ taken apart."""

    mean: Tensor  # (P,)
    log_scale: Tensor  # (P,) ρ
    factors: Tensor  # (P, R)


class Inverse(NamedTuple):
    """What is needed of Σ⁻¹."""

    log_det: Tensor  # () of Σ
    diagonal: Tensor  # (P,) of Σ⁻¹
    factors: Tensor  # (P, R) Σ⁻¹ F


@dataclass(frozen=True)
class LowRankVI(Variational):
    """A Gaussian with correlations along a few directions, by gradients of the evidence lower bound.

    Attributes:
        rank: R.
    """

    rank: int = 4

    info = MethodInfo(
        name="low_rank_vi",
        family="variational",
        exactness=Exactness.APPROXIMATE,
        reference="Ong, Nott & Smith, JCGS 2018",
        summary="a Gaussian of diagonal plus low-rank covariance that maximises the evidence lower bound",
        bias="one mode; correlations beyond `rank` directions are ignored, which makes variances too small",
        search_space={
            "learning_rate": Range(1e-3, 3e-2, log=True),
            "initial_scale": Range(0.003, 0.1, log=True),
            "rank": Range(1, 20, log=True, integer=True),
        },
    )

    def check(self) -> None:
        """The rank."""
        require_positive(self, "rank")

    def start(self, mean: Tensor, scale: Tensor, rng: torch.Generator) -> Tensor:
        """(m, ρ, F) with small random factors: at F = 0 their gradient is zero."""
        noise = torch.randn(len(mean), self.rank, generator=rng, device=mean.device, dtype=mean.dtype)
        factors = noise * scale[:, None] * math.sqrt(FACTOR_SHARE / self.rank)
        return torch.cat([mean, scale.log(), factors.flatten()])

    def covariance(self, phi: Tensor) -> Covariance:
        """(1)."""
        parts = self.parts(phi)
        return LowRank((2 * parts.log_scale).exp(), parts.factors)

    def pull(self, phi: Tensor, sampled: Sampled) -> Tensor:
        """The expectations in (2) to (4)."""
        parts = self.parts(phi)
        gradient, size, count = sampled.gradient, len(parts.mean), len(sampled.gradient)
        independent, shared = sampled.white[:, :size], sampled.white[:, size:]
        scales = (gradient * independent).mean(0) * parts.log_scale.exp()
        return torch.cat([gradient.mean(0), scales, (gradient.mT @ shared / count).flatten()])

    def entropy(self, phi: Tensor) -> Tensor:
        """½ log |2πe Σ|."""
        parts = self.parts(phi)
        return 0.5 * (inverse(parts).log_det + len(parts.mean) * math.log(2 * math.pi * math.e))

    def inward(self, phi: Tensor, prior: GaussianPrior | None, temperature: float) -> Tensor:
        """The closed forms in (2) to (4)."""
        parts = self.parts(phi)
        found, variance = inverse(parts), (2 * parts.log_scale).exp()
        if prior is None:
            return torch.cat([torch.zeros_like(parts.mean), variance * found.diagonal, found.factors.flatten()])
        precision = prior.precision / temperature
        scales = variance * (found.diagonal - precision)
        factors = found.factors - precision[:, None] * parts.factors
        return torch.cat([precision * (prior.center - parts.mean), scales, factors.flatten()])

    def memory(self, problem: Problem) -> float:
        """Adam's vectors, gradients and copies of φ, and the particles."""
        vectors = 6 * (2 + self.rank) + 6 * self.num_samples
        return float(vectors * problem.num_parameters * problem.network.initial.element_size())

    def parts(self, phi: Tensor) -> Parts:
        """φ (V,) taken apart."""
        size = len(phi) // (2 + self.rank)
        return Parts(phi[:size], phi[size : 2 * size], phi[2 * size :].view(size, self.rank))


def inverse(parts: Parts) -> Inverse:
    """Σ⁻¹ by Woodbury's identity: with G = D^(−½) F and C = I + Gᵀ G = L Lᵀ, |Σ| = |D| |C|, Σ⁻¹ F = D^(−½) G C⁻¹."""
    scaled = parts.factors * (-parts.log_scale).exp()[:, None]
    inner = scaled.mT @ scaled
    inner.diagonal().add_(1)
    root = torch.linalg.cholesky(inner)
    solved = torch.linalg.solve_triangular(root, scaled.mT, upper=False)  # (R, P), L⁻¹ Gᵀ
    precision = (-2 * parts.log_scale).exp() * (1 - solved.square().sum(0))
    log_det = 2 * (parts.log_scale.sum() + root.diagonal().log().sum())
    back = torch.linalg.solve_triangular(root.mT, solved, upper=True).mT  # (P, R), G C⁻¹
    return Inverse(log_det, precision, back * (-parts.log_scale).exp()[:, None])
