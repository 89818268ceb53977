import pytest
import torch
from targets import chains_run, correlated_gaussian, excess, halve_gradients, sampled

from bayesify.engine import hamiltonian
from bayesify.errors import MethodError
from bayesify.methods import chees_hmc
from bayesify.methods.chees_hmc import ChEESHMC

SAMPLER = ChEESHMC(num_chains=16, num_draws=200, warm_start_epochs=1)
EPOCHS = 3000


def test_samples_with_masses_from_the_prior() -> None:
    target = correlated_gaussian()
    method = ChEESHMC(num_chains=16, num_draws=200, warm_start_epochs=1, mass="prior")
    assert excess(sampled(target.problem, method, chains_run(target.problem, method, EPOCHS)), target) < 1


def test_the_check_refuses_a_wrong_temperature() -> None:
    target = correlated_gaussian(temperature=0.8)
    draws = sampled(target.problem, SAMPLER, chains_run(target.problem, SAMPLER, EPOCHS))
    assert excess(draws, correlated_gaussian()) > 1


def test_the_check_refuses_half_the_gradient_without_the_metropolis_test(monkeypatch: pytest.MonkeyPatch) -> None:
    halve_gradients(monkeypatch)
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


@pytest.mark.parametrize(
    "settings",
    [{"num_chains": 1}, {"step_size": -1.0}, {"target_acceptance": 1.0}],
)
def test_bad_settings_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(MethodError, match=next(iter(settings))):
        ChEESHMC(**settings)  # type: ignore[arg-type]
