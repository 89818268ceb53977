import math
from pathlib import Path

import numpy as np
import pytest
import torch
from targets import chains_run, correlated_gaussian, excess, mixture, sampled, smooth_network
from torch import Tensor, nn

from bayesify.data import Data
from bayesify.engine import nuts
from bayesify.engine.budget import Meter
from bayesify.engine.rng import generator
from bayesify.engine.run import Checkpoints, Run
from bayesify.errors import BudgetError, MethodError
from bayesify.methods.nuts import NUTS
from bayesify.model.likelihoods import Gaussian
from bayesify.model.network import Network
from bayesify.model.priors import Normal
from bayesify.model.problem import Problem

SAMPLER = NUTS(num_chains=16, num_draws=200, warm_start_epochs=1)
EPOCHS = 4000


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("temperature", [1.0, 0.3])
def test_samples_a_correlated_gaussian(dtype: torch.dtype, temperature: float) -> None:
    target = correlated_gaussian(dtype, temperature)
    run = chains_run(target.problem, SAMPLER, EPOCHS)
    draws = sampled(target.problem, SAMPLER, run)
    assert draws.shape[1] > 40
    assert excess(draws, target) < 1
    assert run.notes["r_hat"] < 1.05
    assert run.notes["warnings"] == []


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("temperature", [1.0, 0.3])
def test_samples_a_mixture(dtype: torch.dtype, temperature: float) -> None:
    target = mixture(dtype, temperature)
    assert excess(sampled(target.problem, SAMPLER, chains_run(target.problem, SAMPLER, EPOCHS)), target) < 1


def test_samples_with_masses_from_the_prior() -> None:
    target = correlated_gaussian()
    method = NUTS(num_chains=16, num_draws=200, warm_start_epochs=1, mass="prior")
    assert excess(sampled(target.problem, method, chains_run(target.problem, method, EPOCHS)), target) < 1


def test_the_check_refuses_a_wrong_temperature() -> None:
    target = correlated_gaussian(temperature=0.8)
    draws = sampled(target.problem, SAMPLER, chains_run(target.problem, SAMPLER, EPOCHS))
    assert excess(draws, correlated_gaussian()) > 1


COARSE = NUTS(num_chains=16, num_draws=200, warm_start_epochs=1, step_size=0.17, mass="prior")
"""Steps near the limit of stability (0.2), so that the points of a trajectory differ in energy."""


def test_coarse_steps_are_right_as_well() -> None:
    target = correlated_gaussian()
    run = chains_run(target.problem, COARSE, EPOCHS)
    assert excess(sampled(target.problem, COARSE, run), target) < 1
    assert run.notes["acceptance"] < 0.9


