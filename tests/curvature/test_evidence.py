"""The evidence against closed forms of Bayesian linear regression, and its maxima against a grid."""

import math

import pytest
import torch
from linear_cases import NOISE, N, P, data, mode
from scipy.optimize import minimize
from torch import Tensor

from bayesify.curvature.evidence import (
    LOG_BOUNDS,
    Quadratic,
    Tuned,
    at_bound,
    effective_parameters,
    log_evidence,
    maximise_fixed,
    maximise_moving,
    slopes,
    step,
    untuned,
)
from bayesify.curvature.noise import Residuals


def exact(log_alpha: float, log_noise: float) -> float:
    """Log N(y; 0, s σ² I + Φ Φᵀ / α)."""
    design, targets = data()
    covariance = math.exp(log_noise) * NOISE**2 * torch.eye(N, dtype=torch.float64)
    covariance = covariance + design @ design.mT / math.exp(log_alpha)
    zero = torch.zeros(N, dtype=torch.float64)
    return float(torch.distributions.MultivariateNormal(zero, covariance).log_prob(targets))


def quadratic(position: Tensor, noise_is_learned: bool = True) -> Quadratic:
    """The linear model's expansion around any weights, in its eigenbasis."""
    design, targets = data()
    values, vectors = torch.linalg.eigh(design.mT @ design / NOISE**2)
    residual = targets - design @ position
    squares = float(residual.square().sum()) / NOISE**2
    constant = N * math.log(NOISE) + 0.5 * N * math.log(2 * math.pi)
    found = Residuals(N, squares, -20.0) if noise_is_learned else Residuals()
    log_likelihood = torch.tensor(-0.5 * squares - constant, dtype=torch.float64)
    return Quadratic(log_likelihood, values, vectors.mT @ position, vectors.mT @ design.mT @ residual / NOISE**2, found)


def scalar(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def test_at_the_mode_it_is_the_evidence() -> None:
    assert untuned(quadratic(mode())).log_evidence == pytest.approx(exact(0, 0), abs=1e-9)


@pytest.mark.parametrize("log_alpha", [-3.0, 0.0, 2.0])
@pytest.mark.parametrize("log_noise", [-1.0, 0.0, 1.5])
@pytest.mark.parametrize("where", ["mode", "zero", "elsewhere"])
def test_moving_it_is_the_evidence_everywhere(log_alpha: float, log_noise: float, where: str) -> None:
    position = {"mode": mode(), "zero": 0 * mode(), "elsewhere": mode() + 1.0}[where]
    value = log_evidence(quadratic(position), scalar(log_alpha), scalar(log_noise), moving=True)
    assert float(value) == pytest.approx(exact(log_alpha, log_noise), abs=1e-8)


def test_fixed_it_is_the_evidence_only_at_the_mode() -> None:
    value = log_evidence(quadratic(mode() + 1.0), scalar(0.0), scalar(0.0), moving=False)
    assert float(value) < exact(0, 0) - 1


def test_maximum_over_prior_and_noise() -> None:
    tuned = maximise_moving(quadratic(mode()))
    best = minimize(lambda x: -exact(*x), [0.0, 0.0], method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-12})
    assert [math.log(tuned.alpha), math.log(tuned.noise)] == pytest.approx(list(best.x), abs=1e-5)
    assert tuned.log_evidence == pytest.approx(-best.fun, abs=1e-9)


def test_maximum_over_the_prior_alone() -> None:
    tuned = maximise_moving(quadratic(mode(), noise_is_learned=False))
    best = minimize(lambda x: -exact(x[0], 0.0), [0.0], method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-12})
    assert math.log(tuned.alpha) == pytest.approx(float(best.x[0]), abs=1e-5)
    assert tuned.noise == 1.0


def test_mackays_fixed_point() -> None:
    """At the maximum γ = α |u|² and s σ² = |r|² / (N − γ), u and r those of the mode there (MacKay 1992)."""
    expansion = quadratic(mode())
    tuned = maximise_moving(expansion)
    design, targets = data()
    values, vectors = torch.linalg.eigh(design.mT @ design / NOISE**2)
    position = mode() + vectors @ step(expansion, tuned).change
    gamma = effective_parameters(expansion, tuned)
    assert gamma == pytest.approx(float((values / (values + tuned.alpha * tuned.noise)).sum()))
    assert gamma == pytest.approx(tuned.alpha * float(position.square().sum()), rel=1e-5)
    squares = float((targets - design @ position).square().sum())
    assert tuned.noise * NOISE**2 == pytest.approx(squares / (N - gamma), rel=1e-5)


def test_step_leads_to_the_tuned_mode() -> None:
    expansion = quadratic(0 * mode())
    design, _ = data()
    vectors = torch.linalg.eigh(design.mT @ design / NOISE**2).eigenvectors
    way = step(expansion, Tuned(1.0, 1.0, 0.0))
    torch.testing.assert_close(vectors @ way.change, mode())
    assert way.rise == pytest.approx(float(quadratic(mode()).log_likelihood - expansion.log_likelihood))
    linear = mode() @ design.mT @ data()[1] / NOISE**2
    assert way.curvature == pytest.approx(float(linear) - way.rise)


def test_a_mode_that_stays_has_the_noise_of_its_residuals() -> None:
    expansion = quadratic(mode() + 0.3)
    tuned = maximise_fixed(expansion)
    design, targets = data()
    squares = float((targets - design @ (mode() + 0.3)).square().mean())
    assert tuned.noise * NOISE**2 == pytest.approx(squares)
    log_noise = scalar(math.log(tuned.noise))
    grid = [float(log_evidence(expansion, scalar(0.01 * i), log_noise, moving=False)) for i in range(-1400, 1401)]
    assert tuned.log_evidence >= max(grid)
    assert math.log(tuned.alpha) == pytest.approx(-14 + 0.01 * grid.index(max(grid)), abs=0.01)


def test_useless_inputs_drive_the_prior_to_its_bound() -> None:
    nothing = quadratic(0 * mode())._replace(gradient=torch.zeros(P, dtype=torch.float64))
    tuned = maximise_moving(nothing._replace(residuals=Residuals()))
    assert math.log(tuned.alpha) == pytest.approx(LOG_BOUNDS[1])
    assert at_bound(tuned)
    assert not at_bound(maximise_moving(quadratic(mode())))


def test_noise_stays_what_the_likelihood_can_express() -> None:
    limited = quadratic(mode())
    assert maximise_moving(limited).noise > 1
    lowest = Residuals(N, 1e-9, -0.5)
    assert maximise_fixed(limited._replace(residuals=lowest)).noise == pytest.approx(math.exp(-0.5))


@pytest.mark.parametrize("moving", [True, False])
@pytest.mark.parametrize("learned", [True, False])
def test_slopes_are_the_derivatives(moving: bool, learned: bool) -> None:
    around = quadratic(mode() + 0.3, learned)
    for point in ((0.0, 0.0), (1.7, -0.4), (-2.0, 0.9)):
        place = torch.tensor(point, dtype=torch.float64, requires_grad=True)
        (expected,) = torch.autograd.grad(log_evidence(around, place[0], place[1], moving), place)
        assert slopes(around, *point, moving) == pytest.approx(tuple(expected.tolist()), rel=1e-9)
