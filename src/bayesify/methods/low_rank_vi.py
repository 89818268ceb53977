"""Variational inference with a Gaussian of diagonal plus low-rank covariance (Ong, Nott & Smith, JCGS 2018).

    q = N(m, Σ),   Σ = e^ρ (I + G Gᵀ) e^ρ,   G (P, R),       θ = m + δ,   δ = e^ρ (ε + G z),                      (1)

maximises the evidence lower bound. With g the gradient of the tempered log likelihood of all N examples at θ, and
v = e^{2ρ} (1 + Σ_r G_r²) the diagonal of Σ,

    ∂F/∂m = E[g] − A (m − μ),                                                                                   (2)
    ∂F/∂ρ = E[g δ] − A v + 1,                                                                                   (3)
    ∂F/∂G = E[e^ρ g zᵀ] − A e^{2ρ} G + G (I + Gᵀ G)⁻¹,                                                          (4)

A = P/T, prior N(μ, P⁻¹): its part and the entropy Σ ρ + ½ log |I + Gᵀ G| + const are in closed form. The factors are in
units of the diagonal's scales, which differ by orders of magnitude, so that one learning rate serves all. A Gaussian
posterior whose covariance is diagonal plus rank R is found exactly; others as KL(q ‖ p) will have it.

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
    factors: Tensor  # (P, R) G


@dataclass(frozen=True)
class LowRankVI(Variational):
    """A Gaussian with correlations along a few directions, by gradients of the evidence lower bound.

    Attributes:
        rank: R.
    """

    rank: int = 2

    info = MethodInfo(
        name="low_rank_vi",
        family="variational",
        exactness=Exactness.APPROXIMATE,
        reference="Ong, Nott & Smith, JCGS 2018",
        summary="a Gaussian of diagonal plus low-rank covariance that maximises the evidence lower bound",
        bias="one mode; correlations beyond `rank` directions are ignored, which makes variances too small",
        search_space={
            "learning_rate": Range(3e-3, 0.1, log=True),
            "initial_scale": Range(1e-3, 0.1, log=True),
            "rank": Range(1, 20, log=True, integer=True),
        },
    )

    def check(self) -> None:
        """The rank."""
        require_positive(self, "rank")

    def start(self, mean: Tensor, scale: Tensor, rng: torch.Generator) -> Tensor:
        """(m, ρ, G) with small random factors: at G = 0 their gradient is zero."""
        noise = torch.randn(len(mean), self.rank, generator=rng, device=mean.device, dtype=mean.dtype)
        return torch.cat([mean, scale.log(), noise.flatten() * math.sqrt(FACTOR_SHARE / self.rank)])

    def covariance(self, phi: Tensor) -> Covariance:
        """Σ of (1)."""
        parts = self.parts(phi)
        return LowRank((2 * parts.log_scale).exp(), parts.log_scale.exp()[:, None] * parts.factors)

    def pull(self, phi: Tensor, sampled: Sampled) -> Tensor:
        """The expectations in (2) to (4)."""
        parts, gradient = self.parts(phi), sampled.gradient
        shared = sampled.white[:, len(parts.mean) :]
        factors = (gradient * parts.log_scale.exp()).mT @ shared / len(gradient)
        return torch.cat([gradient.mean(0), (gradient * sampled.deviation).mean(0), factors.flatten()])

    def entropy(self, phi: Tensor) -> Tensor:
        """½ log |2πe Σ|."""
        parts = self.parts(phi)
        return (parts.log_scale + 0.5 * math.log(2 * math.pi * math.e)).sum() + 0.5 * torch.logdet(_inner(parts))

    def inward(self, phi: Tensor, prior: GaussianPrior | None, temperature: float) -> Tensor:
        """The closed forms in (2) to (4)."""
        parts = self.parts(phi)
        mean, scales = torch.zeros_like(parts.mean), torch.ones_like(parts.mean)
        factors = torch.linalg.solve(_inner(parts), parts.factors, left=False)
        if prior is not None:
            precision = prior.precision / temperature
            weighted = precision * (2 * parts.log_scale).exp()
            mean = precision * (prior.center - parts.mean)
            scales = 1 - weighted * (1 + parts.factors.square().sum(1))
            factors = factors - weighted[:, None] * parts.factors
        return torch.cat([mean, scales, factors.flatten()])

    def memory(self, problem: Problem) -> float:
        """Adam's vectors, gradients and copies of φ, and the particles."""
        vectors = 6 * (2 + self.rank) + 6 * self.num_samples
        return float(vectors * problem.num_parameters * problem.network.initial.element_size())

    def parts(self, phi: Tensor) -> Parts:
        """φ (V,) taken apart."""
        size = len(phi) // (2 + self.rank)
        return Parts(phi[:size], phi[size : 2 * size], phi[2 * size :].view(size, self.rank))


def _inner(parts: Parts) -> Tensor:
    """I + Gᵀ G, (R, R)."""
    inner = parts.factors.mT @ parts.factors
    inner.diagonal().add_(1)
    return inner
