import math

import pytest
import torch
from small_problems import problem_of, run_of
from targets import SIZE, chains_run, correlated_gaussian, excess, halve_gradients, sampled, smooth_network
from torch import Tensor, nn

from bayesify.engine import microcanonical, pacing
from bayesify.engine.chains import Info
from bayesify.engine.microcanonical import kernel_of, start
from bayesify.engine.pacing import Aims, adapt, tune_step
from bayesify.engine.rng import generator
from bayesify.errors import MethodError
from bayesify.methods.mclmc import MCLMC
from bayesify.model.likelihoods import Gaussian

SAMPLER = MCLMC(num_chains=16, num_draws=200, warm_start_epochs=1)
EPOCHS = 3000


def test_learned_masses_find_the_posterior_with_longer_steps() -> None:
    target = correlated_gaussian()
    method = MCLMC(num_chains=16, num_draws=200, warm_start_epochs=1, mass="diagonal")
    run = chains_run(target.problem, method, EPOCHS)
    draws = sampled(target.problem, method, run)
    assert excess(draws, target) < 1
    assert run.notes["r_hat"] < 1.02


def test_a_loose_energy_variance_is_a_bias_that_the_check_finds() -> None:
    target = correlated_gaussian()
    method = MCLMC(num_chains=16, num_draws=200, warm_start_epochs=1, energy_variance=0.05)
    assert excess(sampled(target.problem, method, chains_run(target.problem, method, EPOCHS)), target) > 1


def test_the_check_refuses_a_wrong_temperature() -> None:
    target = correlated_gaussian(temperature=0.8)
    draws = sampled(target.problem, SAMPLER, chains_run(target.problem, SAMPLER, EPOCHS))
    assert excess(draws, correlated_gaussian()) > 1


def test_the_check_refuses_half_the_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    halve_gradients(monkeypatch)
    method = MCLMC(num_chains=16, num_draws=200, warm_start_epochs=1, step_size=0.5, length=5.0)
    target = correlated_gaussian()
    assert excess(sampled(target.problem, method, chains_run(target.problem, method, EPOCHS)), target) > 1


def test_the_check_refuses_directions_that_are_not_unit_vectors(monkeypatch: pytest.MonkeyPatch) -> None:
    right = microcanonical.kick

    def wrong(*arguments: Tensor) -> tuple[Tensor, Tensor]:
        direction, work = right(*arguments)
        return 1.3 * direction, work

    monkeypatch.setattr(microcanonical, "kick", wrong)
    method = MCLMC(num_chains=16, num_draws=200, warm_start_epochs=1, step_size=0.5, length=2.0)
    target = correlated_gaussian()
    assert excess(sampled(target.problem, method, chains_run(target.problem, method, EPOCHS)), target) > 1


def test_the_check_refuses_noise_that_prefers_a_direction(monkeypatch: pytest.MonkeyPatch) -> None:
    right = microcanonical.refreshed
    monkeypatch.setattr(microcanonical, "refreshed", lambda u, noise, amount: right(u, noise.abs(), amount))
    method = MCLMC(num_chains=16, num_draws=200, warm_start_epochs=1, step_size=0.5, length=2.0)
    target = correlated_gaussian()
    assert excess(sampled(target.problem, method, chains_run(target.problem, method, EPOCHS)), target) > 1


def test_the_check_accepts_the_same_settings_without_those_errors() -> None:
    method = MCLMC(num_chains=16, num_draws=200, warm_start_epochs=1, step_size=0.5, length=2.0)
    target = correlated_gaussian()
    assert excess(sampled(target.problem, method, chains_run(target.problem, method, EPOCHS)), target) < 1


def test_the_energy_variance_becomes_what_was_asked_for() -> None:
    for asked in (5e-4, 5e-2):
        target = correlated_gaussian()
        method = MCLMC(num_chains=16, warm_start_epochs=1, energy_variance=asked)
        run = chains_run(target.problem, method, EPOCHS)
        sampled(target.problem, method, run)
        found = sum(run.notes["energy_variance"]) / 16
        assert asked / 2 < found < 2 * asked
        assert len(set(run.notes["step_size"])) == 16  # each chain has its own


def test_adapting_solves_for_the_step_at_which_energies_vary_as_asked() -> None:
    # Energy changes of variance d c ε⁶, each chain with its own c: ε must go to (v/c)^(1/6).
    problem = smooth_network()
    kernel, rng = kernel_of(problem), generator("cpu", 1)
    particle = start(kernel, problem.random(8, rng), rng)
    state = pacing._start(kernel, particle, Aims(first_step=1e-3))
    c = torch.logspace(-2, 4, 8, dtype=torch.float64)
    size, steps = problem.num_parameters, []
    for _ in range(3000):
        noise = torch.randn(8, generator=rng, dtype=torch.float64)
        error = noise * (size * c).sqrt() * state.pace.step**3
        no = torch.zeros(8, dtype=torch.bool)
        state = adapt(state, Info(torch.ones(8), error, no), 1e-2, 150.0)
        steps.append(state.pace.step)
    mean = torch.stack(steps[1000:]).log().mean(0).exp()
    torch.testing.assert_close(mean / (1e-2 / c) ** (1 / 6), torch.ones(8, dtype=torch.float64), rtol=0, atol=0.1)


def test_a_step_that_leads_nowhere_is_undone_and_bounds_the_next_ones() -> None:
    problem = smooth_network()
    kernel, rng = kernel_of(problem), generator("cpu", 1)
    particle = start(kernel, problem.random(2, rng), rng)
    state = pacing._start(kernel, particle, Aims(first_step=1e-3))
    pace = state.pace._replace(step=torch.tensor([1e-3, 1e200], dtype=torch.float64))
    moved, info = microcanonical.langevin(kernel, particle, pace, rng)
    assert info.divergent.tolist() == [False, True]
    assert torch.equal(moved.theta[1], particle.theta[1])
    assert not torch.equal(moved.theta[0], particle.theta[0])
    assert bool(torch.isfinite(moved.direction).all())
    adapted = adapt(state._replace(pace=pace), info, 5e-4, 150.0)
    assert float(adapted.largest[1]) == pytest.approx(0.8e200)
    assert float(adapted.pace.step[1]) <= 0.8e200


def test_lengths_become_the_radius_of_the_posterior_before_the_last_phase() -> None:
    target = correlated_gaussian()
    kernel = kernel_of(target.problem)
    run = chains_run(target.problem, SAMPLER, 4000)
    theta = target.problem.random(16, run.rng)
    aims = Aims(1e-3, shares=(0.2, 0.8, 0.0))
    state = tune_step(kernel, run, start(kernel, theta, run.rng), aims, 16.0 * target.problem.num_examples)
    precision = 1 + torch.logspace(-2, 2, SIZE, dtype=torch.float64)
    expected = math.sqrt(float(precision.reciprocal().sum()))
    assert float((state.pace.length / expected - 1).abs().max()) < 0.15


def test_one_parameter_is_refused() -> None:
    x = torch.ones(20, 1)
    problem = problem_of(nn.Linear(1, 1, bias=False), (x, x[:, 0]), likelihood=Gaussian(scale=1.0))
    with pytest.raises(MethodError, match="use hmc"):
        MCLMC(num_chains=2).fit(problem, run_of(problem, 200))


@pytest.mark.parametrize(
    "settings", [{"energy_variance": 0.0}, {"step_size": -1.0}, {"length": 0.0}, {"mass": "full"}, {"num_chains": 0}]
)
def test_bad_settings_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(MethodError, match=next(iter(settings))):
        MCLMC(**settings)  # type: ignore[arg-type]
