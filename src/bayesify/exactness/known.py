"""What a problem with a known posterior can be asked.

The networks are linear, so that the P parameters are numbers that can be integrated over. They are read off the
*functions* of a posterior (`effective_parameters`), not off its tensors: dropout masks, frozen parameters and whatever
else makes up a draw then count as what they do.
"""

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor, nn

from bayesify.engine.rng import seeded
from bayesify.model.likelihoods import Likelihood
from bayesify.model.model import Model
from bayesify.model.prior import Prior
from bayesify.posterior.base import Particles


class Support(NamedTuple):
    """Where y is compared: sums over G of weights × function are integrals (or sums over classes)."""

    values: Tensor  # (G, B)
    weights: Tensor  # (G, B)


class KnownPosterior(ABC):
    """The posterior p(θ | D)^(1/T) of a linear model, known to rounding. Everything is float64.

    Attributes:
        name: what it is, in a few words.
        temperature: T.
        inputs: training inputs (N, D).
        targets: (N,).
        test_inputs: (B, D), reaching beyond the training inputs: there the parameters' spread is what counts.
        test_targets: (B,).
        mean: of θ = (weights, bias), (P,).
        covariance: of θ, (P, P).
        log_evidence: log p(D), of the model that is not tempered.
        mean_field_scale: standard deviations (P,) of the best Gaussian without correlations in the sense of
            KL(q ‖ p), where that is known: √(T / diag(precision)).
    """

    name: str
    temperature: float
    inputs: Tensor
    targets: Tensor
    test_inputs: Tensor
    test_targets: Tensor
    mean: Tensor
    covariance: Tensor
    log_evidence: float
    mean_field_scale: Tensor | None

    @property
    @abstractmethod
    def likelihood(self) -> Likelihood:
        """p(y | f)."""

    @property
    @abstractmethod
    def prior(self) -> Prior:
        """p(θ)."""

    @abstractmethod
    def at(self, temperature: float) -> "KnownPosterior":
        """The same model and data at another temperature."""

    @abstractmethod
    def sample(self, num_samples: int, rng: torch.Generator) -> Tensor:
        """Independent draws of θ, (S, P)."""

    @abstractmethod
    def log_likelihood(self, theta: Tensor, values: Tensor) -> Tensor:
        """Log p(y | x, θ) at the test inputs: θ (S, P), values (G, B) → (S, G, B)."""

    @abstractmethod
    def log_predictive(self, values: Tensor) -> Tensor:
        """Log p(y | x, D) at the test inputs: values (G, B) → (G, B)."""

    @abstractmethod
    def joint_log_density(self) -> float:
        """Log p(y₁, …, y_B | x₁, …, x_B, D) of all test targets together."""

    @abstractmethod
    def support(self) -> Support:
        """Where y is compared."""

    @property
    def stddev(self) -> Tensor:
        """Posterior standard deviations (P,)."""
        return self.covariance.diagonal().sqrt()

    @property
    def num_parameters(self) -> int:
        """P."""
        return len(self.mean)

    def module(self) -> nn.Module:
        """The network: θ = (weights, bias), untrained.

        The first layer changes nothing (a slope of 1 on both sides): it is there so that methods that work on
        activations, such as dropout, have one.
        """
        with seeded(0):  # its own initial values are not used
            layer = nn.Linear(self.inputs.shape[1], 1, dtype=torch.float64)
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
        return nn.Sequential(nn.LeakyReLU(1.0), layer)


def with_bias(inputs: Tensor) -> Tensor:
    """The design matrix: (N, D) → (N, D + 1), the last column ones."""
    return torch.cat([inputs, torch.ones_like(inputs[:, :1])], dim=1)


def effective_parameters(model: Model, particles: Particles, num_inputs: int) -> Tensor:
    """Weights and bias (S, D + 1) of the linear functions that particles are, by their values at 0 and unit vectors."""
    probes = torch.cat([torch.zeros(1, num_inputs), torch.eye(num_inputs)]).to(particles.theta)
    values = model.outputs(particles.theta, probes, particles.buffers)[..., 0]
    return torch.cat([values[:, 1:] - values[:, :1], values[:, :1]], dim=1)
