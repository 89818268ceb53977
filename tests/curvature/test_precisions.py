"""Prior precisions of groups: the evidence against the closed form, and its maximum against a numerical one."""

import math

import pytest
import torch
from linear_cases import NOISE, N, P, data, mode
from scipy.optimize import minimize
from torch import Tensor

from bayesify.curvature.noise import Residuals
from bayesify.curvature.precisions import (
    Dense,
    Diagonal,
    Grouped,
    LowRank,
    System,
    maximise,
    value_and_slopes,
)

GROUPS = torch.tensor([0, 1, 0, 1])
LOGS = [[0.0, 0.0], [-2.0, 1.0], [3.0, -1.0]]


def exact(log_precision: Tensor, log_noise: float) -> float:
    """Log N(y; 0, s σ² I + Φ A⁻¹ Φᵀ)."""
    design, targets = data()
    covariance = math.exp(log_noise) * NOISE**2 * torch.eye(N, dtype=torch.float64)
    covariance = covariance + (design / log_precision.exp()) @ design.mT
    zero = torch.zeros(N, dtype=torch.float64)
    return float(torch.distributions.MultivariateNormal(zero, covariance).log_prob(targets))


def hessian() -> Tensor:
    design, _ = data()
    return design.mT @ design / NOISE**2


def grouped(position: Tensor, groups: Tensor, system: System | None = None, learned: bool = True) -> Grouped:
    """The linear model's expansion around any weights."""
    design, targets = data()
    residual = targets - design @ position
    squares = float(residual.square().sum()) / NOISE**2
    constant = N * math.log(NOISE) + 0.5 * N * math.log(2 * math.pi)
    found = Residuals(N, squares, -20.0) if learned else Residuals()
    log_likelihood = torch.tensor(-0.5 * squares - constant, dtype=torch.float64)
    gradient = design.mT @ residual / NOISE**2
    return Grouped(log_likelihood, position, gradient, groups, Dense(hessian()) if system is None else system, found)


@pytest.mark.parametrize("logs", LOGS)
@pytest.mark.parametrize("log_noise", [-1.0, 0.0, 1.5])
@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_it_is_the_evidence_everywhere(logs: list[float], log_noise: float, shift: float) -> None:
    found = value_and_slopes(grouped(mode() + shift, GROUPS), torch.tensor(logs).double(), log_noise, moving=True)
    assert found.value == pytest.approx(exact(torch.tensor(logs).double()[GROUPS], log_noise), abs=1e-8)


@pytest.mark.parametrize("moving", [True, False])
def test_slopes_are_its_derivatives(moving: bool) -> None:
    quadratic, logs, step = grouped(mode() + 0.5, GROUPS), torch.tensor([-0.3, 0.8]).double(), 1e-5
    found = value_and_slopes(quadratic, logs, 0.4, moving)
    for g in range(2):
        moves = [logs.clone() for _ in range(2)]
        moves[0][g] += step
        moves[1][g] -= step
        high, low = (value_and_slopes(quadratic, move, 0.4, moving).value for move in moves)
        assert float(found.of_precision[g]) == pytest.approx((high - low) / (2 * step), abs=1e-6)
    high, low = (value_and_slopes(quadratic, logs, 0.4 + d, moving).value for d in (step, -step))
    assert found.of_noise == pytest.approx((high - low) / (2 * step), abs=1e-6)


@pytest.mark.parametrize("learned", [True, False])
@pytest.mark.parametrize("groups", [GROUPS, torch.arange(P)])
def test_maximum_is_the_numerical_optimum(groups: Tensor, learned: bool) -> None:
    """Of the closed form, by a search that knows no derivatives."""
    size = int(groups.max()) + 1

    def loss(x: list[float]) -> float:
        logs = torch.tensor(x[:size], dtype=torch.float64).clamp(-14, 14)
        return -exact(logs[groups], x[size] if learned else 0.0)

    options = {"xatol": 1e-9, "fatol": 1e-12, "maxiter": 20000, "maxfev": 20000, "adaptive": True}
    best = minimize(loss, [0.0] * (size + learned), method="Nelder-Mead", options=options)
    tuned = maximise(grouped(mode(), groups, learned=learned), 1.0, 1.0, moving=True)
    assert tuned.log_evidence == pytest.approx(-best.fun, abs=1e-6)
    for found, expected in zip(tuned.precision.log().tolist(), best.x[:size], strict=True):
        # A weight that is not there has no finite best precision: the evidence only flattens out.
        assert found == pytest.approx(expected, abs=1e-3) or (found > 8 and expected > 8)
    assert tuned.precision.log().std() > 0.5  # one precision for all would not have done
    assert math.log(tuned.noise) == pytest.approx(best.x[size] if learned else 0.0, abs=1e-4)


def test_a_mode_that_stays_has_the_closed_form_of_every_parameter() -> None:
    """On a diagonal: λ / (a (λ + a)) = u², a quadratic equation."""
    curvature, position = hessian().diagonal(), mode() + 0.1
    quadratic = grouped(position, torch.arange(P), Diagonal(curvature), learned=False)
    expected = 0.5 * (-curvature + (curvature.square() + 4 * curvature / position.square()).sqrt())
    tuned = maximise(quadratic, 1.0, 1.0, moving=False)
    torch.testing.assert_close(tuned.precision, expected, rtol=1e-4, atol=0)


@pytest.mark.parametrize("rank", [P, 2])
def test_a_low_rank_system_is_its_dense_one(rank: int) -> None:
    values, vectors = torch.linalg.eigh(hessian())
    values, vectors = values[-rank:], vectors[:, -rank:]
    precision = torch.tensor([0.1, 2.0, 30.0, 0.5], dtype=torch.float64)
    right = torch.tensor([1.0, -2.0, 0.3, 4.0], dtype=torch.float64)
    low = LowRank(values, vectors).at(precision, 0.7)
    dense = Dense((vectors * values) @ vectors.mT).at(precision, 0.7)
    assert float(low.log_determinant) == pytest.approx(float(dense.log_determinant), abs=1e-9)
    torch.testing.assert_close(low.variance, dense.variance)
    torch.testing.assert_close(low.solve(right), dense.solve(right))
    whole = (vectors * values) @ vectors.mT / 0.7 + precision.diag()
    assert float(dense.log_determinant) == pytest.approx(float(torch.logdet(whole)), abs=1e-9)
    torch.testing.assert_close(dense.solve(right), torch.linalg.solve(whole, right))
    torch.testing.assert_close(dense.variance, torch.linalg.inv(whole).diagonal())
