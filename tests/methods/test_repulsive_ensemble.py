"""On Gaussian posteriors: the mean is right, and the variance is what theory says of many particles."""

import math
from typing import Any

import pytest
import torch
from small_problems import fitted, normalised, plain, problem_of, regression_data
from torch import Tensor, nn

from bayesify.data import Data
from bayesify.engine.rng import generator
from bayesify.errors import MethodError, UnsupportedError
from bayesify.methods import RepulsiveEnsemble
from bayesify.methods.repulsive_ensemble import apart, functions_apart, kernel, stein
from bayesify.model.likelihoods import Gaussian
from bayesify.model.network import Mode, Network
from bayesify.model.priors import Normal
from bayesify.model.problem import Batch, Problem

NOISE, SCALE, ROWS = 1.0, 2.0, 3


def linear(temperature: float = 1.0, size: int = 1) -> Problem:
    x = torch.eye(ROWS, dtype=torch.float64)[:, :size]
    y = torch.tensor([1.0, -0.5, 0.3], dtype=torch.float64)
    network = Network(nn.Linear(size, 1, bias=False).double())
    return Problem(network, Gaussian(scale=NOISE), Normal(scale=SCALE), Data(x, y), temperature=temperature)


def draws_of(problem: Problem, repulsion: str, bandwidth: float | None, members: int = 100) -> Tensor:
    method = RepulsiveEnsemble(
        num_members=members, repulsion=repulsion, bandwidth=bandwidth, batch_size=ROWS, learning_rate=0.03
    )
    return fitted(problem, method, members * 2500).kept.theta


def test_gradients_of_the_kernel() -> None:
    points = torch.randn(5, 3, generator=generator("cpu", "points"), dtype=torch.float64)
    found = kernel(points, 0.7)
    for i in range(5):
        own = points[i].clone().requires_grad_()
        total = torch.exp(-(own - points).square().sum(1) / (2 * 0.7**2)).sum()
        (expected,) = torch.autograd.grad(total, own)
        torch.testing.assert_close(found.gradient[i], expected)
    median = torch.pdist(points).square().median()
    torch.testing.assert_close(
        kernel(points, None).values, kernel(points, float(median / 2 / math.log(6)) ** 0.5).values
    )


def test_stein_directions_are_the_sum_they_stand_for() -> None:
    rng = generator("cpu", "stein")
    points, score = torch.randn(2, 4, 3, generator=rng, dtype=torch.float64)
    found = stein(points, score, 0.9)
    for i in range(4):
        total = torch.zeros(3, dtype=torch.float64)
        for j in range(4):
            other = points[j].clone().requires_grad_()
            value = torch.exp(-(other - points[i]).square().sum() / (2 * 0.9**2))
            (gradient,) = torch.autograd.grad(value, other)
            total += value.detach() * score[j] + gradient
        torch.testing.assert_close(found[i], total / 4)


@pytest.mark.parametrize("temperature", [1.0, 0.3])
@pytest.mark.parametrize("repulsion", ["weights", "functions"])
def test_many_particles_have_the_smoothed_law(repulsion: str, temperature: float) -> None:
    """Variance σ² − h², of weights, or of the one output that is not nought, which is the weight."""
    precision = 1 / NOISE**2 + 1 / SCALE**2
    variance = temperature / precision
    bandwidth = math.sqrt(0.3 * variance)
    draws = draws_of(linear(temperature), repulsion, bandwidth)[:, 0]
    assert float(draws.mean()) == pytest.approx(1.0 / precision, abs=0.03 * variance**0.5)
    assert float(draws.var()) == pytest.approx(0.7 * variance, rel=0.08)


def test_stein_particles_have_mean_and_variance() -> None:
    precision = 1 / NOISE**2 + 1 / SCALE**2
    draws = draws_of(linear(), "stein", None)[:, 0]
    assert float(draws.mean()) == pytest.approx(1.0 / precision, abs=0.03)
    assert float(draws.var()) == pytest.approx(1 / precision, rel=0.08)


def test_repulsion_of_functions_is_the_jacobians_pull() -> None:
    problem = linear(size=3)
    theta = torch.randn(4, 3, generator=generator("cpu", "theta"), dtype=torch.float64)
    found = functions_apart(problem, theta, Batch(problem.data), 0.8, Mode.TRAIN)
    x = problem.data.inputs
    torch.testing.assert_close(found, apart(theta @ x.T, 0.8) @ x)
    torch.testing.assert_close(found, apart(theta, 0.8))  # one output for every weight: the same repulsion
    # And it is paid for.
    assert problem.meter.gradient_evaluations == 4 * ROWS == problem.meter.forward_evaluations


def test_functions_that_depend_on_the_batch_are_refused() -> None:
    with pytest.raises(UnsupportedError, match="batch normalisation"):
        fitted(problem_of(normalised(), regression_data()), RepulsiveEnsemble(repulsion="functions"), 40)


@pytest.mark.parametrize("repulsion", ["weights", "stein", "functions"])
def test_members_of_one_pretrained_network_part(repulsion: str) -> None:
    problem = problem_of(plain(), regression_data(), pretrained=True)
    method = RepulsiveEnsemble(num_members=4, repulsion=repulsion)
    theta = fitted(problem, method, 200).kept.theta
    first = method._start(problem, generator("cpu", "start"))
    assert torch.pdist(theta).min() > 1.5 * torch.pdist(first).max()


@pytest.mark.parametrize("settings", [{"num_members": 1}, {"repulsion": "none"}, {"bandwidth": 0.0}])
def test_bad_settings_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(MethodError, match=next(iter(settings))):
        RepulsiveEnsemble(**settings)
