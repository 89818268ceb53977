"""The log evidence of a quadratic log joint, and the prior precision and noise scale that maximise it (MacKay 1992).

In prior units u = D⁻¹(θ − μ₀) (see `curvature.spectrum`), with the prior precision multiplied by α and the noise
variance by s, the log likelihood around u* has the gradient g/s and curvature −Q diag(λ/s) Qᵀ. With b = g/s − α u*,

    log p(D | α, s) = log p(D | u*, s) − ½ α |u*|² + ½ P log α − ½ Σ_i log(λ_i/s + α) [+ ½ bᵀ (H/s + α)⁻¹ b].   (1)

Without the bracket this is Laplace's approximation at a mode u* that stays where it is (Immer et al. 2021); with it,
the mode moves as α and s change, as in a linear model (Antorán et al. 2022), for which (1) is then exact at every α
and s.
For Gaussian noise, log p(D | u*, s) = log p(D | u*, 1) + ½ S (1 − 1/s) − ½ M log s with S the sum of the M squared
standardised residuals. Every evaluation costs O(P).
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from bayesify.curvature.noise import Residuals

LOG_BOUNDS = (-14.0, 14.0)
"""Of log α: precisions a million times smaller or larger than the prior's mean that the prior was no guide."""
LOG_NOISE_BOUNDS = (-10.0, 10.0)
"""Of log s, where the likelihood can express it."""
GRID = 29
"""Starting values of log α: (1) may have several maxima."""


class Quadratic(NamedTuple):
    """The log likelihood around u* to second order; all float64, vectors in the eigenbasis."""

    log_likelihood: Tensor  # () at α = s = 1
    eigenvalues: Tensor  # (P,) λ
    position: Tensor  # (P,) Qᵀ u*
    gradient: Tensor  # (P,) Qᵀ g
    residuals: Residuals = Residuals()


class Tuned(NamedTuple):
    """Values of α and s, and (1) there."""

    alpha: float
    noise: float  # s
    log_evidence: float


class Step(NamedTuple):
    """A way for the mode, and what the quadratic promises of it."""

    change: Tensor  # (P,) in the eigenbasis
    rise: float
    """Of the log likelihood."""
    curvature: float
    """How much higher the rise would be if the log likelihood were linear."""


def log_evidence(quadratic: Quadratic, log_alpha: Tensor, log_noise: Tensor, moving: bool) -> Tensor:
    """(1), with the bracket if `moving`."""
    alpha, noise = log_alpha.exp(), log_noise.exp()
    penalty = 0.5 * alpha * quadratic.position.square().sum()
    precision = quadratic.eigenvalues / noise + alpha
    volume = 0.5 * (log_alpha - precision.log()).sum()
    value = log_likelihood(quadratic, log_noise) - penalty + volume
    return value + 0.5 * (_slope(quadratic, alpha, noise).square() / precision).sum() if moving else value


def log_likelihood(quadratic: Quadratic, log_noise: Tensor) -> Tensor:
    """Log p(D | u*, s)."""
    count, squares, _ = quadratic.residuals
    return quadratic.log_likelihood + 0.5 * squares * (1 - (-log_noise).exp()) - 0.5 * count * log_noise


def step(quadratic: Quadratic, tuned: Tuned) -> Step:
    """From u* to the mode under the tuned values, in a model for which the quadratic is exact."""
    slope = _slope(quadratic, tuned.alpha, tuned.noise)
    change = slope / (quadratic.eigenvalues / tuned.noise + tuned.alpha)
    curvature = 0.5 * float((quadratic.eigenvalues * change.square()).sum()) / tuned.noise
    return Step(change, float((quadratic.gradient * change).sum()) / tuned.noise - curvature, curvature)


def effective_parameters(quadratic: Quadratic, tuned: Tuned) -> float:
    """γ = Σ λ / (λ + α s): how many directions the data determine."""
    return float((quadratic.eigenvalues / (quadratic.eigenvalues + tuned.alpha * tuned.noise)).sum())


