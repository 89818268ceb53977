"""Linear models on top of draws from the prior are draws from the posterior; networks keep their prior functions."""

import math
from typing import Any

import pytest
import torch
from small_problems import critical_value, fitted, normalised, plain, problem_of, regression_data
from torch import Tensor, nn

from bayesify.data import Data
from bayesify.engine.rng import generator
from bayesify.errors import MethodError, UnsupportedError
from bayesify.methods import PriorEnsemble, prior_ensemble
from bayesify.model.likelihoods import Gaussian
from bayesify.model.network import Mode, Network
from bayesify.model.priors import Flat, Normal
from bayesify.model.problem import Problem

SIZE, ROWS, MEMBERS, NOISE, SCALE = 4, 32, 800, 0.5, 0.7
METHOD = PriorEnsemble(num_members=MEMBERS, prior_scale=1.0, batch_size=ROWS, learning_rate=0.02, patience=1000)


def linear(temperature: float = 1.0) -> Problem:
    rng = generator("cpu", "prior-ensemble")
    x = 0.2 * torch.randn(ROWS, SIZE, generator=rng, dtype=torch.float64)  # prior and data matter alike
    y = x.sum(1) + NOISE * torch.randn(ROWS, generator=rng, dtype=torch.float64)
    network = Network(nn.Linear(SIZE, 1, bias=False).double())
    return Problem(network, Gaussian(scale=NOISE), Normal(scale=SCALE), Data(x, y), temperature=temperature)


def members(problem: Problem, method: PriorEnsemble = METHOD, epochs: float = 800) -> Tensor:
    """The linear functions, (K, 4), by their values at unit vectors."""
    posterior = fitted(problem, method, epochs * method.num_members)
    return posterior.functions(torch.eye(SIZE)).outputs[..., 0]


def excess(problem: Problem, draws: Tensor) -> float:
    """Deviation of first and second moments from the posterior's, in units of chance."""
    x, y = problem.data
    precision = x.T @ x / NOISE**2 + torch.eye(SIZE) / SCALE**2
    mean = torch.linalg.solve(precision, x.T @ y / NOISE**2)
    white = (draws - mean) @ torch.linalg.cholesky(precision / problem.temperature)
    rows, columns = torch.triu_indices(SIZE, SIZE)
    products = white[:, rows] * white[:, columns] - (rows == columns).double()
    found = torch.cat([white, products], dim=1).mean(0)
    error = torch.cat([torch.ones(SIZE), 1.0 + (rows == columns)]).sqrt() / math.sqrt(len(draws))
    return float((found.abs() / error).max()) / critical_value(len(found))


@pytest.mark.parametrize("temperature", [1.0, 0.3])
def test_members_are_draws_from_the_posterior_of_a_linear_model(temperature: float) -> None:
    problem = linear(temperature)
    assert excess(problem, members(problem)) < 1


def test_another_scale_another_temperature_and_unmoved_targets_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    small = PriorEnsemble(num_members=MEMBERS, batch_size=ROWS, learning_rate=0.02, patience=1000, prior_scale=0.3)
    assert excess(linear(), members(linear(), small)) > 1
    assert excess(linear(), members(linear(0.5))) > 1
    monkeypatch.setattr(prior_ensemble, "moves_targets", lambda problem: False)
    assert excess(linear(), members(linear())) > 1


