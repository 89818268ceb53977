"""The tests of uniformity alarm as often as they say, and their sizes are those of planted deviations."""

import math

import numpy as np
import pytest
from scipy.stats import kstest, norm

from bayesify.exactness.uniformity import (
    Array,
    randomised,
    size_of,
    uniformity,
    visible_log_spread,
)


def test_p_values_are_exact() -> None:
    """Of uniform numbers: location and spread are continuous and uniform; shape is discrete and never too small."""
    rng = np.random.default_rng(0)
    found = [uniformity(rng.uniform(size=60)) for _ in range(1000)]
    for values in ([f.location for f in found], [f.spread for f in found]):
        assert kstest(values, "uniform").pvalue > 1e-5
    shape = np.array([f.shape for f in found])
    for level in (0.02, 0.1, 0.3):
        rate, error = (shape <= level).mean(), math.sqrt(level * (1 - level) / 1000)
        assert rate < level + 4.3 * error  # one-sided 1e-5
        assert rate > 0.6 * level - 4.3 * error  # discreteness may cost some, not most of it


def test_all_quantities_together_alarm_no_more_often_than_stated() -> None:
    """Four quantities, two of them the same: Bonferroni must hold and not be far too careful."""
    rng = np.random.default_rng(1)
    rate, trials = 0.2, 400
    alarms = 0
    for _ in range(trials):
        u = rng.uniform(size=(3, 50))
        alarms += min(uniformity(row).p_value for row in (*u, u[0])) * 4 < rate
    error = math.sqrt(rate * (1 - rate) / trials)
    assert 0.25 * rate < alarms / trials < rate + 4.3 * error


@pytest.mark.parametrize("draws", [9, 99])
def test_ranks_of_a_right_posterior_are_uniform_however_few_draws(draws: int) -> None:
    rng = np.random.default_rng(3)
    values = rng.normal(size=(2000, draws + 1))
    ranks = (values[:, 1:] < values[:, :1]).sum(1)
    assert uniformity(randomised(ranks, np.full(2000, draws), rng)).p_value > 1e-5


def ranked(truth: Array, draws: int, rng: np.random.Generator) -> np.ndarray:
    return (rng.normal(size=(len(truth), draws)) < truth[:, None]).sum(1)


@pytest.mark.parametrize("draws", [9, 99])
@pytest.mark.parametrize(("ratio", "shift"), [(0.7, 0.0), (1.3, 0.0), (1.0, 0.4), (3.0, -0.5), (0.4, 0.0)])
def test_sizes_are_those_of_planted_deviations(draws: int, ratio: float, shift: float) -> None:
    """Truth N(−shift, 1/ratio²) relative to the draws: their spread is `ratio` of what it should be."""
    rng = np.random.default_rng(4)
    truth = norm.rvs(-shift, 1 / ratio, size=1200, random_state=rng)
    ranks = ranked(truth, draws, rng)
    found = size_of(ranks, np.full(1200, draws))
    assert found.log_spread == pytest.approx(math.log(ratio), abs=0.15)
    assert found.centre == pytest.approx(shift, abs=0.15)
    tests = uniformity(randomised(ranks, np.full(1200, draws), rng))
    assert tests.spread < 1e-3 if ratio != 1 else tests.spread > 1e-5
    assert tests.location < 1e-3 if shift else tests.location > 1e-5


def test_a_point_has_no_spread() -> None:
    ranks = np.where(np.arange(200) % 2, 99, 0)
    assert size_of(ranks, np.full(200, 99)).log_spread < math.log(0.1)


def test_a_shape_beyond_centre_and_spread_is_found() -> None:
    """Two humps with the mean and variance of normal scores: only the bands can see them."""
    rng = np.random.default_rng(5)
    z = 0.9 * rng.choice([-1, 1], size=600) + math.sqrt(1 - 0.81) * rng.normal(size=600)
    tests = uniformity(norm.cdf(z))
    assert tests.shape < 1e-5
    assert min(tests.location, tests.spread) > 1e-3


def test_the_visible_error_is_found_half_of_the_time() -> None:
    rng = np.random.default_rng(6)
    rate = 0.01
    visible = visible_log_spread(200, rate)
    z = math.exp(visible) * rng.normal(size=(300, 200))
    found = np.mean([uniformity(norm.cdf(row)).spread < rate for row in z])
    assert 0.3 < found < 0.75
