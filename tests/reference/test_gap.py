"""Which fraction of a gap is closed: by hand, and its standard error by simulation."""

import math

import numpy as np
import pytest

from bayesify.errors import DataError
from bayesify.reference.gap import closed


@pytest.mark.parametrize(
    ("distances", "baseline", "fraction"),
    [([0.0], [0.5], 1.0), ([0.5], [0.5], 0.0), ([0.1, 0.3], [0.8], 0.75), ([0.9, 1.1], [0.4, 0.6], -1.0)],
)
def test_fractions_by_hand(distances: list[float], baseline: list[float], fraction: float) -> None:
    assert closed(distances, baseline).fraction == pytest.approx(fraction)


def test_one_seed_has_no_standard_error() -> None:
    assert math.isnan(closed([0.1], [0.5, 0.6]).standard_error)
    assert math.isnan(closed([0.1, 0.2], [0.5]).standard_error)


def test_standard_error_by_hand() -> None:
    # d(m) = 0.2, d(b) = 1, variances 0.02 and 0.08 of 2 seeds each: √(0.01 + 0.2² × 0.04).
    found = closed([0.1, 0.3], [0.8, 1.2])
    assert found.standard_error == pytest.approx(math.sqrt(0.01 + 0.04 * 0.04))


def test_standard_error_is_that_of_repetitions() -> None:
    rng = np.random.default_rng(0)
    found = [closed(rng.normal(0.3, 0.02, 8), rng.normal(1.0, 0.05, 8)) for _ in range(2000)]
    # A standard deviation of 2000 repetitions is known to 1.6%, the mean of as many errors better.
    stated = np.mean([one.standard_error for one in found])
    assert stated == pytest.approx(np.std([one.fraction for one in found]), rel=4.4 * 0.016 + 0.03)


@pytest.mark.parametrize(
    ("distances", "baseline", "words"),
    [([], [1.0], "distances"), ([-0.1], [1.0], "distances"), ([0.1], [math.nan], "baseline"), ([0.1], [0.0], "no gap")],
)
def test_what_is_no_distance_is_refused(distances: list[float], baseline: list[float], words: str) -> None:
    with pytest.raises(DataError, match=words):
        closed(distances, baseline)