def test_each_member_is_at_the_minimum_for_its_own_prior_function() -> None:
    """With λ = σ²/S² and β, its function is β w + (XᵀX + λ)⁻¹ Xᵀ(y − β X w), here without moved targets."""
    problem = linear().with_changes(likelihood=Gaussian(), likelihood_start=None)
    method = PriorEnsemble(num_members=3, batch_size=ROWS, learning_rate=0.02, prior_scale=2.0)
    posterior = fitted(problem, method, 4000 * 3)
    x, y = problem.data
    for k in range(3):
        sigma = float(Gaussian().noise(posterior.kept.theta[k, SIZE:]))
        weights = 2.0 * posterior.kept.buffers["weights"][k]
        ridge = x.T @ x + (sigma / SCALE) ** 2 * torch.eye(SIZE)
        expected = weights + torch.linalg.solve(ridge, x.T @ (y - x @ weights))
        found = posterior.functions(torch.eye(SIZE)).outputs[k, :, 0]
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_untrained_parts_leave_the_prior_function_of_the_module() -> None:
    module = plain()
    problem = PriorEnsemble(prior_scale=0.5).prepared(problem_of(module, regression_data()))
    x = regression_data()[0][:6]
    own = PriorEnsemble(prior_scale=0.5).individual(problem, 3, generator("cpu", "weights"))
    outputs = problem.model.outputs(torch.zeros(3, problem.num_parameters), x, own.indices)
    network = Network(module)
    for k in range(3):
        expected = 0.5 * network(own.indices["weights"][k], {}, x, Mode.PREDICT)
        torch.testing.assert_close(outputs[k], expected)
    assert len(own.indices["weights"].unique(dim=0)) == 3


def test_prior_functions_are_not_trained_and_of_the_priors_spread() -> None:
    problem = problem_of(normalised(), regression_data(), prior=Normal(scale=0.3))
    posterior = fitted(problem, PriorEnsemble(num_members=200), 200 * 2)
    weights = posterior.kept.buffers["weights"]
    loc = problem.prior.loc  # 1 for the scales of normalisation layers
    assert loc.unique().tolist() == [0.0, 1.0]
    z = ((weights - loc).square().mean(0) / 0.09 - 1) / math.sqrt(2 / 200)
    assert z.abs().max() < critical_value(len(loc))
    assert len(weights) == len(posterior.kept.theta) >= 200


def test_bootstrap_resamples_the_examples_of_every_member() -> None:
    problem = linear()
    own = PriorEnsemble(bootstrap=True).individual(problem, 50, generator("cpu", "rows"))
    assert own.rows is not None
    assert own.targets is None
    assert len(own.rows.unique(dim=0)) == 50
    distinct = torch.tensor([len(row.unique()) for row in own.rows]).double()
    expected = ROWS * (1 - (1 - 1 / ROWS) ** ROWS)
    assert abs(float(distinct.mean()) - expected) < critical_value() * float(distinct.std()) / math.sqrt(50)
    batch = problem.with_changes(individual=own).batch(slice(None))
    assert torch.equal(batch.data.inputs, problem.data.inputs[own.rows])
    assert torch.equal(batch.data.targets, problem.data.targets[own.rows])


def test_moved_targets_follow_their_examples_into_batches() -> None:
    problem = linear()
    own = PriorEnsemble().individual(problem, 3, generator("cpu", "rows"))
    moved = problem.with_changes(individual=own)
    rows = torch.stack([torch.randperm(ROWS, generator=generator("cpu", k))[:5] for k in range(3)])
    batch = moved.batch(rows)
    for k in range(3):
        assert torch.equal(batch.data.inputs[k], problem.data.inputs[rows[k]])
        assert torch.equal(batch.data.targets[k], own.targets[k, rows[k]])
    noise = (own.targets - problem.data.targets) / NOISE
    assert abs(float(noise.square().mean()) - 1) < critical_value() * math.sqrt(2 / noise.numel())


def test_the_flat_prior_has_no_functions() -> None:
    with pytest.raises(UnsupportedError, match="improper"):
        fitted(problem_of(plain(), regression_data(), prior=Flat()), PriorEnsemble(num_members=2), 4)


@pytest.mark.parametrize("settings", [{"prior_scale": 0.0}, {"num_members": 0}, {"epochs": -1.0}])
def test_bad_settings_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(MethodError, match=next(iter(settings))):
        PriorEnsemble(**settings)
