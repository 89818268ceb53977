import math

import pytest
import torch
from small_problems import critical_value
from targets import SIZE, correlated_gaussian, smooth_network
from torch import Tensor

from bayesify.engine import microcanonical
from bayesify.engine.microcanonical import (
    Kernel,
    Move,
    Pace,
    Particle,
    integrate,
    kernel_of,
    kick,
    langevin,
    refreshed,
    start,
)
from bayesify.engine.rng import generator


def directions(count: int, size: int, seed: int = 0) -> Tensor:
    u = torch.randn(count, size, generator=generator("cpu", "directions", seed), dtype=torch.float64)
    return u / u.norm(dim=1, keepdim=True)


def turning(u: Tensor, force: Tensor) -> Tensor:
    """The right side of u̇ = (I − u uᵀ) g / (d − 1)."""
    return (force - (u * force).sum(-1, keepdim=True) * u) / (u.shape[-1] - 1)


def rk4(u: Tensor, force: Tensor, time: Tensor, steps: int = 2000) -> tuple[Tensor, Tensor]:
    """The direction and ∫ u·g dt by Runge and Kutta's fourth order."""
    h = time[:, None] / steps
    work = torch.zeros(len(u), dtype=u.dtype)
    for _ in range(steps):
        k1 = turning(u, force)
        k2 = turning(u + 0.5 * h * k1, force)
        k3 = turning(u + 0.5 * h * k2, force)
        k4 = turning(u + h * k3, force)
        middle, last = u + 0.5 * h * k2, u + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        work = work + h[:, 0] / 6 * ((u + 4 * middle + last) * force).sum(-1)
        u = last
    return u, work


def test_a_kick_solves_its_differential_equation() -> None:
    u, force = directions(6, 7), 5 * directions(6, 7, seed=1)
    time = torch.tensor([0.01, 0.1, 0.5, 1.0, 2.0, 5.0], dtype=torch.float64)
    kicked, work = kick(u, force, time)
    expected, expected_work = rk4(u, force, time)
    torch.testing.assert_close(kicked, expected, rtol=0, atol=1e-9)
    torch.testing.assert_close(work, expected_work, rtol=1e-5, atol=1e-7)


def test_a_kick_changes_volume_by_what_it_says() -> None:
    # On the sphere in d dimensions volume changes by the determinant of the derivative between tangent spaces.
    u, force = directions(1, 6)[0], 4 * directions(1, 6, seed=1)[0]
    time = torch.tensor([0.7], dtype=torch.float64)
    derivative = torch.func.jacrev(lambda v: kick((v / v.norm())[None], force[None], time)[0][0])(u)
    kicked, work = kick(u[None], force[None], time)
    before, after = (torch.linalg.svd(v[None])[2][1:] for v in (u, kicked[0]))
    change = torch.linalg.slogdet(after @ derivative @ before.T).logabsdet
    torch.testing.assert_close(change, -work[0])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("size", [1e-12, 1e-3, 1.0, 1e3, 1e9])
def test_a_kick_of_any_size_gives_finite_unit_vectors(dtype: torch.dtype, size: float) -> None:
    u, force = directions(5, 11).to(dtype), size * directions(5, 11, seed=1).to(dtype)
    force[0] = 0.0
    kicked, work = kick(u, force, torch.ones(5, dtype=dtype))
    torch.testing.assert_close(kicked.norm(dim=1), torch.ones(5, dtype=dtype))
    assert bool(torch.isfinite(work).all())
    assert float(work[0]) == 0.0
    torch.testing.assert_close(kicked[0], u[0])


def test_two_kicks_in_one_place_are_one() -> None:
    u, force, time = directions(4, 5), 3 * directions(4, 5, seed=1), torch.full((4,), 0.6, dtype=torch.float64)
    half, first = kick(u, force, 0.5 * time)
    twice, second = kick(half, force, 0.5 * time)
    once, whole = kick(u, force, time)
    torch.testing.assert_close(twice, once)
    torch.testing.assert_close(first + second, whole)


def amount(ratio: float, size: int) -> Tensor:
    return torch.full((1,), math.sqrt(math.expm1(2 * ratio) / size), dtype=torch.float64)


def forgetting_error(amounts: list[Tensor], ratio: float, size: int) -> float:
    """|E[u₀·u] − exp(−ε/L)| after refreshing, in units of what chance and terms of order 1/d allow."""
    count, rng = 4000, generator("cpu", "refresh")
    u = first = directions(1, size).expand(count, -1)
    for each in amounts:
        noise = torch.randn(count, size, generator=rng, dtype=torch.float64)
        u = refreshed(u, noise, each.expand(count))
    torch.testing.assert_close(u.norm(dim=1), torch.ones(count, dtype=torch.float64))
    cosine = (first * u).sum(1)
    error = float(cosine.std()) / math.sqrt(count)
    return abs(float(cosine.mean()) - math.exp(-ratio)) / (critical_value() * error + 1 / size)


@pytest.mark.parametrize("parts", [1, 2])
def test_refreshing_forgets_the_direction_over_its_length(parts: int) -> None:
    size, ratio = 400, 0.3
    assert forgetting_error([amount(ratio / parts, size)] * parts, ratio, size) < 1


