"""What could have been found: the minimum detectable difference, and what would sharpen it."""

import math

from scipy import special

from bayesify.arena.statistics.field import Spread
from bayesify.arena.statistics.paired import Difference, finite_difference
from bayesify.arena.statistics.variation import Replicates, Variation

POWER = 0.8
MOST_SPLITS = 1000


def minimum_detectable(difference: Difference, power: float = POWER) -> float:
    """The true difference that the test behind an interval finds with probability `power`.

    It is the distance at which the test rejects (the interval's longer arm) plus the normal quantile of the power in
    standard errors: the usual design formula, with this design's own critical distance. It holds given the variation
    that was seen; a new set of splits may show more or less. With simultaneous intervals it is the power of the
    hardest step of Holm's procedure.

    Args:
        difference: a finite difference with the interval that goes with the test.
        power: probability of finding it.

    Returns:
        The difference, in the unit of the differences; 0 where nothing varies.
    """
    arm = max(difference.estimate - difference.low, difference.high - difference.estimate)
    return arm + float(special.ndtri(power)) * difference.standard_error


def splits_needed(components: Variation, spread: Spread, *, target: float, tail: float) -> int | None:
    """How many random splits of this data set would make a difference of `target` detectable.

    More splits average out seeds, training sets and test examples, but the data set stays the same: what all splits
    share (examples in several test sets, overlapping training sets) is the floor.

    Args:
        components: variance components of one method's difference.
        spread: the variance of replicate means to work with.
        target: the difference that is to be detected with power 0.8.
        tail: one-sided level of the test, already divided by the number of comparisons.

    Returns:
        The smallest sufficient number (at least the present one), None where up to 1,000 splits do not suffice or
        there is one split only, which does not say how splits vary.
    """
    if components.replicates is not Replicates.SPLITS or target <= 0:
        return None

    def detectable(count: int) -> float:
        planned = _with_splits(components, spread, count)
        return minimum_detectable(finite_difference(*planned, level=1 - 2 * tail, tail=tail))

    low, high = components.num_replicates, MOST_SPLITS
    if detectable(low) <= target:
        return low
    if low >= high or detectable(high) > target:
        return None
    while high - low > 1:  # detectable(low) > target ≥ detectable(high)
        middle = (low + high) // 2
        low, high = (low, middle) if detectable(middle) <= target else (middle, high)
    return high


def rows_factor(detectable: float, target: float) -> float:
    """By what factor the data set must grow to make a difference of `target` detectable with the present splits.

    Takes the whole variance to shrink like 1 / rows. That is exact for the test examples and a convention for
    training sets.

    Args:
        detectable: the minimum detectable difference now.
        target: what is to be detected.

    Returns:
        The factor, at least 1; inf where `target` is 0 and something varies.
    """
    if detectable <= target:
        return 1.0
    return (detectable / target) ** 2 if target > 0 else math.inf


def _with_splits(components: Variation, spread: Spread, count: int) -> tuple[Variation, Spread]:
    """The same components with `count` equal splits."""
    present = components.num_replicates
    single = components.explained_variance + components.shared_variance  # example variance of one split's mean
    planned = components._replace(
        example_variance=single / count + (1 - 1 / count) * max(0.0, components.shared_variance),
        skewness=components.skewness * math.sqrt(present / count),
        factor=1 / count + components.overlap,
    )
    return planned, Spread(spread.variance, spread.degrees * (count - 1) / (present - 1))
