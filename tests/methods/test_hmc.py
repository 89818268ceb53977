import math

import pytest
import torch
from targets import (
    SIZE,
    chains_run,
    correlated_gaussian,
    excess,
    halve_gradients,
    mixture,
    sampled,
    smooth_network,
)
from torch import Tensor, nn

from bayesify.data import Data
from bayesify.engine import hamiltonian
from bayesify.engine.hamiltonian import energy_error, evaluate, kernel_of, leapfrog
from bayesify.engine.rng import generator
from bayesify.engine.step_size import adapt, start_averaging
from bayesify.errors import MethodError
from bayesify.methods.hmc import HMC
from bayesify.model.likelihoods import Gaussian
from bayesify.model.network import Network
from bayesify.model.priors import Normal
from bayesify.model.problem import Problem

SAMPLER = HMC(num_chains=16, num_draws=200, warm_start_epochs=1)
EPOCHS = 4000


def test_the_mixture_refuses_a_wrong_temperature() -> None:
    target = mixture(temperature=0.8)
    method = HMC(num_chains=16, num_draws=200, warm_start_epochs=1, trajectory_length=2.0)
    draws = sampled(target.problem, method, chains_run(target.problem, method, 6000))
    assert excess(draws, mixture()) > 1


@pytest.mark.parametrize("temperature", [1.0, 0.3])
def test_learned_masses_find_the_posterior_and_its_scales(temperature: float) -> None:
    target = correlated_gaussian(temperature=temperature)
    method = HMC(num_chains=16, num_draws=200, warm_start_epochs=1, mass="diagonal")
    run = chains_run(target.problem, method, EPOCHS)
    draws = sampled(target.problem, method, run)
    assert excess(draws, target) < 1
    assert run.notes["r_hat"] < 1.05


def test_the_check_refuses_a_wrong_temperature() -> None:
    target = correlated_gaussian(temperature=0.8)
    draws = sampled(target.problem, SAMPLER, chains_run(target.problem, SAMPLER, EPOCHS))
    assert excess(draws, correlated_gaussian()) > 1


def test_the_check_refuses_half_the_gradient_without_the_metropolis_test(monkeypatch: pytest.MonkeyPatch) -> None:
    halve_gradients(monkeypatch)
    monkeypatch.setattr(hamiltonian, "energy_error", lambda kernel, start, *_: torch.zeros_like(start.log_prior))
    method = HMC(num_chains=16, num_draws=200, warm_start_epochs=1, step_size=0.1)
    target = correlated_gaussian()
    assert excess(sampled(target.problem, method, chains_run(target.problem, method, EPOCHS)), target) > 1


def test_half_the_gradient_costs_acceptance_not_correctness(monkeypatch: pytest.MonkeyPatch) -> None:
    target = correlated_gaussian()
    method = HMC(num_chains=16, num_draws=200, warm_start_epochs=1, step_size=0.02, trajectory_length=0.2)
    halve_gradients(monkeypatch)
    run = chains_run(target.problem, method, EPOCHS)
    draws = sampled(target.problem, method, run)
    assert excess(draws, target) < 1
    assert run.notes["acceptance"] < 0.95  # with the right gradient it is above 0.99


def test_leapfrog_can_be_run_backwards() -> None:
    kernel = kernel_of(smooth_network())
    rng = generator("cpu", 1)
    start = evaluate(kernel, kernel.problem.random(3, rng))
    velocity = torch.randn(start.theta.shape, generator=rng, dtype=torch.float64)
    step_size = torch.tensor([0.01, 0.02, 0.03])
    end, end_velocity = leapfrog(kernel, start, velocity, step_size, 20)
    back, back_velocity = leapfrog(kernel, end, -end_velocity, step_size, 20)
    assert float((end.theta - start.theta).abs().max()) > 0.1
    torch.testing.assert_close(back.theta, start.theta, rtol=0, atol=1e-10)
    torch.testing.assert_close(back_velocity, -velocity, rtol=0, atol=1e-9)


