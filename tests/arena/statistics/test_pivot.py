"""The law of the error, against simulation and its known limits."""

import numpy as np
import pytest
from scipy import stats

from bayesify.arena.statistics import PairedDifferences, paired_difference
from bayesify.arena.statistics.field import Spread
from bayesify.arena.statistics.pivot import p_value, pivot, reach
from bayesify.arena.statistics.variation import Replicates, Variation


def components(**changes):
    base = Variation(
        estimate=0.0, example_variance=0.28, example_degrees=1e9, skewness=0.0, replicates=Replicates.SPLITS,
        means=np.zeros(5), weights=np.full(5, 0.2), replicate_variance=2.0, explained_variance=0.9,
        factor=0.2 + 1 / 9, overlap=1 / 9, shared_variance=0.1,
    )  # fmt: skip
    return base._replace(**changes)


@pytest.mark.parametrize(("variance", "degrees"), [(0.5, 4), (2.0, 1), (2.0, 4), (3.0, 12.7)])
def test_p_value_is_the_tail_of_the_simulated_pivot(variance, degrees):
    rng = np.random.default_rng(0)
    draws = degrees * variance / rng.chisquare(degrees, 400_000)
    scale = np.sqrt(0.28 + (0.2 + 1 / 9) * np.maximum(0, draws - 0.9))
    for error in (0.5, 1.5, 3.0):
        tails = 2 * stats.norm.sf(error / scale)  # one integral done exactly, the other by draws
        got = p_value(pivot(components(), Spread(variance, degrees)), error)
        assert abs(got - tails.mean()) < stats.norm.isf(0.5e-5) * tails.std() / np.sqrt(len(tails)) + 1e-5


def test_split_variance_below_test_noise_leaves_the_normal_interval():
    above, below = reach(pivot(components(explained_variance=1e6), Spread(0.1, 100)), 0.025)
    assert above == below == pytest.approx(1.959964 * np.sqrt(0.28), rel=1e-5)


def test_skewness_lengthens_one_side_and_shortens_none():
    plain = reach(pivot(components(), Spread(0.0, 0.0)), 0.01)
    skewed = reach(pivot(components(skewness=0.2), Spread(0.0, 0.0)), 0.01)
    assert skewed[0] == pytest.approx(plain[0])
    assert skewed[1] > 1.05 * plain[1]
    # Johnson's and Hall's expansion: the long side is that of the long tail's opposite.
    assert reach(pivot(components(skewness=-0.2), Spread(0.0, 0.0)), 0.01) == pytest.approx(skewed[::-1])


def test_halls_correction_repairs_the_coverage_of_a_skewed_mean():
    rng, num_draws = np.random.default_rng(1), 800
    missed, missed_by_t = 0, 0
    for _ in range(num_draws):
        losses = np.exp(rng.standard_normal(50)) - np.exp(0.5)
        got = paired_difference(PairedDifferences((losses[None],), (np.arange(50),), 450), level=0.99)
        missed += got.p_value <= 0.01
        missed_by_t += stats.ttest_1samp(losses, 0.0).pvalue <= 0.01
    assert missed_by_t > stats.binom.isf(1e-5, num_draws, 0.01)
    assert missed < 0.5 * missed_by_t  # better by far, though fifty lognormal losses stay hard


def test_tiny_p_values_are_accurate():
    # 64 nodes against the closed form: without test noise the pivot is a corrected t.
    bare = components(example_variance=0.0, explained_variance=0.0)
    for degrees in (1, 4, 19):
        scale = np.sqrt((0.2 + 1 / 9) * 2.0)
        for t in (3.0, 12.0, 60.0):
            got = p_value(pivot(bare, Spread(2.0, degrees)), t * scale)
            assert got == pytest.approx(2 * stats.t.sf(t, degrees), rel=2e-3, abs=1e-14)
