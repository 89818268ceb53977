"""Selective prediction: how does the risk fall if the least certain examples are left to somebody else?

Examples are accepted in order of increasing uncertainty. Where several share one uncertainty their order is
arbitrary, so the expectation over all their orders is reported: no method gains or loses by how it stores its
examples. Only the order of the uncertainties matters.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from bayesify.errors import DataError
from bayesify.metrics.checks import FloatArray, as_array, as_finite, as_unit, same_shape


class RiskCoverageCurve(NamedTuple):
    """Mean loss of the accepted examples (`risk`) at each share of accepted ones (`coverage` = 1/B … 1)."""

    coverage: FloatArray
    risk: FloatArray


def risk_coverage_curve(losses: npt.ArrayLike, uncertainty: npt.ArrayLike) -> RiskCoverageCurve:
    """The expected mean loss among the k least uncertain examples, k = 1 … B (El-Yaniv & Wiener, 2010).

    Args:
        losses: any loss per example (B,), such as 1 − `correct` or `squared_error`.
        uncertainty: higher = accepted later, (B,), such as predictive entropy or −max probability;
            may be infinite.

    Raises:
        DataError: NaN, infinite losses, empty, or different shapes.
    """
    loss = as_finite(losses, "losses", ndim=1)
    order = as_array(uncertainty, "uncertainty", ndim=1)
    same_shape(losses=loss, uncertainty=order)
    _, group, size = np.unique(order, return_inverse=True, return_counts=True)
    # The k-th accepted is any of its ties with equal chance, so its expected loss is their mean.
    expected = np.repeat(np.bincount(group, loss) / size, size)
    accepted = np.arange(1, loss.size + 1)
    return RiskCoverageCurve(accepted / loss.size, np.cumsum(expected) / accepted)


def area_under_risk_coverage(losses: npt.ArrayLike, uncertainty: npt.ArrayLike) -> float:
    """AURC: the mean risk over all coverages 1/B … 1 (Geifman et al., 2019); lower is better.

    It mixes how good the predictions are with how well the uncertainty ranks them;
    `excess_area_under_risk_coverage` keeps only the ranking. Arguments and errors as for
    `risk_coverage_curve`.
    """
    return float(risk_coverage_curve(losses, uncertainty).risk.mean())


def excess_area_under_risk_coverage(losses: npt.ArrayLike, uncertainty: npt.ArrayLike) -> float:
    """AURC above that of a perfect ranking of the same losses; 0 is perfect.

    The perfect ranking is computed on the losses at hand rather than by the approximation for 0-1 losses in
    Geifman et al. (2019). Arguments and errors as for `risk_coverage_curve`.
    """
    perfect = area_under_risk_coverage(losses, losses)
    return max(area_under_risk_coverage(losses, uncertainty) - perfect, 0.0)  # negative only by rounding


def accuracy_at_coverage(correct: npt.ArrayLike, uncertainty: npt.ArrayLike, coverage: float) -> float:
    """Accuracy on the smallest accepted set that holds at least a share `coverage` of the examples.

    Args:
        correct: 1 or 0 per example (B,), see `bayesify.metrics.correct`.
        uncertainty: higher = accepted later, (B,).
        coverage: share to accept, in (0, 1].

    Raises:
        DataError: coverage outside (0, 1], correct outside [0, 1], NaN, empty, or different shapes.
    """
    if not 0 < coverage <= 1:
        raise DataError(f"coverage is {coverage!r}; it must lie in (0, 1], such as 0.9.")
    right = as_unit(correct, "correct", ndim=1)
    risk = risk_coverage_curve(1 - right, uncertainty).risk
    # 0.07 · 100 is 7.000000000000001 in floating point, which must not become 8 examples.
    accepted = max(int(np.ceil(np.round(coverage * right.size, 9))), 1)
    return float(1 - risk[accepted - 1])
