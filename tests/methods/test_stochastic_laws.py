"""Discretised samplers have known laws on Gaussians: update rules are linear recursions, and are held to them.

With precision A in units of the scales s and gradients s ĝ = −A z + n, n ~ N(0, V), the recursions are written down
here from the papers' equations; the discrete Lyapunov equation gives the stationary covariance. Steps are large, so
that laws differ from the posterior by much more than the tests' tolerance.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy.linalg import block_diag, solve_discrete_lyapunov
from scipy.optimize import brentq
from small_problems import critical_value
from torch import Tensor

from bayesify.engine.rng import generator
from bayesify.engine.stochastic import Geometry, Update
from bayesify.methods import adam_sgld, adaptive_sghmc, sghmc, sgld, sgnht, smile

Array = npt.NDArray[np.float64]

PRECISION = np.array([[4.0, 1.5, 0.0], [1.5, 2.0, -0.5], [0.0, -0.5, 0.7]])  # A; its largest eigenvalue is 4.8
ROOT = np.array([[1.5, 0.0, 0.0], [0.5, 1.0, 0.0], [-0.4, 0.3, 0.5]])  # of V
SCALE = np.array([0.5, 2.0, 1.0])  # s
SQUARES = np.array([3.0, 1.0, 6.0])  # constant w of the adaptive rules
CHAINS, STEPS = 20_000, 150
SIZE = 3


class Law(NamedTuple):
    """A rule, where it starts, and the stationary covariance of its positions in units of s."""

    start: Any
    update: Update
    covariance: Array


def stationary(transition: Array, injected: Array) -> Array:
    """Of z ← F z + N(0, Q), the positions' block."""
    return solve_discrete_lyapunov(transition, injected)[:SIZE, :SIZE]  # type: ignore[no-any-return]


def zeros() -> Tensor:
    return torch.zeros(CHAINS, SIZE, dtype=torch.float64)


def filled(values: Array) -> Tensor:
    return torch.as_tensor(values).expand(CHAINS, -1).clone()


EYE = np.eye(SIZE)


def langevin_law(noise: Array, epsilon: float = 0.25) -> Law:
    covariance = stationary(EYE - epsilon * PRECISION, 2 * epsilon * EYE + epsilon**2 * noise)
    return Law(sgld.State(zeros()), sgld.langevin(torch.as_tensor(SCALE), epsilon), covariance)


def baoab(noise: Array, h: float, keep: float, heat: float) -> Array:
    kick = np.block([[EYE, 0 * EYE], [-h * PRECISION, EYE]])
    drift = np.block([[EYE, 0.5 * h * EYE], [0 * EYE, EYE]])
    decay = block_diag(EYE, keep * EYE)
    from_gradient = drift @ decay @ drift @ np.vstack([0 * EYE, h * EYE])
    from_bath = drift @ np.vstack([0 * EYE, heat**0.5 * EYE])
    injected = from_gradient @ noise @ from_gradient.T + from_bath @ from_bath.T
    return stationary(drift @ decay @ drift @ kick, injected)


def hamiltonian_law(noise: Array, h: float = 0.6, friction: float = 0.8) -> Law:
    keep = np.exp(-friction * h)
    update = sghmc.hamiltonian(torch.as_tensor(SCALE), h, friction)
    return Law(sghmc.State(zeros(), zeros()), update, baoab(noise, h, keep, 1 - keep**2))


def drifting_law(noise: Array, epsilon: float = 0.15, drift: float = 2.0, beta: float = 0.7) -> Law:
    # z ← z + ε u + ε D m', m' = β m + (1 − β) u, u = −A z + n, with constant D = a w^(−½): β₂ = 1 keeps w.
    pull = drift * np.diag(SQUARES**-0.5)
    both = epsilon * (EYE + (1 - beta) * pull)
    transition = np.block([[EYE - both @ PRECISION, epsilon * beta * pull], [-(1 - beta) * PRECISION, beta * EYE]])
    from_gradient = np.vstack([both, (1 - beta) * EYE])
    injected = from_gradient @ noise @ from_gradient.T + block_diag(2 * epsilon * EYE, 0 * EYE)
    start = adam_sgld.State(zeros(), zeros(), filled(SQUARES))
    update = adam_sgld.drifting(torch.as_tensor(SCALE), epsilon, drift, (beta, 1.0))
    return Law(start, update, stationary(transition, injected))


