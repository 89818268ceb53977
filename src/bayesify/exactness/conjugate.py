"""Bayesian linear regression with known noise: posterior, predictive and evidence in closed form.

With Φ the inputs and a column of ones, noise σ and prior θ ~ N(0, s² I),

    A = Φᵀ Φ / σ² + I / s²,     p(θ | D)^(1/T) ∝ N(A⁻¹ Φᵀ y / σ², T A⁻¹),                                         (1)
    log p(D) = log N(y; 0, σ² I + s² Φ Φᵀ).                                                                      (2)
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from bayesify.exactness.known import KnownPosterior, Support, with_bias
from bayesify.model.likelihoods import Gaussian
from bayesify.model.priors import Normal

SUPPORT_REACH, SUPPORT_POINTS = 8.0, 97
"""The trapezoid rule over ± 8 standard deviations, six points to each: exact to rounding for densities as smooth."""


class Prediction(NamedTuple):
    """The Gaussian predictive."""

    mean: Tensor  # (B,)
    variance: Tensor  # (B,)


class LinearRegression(KnownPosterior):
    """The posterior (1) of given data.

    Args:
        inputs: (N, D), float64.
        targets: (N,).
        test_inputs: (B, D).
        test_targets: (B,).
        noise: σ.
        prior_scale: s, of weights and bias.
        temperature: T.
    """

    def __init__(
        self,
        inputs: Tensor,
        targets: Tensor,
        test_inputs: Tensor,
        test_targets: Tensor,
        *,
        noise: float,
        prior_scale: float = 1.0,
        temperature: float = 1.0,
    ) -> None:
        self.inputs, self.targets = inputs, targets
        self.test_inputs, self.test_targets = test_inputs, test_targets
        self.noise, self.prior_scale, self.temperature = noise, prior_scale, temperature
        design = with_bias(inputs)
        self.name = f"linear regression, {design.shape[1]} parameters"
        identity = torch.eye(design.shape[1], dtype=design.dtype)
        precision = design.mT @ design / noise**2 + identity / prior_scale**2
        self.mean = torch.linalg.solve(precision, design.mT @ targets) / noise**2  # (1)
        self.covariance = temperature * torch.linalg.inv(precision)
        self.mean_field_scale = (temperature / precision.diagonal()).sqrt()
        marginal = prior_scale**2 * design @ design.mT
        marginal.diagonal().add_(noise**2)
        self.log_evidence = _log_normal(targets, torch.zeros_like(targets), marginal)  # (2)

    @property
    def likelihood(self) -> Gaussian:  # noqa: D102
        return Gaussian(scale=self.noise)

    @property
    def prior(self) -> Normal:  # noqa: D102
        return Normal(scale=self.prior_scale)

    def at(self, temperature: float) -> "LinearRegression":  # noqa: D102
        data = (self.inputs, self.targets, self.test_inputs, self.test_targets)
        return LinearRegression(*data, noise=self.noise, prior_scale=self.prior_scale, temperature=temperature)

    def sample(self, num_samples: int, rng: torch.Generator) -> Tensor:  # noqa: D102
        noise = torch.randn(num_samples, self.num_parameters, generator=rng, dtype=torch.float64)
        root: Tensor = torch.linalg.cholesky(self.covariance)
        return self.mean + noise @ root.mT

    def predictive(self, inputs: Tensor) -> "Prediction":
        """Mean and variance of y at inputs (B, D)."""
        design = with_bias(inputs)
        return Prediction(design @ self.mean, (design @ self.covariance * design).sum(1) + self.noise**2)

    def log_likelihood(self, theta: Tensor, values: Tensor) -> Tensor:  # noqa: D102
        outputs = theta @ with_bias(self.test_inputs).mT
        return _log_density(values, outputs[:, None], torch.tensor(self.noise, dtype=values.dtype))

    def log_predictive(self, values: Tensor) -> Tensor:  # noqa: D102
        mean, variance = self.predictive(self.test_inputs)
        return _log_density(values, mean, variance.sqrt())

    def joint_log_density(self) -> float:  # noqa: D102
        design = with_bias(self.test_inputs)
        joint = design @ self.covariance @ design.mT
        joint.diagonal().add_(self.noise**2)
        return _log_normal(self.test_targets, design @ self.mean, joint)

    def support(self) -> Support:  # noqa: D102
        mean, variance = self.predictive(self.test_inputs)
        z = torch.linspace(-SUPPORT_REACH, SUPPORT_REACH, SUPPORT_POINTS, dtype=torch.float64)[:, None]
        scale = variance.sqrt()
        return Support(mean + z * scale, ((z[1] - z[0]) * scale).expand(SUPPORT_POINTS, -1))


def linear_regression(temperature: float = 1.0) -> LinearRegression:
    """The standard problem: 200 examples, 3 correlated inputs (the posterior is correlated too), noise 1."""
    rng = torch.Generator().manual_seed(20)
    mixing = torch.tensor([[1.0, 0.0, 0.0], [0.7, 0.7, 0.0], [0.0, -0.4, 0.9]], dtype=torch.float64)
    weights = torch.tensor([0.8, -0.5, 0.3, 0.4], dtype=torch.float64)

    def draw(count: int, reach: float) -> tuple[Tensor, Tensor]:
        inputs = 0.5 + reach * torch.randn(count, 3, generator=rng, dtype=torch.float64) @ mixing.mT
        noise = torch.randn(count, generator=rng, dtype=torch.float64)
        return inputs, with_bias(inputs) @ weights + noise

    return LinearRegression(*draw(200, 1.0), *draw(12, 6.0), noise=1.0, temperature=temperature)


def _log_density(values: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    return -0.5 * ((values - mean) / scale).square() - scale.log() - 0.5 * math.log(2 * math.pi)


def _log_normal(value: Tensor, mean: Tensor, covariance: Tensor) -> float:
    distribution = torch.distributions.MultivariateNormal(mean, covariance_matrix=covariance)
    log_prob: Tensor = distribution.log_prob(value)  # type: ignore[no-untyped-call]
    return float(log_prob)
