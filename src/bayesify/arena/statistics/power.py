"""What could have been found: the minimum detectable difference, and what would sharpen it."""

import math

from scipy import special

from bayesify.arena.statistics.field import Spread
from bayesify.arena.statistics.paired import point_variance
from bayesify.arena.statistics.pivot import pivot, reach
from bayesify.arena.statistics.variation import Replicates, Variation

POWER = 0.8
MOST_SPLITS = 1000


def minimum_detectable(components: Variation, spread: Spread, *, tail: float, power: float = POWER) -> float:
    """The true difference that the test would find with probability `power`.

    It is the distance at which the test rejects plus the normal quantile of the power in standard errors (the usual
    design formula, with this design's own critical distance), for the worst step of Holm's procedure.

    Args:
        components: variance components of one method's difference.
        spread: the variance of replicate means to work with.
        tail: one-sided level of the test, already divided by the number of comparisons.
        power: probability of finding it.

    Returns:
        The difference, in the unit of the differences; 0 where nothing varies.
    """
    above, below = reach(pivot(components, spread), tail)
    quantile = float(special.ndtri(power))
    return max(above, below) + quantile * math.sqrt(point_variance(components, spread))


def splits_needed(components: Variation, spread: Spread, *, difference: float, tail: float) -> int | None:
    """How many random splits of this data set would make `difference` detectable.

    More splits average out seeds, training sets and test examples, but the data set stays the same: what all splits
    share (examples in several test sets, overlapping training sets) is the floor.

    Args:
        components: variance components of one method's difference.
        spread: the variance of replicate means to work with.
        difference: what is to be detected with power 0.8.
        tail: one-sided level of the test, already divided by the number of comparisons.

    Returns:
        The smallest sufficient number (at least the present one), None where up to 1,000 splits do not suffice or
        there is one split only, which does not say how splits vary.
    """
    if components.replicates is not Replicates.SPLITS:
        return None

    def detectable(count: int) -> float:
        return minimum_detectable(*_with_splits(components, spread, count), tail=tail)

    low, high = components.num_replicates, MOST_SPLITS
    if detectable(low) <= difference:
        return low
    if low >= high or detectable(high) > difference:
        return None
    while high - low > 1:  # detectable(low) > difference ≥ detectable(high)
        middle = (low + high) // 2
        low, high = (low, middle) if detectable(middle) <= difference else (middle, high)
    return high


def rows_factor(components: Variation, spread: Spread, *, difference: float, tail: float) -> float:
    """By what factor the data set must grow for `difference` to be detectable with the present splits.

    Takes the whole variance to shrink like 1 / rows. That is exact for the test examples and a convention for
    training sets.

    Returns:
        The factor, at least 1; inf where `difference` is 0.
    """
    now = minimum_detectable(components, spread, tail=tail)
    if now <= difference:
        return 1.0
    return (now / difference) ** 2 if difference > 0 else math.inf


def _with_splits(components: Variation, spread: Spread, count: int) -> tuple[Variation, Spread]:
    """The same components with `count` equal splits."""
    present = components.num_replicates
    single = components.explained_variance + components.shared_variance  # example variance of one split's mean
    example = single / count + (1 - 1 / count) * max(0.0, components.shared_variance)
    planned = components._replace(
        example_variance=example,
        example_degrees=components.example_degrees * count / present,
        skewness=components.skewness * math.sqrt(present / count),
        factor=1 / count + components.overlap,
        means=components.means.repeat(-(-count // present))[:count],
    )
    return planned, Spread(spread.variance, spread.degrees * (count - 1) / (present - 1))
