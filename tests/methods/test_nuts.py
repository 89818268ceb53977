import numpy as np
import pytest
from targets import chains_run, correlated_gaussian, excess, halve_gradients, sampled

from bayesify.engine import nuts
from bayesify.errors import MethodError
from bayesify.methods.nuts import NUTS

SAMPLER = NUTS(num_chains=16, num_draws=200, warm_start_epochs=1)
EPOCHS = 4000


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


def test_tuned_acceptance_is_near_the_target() -> None:
    target = correlated_gaussian()
    method = NUTS(warm_start_epochs=1, mass="prior", max_depth=4)
    run = chains_run(target.problem, method, 6000)
    method.fit(target.problem, run)
    assert 0.72 < run.notes["acceptance"] < 0.92


@pytest.mark.parametrize(
    "settings",
    [{"num_chains": 0}, {"max_depth": 0}, {"max_depth": 2.5}, {"step_size": -1.0}, {"target_acceptance": 1.0}],
)
def test_bad_settings_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(MethodError, match=next(iter(settings))):
        NUTS(**settings)  # type: ignore[arg-type]
