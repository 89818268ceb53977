"""Anchored members have the posterior's law where the model is linear and training ends at the minimum."""

import math
from typing import Any

import pytest
import torch
from small_problems import critical_value
from targets import NOISE, chains_run, sampled
from torch import Tensor, nn

from bayesify.data import Data
from bayesify.engine.budget import Budget
from bayesify.engine.rng import generator
from bayesify.errors import MethodError, UnsupportedError
from bayesify.exactness import check_method, logistic_regression
from bayesify.methods import SAE, sae
from bayesify.methods.base import Exactness
from bayesify.model.likelihoods import Gaussian
from bayesify.model.network import Network
from bayesify.model.priors import Laplace, Normal
from bayesify.model.problem import Problem

SIZE, ROWS, CHAINS = 4, 32, 400
METHOD = SAE(num_chains=CHAINS, num_draws=2, batch_size=ROWS, walk=1.0, member_learning_rate=0.02, warm_start_epochs=10)


def linear(temperature: float = 1.0) -> Problem:
    rng = generator("cpu", "sae")
    x = 0.2 * torch.randn(ROWS, SIZE, generator=rng, dtype=torch.float64)  # prior and data matter alike
    y = x.sum(1) + NOISE * torch.randn(ROWS, generator=rng, dtype=torch.float64)
    network = Network(nn.Linear(SIZE, 1, bias=False).double())
    return Problem(network, Gaussian(scale=NOISE), Normal(scale=0.7), Data(x, y), temperature=temperature)


def excess(problem: Problem, draws: Tensor) -> float:
    """Deviation of first and second moments of the last members from the posterior's, in units of chance."""
    x, y = problem.data
    precision = x.T @ x / NOISE**2 + torch.eye(SIZE) / 0.7**2
    mean = torch.linalg.solve(precision, x.T @ y / NOISE**2)
    white = (draws - mean) @ torch.linalg.cholesky(precision / problem.temperature)
    rows, columns = torch.triu_indices(SIZE, SIZE)
    products = white[:, rows] * white[:, columns] - (rows == columns).double()
    found = torch.cat([white, products], dim=1).mean(0)
    error = torch.cat([torch.ones(SIZE), 1.0 + (rows == columns)]).sqrt() / math.sqrt(len(draws))
    return float((found.abs() / error).max()) / critical_value(len(found))


@pytest.mark.parametrize("temperature", [1.0, 0.3])
def test_members_have_the_posteriors_law(temperature: float) -> None:
    problem = linear(temperature)
    draws = sampled(problem, METHOD, chains_run(problem, METHOD, 1500))
    assert draws.shape[1] == 2
    assert excess(problem, draws[:, 0]) < 1
    assert excess(problem, draws[:, 1]) < 1


def test_another_temperature_is_found() -> None:
    problem = linear(0.5)
    draws = sampled(problem, METHOD, chains_run(problem, METHOD, 600))
    assert excess(linear(), draws[:, 1]) > 1


def test_without_moved_targets_the_spread_is_too_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sae, "moves_targets", lambda problem: False)
    problem = linear()
    draws = sampled(problem, METHOD, chains_run(problem, METHOD, 600))
    assert excess(problem, draws[:, 1]) > 1


def test_classes_cannot_be_moved_and_it_says_so() -> None:
    """On logistic regression the minima of (1) have 0.153, 0.146, 0.160 of the posterior's standard deviations."""
    rates = {"member_learning_rate": 0.05, "learning_rate": 0.05}
    method = SAE(num_chains=64, num_draws=2, batch_size=200, walk=1.0, **rates)
    found = check_method(method, budget=Budget(epochs=1000), problems=[logistic_regression()])
    assert found.exactness == found.declared == Exactness.NOT_A_POSTERIOR
    spread = [math.exp(measured.value) for measured in found.problems[0].moments.log_spread]
    assert spread == pytest.approx([0.153, 0.146, 0.160], abs=critical_value(3) * 0.153 / math.sqrt(2 * 128))


@pytest.mark.parametrize("walk", [0.1, 0.5])
def test_anchors_stay_draws_from_the_prior(walk: float) -> None:
    problem = linear()
    rng = generator("cpu", "walk")
    theta = torch.zeros(20_000, SIZE, dtype=torch.float64)
    first = state = sae.start(problem, theta, rng)
    for _ in range(20):
        state = sae.next_member(state, walk, rng)
    for values in (state.anchor, state.moved[:, :SIZE]):
        error = (2 / values.numel()) ** 0.5
        assert abs(float(values.square().mean()) - 1) < critical_value(4) * error
    assert float((first.anchor * state.anchor).mean()) < 0.9  # and it walks


def test_priors_that_are_not_gaussian_are_refused() -> None:
    problem = linear().with_changes(prior=Laplace(scale=1.0))
    with pytest.raises(UnsupportedError, match="needs a Gaussian prior"):
        METHOD.fit(problem, chains_run(problem, METHOD, 100))


@pytest.mark.parametrize("settings", [{"walk": 0.0}, {"walk": 1.5}, {"member_epochs": 0.0}])
def test_bad_settings_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(MethodError, match=next(iter(settings))):
        SAE(**settings)
