"""The references themselves: closed forms against autograd and brute force, quadrature against another quadrature."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import nquad
from scipy.special import expit, log_expit
from torch.autograd.functional import hessian

from bayesify.data import Data
from bayesify.errors import DataError
from bayesify.exactness import KnownPosterior, LinearRegression, LogisticRegression, linear_regression
from bayesify.exactness.known import effective_parameters
from bayesify.exactness.logistic import logistic_regression
from bayesify.fitting import make_problem
from bayesify.model.problem import Problem
from bayesify.posterior.base import Particles


def problem_of(known: KnownPosterior) -> Problem:
    return make_problem(
        known.module(), Data(known.inputs, known.targets), likelihood=known.likelihood, prior=known.prior, device="cpu"
    )


@pytest.mark.parametrize("temperature", [1.0, 0.3])
def test_linear_posterior_against_autograd(temperature: float) -> None:
    """The log density of the library's own problem is quadratic with this mode and this curvature."""
    known = linear_regression(temperature)
    problem = problem_of(known).with_changes(temperature=temperature)
    assert problem.num_parameters == known.num_parameters
    at_mean = problem.full_gradient(known.mean[None])
    torch.testing.assert_close(at_mean.gradient, torch.zeros(1, 4, dtype=torch.float64), atol=1e-9, rtol=0)
    moved = problem.full_gradient(known.mean + torch.eye(4, dtype=torch.float64))
    torch.testing.assert_close(-moved.gradient, torch.linalg.inv(known.covariance), rtol=1e-9, atol=1e-9)


def test_linear_evidence_by_the_chain_rule() -> None:
    """Log p(D) = log p(D, θ) − log p(θ | D), whatever θ."""
    known = linear_regression()
    problem = problem_of(known)
    posterior = torch.distributions.MultivariateNormal(known.mean, covariance_matrix=known.covariance)
    for shift in (0.0, 0.3):
        theta = known.mean + shift
        evidence = problem.full_gradient(theta[None]).log_density - posterior.log_prob(theta)
        assert float(evidence) == pytest.approx(known.log_evidence, abs=1e-8)
    assert linear_regression(0.3).log_evidence == known.log_evidence


@pytest.mark.parametrize("temperature", [1.0, 0.3])
def test_linear_predictive_and_joint_against_simulation(temperature: float) -> None:
    known = linear_regression(temperature)
    assert isinstance(known, LinearRegression)
    rng = torch.Generator().manual_seed(0)
    theta = known.sample(100_000, rng)
    outputs = theta @ torch.cat([known.test_inputs, torch.ones(12, 1, dtype=torch.float64)], 1).mT
    mean, variance = known.predictive(known.test_inputs)
    z = (outputs.mean(0) - mean) / (outputs.std(0) / math.sqrt(len(theta)))
    assert z.abs().max() < 5.1  # 12 comparisons at 10⁻⁵ in all
    relative = (outputs.var(0) + known.noise**2) / variance - 1
    assert relative.abs().max() < 5.1 * math.sqrt(2 / len(theta))
    # The joint density equals the product of one-step-ahead predictives (temperature 1: Bayes' rule).
    if temperature == 1.0:
        total, inputs, targets = 0.0, known.inputs, known.targets
        for x, y in zip(known.test_inputs.split(1), known.test_targets.split(1), strict=True):
            step = LinearRegression(inputs, targets, x, y, noise=known.noise)
            total += float(step.log_predictive(y[None]))
            inputs, targets = torch.cat([inputs, x]), torch.cat([targets, y])
        assert known.joint_log_density() == pytest.approx(total, abs=1e-9)


@pytest.mark.parametrize("make", [linear_regression, logistic_regression])
def test_predictives_integrate_to_one(make: type) -> None:
    known = make(0.3)
    values, weights = known.support()
    total = (weights * known.log_predictive(values).exp()).sum(0)
    torch.testing.assert_close(total, torch.ones_like(total), atol=1e-12, rtol=0)


