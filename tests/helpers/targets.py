"""Densities whose moments are known, as problems for samplers, and the test that all samplers must pass."""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
import torch
from scipy.stats import norm
from small_problems import FAILURE_RATE
from torch import Tensor, nn

from bayesify.data import Data
from bayesify.engine.convergence import effective_sample_size
from bayesify.engine.rng import generator
from bayesify.engine.run import Run
from bayesify.methods.sampler import Sampler
from bayesify.model.likelihoods import Gaussian, Loss
from bayesify.model.network import Network
from bayesify.model.priors import Normal
from bayesify.model.problem import Problem
from bayesify.posterior.draws import Draws

SIZE, ROWS, NOISE = 20, 64, 0.5
"""Of the correlated Gaussian."""
WEIGHTS, CENTRES, WIDTHS = (0.55, 0.45), (-1.4, 1.4), (1.0, 0.8)
"""Of the mixture, along its first direction. The peaks are as high as each other, so that no temperature empties one of
the modes, and the valley is no deeper than chains can cross often at temperature 0.3: 1.8 nats."""
MIXTURE_SIZE, MIXTURE_PRIOR = 4, 5.0
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


class Target(NamedTuple):
    """A problem and numbers whose expectations under its posterior are 0."""

    problem: Problem
    features: Callable[[Tensor], Tensor]
    """Draws (..., P) in double precision → (..., F)."""


def correlated_gaussian(dtype: torch.dtype = torch.float64, temperature: float = 1.0) -> Target:
    """Linear regression with known noise: 20 dimensions, condition number 100.

    Features, in coordinates where the posterior is N(0, I): 20 means and 210 products.
    """
    rng = generator("cpu", "correlated")
    left = torch.linalg.qr(torch.randn(ROWS, SIZE, generator=rng, dtype=torch.float64))[0]
    right = torch.linalg.qr(torch.randn(SIZE, SIZE, generator=rng, dtype=torch.float64))[0]
    information = torch.logspace(-2, 2, SIZE, dtype=torch.float64)
    x = NOISE * left * information.sqrt() @ right.T
    y = x @ torch.randn(SIZE, generator=rng, dtype=torch.float64)
    y = y + NOISE * torch.randn(ROWS, generator=rng, dtype=torch.float64)
    network = Network(nn.Linear(SIZE, 1, bias=False).to(dtype))
    data = Data(x.to(dtype), y.to(dtype))
    problem = Problem(network, Gaussian(scale=NOISE), Normal(scale=1.0), data, temperature=temperature)
    return gaussian_under(problem, torch.linalg.inv(precision_of(problem)))


def precision_of(problem: Problem) -> Tensor:
    """Of the correlated Gaussian, tempered, (20, 20); its largest eigenvalue is 101/T."""
    x = problem.data.inputs.double()
    return (x.T @ x / NOISE**2 + torch.eye(SIZE)) / problem.temperature


def gaussian_under(problem: Problem, covariance: Tensor) -> Target:
    """The correlated Gaussian's features for a law with its mean and another covariance."""
    x, y = problem.data.inputs.double(), problem.data.targets.double()
    mean = torch.linalg.solve(precision_of(problem) * problem.temperature, x.T @ y / NOISE**2)
    root = torch.linalg.cholesky(torch.linalg.inv(covariance))
    return Target(problem, lambda draws: _moments((draws - mean) @ root))


def mixture(
    dtype: torch.dtype = torch.float64, temperature: float = 1.0, *, oblique: bool = True, rows: int = 1
) -> Target:
    """Two Gaussians of different weight and width, apart along one oblique direction of 4, times a wide prior.

    Features: probabilities up to five quantiles along that direction, and all first and second moments; across it the
    density is Gaussian, along it everything is integrated numerically, so that any temperature is as exact as 1.
    The likelihood is shared out among so many equal rows of data.
    """
    network = Network(_Constant().to(dtype))
    own = mixture_axes(oblique).to(dtype)

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        turned = outputs @ own
        return (0.5 * turned[..., 1:].square().sum(-1) - _log_mixture(turned[..., 0])) / rows + 0 * targets

    data = Data(torch.zeros(rows, 1, dtype=dtype), torch.zeros(rows, dtype=dtype))
    problem = Problem(network, Loss(loss), Normal(scale=MIXTURE_PRIOR), data, temperature=temperature)
    grid = torch.linspace(-12, 12, 200_001, dtype=torch.float64)
    weight = ((_log_mixture(grid) - 0.5 * (grid / MIXTURE_PRIOR).square()) / temperature).exp()
    return mixture_under(problem, grid, weight, temperature / (1 + MIXTURE_PRIOR**-2), oblique)


