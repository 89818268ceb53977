"""The evidence of a quadratic log joint with a prior precision for every group of parameters (MacKay 1992, 1994).

In prior units u = D⁻¹(θ − μ₀) (see `curvature.spectrum`) with the prior's precisions multiplied by A = diag(a), one
number a_g for all parameters of a group, K = H/s + A and b = g/s − A u*,

    log p(D | a, s) = log p(D | u*, s) − ½ u*ᵀ A u* + ½ log |A| − ½ log |K| [+ ½ bᵀ K⁻¹ b],                        (1)

    ∂/∂ log a_g = ½ Σ_{i ∈ g} (1 − a_i (K⁻¹)_ii − a_i u_i²) [− a_i δ_i (u_i + ½ δ_i)],      δ = K⁻¹ b,             (2)

with the bracket where the mode moves along (exact in a linear model), without it where it stays (`curvature.evidence`
has both for one number α). One group per layer is "layer-wise", one per parameter is automatic relevance determination:
where the evidence then rises towards a → ∞, that parameter is better left out.

(1) is maximised from one starting point, the best common factor: with many groups it may have several maxima.
Cost per evaluation: O(P) where K is diagonal, O(P R²) for rank R, O(P³) dense.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from bayesify.curvature.evidence import LOG_BOUNDS, LOG_NOISE_BOUNDS
from bayesify.curvature.noise import Residuals

MAX_STEPS = 500
"""Of the quasi-Newton search; a few dozen are usual."""


class Solved(NamedTuple):
    """What (1) and (2) need of one K."""

    log_determinant: Tensor  # ()
    variance: Tensor  # (P,) the diagonal of K⁻¹
    solve: Callable[[Tensor], Tensor]
    """b (P,) → K⁻¹ b."""


class System(ABC):
    """H (P, P) in coordinates in which every group is a set of coordinates; subclasses are final."""

    @abstractmethod
    def at(self, precision: Tensor, noise: float) -> Solved:
        """Of H/noise + diag(precision)."""


class Diagonal(System):
    """H = diag(values)."""

    def __init__(self, values: Tensor) -> None:
        self._values = values

    def at(self, precision: Tensor, noise: float) -> Solved:  # noqa: D102
        whole = self._values / noise + precision
        return Solved(whole.log().sum(), 1 / whole, lambda right: right / whole)


class Dense(System):
    """Any H, by its Cholesky factor."""

    def __init__(self, matrix: Tensor) -> None:
        self._matrix = matrix

    def at(self, precision: Tensor, noise: float) -> Solved:  # noqa: D102
        whole = self._matrix / noise
        whole.diagonal().add_(precision)
        root = torch.linalg.cholesky(whole)
        variance = torch.cholesky_inverse(root).diagonal()
        return Solved(
            2 * root.diagonal().log().sum(),
            variance,
            lambda right: torch.cholesky_solve(right[:, None], root).squeeze(-1),
        )


class LowRank(System):
    """H = V diag(values) Vᵀ with V (P, R): Woodbury's identity and the determinant lemma."""

    def __init__(self, values: Tensor, vectors: Tensor) -> None:
        self._factors = vectors * values.sqrt()

    def at(self, precision: Tensor, noise: float) -> Solved:  # noqa: D102
        factors = self._factors / math.sqrt(noise)
        scaled = factors / precision[:, None]
        inner = factors.mT @ scaled
        inner.diagonal().add_(1.0)
        root = torch.linalg.cholesky(inner)
        half = torch.linalg.solve_triangular(root, scaled.mT, upper=False)  # (R, P)
        return Solved(
            precision.log().sum() + 2 * root.diagonal().log().sum(),
            1 / precision - half.square().sum(0),
            lambda right: right / precision - half.mT @ (half @ right),
        )


class Grouped(NamedTuple):
    """The log likelihood around u* to second order; all float64."""

    log_likelihood: Tensor  # () at a = s = 1
    position: Tensor  # (P,) u*
    gradient: Tensor  # (P,) g
    groups: Tensor  # (P,) the group of every coordinate, 0 … G−1
    system: System
    residuals: Residuals = Residuals()

    @property
    def num_groups(self) -> int:
        """G."""
        return int(self.groups.max()) + 1


