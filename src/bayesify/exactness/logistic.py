"""Bayesian logistic regression in three dimensions: moments, predictive and evidence by quadrature.

The posterior is integrated by the trapezoid rule on a regular grid in the coordinates that make its Laplace
approximation a standard normal. For analytic integrands that vanish at the edge this rule converges faster than any
power of the spacing (Trefethen & Weideman 2014); the class checks that by halving the number of points.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from bayesify.errors import DataError
from bayesify.exactness.known import KnownPosterior, Support, with_bias
from bayesify.model.likelihoods import Bernoulli
from bayesify.model.priors import Normal

REACH = 10.0
"""The grid ends at this many standard deviations of the Laplace approximation."""
NUM_POINTS = 45
"""Grid points per dimension: about two to a standard deviation."""
TOLERANCE = 1e-6
"""How far the moments may change with a grid of two thirds as many points per dimension, in standard deviations."""
NEGLIGIBLE = math.log(1e-18)
"""Grid points of less weight are left out: all of them together are below rounding."""
NEWTON_STEPS = 100
ROWS_AT_ONCE = 8192


class LogisticRegression(KnownPosterior):
    """The posterior p(θ | D)^(1/T) with y ~ Bernoulli(sigmoid(w·x + b)) and θ ~ N(0, s² I).

    Args:
        inputs: (N, D), float64; D + 1 parameters, at most 3 are reasonable.
        targets: (N,) of 0.0 and 1.0.
        test_inputs: (B, D).
        test_targets: (B,).
        prior_scale: s.
        temperature: T.

    Raises:
        DataError: the grid does not resolve this posterior.
    """

    mean_field_scale = None

    def __init__(
        self,
        inputs: Tensor,
        targets: Tensor,
        test_inputs: Tensor,
        test_targets: Tensor,
        *,
        prior_scale: float = 1.0,
        temperature: float = 1.0,
    ) -> None:
        self.inputs, self.targets = inputs, targets
        self.test_inputs, self.test_targets = test_inputs, test_targets
        self.prior_scale, self.temperature = prior_scale, temperature
        self.name = f"logistic regression, {inputs.shape[1] + 1} parameters"
        coarse, fine = self._grid(temperature, 2 * NUM_POINTS // 3), self._grid(temperature, NUM_POINTS)
        matters = fine.log_weights > NEGLIGIBLE
        self._theta, self._log_weights = fine.theta[matters], fine.log_weights[matters]
        self.mean, self.covariance = fine.mean, fine.covariance
        self.log_evidence = self._grid(1.0, NUM_POINTS).log_integral
        change = ((coarse.mean - fine.mean) / self.stddev).abs().max()
        change = change.maximum((coarse.covariance.diagonal() / fine.covariance.diagonal()).log().abs().max())
        if change > TOLERANCE:
            raise DataError(
                f"the grid does not resolve this posterior: its moments change by {float(change):.1g} standard "
                "deviations with fewer points: give more data or a narrower prior."
            )

    @property
    def likelihood(self) -> Bernoulli:  # noqa: D102
        return Bernoulli()

    @property
    def prior(self) -> Normal:  # noqa: D102
        return Normal(scale=self.prior_scale)

    def at(self, temperature: float) -> "LogisticRegression":  # noqa: D102
        if temperature == self.temperature:
            return self
        data = (self.inputs, self.targets, self.test_inputs, self.test_targets)
        return LogisticRegression(*data, prior_scale=self.prior_scale, temperature=temperature)

    def sample(self, num_samples: int, rng: torch.Generator) -> Tensor:
        """Grid points by weight: their distribution has the moments of the posterior, as the rule integrates those."""
        rows = torch.multinomial(self._log_weights.exp(), num_samples, replacement=True, generator=rng)
        return self._theta[rows]

    def log_likelihood(self, theta: Tensor, values: Tensor) -> Tensor:  # noqa: D102
        outputs = (theta @ with_bias(self.test_inputs).mT)[:, None]
        return F.logsigmoid((2 * values - 1) * outputs)

    def log_predictive(self, values: Tensor) -> Tensor:  # noqa: D102
        return torch.logsumexp(self._log_weights[:, None, None] + self.log_likelihood(self._theta, values), 0)

    def joint_log_density(self) -> float:  # noqa: D102
        each = self.log_likelihood(self._theta, self.test_targets[None])[:, 0].sum(-1)
        return float(torch.logsumexp(self._log_weights + each, 0))

    def support(self) -> Support:
        """Both classes."""
        values = torch.tensor([[0.0], [1.0]], dtype=torch.float64).expand(-1, len(self.test_inputs))
        return Support(values, torch.ones_like(values))

    def log_joint(self, theta: Tensor) -> Tensor:
        """Log p(D, θ), not tempered: (S, P) → (S,)."""
        signs = 2 * self.targets - 1
        design = with_bias(self.inputs) * signs[:, None]
        likelihood = torch.cat([F.logsigmoid(part @ design.mT).sum(-1) for part in torch.split(theta, ROWS_AT_ONCE)])
        prior = -0.5 * (theta / self.prior_scale).square() - math.log(self.prior_scale) - 0.5 * math.log(2 * math.pi)
        return likelihood + prior.sum(-1)

    def mode(self) -> "Mode":
        """The mode of p(θ | D) and the precision there, by Newton's method."""
        design = with_bias(self.inputs)
        theta = torch.zeros(design.shape[1], dtype=torch.float64)
        identity = torch.eye(len(theta), dtype=torch.float64) / self.prior_scale**2
        for _ in range(NEWTON_STEPS):
            p = (design @ theta).sigmoid()
            precision = design.mT @ (design * (p * (1 - p))[:, None]) + identity
            step = torch.linalg.solve(precision, design.mT @ (self.targets - p) - identity @ theta)
            theta = theta + step / max(1.0, float(step.norm()))  # damped far from the mode
        return Mode(theta, precision)

    def _grid(self, temperature: float, num_points: int) -> "_Grid":
        mode, precision = self.mode()
        root = math.sqrt(temperature) * torch.linalg.cholesky(torch.linalg.inv(precision))
        axis = torch.linspace(-REACH, REACH, num_points, dtype=torch.float64)
        theta = mode + torch.cartesian_prod(*[axis] * len(mode)) @ root.mT
        values = self.log_joint(theta) / temperature
        total = torch.logsumexp(values, 0)
        log_weights = values - total
        weights = log_weights.exp()
        mean = weights @ theta
        centred = theta - mean
        volume = len(mode) * (axis[1] - axis[0]).log() + root.diagonal().log().sum()
        covariance = centred.mT @ (weights[:, None] * centred)
        return _Grid(theta, log_weights, mean, covariance, float(total + volume))


class Mode(NamedTuple):
    """Where the posterior is highest, and minus the Hessian of its log there."""

    theta: Tensor  # (P,)
    precision: Tensor  # (P, P)


class _Grid(NamedTuple):
    theta: Tensor  # (G, P)
    log_weights: Tensor  # (G,) normalised
    mean: Tensor
    covariance: Tensor
    log_integral: float


def logistic_regression(temperature: float = 1.0) -> LogisticRegression:
    """The standard problem: 200 examples of which few are positive, so that the posterior is skewed."""
    rng = torch.Generator().manual_seed(21)
    weights = torch.tensor([1.2, -0.8, -3.5], dtype=torch.float64)

    def draw(count: int, reach: float) -> tuple[Tensor, Tensor]:
        inputs = reach * torch.randn(count, 2, generator=rng, dtype=torch.float64)
        chance = torch.rand(count, generator=rng, dtype=torch.float64)
        return inputs, (chance < (with_bias(inputs) @ weights).sigmoid()).double()

    return LogisticRegression(*draw(200, 1.0), *draw(12, 3.0), prior_scale=3.0, temperature=temperature)
