import pytest
import torch
from small_problems import plain, problem_of, regression_data, run_of
from targets import chains_run, correlated_gaussian, excess, sampled

from bayesify.errors import MethodError
from bayesify.methods import mile
from bayesify.methods.mile import MILE
from bayesify.model.problem import Problem
from bayesify.posterior.draws import Draws


def held_out() -> Problem:
    return problem_of(plain(), regression_data(100), validation=0.2)


def test_chains_sample_given_what_early_stopping_held_out() -> None:
    problem = held_out()
    assert problem.validation is not None
    whole = mile._with_all_data(problem)
    assert whole.validation is None
    assert whole.num_examples == 100 == problem.num_examples + problem.validation.num_examples
    theta = torch.randn(2, problem.num_parameters, generator=torch.Generator().manual_seed(0))
    parts = [problem.with_changes(data=data).full_gradient(theta) for data in (problem.data, problem.validation)]
    expected = sum(part.log_likelihood for part in parts)
    torch.testing.assert_close(whole.full_gradient(theta).log_likelihood, expected)
    assert whole.meter is problem.meter


def test_training_stops_early_on_validation(monkeypatch: pytest.MonkeyPatch) -> None:
    schedules = []
    monkeypatch.setattr(
        "bayesify.methods.sampler.optimise", lambda problem, run, theta, schedule: schedules.append(schedule) or theta
    )
    problem = held_out()
    MILE(num_chains=2, patience=3).fit(problem, run_of(problem, 200))
    assert [(s.patience, s.learning_rate, s.batch_size) for s in schedules] == [(3, 1e-3, 32)]
    assert MILE().uses_validation


def test_numbers_of_steps_can_be_set() -> None:
    problem = held_out()
    method = MILE(num_chains=2, num_draws=20, warm_start_epochs=5, warmup_steps=100, num_steps=60)
    run = run_of(problem, 4000)
    posterior = method.fit(problem, run)
    assert isinstance(posterior, Draws)
    assert run.notes["steps_per_chain"] == 60
    assert run.notes["draws_per_chain"] == 20
    steps = 2 * 2 * 100 * (100 + 60)  # two gradients of 100 rows for two chains
    training = 5 * 80 * 2
    extra = 2 * 100 + 2 * 20 * 50 / 3 + 21 * 2 * 20 / 3  # the first gradient, mixing, validation
    assert steps + training <= problem.meter.total <= steps + training + extra + 1
    assert "unspent" in run.notes


def test_a_finite_budget_is_divided_as_in_the_paper() -> None:
    problem = held_out()
    method = MILE(num_chains=2, warm_start_epochs=0)
    run = run_of(problem, 3000)
    method.fit(problem, run)
    total = run.limit / (2 * 2 * 100)
    assert run.notes["steps_per_chain"] == pytest.approx(total / 6, rel=0.05)
    assert problem.meter.total >= 0.98 * run.limit


def test_energies_vary_as_much_as_the_end_of_the_tuning_asks_for() -> None:
    target = correlated_gaussian()
    method = MILE(num_chains=8, warm_start_epochs=1)
    run = chains_run(target.problem, method, 4000)
    sampled(target.problem, method, run)
    assert 0.04 < sum(run.notes["energy_variance"]) / 8 < 0.25


def test_small_energy_variances_give_the_posterior() -> None:
    target = correlated_gaussian()
    method = MILE(
        num_chains=16, num_draws=200, warm_start_epochs=1, energy_variance_start=5e-3, energy_variance_end=2e-4,
        warmup_steps=500, num_steps=1500,
    )  # fmt: skip
    assert excess(sampled(target.problem, method, chains_run(target.problem, method, 5000)), target) < 1


@pytest.mark.parametrize(
    "settings", [{"warmup_steps": 0}, {"num_steps": 1.5}, {"patience": 0}, {"energy_variance_end": 0.0}]
)
def test_bad_settings_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(MethodError, match=next(iter(settings))):
        MILE(**settings)  # type: ignore[arg-type]
