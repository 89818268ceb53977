"""Minibatch samplers as users run them; `test_sampler_grid` has the laws of their draws."""

import math
from typing import Any

import pytest
import torch
from targets import SIZE, Target, chains_run, correlated_gaussian, excess, precision_of, sampled, smooth_network
from torch import Tensor

from bayesify.engine.rng import generator
from bayesify.engine.run import Run
from bayesify.engine.stochastic import geometry, rms_scale
from bayesify.errors import BudgetError, MethodError
from bayesify.methods import SGHMC, SGLD, SGNHT, SMILE, AdamSGLD, AdaptiveSGHMC, Cyclical, Multi
from bayesify.methods.cyclical import cosine_cycles
from bayesify.methods.stochastic import StochasticSampler
from bayesify.model.problem import Problem

CHAINS: dict[str, Any] = {"num_chains": 16, "num_draws": 200, "warm_start_epochs": 1, "burn_in": 0.1}
SAMPLERS = [SGLD, SGHMC, SGNHT, AdamSGLD, AdaptiveSGHMC]
temperatures = pytest.mark.parametrize("temperature", [1.0, 0.3])
LARGEST = 101.0
"""Curvature of the correlated Gaussian at temperature 1."""


def draws_of(target: Target, method: StochasticSampler, epochs: float = 1200) -> Tensor:
    return sampled(target.problem, method, chains_run(target.problem, method, epochs))


def test_no_drift_is_sgld_to_the_bit() -> None:
    one, two = correlated_gaussian(), correlated_gaussian()
    assert torch.equal(draws_of(one, SGLD(**CHAINS), 200), draws_of(two, AdamSGLD(**CHAINS, drift=0.0), 200))


@pytest.mark.parametrize("sampler", [*SAMPLERS, SMILE])
def test_batches_keep_to_the_tolerance(sampler: type[StochasticSampler]) -> None:
    target = correlated_gaussian()
    method = sampler(**CHAINS, sampling_batch_size=16, tolerance=0.3)
    draws = draws_of(target, method, 500).double().flatten(0, 1)
    values, vectors = torch.linalg.eigh(precision_of(target.problem))
    ratio = (draws - draws.mean(0)) @ vectors[:, -5:]
    too_wide = ratio.var(0) * values[-5:] - 1  # five narrow directions, each known to about 5%
    assert float(too_wide.min()) > -0.35
    assert float(too_wide.max()) < 0.3 + 0.25


@pytest.mark.parametrize("sampler", [SGHMC, SGNHT])
def test_another_temperature_is_found(sampler: type[StochasticSampler]) -> None:
    assert excess(draws_of(correlated_gaussian(temperature=0.7), sampler(**CHAINS)), correlated_gaussian()) > 1


@pytest.mark.parametrize("sampler", [SGHMC, SGNHT, SMILE])
def test_half_the_gradient_is_found(sampler: type[StochasticSampler], monkeypatch: pytest.MonkeyPatch) -> None:
    right = Problem.likelihood_gradient

    def wrong(self: Problem, *arguments: Any) -> tuple[Tensor, Tensor]:
        gradient, value = right(self, *arguments)
        return 0.5 * gradient, value

    monkeypatch.setattr(Problem, "likelihood_gradient", wrong)
    target = correlated_gaussian()
    assert excess(draws_of(target, sampler(**CHAINS)), target) > 1