def test_energy_error_is_of_second_order() -> None:
    kernel = kernel_of(smooth_network())
    rng = generator("cpu", 2)
    start = evaluate(kernel, kernel.problem.random(8, rng))
    velocity = torch.randn(start.theta.shape, generator=rng, dtype=torch.float64)

    def error(step_size: float, num_steps: int) -> Tensor:
        end, end_velocity = leapfrog(kernel, start, velocity, torch.full((8,), step_size), num_steps)
        return energy_error(kernel, start, velocity, end, end_velocity).abs()

    coarse, fine = error(0.004, 25), error(0.002, 50)
    assert float((coarse.sum() / fine.sum() - 4).abs()) < 0.1
    assert float(fine.min()) > 1e-9


def test_energy_is_the_negative_log_of_the_tempered_joint_density() -> None:
    problem = correlated_gaussian(temperature=0.3).problem
    kernel = kernel_of(problem)
    rng = generator("cpu", 3)
    start, end = (evaluate(kernel, problem.random(2, rng)) for _ in range(2))
    before, after = (torch.randn(2, SIZE, generator=rng, dtype=torch.float64) for _ in range(2))
    energies = [
        0.5 * v.square().sum(1) - problem.full_gradient(point.theta).log_density
        for point, v in ((start, before), (end, after))
    ]
    torch.testing.assert_close(energy_error(kernel, start, before, end, after), energies[1] - energies[0])


def test_prior_scale_is_the_metric() -> None:
    # Under the prior alone all directions oscillate with period 2π whatever their scales: a quarter of it swaps
    # position and velocity.
    network = Network(nn.Linear(4, 1))
    data = Data(torch.zeros(2, 4), torch.zeros(2))
    problem = Problem(network, Gaussian(scale=1e6), Normal(scale={"weight": 0.1, "bias": 3.0}), data)
    kernel = kernel_of(problem)
    velocity = torch.ones(1, 5)
    start = evaluate(kernel, torch.zeros(1, 5))
    end, _ = leapfrog(kernel, start, velocity, torch.tensor([0.5 * math.pi / 100]), 100)
    torch.testing.assert_close(end.theta, torch.tensor([[0.1, 0.1, 0.1, 0.1, 3.0]]), rtol=1e-3, atol=0)


@pytest.mark.parametrize("target", [0.6, 0.8])
def test_dual_averaging_reaches_the_target(target: float) -> None:
    state = start_averaging(torch.full((64,), math.log(0.01), dtype=torch.float64))
    rng = generator("cpu", 4)
    scales = torch.logspace(-1, 1, 64, dtype=torch.float64)  # each chain needs another step size
    for _ in range(500):
        noisy = (-state.log_step.exp() / scales).exp() + 0.1 * torch.randn(64, generator=rng)
        state = adapt(state, noisy.clamp(0, 1), target)
    reached = (-state.log_mean.exp() / scales).exp()
    assert float((reached - target).abs().max()) < 0.03


def test_tuned_acceptance_is_near_the_target() -> None:
    target = correlated_gaussian()
    method = HMC(trajectory_length=0.5, warm_start_epochs=1)
    run = chains_run(target.problem, method, 5000)
    method.fit(target.problem, run)
    assert 0.72 < run.notes["acceptance"] < 0.9
    assert max(run.notes["step_size"]) < 2 / math.sqrt(101)  # leapfrog is unstable beyond 2/√λ


@pytest.mark.parametrize(
    "settings",
    [
        {"num_chains": 0},
        {"num_draws": 0},
        {"step_size": -1.0},
        {"trajectory_length": 0.0},
        {"target_acceptance": 1.0},
        {"warm_start_epochs": -1.0},
    ],
)
def test_bad_settings_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(MethodError, match=next(iter(settings))):
        HMC(**settings)  # type: ignore[arg-type]
