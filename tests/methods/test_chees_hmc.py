import math
from pathlib import Path

import pytest
import torch
from targets import chains_run, correlated_gaussian, excess, mixture, sampled, smooth_network
from torch import Tensor

from bayesify.engine import hamiltonian
from bayesify.engine.run import Checkpoints, Run
from bayesify.errors import BudgetError, MethodError
from bayesify.methods import chees_hmc
from bayesify.methods.chees_hmc import ChEESHMC
from bayesify.model.problem import Problem

SAMPLER = ChEESHMC(num_chains=16, num_draws=200, warm_start_epochs=1)
EPOCHS = 3000


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("temperature", [1.0, 0.3])
def test_samples_a_correlated_gaussian(dtype: torch.dtype, temperature: float) -> None:
    target = correlated_gaussian(dtype, temperature)
    run = chains_run(target.problem, SAMPLER, EPOCHS)
    draws = sampled(target.problem, SAMPLER, run)
    assert draws.shape[1] > 100
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
    method = ChEESHMC(num_chains=16, num_draws=200, warm_start_epochs=1, mass="prior")
    assert excess(sampled(target.problem, method, chains_run(target.problem, method, EPOCHS)), target) < 1


def test_the_check_refuses_a_wrong_temperature() -> None:
    target = correlated_gaussian(temperature=0.8)
    draws = sampled(target.problem, SAMPLER, chains_run(target.problem, SAMPLER, EPOCHS))
    assert excess(draws, correlated_gaussian()) > 1


def test_the_check_refuses_half_the_gradient_without_the_metropolis_test(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Problem.full_likelihood_gradient

    def wrong(self: Problem, *arguments: object) -> tuple[Tensor, Tensor]:
        gradient, value = right(self, *arguments)  # type: ignore[arg-type]
        return 0.5 * gradient, value

    monkeypatch.setattr(Problem, "full_likelihood_gradient", wrong)
    monkeypatch.setattr(hamiltonian, "energy_error", lambda kernel, start, *_: torch.zeros_like(start.log_prior))
    method = ChEESHMC(num_chains=16, num_draws=200, warm_start_epochs=1, step_size=0.1, mass="prior")
    target = correlated_gaussian()
    assert excess(sampled(target.problem, method, chains_run(target.problem, method, EPOCHS)), target) > 1


@pytest.mark.parametrize(("start", "low", "high"), [(0.05, 1.2, 3.0), (20.0, 1.0, 18.0)])
def test_the_length_goes_to_where_the_criterion_is_largest(
    start: float, low: float, high: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Of a Gaussian that is near a quarter of the period of its widest direction, here 2π; lengths are uniform up to τ,
    # which makes τ longer. From far above there are few trajectories to learn from.
    begin = chees_hmc._flock
    monkeypatch.setattr(chees_hmc, "_flock", lambda point, _: begin(point, start))
    target = correlated_gaussian()
    method = ChEESHMC(warm_start_epochs=1, mass="prior", step_size=0.1)
    run = chains_run(target.problem, method, 8000)
    method.fit(target.problem, run)
    assert low < run.notes["trajectory_length"] < high


def test_lengths_are_spread_evenly() -> None:
    found = sorted(chees_hmc._van_der_corput(n) for n in range(1, 16))
    assert found == [n / 16 for n in range(1, 16)]


def test_absurd_step_size_is_reported() -> None:
    target = correlated_gaussian()
    method = ChEESHMC(num_chains=2, step_size=50.0, warm_start_epochs=5, mass="prior")
    run = chains_run(target.problem, method, 300)
    draws = sampled(target.problem, method, run)
    assert bool((draws == draws[:, :1]).all())
    assert run.notes["divergences"] == 2 * run.notes["steps_per_chain"] > 0
    assert run.notes["acceptance"] == 0.0
    words = " ".join(run.notes["warnings"])
    assert "diverged" in words
    assert "accepted" in words


def test_same_seed_same_draws() -> None:
    method = ChEESHMC(num_chains=2, num_draws=20)
    first, second, other = (
        sampled(problem := smooth_network(), method, chains_run(problem, method, 600, seed)) for seed in (0, 0, 1)
    )
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


class KilledError(Exception):
    pass


@pytest.mark.parametrize(("calls", "files"), [(20, 1), (60, 2), (100, 3)])  # in warm start, tuning, sampling
def test_resumed_fit_equals_an_undisturbed_one(tmp_path: Path, calls: int, files: int) -> None:
    method = ChEESHMC(num_chains=2, num_draws=10, warm_start_epochs=50)
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
    method = ChEESHMC(num_chains=2)
    problem = smooth_network()
    run = chains_run(problem, method, epochs)
    draws = sampled(problem, method, run)
    assert run.limit * (0.98 if epochs > 50 else 0.7) <= problem.meter.total <= run.limit * (1 + 1e-6)
    assert 1 <= draws.shape[1] <= 100
    assert bool(torch.isfinite(draws).all())


def test_too_small_a_budget_is_refused() -> None:
    method = ChEESHMC(num_chains=2)
    problem = smooth_network()
    with pytest.raises(BudgetError, match="at least 400 gradient evaluations"):
        method.fit(problem, chains_run(problem, method, 4))


def test_a_budget_of_time_ends() -> None:
    method = ChEESHMC(num_chains=2, num_draws=10)
    problem = smooth_network()
    run = Run(problem.meter, limit=math.inf, seconds=2.0)
    assert sampled(problem, method, run).shape[1] > 0


def test_draws_are_thinned_to_the_number_asked_for() -> None:
    method = ChEESHMC(num_chains=2, num_draws=7)
    problem = smooth_network()
    run = chains_run(problem, method, 500)
    assert sampled(problem, method, run).shape[1] == 7
    assert run.notes["steps_per_chain"] > 50


def test_a_pretrained_model_is_where_chains_start() -> None:
    problem = correlated_gaussian().problem.with_changes(pretrained=True)
    method = ChEESHMC(num_chains=2, step_size=1e-9, mass="prior")
    draws = sampled(problem, method, chains_run(problem, method, 20))
    torch.testing.assert_close(draws[:, 0], problem.initial().expand(2, -1), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "settings",
    [{"num_chains": 1}, {"step_size": -1.0}, {"target_acceptance": 1.0}],
)
def test_bad_settings_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(MethodError, match=next(iter(settings))):
        ChEESHMC(**settings)  # type: ignore[arg-type]
