"""The learned noise scale: read off, rescaled and fitted to a network that stays."""

import math

import pytest
import torch
from curvature_cases import module_and_inputs

from bayesify.curvature.noise import residuals, with_fitted_noise, with_noise_factor
from bayesify.fitting import make_problem
from bayesify.model.likelihoods import MIN_SCALE, Gaussian, Likelihood, StudentT
from bayesify.model.problem import Problem


def problem_of(likelihood: Likelihood) -> Problem:
    module, inputs = module_and_inputs("mlp")
    targets = torch.randn(len(inputs), 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return make_problem(module, (inputs, targets * torch.tensor([1.0, 3.0])), likelihood=likelihood, pretrained=True)


def test_squares_are_those_of_the_residuals() -> None:
    problem = problem_of(Gaussian(num_targets=2))
    theta = problem.initial()
    theta[-2:] = torch.tensor([0.3, -0.7])
    outputs = problem.outputs(theta[None], problem.data.inputs, {})[0]
    value = float(problem.log_likelihood(theta[None], problem.data, {}))
    found = residuals(problem, theta, value)
    noise = torch.tensor([math.exp(0.3), math.exp(-0.7)]) + MIN_SCALE
    assert found.number == 14
    assert found.squares == pytest.approx(float(((problem.data.targets - outputs) / noise).square().sum()))
    lowest = with_noise_factor(problem, theta, math.exp(found.lowest_log_factor))
    assert float(problem.likelihood.noise(lowest[-2:]).min()) == pytest.approx(2 * MIN_SCALE)  # type: ignore[attr-defined]


@pytest.mark.parametrize("likelihood", [Gaussian(scale=0.5, num_targets=2), StudentT(num_targets=2)])
def test_no_other_noise_is_tuned(likelihood: Likelihood) -> None:
    problem = problem_of(likelihood)
    assert residuals(problem, problem.initial(), -10.0).number == 0
    assert torch.equal(with_noise_factor(problem, problem.initial(), 1.0), problem.initial())


def test_factor_multiplies_all_variances() -> None:
    problem = problem_of(Gaussian(num_targets=2))
    theta = problem.initial()
    theta[-2:] = torch.tensor([0.3, -0.7])
    changed = with_noise_factor(problem, theta, 2.5)
    assert torch.equal(changed[:-2], theta[:-2])
    before, after = (Gaussian(num_targets=2).noise(value[-2:]) for value in (theta, changed))
    torch.testing.assert_close(after.square(), 2.5 * before.square())


@pytest.mark.parametrize("likelihood", [Gaussian(num_targets=2), StudentT(num_targets=2)])
def test_fitted_noise_is_the_mode(likelihood: Likelihood) -> None:
    problem = problem_of(likelihood)
    theta = with_fitted_noise(problem, problem.initial())
    assert torch.equal(theta[:-2], problem.initial()[:-2])
    assert problem.meter.forward_evaluations == 7
    own = problem.full_gradient(theta[None]).gradient[0, -2:]
    assert float(own.abs().max()) < 1e-6


@pytest.mark.parametrize(
    "problem",
    [
        problem_of(Gaussian(scale=0.5, num_targets=2)),
        problem_of(Gaussian(num_targets=2)).with_changes(likelihood_start=torch.tensor([0.1, 0.2])),
    ],
    ids=["fixed", "found before"],
)
def test_a_known_noise_costs_nothing(problem: Problem) -> None:
    assert torch.equal(with_fitted_noise(problem, problem.initial()), problem.initial())
    assert problem.meter.total == 0