def mixture_axes(oblique: bool) -> Tensor:
    """Columns: the direction along which the mixture's components are apart, and those across it."""
    random = torch.randn(MIXTURE_SIZE, MIXTURE_SIZE, generator=generator("cpu", "mixture"), dtype=torch.float64)
    return torch.linalg.qr(random)[0] if oblique else torch.eye(MIXTURE_SIZE, dtype=torch.float64)


def mixture_score(u: Tensor, temperature: float) -> Tensor:
    """The derivative of the mixture's tempered log density along its direction."""
    parts = [
        (math.log(weight / width) - 0.5 * ((u - centre) / width).square(), (centre - u) / width**2)
        for weight, centre, width in zip(WEIGHTS, CENTRES, WIDTHS, strict=True)
    ]
    shares = torch.stack([log for log, _ in parts]).softmax(0)
    pull = (shares * torch.stack([slope for _, slope in parts])).sum(0)
    return (pull - u / MIXTURE_PRIOR**2) / temperature


def mixture_under(problem: Problem, grid: Tensor, weight: Tensor, across: float, oblique: bool = True) -> Target:
    """The mixture's features for a law with these weights on a grid along its direction, and this variance across."""
    turn, weight = mixture_axes(oblique), weight / weight.sum()
    cumulative = weight.cumsum(0)
    at = torch.searchsorted(cumulative, torch.tensor(QUANTILES, dtype=torch.float64))
    mean = (weight * grid).sum()
    along = (weight * (grid - mean).square()).sum().sqrt()
    # Half of a cell's probability is below its middle.
    below = cumulative[at] - 0.5 * weight[at]

    def features(draws: Tensor) -> Tensor:
        turned = draws @ turn
        share = (turned[..., :1] <= grid[at]).double() - below
        standard = torch.cat([(turned[..., :1] - mean) / along, turned[..., 1:] / math.sqrt(across)], dim=-1)
        return torch.cat([share, _moments(standard)], dim=-1)

    return Target(problem, features)


def excess(draws: Tensor, target: Target) -> float:
    """Largest deviation of the target's expectations over draws (K, S, P), in units of what chance allows.

    Each is within z Monte Carlo errors, which come from the effective sample size of that very series. Below 1 unless
    something with probability 1e-5 happens.
    """
    series = target.features(draws.double()).numpy()
    error = series.std(axis=(0, 1)) / np.sqrt(effective_sample_size(series))
    z = norm.isf(FAILURE_RATE / (2 * series.shape[-1]))
    return float((np.abs(series.mean(axis=(0, 1))) / error / z).max())


def chains_run(problem: Problem, method: Sampler, epochs: float, seed: int = 0, **options: object) -> Run:
    """A run of so many gradients of all the data per chain."""
    limit = epochs * problem.num_examples * method.num_chains
    return Run(problem.meter, limit=limit, seed=seed, **options)  # type: ignore[arg-type]


def sampled(problem: Problem, method: Sampler, run: Run) -> Tensor:
    """Draws (K, S, P)."""
    posterior = method.fit(problem, run)
    assert isinstance(posterior, Draws)
    return posterior.kept.theta.reshape(method.num_chains, -1, problem.num_parameters)


def halve_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the likelihood of all the data, everywhere: an error that a Metropolis test must make good."""
    right = Problem.full_likelihood_gradient

    def wrong(self: Problem, *arguments: object) -> tuple[Tensor, Tensor]:
        gradient, value = right(self, *arguments)  # type: ignore[arg-type]
        return 0.5 * gradient, value

    monkeypatch.setattr(Problem, "full_likelihood_gradient", wrong)


def smooth_network() -> Problem:
    """Of 32 parameters, with a curved posterior."""
    rng = generator("cpu", "smooth")
    x = torch.randn(40, 3, generator=rng, dtype=torch.float64)
    network = Network(nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 1)).double())
    return Problem(network, Gaussian(), Normal(), Data(x, x[:, 0] * x[:, 1]))


def _log_mixture(u: Tensor) -> Tensor:
    parts = [
        math.log(weight / width) - 0.5 * ((u - centre) / width).square()
        for weight, centre, width in zip(WEIGHTS, CENTRES, WIDTHS, strict=True)
    ]
    return torch.logaddexp(*parts)


def _moments(white: Tensor) -> Tensor:
    """First and second moments less their expectations, for coordinates of mean 0 and covariance I."""
    rows, columns = torch.triu_indices(white.shape[-1], white.shape[-1])
    products = white[..., rows] * white[..., columns] - (rows == columns).double()
    return torch.cat([white, products], dim=-1)


class _Constant(nn.Module):
    """Gives its own parameters, whatever the inputs."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.theta = nn.Parameter(torch.zeros(MIXTURE_SIZE))

    def reset_parameters(self) -> None:
        nn.init.normal_(self.theta, std=2.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.theta.expand(len(x), -1)