class Slopes(NamedTuple):
    """(1) and its derivatives."""

    value: float
    of_precision: Tensor  # (G,) in log a
    of_noise: float  # in log s
    effective: float
    """γ = tr (H/s) K⁻¹: how many directions the data determine."""


class TunedGroups(NamedTuple):
    """The best values, and (1) there."""

    precision: Tensor  # (G,) a
    noise: float  # s
    log_evidence: float
    effective: float


class Move(NamedTuple):
    """A way for the mode, as in `curvature.evidence.Step`."""

    change: Tensor  # (P,)
    rise: float
    curvature: float


def value_and_slopes(quadratic: Grouped, log_precision: Tensor, log_noise: float, moving: bool) -> Slopes:
    """(1) and (2), with their brackets if `moving`."""
    precision, noise = log_precision.exp()[quadratic.groups], math.exp(log_noise)
    count, squares, _ = quadratic.residuals
    position = quadratic.position
    solved = quadratic.system.at(precision, noise)
    determined = 1 - precision * solved.variance
    of_each = 0.5 * (determined - precision * position.square())
    effective = float(determined.sum())
    value = quadratic.log_likelihood + 0.5 * squares * (1 - 1 / noise) - 0.5 * count * log_noise
    value = value + 0.5 * (precision.log().sum() - (precision * position.square()).sum() - solved.log_determinant)
    of_noise = 0.5 * effective + 0.5 * (squares / noise - count)
    if moving:
        pull = quadratic.gradient / noise - precision * position
        change = solved.solve(pull)
        value = value + 0.5 * (pull * change).sum()
        of_each = of_each - precision * change * (position + 0.5 * change)
        along = 0.5 * (pull - precision * change) - quadratic.gradient / noise  # H δ / s = b − A δ
        of_noise += float((change * along).sum())
    of_groups = of_each.new_zeros(len(log_precision)).index_add_(0, quadratic.groups, of_each)
    return Slopes(float(value), of_groups, of_noise, effective)


def maximise(quadratic: Grouped, alpha: float, noise: float, moving: bool) -> TunedGroups:
    """The values with the highest evidence; noise is tuned only with a mode that moves.

    Args:
        quadratic: see there.
        alpha: where all groups start.
        noise: s, where it starts, or what it stays at.
        moving: whether the mode moves along.
    """
    from scipy.optimize import minimize

    size, like = quadratic.num_groups, quadratic.position
    low, high = LOG_NOISE_BOUNDS
    start = min(max(math.log(noise), low), high)
    bounds = (start, start)
    if moving and quadratic.residuals.number:
        bounds = (max(low, quadratic.residuals.lowest_log_factor), high)

    def loss(point: list[float]) -> tuple[float, list[float]]:
        found = value_and_slopes(quadratic, like.new_tensor(point[:size]), float(point[size]), moving)
        return -found.value, [*(-found.of_precision).tolist(), -found.of_noise]

    found = minimize(
        loss,
        [min(max(math.log(alpha), LOG_BOUNDS[0]), LOG_BOUNDS[1])] * size + [min(max(start, bounds[0]), bounds[1])],
        jac=True,
        method="L-BFGS-B",
        bounds=[LOG_BOUNDS] * size + [bounds],
        options={"ftol": 1e-14, "gtol": 1e-8, "maxiter": MAX_STEPS, "maxfun": 2 * MAX_STEPS},
    )
    best = like.new_tensor(found.x[:size])
    at_best = value_and_slopes(quadratic, best, float(found.x[size]), moving)
    return TunedGroups(best.exp(), math.exp(float(found.x[size])), at_best.value, at_best.effective)


def move(quadratic: Grouped, tuned: TunedGroups) -> Move:
    """From u* to the mode under the tuned values, in a model for which the quadratic is exact."""
    precision = tuned.precision[quadratic.groups]
    pull = quadratic.gradient / tuned.noise - precision * quadratic.position
    change = quadratic.system.at(precision, tuned.noise).solve(pull)
    curvature = 0.5 * float((change * (pull - precision * change)).sum())
    return Move(change, float((quadratic.gradient * change).sum()) / tuned.noise - curvature, curvature)
