"""Split Hamiltonian Monte Carlo is exact whatever its steps: the splitting must be reversible and keep volume."""

from typing import Any

import pytest
import torch
from targets import chains_run, correlated_gaussian, excess, sampled, smooth_network
from torch import Tensor

from bayesify.engine.hamiltonian import Kernel, kernel_of
from bayesify.engine.rng import generator
from bayesify.errors import MethodError
from bayesify.methods import SplitHMC, split_hmc
from bayesify.methods.split_hmc import log_likelihood, split, trajectory
from bayesify.model.problem import Problem

SAMPLER = SplitHMC(num_chains=16, num_draws=200, warm_start_epochs=1)
EPOCHS = 2000


def halve_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    right = split_hmc._gradient
    monkeypatch.setattr(split_hmc, "_gradient", lambda *arguments: 0.5 * right(*arguments))


def test_half_the_gradient_costs_acceptance_not_correctness(monkeypatch: pytest.MonkeyPatch) -> None:
    target = correlated_gaussian()
    method = SplitHMC(num_chains=16, num_draws=200, warm_start_epochs=1, step_size=0.02, trajectory_length=0.2)
    halve_gradients(monkeypatch)
    run = chains_run(target.problem, method, EPOCHS)
    assert excess(sampled(target.problem, method, run), target) < 1
    assert run.notes["acceptance"] < 0.95


def test_half_the_gradient_is_found_without_the_metropolis_test(monkeypatch: pytest.MonkeyPatch) -> None:
    from bayesify.engine import hamiltonian

    target = correlated_gaussian()
    method = SplitHMC(num_chains=16, num_draws=200, warm_start_epochs=1, step_size=0.1)
    halve_gradients(monkeypatch)
    monkeypatch.setattr(hamiltonian, "energy_error", lambda kernel, start, *_: torch.zeros_like(start.log_prior))
    assert excess(sampled(target.problem, method, chains_run(target.problem, method, EPOCHS)), target) > 1


def walked(kernel: Kernel, theta: Tensor, velocity: Tensor, steps: int, size: float = 0.01) -> tuple[Tensor, Tensor]:
    parts = split(kernel.problem, 4, seed=0)
    return trajectory(kernel, parts, theta, velocity, torch.full((len(theta),), size), steps)


def energy(kernel: Kernel, theta: Tensor, velocity: Tensor) -> Tensor:
    return 0.5 * velocity.square().sum(-1) - kernel.problem.full_gradient(theta).log_density


def start(problem: Problem, chains: int) -> tuple[Kernel, Tensor, Tensor]:
    rng = generator("cpu", 1)
    theta = problem.random(chains, rng)
    return kernel_of(problem), theta, torch.randn(theta.shape, generator=rng, dtype=torch.float64)


def test_a_trajectory_can_be_run_backwards() -> None:
    kernel, theta, velocity = start(smooth_network(), 3)
    end, end_velocity = walked(kernel, theta, velocity, 20)
    back, back_velocity = walked(kernel, end, -end_velocity, 20)
    assert float((end - theta).abs().max()) > 0.1
    torch.testing.assert_close(back, theta, rtol=0, atol=1e-10)
    torch.testing.assert_close(back_velocity, -velocity, rtol=0, atol=1e-9)


def test_volume_is_kept() -> None:
    kernel, theta, velocity = start(smooth_network(), 1)

    def step(both: Tensor) -> Tensor:
        return torch.cat(walked(kernel, both[None, : both.numel() // 2], both[None, both.numel() // 2 :], 1), 1)[0]

    both = torch.cat([theta, velocity], 1)[0]
    differences = [(step(both + 1e-5 * e) - step(both - 1e-5 * e)) / 2e-5 for e in torch.eye(len(both)).double()]
    assert float(torch.linalg.slogdet(torch.stack(differences)).logabsdet) == pytest.approx(0.0, abs=1e-5)


def test_energy_error_is_of_second_order() -> None:
    kernel, theta, velocity = start(smooth_network(), 8)
    before = energy(kernel, theta, velocity)
    coarse, fine = (
        (energy(kernel, *walked(kernel, theta, velocity, steps, size)) - before).abs().sum()
        for steps, size in ((25, 0.004), (50, 0.002))
    )
    assert float(coarse / fine) == pytest.approx(4.0, abs=0.2)


def test_parts_make_up_the_data() -> None:
    problem = correlated_gaussian().problem
    parts = split(problem, 5, seed=3)
    assert sorted(len(part.targets) for part in parts) == [12, 13, 13, 13, 13]
    theta = problem.random(2, generator("cpu", 0))
    torch.testing.assert_close(
        log_likelihood(kernel_of(problem), parts, theta), problem.full_gradient(theta).log_likelihood
    )


@pytest.mark.parametrize("settings", [{"num_splits": 1}, {"target_acceptance": 0.0}, {"step_size": 0.0}])
def test_bad_settings_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(MethodError, match=next(iter(settings))):
        SplitHMC(**settings)


def test_more_parts_than_examples_are_refused() -> None:
    with pytest.raises(MethodError, match="cannot cut 64 examples into 65 parts"):
        split(correlated_gaussian().problem, 65, seed=0)
