"""Small networks, data and runs that the tests of methods share."""

from pathlib import Path
from typing import Any, NamedTuple

import torch
from scipy.stats import norm
from torch import Tensor, nn

from bayesify.data import Data
from bayesify.engine.rng import generator, seeded
from bayesify.engine.run import Checkpoints, Progress, Run
from bayesify.fitting import fit_problem, make_problem
from bayesify.methods.base import Method
from bayesify.model.likelihoods import Gaussian
from bayesify.model.network import Network
from bayesify.model.prior import Prior
from bayesify.model.priors import Normal
from bayesify.model.problem import Problem
from bayesify.posterior.base import Posterior

FAILURE_RATE = 1e-5
"""How often a statistical test may fail where the code is right; seeds are fixed, so it does not."""


def critical_value(comparisons: int = 1) -> float:
    """The z that a standard normal exceeds in absolute value, in any of `comparisons`, at most at the failure rate."""
    return float(norm.isf(FAILURE_RATE / 2 / comparisons))


NOISE, PRIOR_SCALE = 0.5, 0.7
"""Of `linear_problem`."""


def linear_problem(
    temperature: float = 1.0, num_examples: int = 200, prior: Prior | None = None, correlation: float = 0.3
) -> Problem:
    """Bayesian linear regression with known noise and unequal features, the first two correlated."""
    rng = generator("cpu", "linear")
    x = torch.randn(num_examples, 4, generator=rng, dtype=torch.float64) * torch.tensor([2.0, 1.0, 0.5, 0.25])
    x[:, 1] += correlation * x[:, 0]
    y = x @ torch.tensor([1.0, -0.5, 0.8, 1.5], dtype=torch.float64)
    y = y + NOISE * torch.randn(num_examples, generator=rng, dtype=torch.float64)
    network = Network(nn.Linear(4, 1, bias=False).double())
    prior = prior or Normal(scale=PRIOR_SCALE)
    return Problem(network, Gaussian(scale=NOISE), prior, Data(x, y), temperature=temperature)


class Conjugate(NamedTuple):
    """The posterior of `linear_problem`."""

    mean: Tensor  # (4,)
    precision: Tensor  # (4, 4), of T = 1
    log_evidence: float


def linear_posterior(problem: Problem) -> Conjugate:
    x, y = problem.data.inputs, problem.data.targets.flatten()
    precision = x.T @ x / NOISE**2 + torch.eye(4) / PRIOR_SCALE**2
    covariance = NOISE**2 * torch.eye(len(x)) + PRIOR_SCALE**2 * x @ x.T
    marginal = torch.distributions.MultivariateNormal(torch.zeros_like(y), covariance.double())
    return Conjugate(torch.linalg.solve(precision, x.T @ y / NOISE**2), precision, float(marginal.log_prob(y)))


def regression_data(num_examples: int = 200, num_inputs: int = 4, seed: int = 0) -> tuple[Tensor, Tensor]:
    rng = generator("cpu", "data", seed)
    x = torch.randn(num_examples, num_inputs, generator=rng)
    return x, torch.sin(x[:, 0]) + 0.3 * x[:, 1] + 0.1 * torch.randn(num_examples, generator=rng)


def image_data(num_examples: int = 96) -> tuple[Tensor, Tensor]:
    rng = generator("cpu", "images")
    x = torch.randn(num_examples, 1, 6, 6, generator=rng)
    return x, (x.mean((1, 2, 3)) > 0).long()


def plain(num_inputs: int = 4) -> nn.Module:
    return seeded_module(lambda: nn.Sequential(nn.Linear(num_inputs, 8), nn.ReLU(), nn.Linear(8, 1)))


def normalised(num_inputs: int = 4) -> nn.Module:
    return seeded_module(
        lambda: nn.Sequential(nn.Linear(num_inputs, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 1))
    )


def convolutional() -> nn.Module:
    return seeded_module(
        lambda: nn.Sequential(
            nn.Conv2d(1, 3, 3),
            nn.BatchNorm2d(3),
            nn.ReLU(),
            nn.Conv2d(3, 4, 3),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(16, 2),
        )
    )


def seeded_module(build: Any) -> nn.Module:
    with seeded(1):
        return build()


def problem_of(module: nn.Module, data: tuple[Tensor, Tensor], **options: Any) -> Problem:
    return make_problem(module, data, device="cpu", **options)


def run_of(
    problem: Problem,
    epochs: float,
    *,
    seed: int = 0,
    name: str = "fit",
    folder: Path | None = None,
    progress: Progress | None = None,
) -> Run:
    checkpoints = None if folder is None else Checkpoints(folder, "test", seconds=0.0)
    limit = epochs * problem.num_examples
    return Run(problem.meter, limit=limit, seed=seed, name=name, checkpoints=checkpoints, progress=progress)


def fitted(problem: Problem, method: Method, epochs: float, **options: Any) -> Posterior:
    return fit_problem(problem, method, run_of(problem, epochs, **options))
