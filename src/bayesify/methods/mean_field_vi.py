"""Mean-field variational inference (Graves, NeurIPS 2011; Blundell et al., "Bayes by backprop", ICML 2015).

A Gaussian q = N(m, diag e^{2ρ}) is fitted to the posterior by maximising the evidence lower bound. With θ = m + e^ρ ε
and g the gradient of the tempered log likelihood of all N examples at θ, estimated from a batch,

    ∂F/∂m = E[g] − A (m − μ),          ∂F/∂ρ = E[g e^ρ ε] − A e^{2ρ} + 1,                                        (1)

with A = P/T and the prior N(μ, P⁻¹): its part, summed over parameters, is in closed form, and the entropy's is 1 per
parameter. Where the posterior is Gaussian with precision Λ/T, the optimum is its mean and the variances T/Λ_ii: those
of one parameter given all others, too small wherever parameters are correlated.

Cost: `num_samples` gradients of the batch per step. Not here: noise per example (flipout, local reparameterisation),
which lowers the variance for one particle per batch; here every particle is a network of its own, and a pair of them
cancels what is odd. Several modes: multi(mean_field_vi, 5). Natural gradients: ivon, which learns faster.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from bayesify.covariance import Covariance, Diagonal
from bayesify.methods.base import Exactness, MethodInfo, Range
from bayesify.methods.variational import Sampled, Variational
from bayesify.model.prior import GaussianPrior


@dataclass(frozen=True)
class MeanFieldVI(Variational):
    """A diagonal Gaussian over all parameters, by gradients of the evidence lower bound."""

    info = MethodInfo(
        name="mean_field_vi",
        family="variational",
        exactness=Exactness.APPROXIMATE,
        reference="Graves, NeurIPS 2011; Blundell et al., ICML 2015",
        summary="a diagonal Gaussian that maximises the evidence lower bound",
        bias="one mode; ignores correlations between parameters, so variances are too small",
        search_space={
            "learning_rate": Range(3e-3, 0.1, log=True),
            "initial_scale": Range(1e-3, 0.1, log=True),
            "batch_size": Range(16, 128, log=True, integer=True),
        },
    )

    def check(self) -> None:
        """None of its own."""

    def start(self, mean: Tensor, scale: Tensor, rng: torch.Generator) -> Tensor:
        """(m, ρ)."""
        del rng
        return torch.cat([mean, scale.log()])

    def covariance(self, phi: Tensor) -> Covariance:
        """Variances e^{2ρ}."""
        return Diagonal((2 * phi.chunk(2)[1]).exp())

    def pull(self, phi: Tensor, sampled: Sampled) -> Tensor:
        """The expectations in (1)."""
        return torch.cat([sampled.gradient.mean(0), (sampled.gradient * sampled.deviation).mean(0)])

    def entropy(self, phi: Tensor) -> Tensor:
        """Σ ρ + ½ log 2πe."""
        return (phi.chunk(2)[1] + 0.5 * math.log(2 * math.pi * math.e)).sum()

    def inward(self, phi: Tensor, prior: GaussianPrior | None, temperature: float) -> Tensor:
        """The closed forms in (1)."""
        mean, log_scale = phi.chunk(2)
        if prior is None:
            return torch.cat([torch.zeros_like(mean), torch.ones_like(mean)])
        precision = prior.precision / temperature
        return torch.cat([precision * (prior.center - mean), 1 - precision * (2 * log_scale).exp()])