def scale_adapted_law(noise: Array, epsilon: float = 0.5, friction: float = 0.2, share: float = 0.3) -> Law:
    inverse = np.diag(SQUARES**-0.5)
    push = epsilon**2 * inverse
    transition = np.block([[EYE - push @ PRECISION, (1 - friction) * EYE], [-push @ PRECISION, (1 - friction) * EYE]])
    both = np.vstack([EYE, EYE])
    heat = 2 * friction * epsilon**2 * inverse - share * epsilon**4 * EYE
    assert heat.diagonal().min() > 0
    injected = both @ (push @ noise @ push + heat) @ both.T
    start = adaptive_sghmc.State(zeros(), zeros(), zeros(), filled(SQUARES), zeros())
    update = adaptive_sghmc.scale_adapted(torch.as_tensor(SCALE), epsilon, friction, share)
    return Law(start, update, stationary(transition, injected))


LAWS: dict[str, Callable[[Array], Law]] = {
    "sgld": langevin_law,
    "sghmc": hamiltonian_law,
    "adam_sgld": drifting_law,
    "adaptive_sghmc": scale_adapted_law,
}
laws = pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
GRADIENT_NOISE = ROOT @ ROOT.T


def simulated(
    start: Any,
    update: Update,
    noise: Array,
    *,
    seed: int,
    pull: float = 1.0,
    heat: float = 1.0,
    steps: int = STEPS,
) -> Any:
    """The state after many steps; `pull` and `heat` are mistakes in the gradient and in the noise."""
    rng = generator("cpu", "laws", seed)
    scale, precision, root = torch.as_tensor(SCALE), torch.as_tensor(PRECISION), torch.as_tensor(square_root(noise))
    state, rate = start, torch.ones((), dtype=torch.float64)
    shape = state.theta.shape
    for _ in range(steps):
        z = state.theta.reshape(-1, SIZE) / scale
        gradient = torch.randn(z.shape, generator=rng, dtype=torch.float64) @ root.T - z @ precision
        bath = heat * torch.randn(shape, generator=rng, dtype=torch.float64)
        state = update(state, pull * (gradient / scale).reshape(shape), bath, rate)
    return state


def square_root(covariance: Array) -> Array:
    values, vectors = np.linalg.eigh(covariance)
    return vectors * np.sqrt(values.clip(0))  # type: ignore[no-any-return]


