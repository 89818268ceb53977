"""One method against the control: estimate, standard error, confidence interval, p-value.

The variance has an example part and a split part (`variation.py`), the small number of splits and the skewness of
losses are taken account of by `pivot.py`. Why not the obvious alternatives: a hierarchical bootstrap (examples within
splits) treats overlapping splits as independent and three splits as a population, and so claims too much; the
corrected t test alone throws away what thousands of examples say.

What is estimated: the mean difference in loss between models that the two methods train on data sets of this size
from this source, as far as one data set can tell. With a single split and seed, only the two trained models at hand.
"""

from typing import NamedTuple

import numpy as np

from bayesify.arena.statistics.field import Spread, own_spread
from bayesify.arena.statistics.pivot import p_value, pivot, reach
from bayesify.arena.statistics.variation import PairedDifferences, Variation, check, variation
from bayesify.errors import DataError

LARGEST = 1e100  # beyond this the third power of a difference overflows: as good as infinite


class Difference(NamedTuple):
    """The mean of control loss − method loss: positive where the method is better.

    Attributes:
        estimate: the mean difference; −inf where the method gave some observed outcome probability zero, NaN where
            the control did too, elsewhere.
        low: lower end of the confidence interval.
        high: upper end.
        standard_error: of the estimate.
        p_value: two-sided, of the hypothesis of no difference; not adjusted for other comparisons.
        degrees_of_freedom: Satterthwaite's, of the standard error; inf where nothing varies.
        level: the coverage of the interval.
    """

    estimate: float
    low: float
    high: float
    standard_error: float
    p_value: float
    degrees_of_freedom: float
    level: float


def paired_difference(differences: PairedDifferences, *, level: float = 0.95) -> Difference:
    """Estimate how much better than the control a method is.

    Args:
        differences: control loss − method loss per split, seed and test example.
        level: the coverage of the interval, in (0.5, 1).

    Returns:
        The difference with its uncertainty. Everything is deterministic.

    Raises:
        DataError: differences are NaN, arrays do not fit together, or the level is out of range.
    """
    check_level(level)
    check(differences)
    infinite = infinite_difference(differences, level)
    if infinite is not None:
        return infinite
    components = variation(differences)
    return finite_difference(components, own_spread(components), level=level, tail=(1 - level) / 2)


def finite_difference(components: Variation, spread: Spread, *, level: float, tail: float) -> Difference:
    """The difference when all values are finite.

    Args:
        components: estimate and variance components.
        spread: the variance of replicate means to work with.
        level: what the interval is said to cover.
        tail: the probability in each tail of the interval; smaller than (1 − level) / 2 for simultaneous intervals.

    Returns:
        The difference with its uncertainty.
    """
    law = pivot(components, spread)
    above, below = reach(law, tail)
    variance = point_variance(components, spread)
    return Difference(
        estimate=components.estimate,
        low=components.estimate - above,
        high=components.estimate + below,
        standard_error=float(np.sqrt(variance)),
        p_value=p_value(law, components.estimate),
        degrees_of_freedom=_satterthwaite(components, spread, variance),
        level=level,
    )


def infinite_difference(differences: PairedDifferences, level: float) -> Difference | None:
    """The difference when some values are infinite (or beyond `LARGEST`), None when none is.

    A method that gave an observed outcome probability zero has an infinite expected loss: that is not an estimate
    but a fact, hence p = 0. Where both method and control did so, on different examples, the mean is undefined.
    """
    lowest = min(float(np.min(value)) for value in differences.values)
    highest = max(float(np.max(value)) for value in differences.values)
    method, control = lowest < -LARGEST, highest > LARGEST
    if method and control:
        return Difference(np.nan, -np.inf, np.inf, np.inf, 1.0, np.inf, level)
    if method or control:
        mean = -np.inf if method else np.inf
        return Difference(mean, mean, mean, 0.0, 0.0, np.inf, level)
    return None


def point_variance(components: Variation, spread: Spread) -> float:
    """The variance of the estimate by equation (1) of `variation.py`."""
    excess = max(0.0, spread.variance - components.explained_variance)
    return components.example_variance + components.factor * excess


def check_level(level: float) -> None:
    """Refuse levels that are no confidence levels.

    Raises:
        DataError: the level is not in (0.5, 1).
    """
    if not 0.5 < level < 1:
        raise DataError(f"The confidence level is {level}; it must lie between 0.5 and 1, such as 0.95.")


def _satterthwaite(components: Variation, spread: Spread, variance: float) -> float:
    if variance == 0:
        return np.inf
    uncertain = (components.example_variance / variance) ** 2 / components.example_degrees
    if spread.degrees > 0:
        uncertain += (components.factor * spread.variance / variance) ** 2 / spread.degrees
    return 1 / uncertain