def maximise_moving(quadratic: Quadratic) -> Tuned:
    """The α, and s where there are residuals, with the highest evidence when the mode moves along."""
    if not quadratic.residuals.number:
        return _search(quadratic, _at(0.0), moving=True)
    low = max(LOG_NOISE_BOUNDS[0], quadratic.residuals.lowest_log_factor)
    return _search(quadratic, (low, LOG_NOISE_BOUNDS[1]), moving=True)


def maximise_fixed(quadratic: Quadratic) -> Tuned:
    """The α with the highest evidence when the mode stays, and the noise that the residuals there show.

    The evidence itself would divide the sum of squares by M − γ instead of M, for the γ directions that the quadratic
    says are fitted. Where the mode cannot follow the quadratic they are not, and the noise would come out too large.
    """
    count, squares, lowest = quadratic.residuals
    log_noise = max(lowest, math.log(squares / count)) if count and squares > 0 else 0.0
    return _search(quadratic, _at(log_noise), moving=False)


def _at(value: float) -> tuple[float, float]:
    return (value, value)


def _search(quadratic: Quadratic, noise_bounds: tuple[float, float], moving: bool) -> Tuned:
    from scipy.optimize import minimize

    def value(point: list[float]) -> float:
        x = torch.tensor(point, dtype=torch.float64, device=quadratic.position.device)
        return -float(log_evidence(quadratic, x[0], x[1], moving))

    low, high = LOG_BOUNDS
    log_noise = min(max(0.0, noise_bounds[0]), noise_bounds[1])
    starts = [[low + (high - low) * i / (GRID - 1), log_noise] for i in range(GRID)]
    options = {"ftol": 1e-15, "gtol": 1e-10, "maxiter": 500}
    found = minimize(
        lambda point: (value(point), [-slope for slope in slopes(quadratic, point[0], point[1], moving)]),
        min(starts, key=value),
        jac=True,
        method="L-BFGS-B",
        bounds=[LOG_BOUNDS, noise_bounds],
        options=options,
    )
    return Tuned(math.exp(float(found.x[0])), math.exp(float(found.x[1])), -float(found.fun))


def slopes(quadratic: Quadratic, log_alpha: float, log_noise: float, moving: bool) -> tuple[float, float]:
    """The derivatives of `log_evidence` in log α and log s; by hand, because P can be millions."""
    alpha, noise = math.exp(log_alpha), math.exp(log_noise)
    count, squares, _ = quadratic.residuals
    curvature = quadratic.eigenvalues / noise
    share = alpha / (curvature + alpha)  # of the prior in every direction's precision
    of_alpha = 0.5 * float((1 - share).sum()) - 0.5 * alpha * float(quadratic.position.square().sum())
    of_noise = 0.5 * float((1 - share).sum()) + 0.5 * (squares / noise - count)
    if moving:
        pull = _slope(quadratic, alpha, noise)
        change = pull / (curvature + alpha)
        of_alpha -= alpha * float((change * (quadratic.position + 0.5 * change)).sum())
        of_noise += float((change * (0.5 * curvature * change - quadratic.gradient / noise)).sum())
    return of_alpha, of_noise


def untuned(quadratic: Quadratic) -> Tuned:
    """α = s = 1 and its evidence."""
    zero = torch.zeros((), dtype=torch.float64)
    return Tuned(1.0, 1.0, float(log_evidence(quadratic, zero, zero, moving=False)))


def at_bound(tuned: Tuned) -> bool:
    """Whether the prior precision ran into the edge of what is searched."""
    return min(abs(math.log(tuned.alpha) - bound) for bound in LOG_BOUNDS) < 1e-3


def _slope(quadratic: Quadratic, alpha: Tensor | float, noise: Tensor | float) -> Tensor:
    return quadratic.gradient / noise - alpha * quadratic.position
