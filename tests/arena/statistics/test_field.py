"""Moderation of split variances over the field."""

import numpy as np
import pytest
from scipy import special

from bayesify.arena.statistics import field
from bayesify.arena.statistics.field import moderate, own_spread
from bayesify.arena.statistics.variation import Replicates, Variation


def one(means, explained=1.0):
    means = np.asarray(means, dtype=float)
    count = len(means)
    return Variation(
        estimate=means.mean(), example_variance=0.3, example_degrees=400.0, skewness=0.0,
        replicates=Replicates.SPLITS, means=means, weights=np.full(count, 1 / count),
        replicate_variance=means.var(ddof=1), explained_variance=explained, factor=0.3, overlap=0.1,
        shared_variance=0.0,
    )  # fmt: skip


def draw(count, splits, rng, ratio=1.0):
    common = rng.standard_normal(splits)
    scale = np.sqrt(np.broadcast_to(ratio, (count,)) / 2)
    return [one(s * (common + rng.standard_normal(splits))) for s in scale]


def test_a_method_alone_keeps_its_own_variance():
    (alone,) = draw(1, 5, np.random.default_rng(0))
    assert moderate([alone]) == [own_spread(alone)]
    assert own_spread(alone).degrees == 4


def test_a_homogeneous_field_lends_degrees_of_freedom_but_never_excuses_variation():
    lent = []
    for seed in range(50):
        methods = draw(12, 5, np.random.default_rng(seed))
        for method, spread in zip(methods, moderate(methods), strict=True):
            assert spread.variance >= method.replicate_variance * (1 - 1e-12)
            assert 4 <= spread.degrees <= 4 + 4 * 11 / (1 + 10 * 0.25)
            lent.append(spread.degrees > 10)
    assert np.mean(lent) > 0.5


def test_an_unstable_method_is_left_to_itself():
    left = 0
    for seed in range(50):
        methods = draw(12, 10, np.random.default_rng(seed), ratio=np.array([1.0] * 11 + [30.0]))
        left += moderate(methods)[-1] == own_spread(methods[-1])
    assert left >= 48


def test_a_control_that_causes_everything_leaves_nothing_to_lend():
    rng = np.random.default_rng(1)
    common = rng.standard_normal(10)
    methods = [one(common + 1e-3 * rng.standard_normal(10)) for _ in range(12)]
    for spread in moderate(methods):
        assert spread.degrees <= 9 * (1 + 11 / (1 + 10 * 0.99))


def test_only_methods_with_as_many_splits_and_with_test_noise_inform_each_other():
    rng = np.random.default_rng(2)
    five, three, silent = draw(4, 5, rng), draw(1, 3, rng), one(rng.standard_normal(5), explained=0.0)
    spreads = moderate([*five, *three, silent])
    assert spreads[4:] == [own_spread(three[0]), own_spread(silent)]
    assert spreads[:4] == moderate(five)


def test_units_of_one_method_do_not_matter_to_the_others():
    methods = draw(6, 5, np.random.default_rng(3))
    scaled = [methods[0], one(10 * methods[1].means, explained=100.0), *methods[2:]]
    base, got = moderate(methods), moderate(scaled)
    assert got[1].variance == pytest.approx(100 * base[1].variance)
    np.testing.assert_allclose([got[0], *got[2:]], [base[0], *base[2:]])


@pytest.mark.parametrize("prior", [2.0, 6.0, 20.0])
def test_prior_degrees_recover_the_dispersion_they_were_drawn_with(prior):
    rng = np.random.default_rng(4)
    ratio = prior / rng.chisquare(prior, 40_000) * rng.chisquare(4, 40_000) / 4
    assert field._prior_degrees(ratio, 4.0) == pytest.approx(prior, rel=0.1)


@pytest.mark.parametrize("value", [1e-3, 0.1, 1.0, 50.0, 1e4])
def test_inverse_trigamma(value):
    assert special.polygamma(1, field._inverse_trigamma(value)) == pytest.approx(value)


def test_replicates_that_agree_exactly_do_not_break_the_field():
    methods = [*draw(3, 5, np.random.default_rng(5)), one(np.full(5, 0.25))]
    assert moderate(methods)[3].variance == 0.0