def test_a_wrong_scale_of_the_noise_is_found() -> None:
    size, ratio = 400, 0.3
    for wrong in (amount(ratio / 2, size), amount(ratio, size) * math.sqrt(1.1), amount(ratio, size - 50)):
        assert forgetting_error([wrong], ratio, size) > 1


def test_the_sampler_refreshes_by_the_right_amount(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = smooth_network()
    kernel, rng = kernel_of(problem), generator("cpu", 1)
    begin = start(kernel, problem.random(2, rng), rng)
    seen: list[Tensor] = []
    spy = kernel._replace(refresh=lambda u, noise, nu: seen.append(nu) or refreshed(u, noise, nu))
    step, length = torch.tensor([0.01, 0.2], dtype=torch.float64), torch.tensor([0.1, 0.4], dtype=torch.float64)
    langevin(spy, begin, Pace(step, length, kernel.scale.expand_as(begin.theta)), rng)
    expected = torch.cat([amount(ratio, problem.num_parameters) for ratio in (0.1, 0.5)])
    torch.testing.assert_close(seen[0], expected)


def particles(count: int = 6, seed: int = 2) -> tuple[Kernel, Particle]:
    problem = smooth_network()
    kernel = kernel_of(problem)
    rng = generator("cpu", seed)
    return kernel, start(kernel, problem.random(count, rng), rng)


def travelled(kernel: Kernel, begin: Particle, step: float, num_steps: int) -> Move:
    scale = kernel.scale.expand_as(begin.theta)
    return integrate(kernel, begin, torch.full((len(begin.theta),), step), scale, num_steps)


def test_the_integrator_can_be_run_backwards() -> None:
    kernel, begin = particles()
    end, energy = travelled(kernel, begin, 0.1, 20)
    back, gained = travelled(kernel, end._replace(direction=-end.direction), 0.1, 20)
    assert float((end.theta - begin.theta).abs().max()) > 0.1
    torch.testing.assert_close(back.theta, begin.theta, rtol=0, atol=1e-9)
    torch.testing.assert_close(-back.direction, begin.direction, rtol=0, atol=1e-9)
    torch.testing.assert_close(gained, -energy, rtol=0, atol=1e-9)


def test_the_integrator_is_of_second_order() -> None:
    kernel, begin = particles()
    exact = travelled(kernel, begin, 0.4 / 512, 512).end.theta
    errors = [float((travelled(kernel, begin, 0.4 / n, n).end.theta - exact).norm()) for n in (16, 32, 64)]
    assert errors[0] / errors[1] == pytest.approx(4, abs=0.3)
    assert errors[1] / errors[2] == pytest.approx(4, abs=0.3)
    assert errors[2] > 1e-9


def test_energy_is_conserved_up_to_second_order() -> None:
    kernel, begin = particles()
    coarse, fine = (travelled(kernel, begin, 0.4 / n, n).energy.abs().sum() for n in (16, 32))
    assert float(coarse / fine) == pytest.approx(4, abs=0.3)


@pytest.mark.parametrize("temperature", [1.0, 0.3])
def test_energy_is_what_was_worked_less_what_the_log_density_gained(temperature: float) -> None:
    # One step by hand, against log p of the problem itself.
    problem = correlated_gaussian(temperature=temperature).problem
    kernel = kernel_of(problem)
    rng = generator("cpu", 3)
    begin = start(kernel, problem.random(3, rng), rng)
    step = torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64)
    x, u, work = begin.theta, begin.direction, torch.zeros(3, dtype=torch.float64)
    for kicked, drifted in ((0.1931833275037836, 0.5), (0.6136333449924328, 0.5), (0.1931833275037836, 0.0)):
        u, more = kick(u, problem.full_gradient(x).gradient, kicked * step)
        x, work = x + drifted * step[:, None] * u, work + more
    end, energy = integrate(kernel, begin, step, torch.ones(3, SIZE, dtype=torch.float64), 1)
    torch.testing.assert_close(end.theta, x)
    torch.testing.assert_close(end.direction, u)
    gained = problem.full_gradient(x).log_density - problem.full_gradient(begin.theta).log_density
    torch.testing.assert_close(energy, work - gained)


def test_scales_are_units_of_the_parameters() -> None:
    # The same problem in other units: parameters s times as large, with prior scales s times as large.
    kernel, begin = particles()
    scale = torch.linspace(0.5, 2, begin.theta.shape[1], dtype=torch.float64).expand_as(begin.theta)
    step = torch.full((len(begin.theta),), 0.05)
    end, _ = integrate(kernel, begin, step, scale, 1)
    force = kernel.problem.full_gradient(begin.theta).gradient * scale
    u, _ = kick(begin.direction, force, microcanonical.B_1 * step.double())
    theta = begin.theta + 0.5 * step[:, None] * scale * u
    u, _ = kick(u, kernel.problem.full_gradient(theta).gradient * scale, microcanonical.B_2 * step.double())
    torch.testing.assert_close(end.theta, theta + 0.5 * step[:, None] * scale * u)