@pytest.mark.parametrize("temperature", [1.0, 0.3])
def test_logistic_posterior_against_adaptive_quadrature(temperature: float) -> None:
    """Two parameters, integrated by scipy's adaptive rule, from the formula written out in numpy."""
    x = np.array([-1.5, -0.3, 0.2, 0.4, 1.1, 2.0])
    y = np.array([0.0, 0.0, 1.0, 0.0, 1.0, 1.0])
    as_tensor = [torch.tensor(x)[:, None], torch.tensor(y)]
    known = LogisticRegression(*as_tensor, *as_tensor, prior_scale=1.5, temperature=temperature)

    def density(w: float, b: float, t: float = temperature) -> float:
        fit = log_expit((2 * y - 1) * (w * x + b)).sum()
        prior = -0.5 * (w**2 + b**2) / 1.5**2 - 2 * math.log(1.5) - math.log(2 * math.pi)
        return math.exp((fit + prior) / t + 10)

    def integral(function: object, t: float = temperature) -> float:
        options = {"epsabs": 1e-9, "epsrel": 1e-9, "limit": 200}
        return float(nquad(lambda w, b: function(w, b) * density(w, b, t), [(-12, 12)] * 2, opts=options)[0])

    total = integral(lambda w, b: 1.0)
    assert integral(lambda w, b: w) / total == pytest.approx(float(known.mean[0]), abs=1e-6)
    assert integral(lambda w, b: b) / total == pytest.approx(float(known.mean[1]), abs=1e-6)
    product = integral(lambda w, b: w * b) / total - float(known.mean[0] * known.mean[1])
    assert product == pytest.approx(float(known.covariance[0, 1]), abs=1e-6)
    chance = integral(lambda w, b: expit(w * x[4] + b)) / total
    assert chance == pytest.approx(float(known.log_predictive(torch.ones(1, 6))[0, 4].exp()), abs=1e-6)
    joint = integral(lambda w, b: math.exp(log_expit((2 * y - 1) * (w * x + b)).sum())) / total
    assert math.log(joint) == pytest.approx(known.joint_log_density(), abs=1e-6)
    assert math.log(integral(lambda w, b: 1.0, 1.0)) - 10 == pytest.approx(known.log_evidence, abs=1e-6)


def test_logistic_mode_and_density_are_the_problems() -> None:
    known = logistic_regression()
    problem = problem_of(known)
    mode, precision = known.mode()
    gradient = problem.full_gradient(mode[None])
    torch.testing.assert_close(gradient.gradient, torch.zeros(1, 3, dtype=torch.float64), atol=1e-8, rtol=0)
    assert float(gradient.log_density) == pytest.approx(float(known.log_joint(mode[None])), abs=1e-9)
    exact = -hessian(lambda theta: known.log_joint(theta[None]).sum(), mode)
    torch.testing.assert_close(precision, exact, rtol=1e-9, atol=1e-9)


def test_logistic_samples_have_the_moments() -> None:
    known = logistic_regression()
    draws = known.sample(100_000, torch.Generator().manual_seed(1))
    u = (draws - known.mean) / known.stddev
    assert u.mean(0).abs().max() < 5 / math.sqrt(len(draws))
    exact = known.covariance / known.stddev / known.stddev[:, None]
    assert (u.mT @ u / len(u) - exact).abs().max() < 5 * math.sqrt(3 / len(u))  # skewed: kurtosis above 3


def test_a_grid_too_coarse_is_refused() -> None:
    """Separable data under a huge prior: a posterior that is far from its Laplace approximation."""
    x = torch.tensor([[-1.0], [-0.9], [0.9], [1.0]], dtype=torch.float64)
    y = torch.tensor([0.0, 0.0, 1.0, 1.0], dtype=torch.float64)
    with pytest.raises(DataError, match="does not resolve"):
        LogisticRegression(x, y, x, y, prior_scale=1e4)


def test_parameters_are_read_off_functions() -> None:
    known = linear_regression()
    problem = problem_of(known)
    theta = known.sample(5, torch.Generator().manual_seed(2))
    found = effective_parameters(problem.model, Particles(theta, {}), 3)
    torch.testing.assert_close(found, theta, atol=1e-12, rtol=0)
    assert float(known.log_likelihood(theta, known.test_targets[None]).sum()) == pytest.approx(
        float(
            problem.log_likelihood(
                theta, problem.place(Data(known.test_inputs, known.test_targets)), problem.network.buffers(5)
            ).sum()
        ),
        abs=1e-8,
    )
