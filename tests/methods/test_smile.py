"""Microcanonical dynamics on minibatches: their law is in `test_stochastic_laws`, targets in `test_sampler_grid`."""

import math

import pytest
import torch
from small_problems import problem_of, run_of
from targets import chains_run, sampled, smooth_network
from torch import nn

from bayesify.engine import microcanonical
from bayesify.engine.rng import generator
from bayesify.errors import MethodError
from bayesify.methods import SMILE, smile
from bayesify.model.likelihoods import Gaussian

ONE = torch.ones((), dtype=torch.float64)


def test_with_all_the_data_it_goes_where_mclmc_goes() -> None:
    problem, distance = smooth_network(), 0.5
    kernel = microcanonical.kernel_of(problem)
    begin = microcanonical.start(kernel, problem.random(4, generator("cpu", 2)), generator("cpu", 3))
    fine, scale = torch.full((4,), distance / 256, dtype=torch.float64), kernel.scale.expand_as(begin.theta)
    end = microcanonical.integrate(kernel, begin, fine, scale, 256).end.theta
    force = kernel.scale * problem.full_gradient(begin.theta).gradient
    silence, errors = torch.zeros_like(end), []
    for num_steps in (16, 32, 64):
        step = distance / num_steps
        # Half a kick back: the first one is then a half, as a leapfrog's.
        direction, _ = microcanonical.kick(begin.direction, force, torch.full((4,), -0.5 * step, dtype=torch.float64))
        state, update = smile.State(begin.theta, direction), smile.microcanonical(kernel.scale, step, 1e12)
        for _ in range(num_steps):
            state = update(state, problem.full_gradient(state.theta).gradient, silence, ONE)
        errors.append(float((state.theta - end).norm()))
    assert errors[0] / errors[1] == pytest.approx(4, abs=0.4)
    assert errors[1] / errors[2] == pytest.approx(4, abs=0.4)
    assert errors[2] < 0.002 * float((end - begin.theta).norm())


def test_directions_are_refreshed_as_those_of_mclmc() -> None:
    theta = torch.zeros(3, 7, dtype=torch.float64)
    begin = smile.State(theta, smile.anywhere(theta))
    noise = torch.randn(theta.shape, generator=generator("cpu", 5), dtype=torch.float64)
    step, length, scale = 0.3, 0.5, torch.linspace(0.5, 2, 7, dtype=torch.float64)
    end = smile.microcanonical(scale, step, length)(begin, theta, noise, ONE)
    amount = math.sqrt(math.expm1(2 * step / length) / 7)
    expected = microcanonical.refreshed(begin.direction, noise, torch.full((3,), amount, dtype=torch.float64))
    torch.testing.assert_close(end.direction, expected)
    torch.testing.assert_close(end.theta, 0.5 * step * scale * (begin.direction + expected))


def test_a_rate_is_of_the_square_of_the_step() -> None:
    theta = torch.zeros(3, 7, dtype=torch.float64)
    begin, noise, scale = smile.State(theta, smile.anywhere(theta)), theta + 0.2, torch.ones(7, dtype=torch.float64)
    one = smile.microcanonical(scale, 0.3, 1.0)(begin, theta, noise, 0.25 * ONE)
    torch.testing.assert_close(one, smile.microcanonical(scale, 0.15, 1.0)(begin, theta, noise, ONE))


def test_chains_cannot_blow_up() -> None:
    problem = smooth_network()
    method = SMILE(num_chains=2, num_draws=10, step_size=1e3)
    run = chains_run(problem, method, 300)
    assert bool(torch.isfinite(sampled(problem, method, run)).all())
    assert run.notes["divergences"] == 0


def test_one_parameter_is_refused() -> None:
    x = torch.ones(20, 1)
    problem = problem_of(nn.Linear(1, 1, bias=False), (x, x[:, 0]), likelihood=Gaussian(scale=1.0))
    with pytest.raises(MethodError, match="use sghmc"):
        SMILE(num_chains=2).fit(problem, run_of(problem, 200))
