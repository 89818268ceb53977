from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from small_problems import fitted, normalised, plain, problem_of, regression_data

import bayesify as bay
from bayesify.engine.run import Run
from bayesify.errors import MethodError
from bayesify.methods import HMC, MAP, SWAG, MCDropout, Multi, Subset, Tempered, get_method
from bayesify.methods.base import Exactness, Method, MethodInfo, describe
from bayesify.model.problem import Batch, Problem
from bayesify.posterior.base import Particles, Posterior
from bayesify.posterior.draws import Draws


@dataclass(frozen=True)
class Gradient(Method):
    """Its one particle is the gradient at 0."""

    info = MethodInfo("gradient", "point", Exactness.EXACT, "none", "the gradient at 0")

    @property
    def num_particles(self) -> int:
        return 1

    def fit(self, problem: Problem, run: Run) -> Posterior:
        theta = problem.initial()[None]
        gradient = problem.gradient(theta, Batch(problem.data)).gradient
        return Draws(problem.model, Particles(gradient, problem.network.buffers(1)))


@pytest.mark.parametrize("method", [SWAG(), MCDropout(), MAP(), Multi(SWAG(), 2)])
def test_temperature_one_is_the_method(method: Method) -> None:
    data = regression_data()
    alone = fitted(problem_of(normalised(), data), method, 24).tensors()
    tempered = fitted(problem_of(normalised(), data), Tempered(method, 1.0), 24).tensors()
    assert all(torch.equal(alone[name], tempered[name]) for name in alone)


@pytest.mark.parametrize("wrap", [lambda m: m, lambda m: Subset(m, "2"), lambda m: Multi(m, 2)])
def test_nested_temperatures_multiply(wrap: object, tmp_path: Path) -> None:
    problem = problem_of(plain(), regression_data())
    method = Tempered(wrap(Tempered(SWAG(), 0.5)), 0.1)  # type: ignore[operator]
    posterior = fitted(problem, method, 40)
    assert posterior.record.temperature == pytest.approx(0.05)
    posterior.save(tmp_path / "net.bayes")
    assert bay.load(tmp_path / "net.bayes", plain()).record.temperature == pytest.approx(0.05)


def test_likelihood_and_prior_are_divided_alike() -> None:
    data = regression_data()
    one = fitted(problem_of(plain(), data), Gradient(), 2).particles().theta
    cold = fitted(problem_of(plain(), data), Tempered(Tempered(Gradient(), 0.5), 0.5), 2).particles().theta
    torch.testing.assert_close(cold, 4 * one)


def test_the_problem_is_left_as_it_was() -> None:
    problem = problem_of(plain(), regression_data())
    fitted(problem, Tempered(SWAG(), 0.5), 20)
    assert problem.temperature == 1.0


def test_it_answers_for_its_method() -> None:
    method = Tempered(Multi(MAP(), 3), 0.5)
    assert method.num_particles == 3
    assert method.uses_validation
    assert not Tempered(HMC(), 0.5).uses_validation
    assert describe(method) == "tempered(multi(map, num_modes=3), 0.5)"
    assert get_method("tempered(swag, 0.5)") == Tempered(SWAG(), 0.5)


@pytest.mark.parametrize("temperature", [0, -1.0, float("nan"), float("inf")])
def test_temperature_is_checked(temperature: float) -> None:
    with pytest.raises(MethodError) as error:
        Tempered(SWAG(), temperature)
    assert str(error.value) == f"Tempered(temperature={temperature!r}): temperature must be a positive number."