def excess(theta: Tensor, covariance: Array) -> float:
    """Deviation of second moments of independent chains from a Gaussian's, in units of what chance allows."""
    z = (theta / torch.as_tensor(SCALE)).numpy()
    found = z.T @ z / len(z)
    variances = np.outer(covariance.diagonal(), covariance.diagonal()) + covariance**2
    error = np.sqrt(variances / len(z))
    return float((np.abs(found - covariance) / error).max() / critical_value(SIZE * (SIZE + 1) // 2))


@laws
@pytest.mark.parametrize("noise", [0 * EYE, GRADIENT_NOISE], ids=["exact gradients", "noisy gradients"])
def test_the_law_is_that_of_the_recursion(law: Callable[[Array], Law], noise: Array) -> None:
    start, update, covariance = law(noise)
    assert excess(simulated(start, update, noise, seed=0).theta, covariance) < 1


@laws
@pytest.mark.parametrize(
    ("pull", "heat"),
    [(0.5, 1.0), (1.0, 2.0**0.5), (1.0, 0.5**0.5), (1.0, 0.93)],
    ids=["half the gradient", "noise √2 too large", "noise √2 too small", "noise 7% too small"],
)
def test_mistakes_are_found(law: Callable[[Array], Law], pull: float, heat: float) -> None:
    start, update, covariance = law(0 * EYE)
    assert excess(simulated(start, update, 0 * EYE, seed=1, pull=pull, heat=heat).theta, covariance) > 1


# ---- what the laws come to, without chance ---------------------------------------------------------------------------

POSTERIOR = np.linalg.inv(PRECISION)


def test_langevin_law_in_closed_form() -> None:
    epsilon = 0.25
    expected = np.linalg.inv(PRECISION @ (EYE - 0.5 * epsilon * PRECISION))
    np.testing.assert_allclose(langevin_law(0 * EYE, epsilon).covariance, expected, rtol=1e-10)


@pytest.mark.parametrize("h", [0.1, 0.8])
@pytest.mark.parametrize("friction", [0.5, 20.0])
def test_hamiltonian_dynamics_have_no_error_on_gaussians(h: float, friction: float) -> None:
    keep = float(np.exp(-friction * h))
    drift, decay = np.block([[EYE, 0.5 * h * EYE], [0 * EYE, EYE]]), block_diag(EYE, keep * EYE)
    transition = drift @ decay @ drift @ np.block([[EYE, 0 * EYE], [-h * PRECISION, EYE]])
    bath = drift @ np.vstack([0 * EYE, np.sqrt(1 - keep**2) * EYE])
    found = solve_discrete_lyapunov(transition, bath @ bath.T)[:SIZE, :SIZE]
    np.testing.assert_allclose(found, POSTERIOR, rtol=1e-8)


def test_scale_adapted_law_tends_to_the_posterior() -> None:
    errors = [
        np.abs(scale_adapted_law(0 * EYE, epsilon, 0.6, 0.0).covariance @ PRECISION - EYE).max()
        for epsilon in (0.4, 0.2)
    ]
    assert errors[1] < 0.3 * errors[0] < 0.1  # of second order: ε² is the learning rate


def test_taking_the_noise_off_is_right_where_all_of_it_is_known() -> None:
    # V = r W: what is injected and the gradient's own noise come to 2αε² w^(−½) together, to the last bit.
    noise = 0.3 * np.diag(SQUARES)
    corrected = scale_adapted_law(noise, share=0.3).covariance
    np.testing.assert_allclose(corrected, scale_adapted_law(0 * EYE, share=0.0).covariance, rtol=1e-10)
    assert np.abs(scale_adapted_law(noise, share=0.0).covariance / corrected - 1).max() > 0.03


@pytest.mark.parametrize(("law", "method"), [(langevin_law, "sgld"), (hamiltonian_law, "sghmc")])
@pytest.mark.parametrize("noise", [0.0, 7.0])
@pytest.mark.parametrize("tolerance", [0.05, 0.5])
def test_step_sizes_keep_the_tolerance(law: Callable[..., Law], method: str, noise: float, tolerance: float) -> None:
    # With V = noise × A, the narrowest direction is too wide by the tolerance, sghmc's a little less.
    narrowest = float(np.linalg.eigvalsh(PRECISION)[-1])
    geometry = Geometry(torch.ones(SIZE), torch.ones(SIZE), narrowest, noise, 1.0)
    if method == "sgld":
        found = law(noise * PRECISION, sgld.langevin_step(geometry, tolerance)).covariance
    else:
        h = sghmc.hamiltonian_step(geometry, tolerance)
        found = law(noise * PRECISION, h, sghmc.friction_for(geometry, h, tolerance)).covariance
    vector = np.linalg.eigh(PRECISION)[1][:, -1]
    too_wide = float(vector @ found @ vector * narrowest - 1)
    if method == "sgld":
        assert too_wide == pytest.approx(tolerance)
    else:
        assert 0.3 * tolerance * (noise > 0) - 1e-9 <= too_wide <= 1.3 * tolerance


def test_adams_drift_makes_it_colder_by_as_much_as_is_said() -> None:
    # V = 400 ≫ ū²: at steps so small the law is the posterior at temperature 1/(1 + a/√V) = 2/3, whatever w does.
    drift, noise, epsilon = 10.0, 400 * EYE, 1e-3
    theta = torch.zeros(4000, SIZE, dtype=torch.float64)
    start = adam_sgld.State(theta, theta.clone(), torch.full_like(theta, 400.0))
    update = adam_sgld.drifting(torch.as_tensor(SCALE), epsilon, drift, (0.9, 0.999))
    found = simulated(start, update, noise, seed=2, steps=2000).theta / torch.as_tensor(SCALE)
    variance = 2 * epsilon + (epsilon * (1 + drift / 20)) ** 2 * 400
    temperature = variance / (2 * epsilon * (1 + drift / 20))
    whitened = (found @ torch.linalg.cholesky(torch.as_tensor(PRECISION / temperature))).square()
    error = (2 / len(found)) ** 0.5
    assert temperature == pytest.approx(0.97, abs=0.01)  # 2/3, and what the gradient's noise adds
    assert float((whitened.mean(0) - 1).abs().max()) < critical_value(SIZE) * error + 0.01


# ---- the thermostat --------------------------------------------------------------------------------------------------

COPIES = 10
"""Of the three directions in one chain: ξ fluctuates by 1/√(μ P) about the value that makes the recursion linear."""
STEP, INJECTED, MASS = 0.6, 0.8, 10.0


class Thermal(NamedTuple):
    friction: float
    covariance: Array


def thermal_law(noise: Array, bath: float = INJECTED) -> Thermal:
    """The linear recursion whose friction makes the mean of |v|² before and after (4) equal to P."""

    def solved(friction: float) -> tuple[float, Array]:
        keep = float(np.exp(-friction * STEP))
        heat = bath * (1 - keep**2) / friction
        kick = np.block([[EYE, 0 * EYE], [-STEP * PRECISION, EYE]])
        drift = np.block([[EYE, 0.5 * STEP * EYE], [0 * EYE, EYE]])
        decay = block_diag(EYE, keep * EYE)
        rest = drift @ decay @ drift
        kicked = block_diag(0 * EYE, STEP**2 * noise)
        injected = rest @ kicked @ rest.T + drift @ block_diag(0 * EYE, heat * EYE) @ drift.T
        covariance = solve_discrete_lyapunov(rest @ kick, injected)
        before = kick @ covariance @ kick.T + kicked
        both = np.trace(before[SIZE:, SIZE:]) + np.trace(covariance[SIZE:, SIZE:])
        return float(both / (2 * SIZE) - 1), covariance[:SIZE, :SIZE]

    friction = float(brentq(lambda value: solved(value)[0], 0.05, 20.0))
    return Thermal(friction, solved(friction)[1])


@pytest.mark.parametrize("noise", [0 * EYE, EYE, GRADIENT_NOISE], ids=["exact", "isotropic", "anisotropic"])
def test_the_thermostat_finds_its_friction_and_the_law(noise: Array) -> None:
    chains = CHAINS // COPIES
    theta = torch.zeros(chains, COPIES * SIZE, dtype=torch.float64)
    start = sgnht.State(theta, theta.clone(), torch.full((chains, 1), INJECTED, dtype=torch.float64))
    update = sgnht.thermostat(torch.as_tensor(SCALE).repeat(COPIES), STEP, INJECTED, MASS)
    state = simulated(start, update, noise, seed=3, steps=2 * STEPS)
    friction, covariance = thermal_law(noise)
    assert float(state.friction.mean()) == pytest.approx(friction, rel=0.03)
    assert excess(state.theta.reshape(-1, SIZE), covariance) < 1
    hot = simulated(start, update, noise, seed=3, heat=2**0.5, steps=2 * STEPS)
    assert excess(hot.theta.reshape(-1, SIZE), thermal_law(noise, 2 * INJECTED).covariance) < 1
    halved = simulated(start, update, noise, seed=3, pull=0.5, steps=2 * STEPS)
    assert excess(halved.theta.reshape(-1, SIZE), covariance) > 1


def test_isotropic_gradient_noise_leaves_the_posterior() -> None:
    found = thermal_law(3 * EYE).covariance
    assert np.abs(found @ PRECISION - EYE).max() < 0.5  # at this large step; without a thermostat:
    keep = float(np.exp(-INJECTED * STEP))
    assert np.abs(baoab(3 * EYE, STEP, keep, 1 - keep**2) @ PRECISION - EYE).max() > 1


# ---- constant speed --------------------------------------------------------------------------------------------------

FRICTION = 0.8
"""γ = √(d − 1)/L."""


def microcanonical_law(noise: Array, h: float = STEP, friction: float = FRICTION, bath: float = 1.0) -> Array:
    """Of positions in many dimensions, where what a kick is of, δ = ε|ĝ|/(d − 1) and c = u·ĝ/|ĝ|, does not vary.

    A kick is then linear: w ← κ w + φ h ĝ with κ = 1/(cosh δ + c sinh δ) and φ δ = κ (sinh δ + c (cosh δ − 1)).
    """
    decayed = (1 + bath * np.expm1(2 * friction * h)) ** -0.5
    drift, decay = np.block([[EYE, 0.5 * h * EYE], [0 * EYE, EYE]]), block_diag(EYE, decayed * EYE)
    rest, heat = drift @ decay @ drift, block_diag(0 * EYE, (1 - decayed**2) * EYE)
    keep = force = 1.0
    for _ in range(100):
        kick = np.block([[EYE, 0 * EYE], [-force * h * PRECISION, keep * EYE]])
        injected = rest @ block_diag(0 * EYE, (force * h) ** 2 * noise) @ rest.T + drift @ heat @ drift.T
        covariance = solve_discrete_lyapunov(rest @ kick, injected)
        positions, both = covariance[:SIZE, :SIZE], covariance[:SIZE, SIZE:]
        size = np.sqrt(np.trace(PRECISION @ positions @ PRECISION + noise) / SIZE)
        delta, cosine = h * size, -np.trace(PRECISION @ both) / SIZE / size
        new = 1 / (np.cosh(delta) + cosine * np.sinh(delta))
        keep, force = 0.5 * (keep + new), 0.5 * (force + new * (np.sinh(delta) + cosine * (np.cosh(delta) - 1)) / delta)
    # Nothing above says so: the fixed point has velocities of the length that they are given.
    assert np.trace(covariance[SIZE:, SIZE:]) / SIZE == pytest.approx(1.0, abs=1e-9)
    return positions


def travelled(noise: Array, **mistakes: float) -> Tensor:
    theta = torch.zeros(CHAINS // COPIES, COPIES * SIZE, dtype=torch.float64)
    unit = (COPIES * SIZE - 1) ** 0.5
    update = smile.microcanonical(torch.as_tensor(SCALE).repeat(COPIES), STEP * unit, unit / FRICTION)
    state = simulated(smile.State(theta, smile.anywhere(theta)), update, noise, seed=4, steps=100, **mistakes)
    torch.testing.assert_close(state.direction.norm(dim=1), torch.ones(len(theta), dtype=torch.float64))
    found: Tensor = state.theta.reshape(-1, SIZE)
    return found


@pytest.mark.parametrize("noise", [0 * EYE, EYE, GRADIENT_NOISE], ids=["exact", "isotropic", "anisotropic"])
def test_constant_speed_has_the_law_of_its_recursion(noise: Array) -> None:
    assert excess(travelled(noise), microcanonical_law(noise)) < 1


def test_mistakes_at_constant_speed_are_found() -> None:
    covariance = microcanonical_law(GRADIENT_NOISE)
    assert excess(travelled(GRADIENT_NOISE, pull=0.5), covariance) > 1
    hot = travelled(GRADIENT_NOISE, heat=2.0)
    assert excess(hot, covariance) > 1
    assert excess(hot, microcanonical_law(GRADIENT_NOISE, bath=4.0)) < 1


def test_exact_gradients_at_constant_speed_leave_the_posterior_but_for_a_twelfth() -> None:
    mean = PRECISION.trace() / SIZE
    for h in (0.2, 0.4):
        widened = microcanonical_law(0 * EYE, h) @ PRECISION
        np.testing.assert_allclose(widened, (1 + h**2 * mean / 12) * EYE, atol=0.1 * h**4 * mean**2)


@pytest.mark.parametrize("h", [1e-2, 1e-3])
def test_noise_at_constant_speed_moves_heat_from_quiet_to_noisy_directions(h: float) -> None:
    # With noise that is large enough for the heat to be of order 1 at any step, and in the directions of A.
    values, vectors = np.linalg.eigh(PRECISION)
    noise = np.array([0.0, 0.5, 2.0]) / h
    found = vectors.T @ microcanonical_law(vectors * noise @ vectors.T, h) @ vectors * values
    expected = (FRICTION + 0.5 * h * noise) / (FRICTION + 0.5 * h * noise.mean())
    np.testing.assert_allclose(found, np.diag(expected), atol=10 * h)
    assert np.abs(expected - 1).max() > 0.2
    even = microcanonical_law(3 / h * EYE, h) @ PRECISION
    np.testing.assert_allclose(even, EYE, atol=10 * h)


def test_isotropic_noise_forgets_directions_at_the_rate_that_is_said() -> None:
    # ½ ε v/(d − 1) per length, from kicks alone: L is beyond all bounds.
    size, step, spread, steps = 60, 0.5, 4.0, 80
    rng = generator("cpu", "forgetting")
    theta = torch.zeros(2000, size, dtype=torch.float64)
    first = smile.anywhere(theta)
    state, rate = smile.State(theta, first), torch.ones((), dtype=torch.float64)
    update = smile.microcanonical(torch.ones(size, dtype=torch.float64), step, 1e12)
    for _ in range(steps):
        noise = spread**0.5 * torch.randn(theta.shape, generator=rng, dtype=torch.float64)
        state = update(state, noise, torch.zeros_like(theta), rate)
    cosine = (first * state.direction).sum(1)
    expected = np.exp(-steps * step * 0.5 * step * spread / (size - 1))
    error = float(cosine.std()) / len(theta) ** 0.5
    assert abs(float(cosine.mean()) - expected) < critical_value() * error + 0.5 / size


# ---- where gradients vanish ------------------------------------------------------------------------------------------


def test_steps_stay_bounded_where_gradients_vanish() -> None:
    zeros = torch.zeros(2, 3)
    state = adaptive_sghmc.State(zeros, zeros, zeros, torch.full((2, 3), 40.0), torch.full((2, 3), 100.0))
    adapt = adaptive_sghmc.adapting(torch.ones(3), 1 / 0.3)
    for _ in range(3000):
        state = adapt(state, zeros)
    assert torch.equal(state.squares, torch.full((2, 3), 1 / 0.3))