@pytest.mark.parametrize("sampler", [SGHMC, SGLD])
def test_noise_that_ignores_the_temperature_is_found(
    sampler: type[StochasticSampler], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Gradients of the posterior itself with unit noise, where a temperature of 0.3 was asked for.
    target = correlated_gaussian(temperature=0.3)
    untempered = target.problem.with_changes(temperature=1.0)
    method = sampler(**CHAINS)
    draws = sampled(untempered, method, chains_run(untempered, method, 1200))
    assert excess(draws, target) > 1


# ---- what step sizes follow from -------------------------------------------------------------------------------------


@temperatures
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_curvature_is_the_largest_eigenvalue(dtype: torch.dtype, temperature: float) -> None:
    problem = correlated_gaussian(dtype, temperature).problem
    run = Run(problem.meter, limit=math.inf)
    theta = problem.random(3, generator("cpu", 0))
    scale = torch.full((SIZE,), 0.5, dtype=dtype)
    found = geometry(problem, run.phase("curvature"), theta, scale, 16)
    assert found.curvature == pytest.approx(0.25 * LARGEST / temperature, rel=0.02)
    assert found.noise == pytest.approx(3 / temperature)


def test_rms_scales_are_those_of_the_gradients() -> None:
    problem = correlated_gaussian().problem
    theta = problem.random(2, generator("cpu", 0))
    scale = rms_scale(problem, Run(problem.meter, limit=1e6), theta, torch.ones(SIZE, dtype=torch.float64), 64)
    expected = problem.full_gradient(theta).gradient.square().clamp_min(1.0) ** -0.25
    torch.testing.assert_close(scale, expected)


def test_the_rms_preconditioner_does_not_change_the_target() -> None:
    target = correlated_gaussian()
    assert excess(draws_of(target, SGHMC(**CHAINS, preconditioner="rmsprop")), target) < 1


# ---- cycles ----------------------------------------------------------------------------------------------------------


def test_cycles_explore_without_noise_and_keep_draws_of_the_rest() -> None:
    stage = cosine_cycles(Cyclical(SGLD(), num_cycles=2, exploration=0.5, peak=3.0))
    assert stage(0.0).rate == pytest.approx(3.0)
    assert stage(0.25).rate == pytest.approx(1.5)
    assert stage(0.5).rate == pytest.approx(3.0)
    assert [stage(f).noisy for f in (0.0, 0.24, 0.26, 0.49, 0.51, 0.9)] == [False, False, True, True, False, True]
    assert [stage(f).share for f in (0.0, 0.25, 0.375, 0.5, 0.75, 1.0)] == pytest.approx([0, 0, 0.25, 0.5, 0.5, 1.0])


def test_cycles_need_a_minibatch_sampler() -> None:
    with pytest.raises(MethodError, match=r"cyclical needs a minibatch sampler.*got multi"):
        Cyclical(Multi(SGLD(), 2))


# ---- trouble ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_chains_that_blow_up_go_back_and_are_reported(sampler: type[StochasticSampler]) -> None:
    problem = smooth_network()
    method = sampler(num_chains=2, num_draws=10, step_size=1e3)
    run = chains_run(problem, method, 300)
    assert bool(torch.isfinite(sampled(problem, method, run)).all())
    assert run.notes["divergences"] > 0
    assert any("diverged" in text for text in run.notes["warnings"])


def test_too_small_a_budget_is_refused() -> None:
    problem = smooth_network()
    method = SGLD(num_chains=2)
    with pytest.raises(BudgetError, match="at least 667 gradient evaluations"):
        method.fit(problem, chains_run(problem, method, 8))


@pytest.mark.parametrize(
    ("sampler", "settings"),
    [
        (SGLD, {"tolerance": 0.0}),
        (SGLD, {"step_size": -1.0}),
        (SGLD, {"burn_in": 1.0}),
        (SGLD, {"sampling_batch_size": 0}),
        (SGLD, {"preconditioner": "adam"}),
        (SGHMC, {"friction": 0.0}),
        (SGNHT, {"friction": -1.0}),
        (AdamSGLD, {"drift": -1.0}),
        (AdamSGLD, {"beta2": 1.0}),
        (AdaptiveSGHMC, {"friction": 1.0}),
        (AdaptiveSGHMC, {"preconditioner": "prior"}),
        (SMILE, {"length": 0.0}),
    ],
)
def test_bad_settings_are_refused(sampler: type[StochasticSampler], settings: dict[str, Any]) -> None:
    with pytest.raises(MethodError, match=next(iter(settings))):
        sampler(**settings)


@pytest.mark.parametrize("settings", [{"num_cycles": 0}, {"exploration": 1.0}, {"peak": 0.0}])
def test_bad_cycles_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(MethodError, match=next(iter(settings))):
        Cyclical(SGLD(), **settings)
