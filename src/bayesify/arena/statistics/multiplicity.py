"""Many methods, one control: Holm's adjusted p-values and intervals that go with them.

Holm (1979) controls the probability of any false rejection under every dependence between the tests, which matters
here: all differences share the control's losses. Each method is tested against the control only (M tests, not all
pairs).
"""

from collections.abc import Sequence

import numpy as np

from bayesify.arena.statistics.paired import Difference
from bayesify.arena.statistics.variation import Array


def holm(p_values: Sequence[float]) -> Array:
    """Holm's step-down adjusted p-values.

    Args:
        p_values: M unadjusted p-values.

    Returns:
        (M,) adjusted p-values in the same order: rejecting those ≤ α keeps the familywise rate at most α.
    """
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    steps = np.arange(len(p), 0, -1)
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(p[order] * steps))
    return adjusted


def simultaneous_tail(level: float, num_comparisons: int) -> float:
    """The probability in each tail of Bonferroni intervals that cover jointly with probability `level`."""
    return (1 - level) / (2 * num_comparisons)


def match_interval(difference: Difference, p_adjusted: float) -> Difference:
    """Make a Bonferroni interval agree with Holm's decision.

    Holm rejects a little more than Bonferroni intervals show: a rejected difference's interval may still hold zero.
    It is then cut at zero, since the rejection itself says on which side the difference lies (Guilbaud, 2008).

    Args:
        difference: with its Bonferroni interval.
        p_adjusted: Holm's adjusted p-value.

    Returns:
        The difference, its interval cut at zero where Holm says so.
    """
    if p_adjusted > 1 - difference.level:
        return difference
    if difference.estimate > 0:
        return difference._replace(low=max(0.0, difference.low))
    return difference._replace(high=min(0.0, difference.high))
