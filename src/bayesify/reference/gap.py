"""Which fraction of the way from a baseline to the reference does a method go?

    closed = 1 − d(method) / d(baseline)                                                                         (1)

with d the mean distance to the reference over training seeds, at equal gradient evaluations. 0 is as far as the
baseline, 1 is the reference, and below 0 the method is further away than the baseline. Methods and baselines are
trained with independent seeds, so the standard error of (1) is that of a ratio of independent means (delta method),

    se = d(m)/d(b) √( s²(m) / (n d(m)²) + s²(b) / (n' d(b)²) ).                                                   (2)

It knows nothing of the reference's own error. That is shown as a distance of its own: what one half of the reference's
chains is away from the other half. A method at that distance cannot be told from the reference.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from bayesify.errors import DataError


class Closed(NamedTuple):
    """A fraction of a gap; it may be negative."""

    fraction: float
    standard_error: float
    """NaN where either has one seed only."""


def closed(distances: Sequence[float], baseline: Sequence[float]) -> Closed:
    """Equations (1) and (2).

    Args:
        distances: of the method to the reference, one per seed.
        baseline: of the baseline, likewise; their number may differ.

    Raises:
        DataError: no distance, a negative or non-finite one, or a baseline that is the reference itself.
    """
    ours, base = (np.asarray(values, dtype=np.float64) for values in (distances, baseline))
    for name, values in (("distances", ours), ("baseline", base)):
        if not values.size or not np.isfinite(values).all() or (values < 0).any():
            raise DataError(f"{name}={values.tolist()}: give one finite distance of 0 or more per seed.")
    if base.mean() == 0:
        raise DataError("the baseline's distance is 0: it is the reference, and leaves no gap to close.")
    ratio = float(ours.mean() / base.mean())
    if min(ours.size, base.size) < 2:
        return Closed(1 - ratio, math.nan)
    error = math.sqrt(ours.var(ddof=1) / ours.size + ratio**2 * base.var(ddof=1) / base.size) / float(base.mean())
    return Closed(1 - ratio, error)