def weigh_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    right = nuts._weigh

    def wrong(walk: nuts.Walk, reached: nuts.Reached, seen: np.ndarray, *rest: object) -> np.ndarray:
        level = seen.copy()
        level[:, 0], level[:, 1], level[:, 2] = 0, 0, walk.numbers.energy.numpy()
        return right(walk, reached, level, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(nuts, "_weigh", wrong)


def test_the_check_refuses_points_drawn_uniformly(monkeypatch: pytest.MonkeyPatch) -> None:
    weigh_alike(monkeypatch)
    target = correlated_gaussian()
    assert excess(sampled(target.problem, COARSE, chains_run(target.problem, COARSE, EPOCHS)), target) > 1


def halve_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Problem.full_likelihood_gradient

    def wrong(self: Problem, *arguments: object) -> tuple[Tensor, Tensor]:
        gradient, value = right(self, *arguments)  # type: ignore[arg-type]
        return 0.5 * gradient, value

    monkeypatch.setattr(Problem, "full_likelihood_gradient", wrong)


def test_half_the_gradient_costs_acceptance_not_correctness(monkeypatch: pytest.MonkeyPatch) -> None:
    target = correlated_gaussian()
    method = NUTS(num_chains=16, num_draws=200, warm_start_epochs=1, step_size=0.04, max_depth=4, mass="prior")
    halve_gradients(monkeypatch)
    run = chains_run(target.problem, method, EPOCHS)
    draws = sampled(target.problem, method, run)
    assert excess(draws, target) < 1
    assert run.notes["acceptance"] < 0.95  # with the right gradient it is above 0.99


def test_the_check_refuses_half_the_gradient_without_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    weigh_alike(monkeypatch)
    halve_gradients(monkeypatch)
    target = correlated_gaussian()
    assert excess(sampled(target.problem, COARSE, chains_run(target.problem, COARSE, EPOCHS)), target) > 1


def test_learned_masses_make_scales_alike() -> None:
    # Known noise, unrelated inputs of very different size: the posterior's scales differ by 100, the prior's do not.
    x = torch.diag(torch.logspace(0, 2, 6, dtype=torch.float64))
    network = Network(nn.Linear(6, 1, bias=False).double())
    problem = Problem(network, Gaussian(scale=1.0), Normal(scale=1.0), Data(x, torch.ones(6, dtype=torch.float64)))
    points = []
    for mass in ("prior", "diagonal"):
        method = NUTS(num_chains=4, mass=mass, warm_start_epochs=1)
        run = chains_run(problem.with_changes(meter=Meter()), method, 4000)
        method.fit(problem.with_changes(meter=run.meter), run)
        points.append(run.notes["leapfrog_steps"])
    assert 4 * points[1] < points[0]


def test_tuned_acceptance_is_near_the_target() -> None:
    target = correlated_gaussian()
    method = NUTS(warm_start_epochs=1, mass="prior", max_depth=4)
    run = chains_run(target.problem, method, 6000)
    method.fit(target.problem, run)
    assert 0.72 < run.notes["acceptance"] < 0.92


def test_absurd_step_size_is_reported() -> None:
    target = correlated_gaussian()
    method = NUTS(num_chains=2, step_size=50.0, warm_start_epochs=5, mass="prior")
    run = chains_run(target.problem, method, 300)
    draws = sampled(target.problem, method, run)
    assert bool((draws == draws[:, :1]).all())
    assert run.notes["divergences"] >= 2 * run.notes["steps_per_chain"] > 0
    assert run.notes["acceptance"] == 0.0
    words = " ".join(run.notes["warnings"])
    assert "diverged" in words
    assert "accepted" in words


def test_same_seed_same_draws() -> None:
    method = NUTS(num_chains=2, num_draws=20)
    first, second, other = (
        sampled(problem := smooth_network(), method, chains_run(problem, method, 600, seed)) for seed in (0, 0, 1)
    )
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


class KilledError(Exception):
    pass


@pytest.mark.parametrize(("calls", "files"), [(20, 1), (120, 2), (300, 3)])  # in warm start, tuning, sampling
def test_resumed_fit_equals_an_undisturbed_one(tmp_path: Path, calls: int, files: int) -> None:
    method = NUTS(num_chains=2, num_draws=10, warm_start_epochs=50)
    undisturbed = sampled(problem := smooth_network(), method, chains_run(problem, method, 500))
    cost = problem.meter.total
    seen = [0]

    def kill(fraction: float) -> None:
        seen[0] += 1
        if seen[0] == calls:
            raise KilledError

    checkpoints = Checkpoints(tmp_path, "same", seconds=0.0)
    problem = smooth_network()
    with pytest.raises(KilledError):
        method.fit(problem, chains_run(problem, method, 500, checkpoints=checkpoints, progress=kill))
    assert len(list(tmp_path.iterdir())) == files
    problem = smooth_network()
    resumed = sampled(problem, method, chains_run(problem, method, 500, checkpoints=checkpoints))
    assert torch.equal(resumed, undisturbed)
    assert problem.meter.total == cost


@pytest.mark.parametrize("epochs", [6, 20, 150, 1000])
def test_budget_is_spent_and_kept(epochs: int) -> None:
    method = NUTS(num_chains=2)
    problem = smooth_network()
    run = chains_run(problem, method, epochs)
    draws = sampled(problem, method, run)
    assert run.limit * (0.98 if epochs > 50 else 0.7) <= problem.meter.total <= run.limit * (1 + 1e-6)
    assert 1 <= draws.shape[1] <= 100
    assert bool(torch.isfinite(draws).all())


def test_too_small_a_budget_is_refused() -> None:
    method = NUTS(num_chains=2)
    problem = smooth_network()
    with pytest.raises(BudgetError, match="at least 400 gradient evaluations"):
        method.fit(problem, chains_run(problem, method, 4))


def test_a_budget_of_time_ends() -> None:
    method = NUTS(num_chains=2, num_draws=10)
    problem = smooth_network()
    run = Run(problem.meter, limit=math.inf, seconds=2.0)
    assert sampled(problem, method, run).shape[1] > 0


def test_draws_are_thinned_to_the_number_asked_for() -> None:
    method = NUTS(num_chains=2, num_draws=7, max_depth=2)
    problem = smooth_network()
    run = chains_run(problem, method, 500)
    assert sampled(problem, method, run).shape[1] == 7
    assert run.notes["steps_per_chain"] > 50


def test_a_pretrained_model_is_where_chains_start() -> None:
    problem = correlated_gaussian().problem.with_changes(pretrained=True)
    method = NUTS(num_chains=2, step_size=1e-9, mass="prior", max_depth=1)
    draws = sampled(problem, method, chains_run(problem, method, 20))
    torch.testing.assert_close(draws[:, 0], problem.initial().expand(2, -1), rtol=0, atol=1e-6)


def test_batch_normalisation_gets_statistics_per_draw_within_the_budget() -> None:
    network = Network(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 1)))
    x = torch.randn(100, 3, generator=generator("cpu", 5))
    problem = Problem(network, Gaussian(), Normal(), Data(x, x[:, 0]))
    method = NUTS(num_chains=2)
    run = chains_run(problem, method, 200)
    sampled(problem, method, run)
    assert problem.meter.total <= run.limit * (1 + 1e-6)


@pytest.mark.parametrize(
    "settings",
    [{"num_chains": 0}, {"max_depth": 0}, {"max_depth": 2.5}, {"step_size": -1.0}, {"target_acceptance": 1.0}],
)
def test_bad_settings_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(MethodError, match=next(iter(settings))):
        NUTS(**settings)  # type: ignore[arg-type]
