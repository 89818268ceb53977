"""The variance of one difference, against closed forms and other packages."""

import baycomp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.regression.linear_model import OLS

from bayesify.arena.statistics import PairedDifferences, paired_difference
from bayesify.arena.statistics.variation import variation
from bayesify.errors import DataError


def random_splits(rng, num_rows=60, num_splits=4, num_seeds=2, n_test=15, scale=1.0):
    indices = tuple(rng.choice(num_rows, n_test, replace=False) for _ in range(num_splits))
    examples = rng.standard_normal(num_rows)
    values = tuple(
        scale * (examples[rows] + rng.standard_normal((num_seeds, n_test)) + 0.3 * rng.standard_normal())
        for rows in indices
    )
    return PairedDifferences(values, indices, num_rows - n_test)


def test_one_split_of_symmetric_differences_is_the_paired_t_test():
    half = np.random.default_rng(0).standard_normal(20)
    values = np.concatenate([half, -half]) + 0.3  # no skewness, so Hall's correction is nil
    got = paired_difference(PairedDifferences((values[None],), (np.arange(40),), 360))
    want = stats.ttest_1samp(values, 0.0)
    low, high = want.confidence_interval(0.95)
    np.testing.assert_allclose(got[:3], (0.3, low, high), atol=1e-9)
    np.testing.assert_allclose(got.p_value, want.pvalue, rtol=1e-9)
    np.testing.assert_allclose(got.degrees_of_freedom, 39)


@pytest.mark.parametrize(("num_splits", "runs"), [(2, 1), (5, 1), (10, 1), (20, 2)])
def test_without_variation_inside_splits_it_is_nadeau_and_bengios_corrected_t_test(num_splits, runs):
    means = np.random.default_rng(1).normal(0.4, 1.0, num_splits)
    values = tuple(np.full((1, 10), mean) for mean in means)
    indices = tuple(np.arange(10) + 10 * split for split in range(num_splits))
    got = paired_difference(PairedDifferences(values, indices, 10 * (num_splits // runs - 1)), level=0.9)
    oracle = baycomp.CorrelatedTTest(np.zeros(num_splits), means, runs=runs)
    law = stats.t(oracle.df, oracle.mean, np.sqrt(oracle.var))
    np.testing.assert_allclose((got.low, got.high), law.interval(0.9), rtol=1e-4)
    np.testing.assert_allclose(got.p_value, 2 * min(law.cdf(0), law.sf(0)), rtol=1e-4)
    assert got.degrees_of_freedom == pytest.approx(num_splits - 1)


def test_an_example_in_several_test_sets_is_one_example():
    rng = np.random.default_rng(2)
    values, rows = rng.standard_normal((1, 200)), np.arange(200)
    once = variation(PairedDifferences((values,), (rows,), 900))
    thrice = variation(PairedDifferences((values,) * 3, (rows,) * 3, 900))
    apart = variation(PairedDifferences((values,) * 3, (rows, rows + 200, rows + 400), 900))
    assert thrice.example_variance == pytest.approx(once.example_variance)
    assert apart.example_variance == pytest.approx(once.example_variance / 3)


def test_example_variance_is_the_cluster_robust_variance():
    rng = np.random.default_rng(3)
    differences = random_splits(rng, num_seeds=1)
    centred = tuple(value - value.mean() for value in differences.values)  # equal split means: same residuals
    rows = np.concatenate([value[0] for value in centred])
    fit = OLS(rows, np.ones(len(rows))).fit(
        cov_type="cluster",
        cov_kwds={"groups": np.concatenate(differences.indices), "use_correction": False},
    )
    got = variation(differences._replace(values=centred))
    assert got.example_variance * 14 / 15 == pytest.approx(fit.bse[0] ** 2)  # less Bessel's correction


def test_explained_variance_is_unbiased_without_split_effects():
    rng = np.random.default_rng(4)
    gaps = []
    for _ in range(400):
        indices = tuple(rng.choice(80, 40, replace=False) for _ in range(4))  # heavy overlap
        examples = rng.standard_normal(80)
        values = tuple((examples[rows] + 0.5 * rng.standard_normal(40))[None] for rows in indices)
        got = variation(PairedDifferences(values, indices, 40))
        gaps.append(got.replicate_variance - got.explained_variance)
    error = np.std(gaps) / np.sqrt(len(gaps))
    assert abs(np.mean(gaps)) < stats.norm.isf(0.5e-5) * error
    assert np.mean(gaps) + got.shared_variance > stats.norm.isf(0.5e-5) * error  # ignoring the overlap would show


def test_seeds_of_one_split_take_the_place_of_splits():
    rng = np.random.default_rng(5)
    examples = rng.standard_normal(100)
    values = examples + 2.0 * rng.standard_normal((4, 1))
    got = variation(PairedDifferences((values,), (np.arange(100),), 900))
    assert got.replicates == "seeds"
    assert got.factor == pytest.approx(1 / 4)
    assert got.explained_variance == pytest.approx(0, abs=1e-12)  # the examples are the same for all seeds
    assert got.replicate_variance == pytest.approx(values.mean(axis=1).var(ddof=1))
    assert got.example_variance == pytest.approx(examples.var(ddof=1) / 100)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.floats(-3, 3), st.floats(0.01, 100), st.integers(1, 5))
def test_units_order_and_row_numbers_do_not_matter(seed, shift, scale, num_splits):
    rng = np.random.default_rng(seed)
    given_ = random_splits(rng, num_splits=num_splits)
    base = np.array(paired_difference(given_)[:4])
    moved = given_._replace(values=tuple(scale * value + shift for value in given_.values))
    np.testing.assert_allclose(paired_difference(moved)[:4], scale * base + [shift, shift, shift, 0], rtol=1e-6)
    order, names = rng.permutation(15), rng.permutation(60)
    shuffled = PairedDifferences(
        tuple(value[::-1, order] for value in given_.values[::-1]),
        tuple(names[rows[order]] for rows in given_.indices[::-1]),
        given_.num_train,
    )
    np.testing.assert_allclose(paired_difference(shuffled)[:4], base, rtol=1e-6)
    mirrored = paired_difference(given_._replace(values=tuple(-value for value in given_.values)))
    np.testing.assert_allclose((mirrored.low, mirrored.high), (-base[2], -base[1]), rtol=1e-6)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 5), st.floats(0.6, 0.999))
def test_interval_and_p_value_agree(seed, num_splits, level):
    got = paired_difference(random_splits(np.random.default_rng(seed), num_splits=num_splits), level=level)
    assert got.low <= got.estimate <= got.high
    assert (got.low <= 0 <= got.high) == (got.p_value > 1 - level)


def test_no_difference_at_all():
    zero = PairedDifferences((np.zeros((2, 5)),) * 3, (np.arange(5),) * 3, 45)
    assert paired_difference(zero) == (0.0, 0.0, 0.0, 0.0, 1.0, np.inf, 0.95)
    half = zero._replace(values=tuple(value + 0.5 for value in zero.values))
    got = paired_difference(half)
    assert (got.low, got.high, got.p_value) == (0.5, 0.5, 0.0)


def test_infinite_losses():
    one = np.array([[0.1, 0.2, -np.inf]])
    rows = np.arange(3)
    got = paired_difference(PairedDifferences((one,), (rows,), 27))
    assert (got.estimate, got.low, got.high, got.p_value) == (-np.inf, -np.inf, -np.inf, 0.0)
    got = paired_difference(PairedDifferences((-one,), (rows,), 27))
    assert (got.estimate, got.p_value) == (np.inf, 0.0)
    got = paired_difference(PairedDifferences((np.array([[0.1, 0.2, -1e250]]),), (rows,), 27))
    assert got.estimate == -np.inf
    got = paired_difference(PairedDifferences((one, -one), (rows, rows + 3), 27))
    assert np.isnan(got.estimate)
    assert (got.low, got.high, got.p_value) == (-np.inf, np.inf, 1.0)


ROWS = np.arange(3)


@pytest.mark.parametrize(
    ("values", "indices", "num_train", "message"),
    [
        ((np.array([[0.0, np.nan, 1.0]]),), (ROWS,), 9, "Split 0 has 1 NaN"),
        ((), (), 9, "at least one split"),
        ((np.zeros((1, 3)),), (ROWS, ROWS), 9, "1 arrays of differences came with 2"),
        ((np.zeros((1, 3)), np.zeros((1, 2))), (ROWS, ROWS), 9, "Split 1 has differences of shape"),
        ((np.zeros(3),), (ROWS,), 9, "num_seeds, n_test"),
        ((np.zeros((0, 3)),), (ROWS,), 9, "neither empty"),
        ((np.zeros((1, 1)),) * 2, (np.array([7]),) * 2, 9, "one test example only"),
        ((np.zeros((1, 3)),), (ROWS,), 0, "num_train is 0"),
    ],
)
def test_what_cannot_be_compared_is_refused(values, indices, num_train, message):
    with pytest.raises(DataError, match=message):
        paired_difference(PairedDifferences(values, indices, num_train))


@pytest.mark.parametrize("level", [0.0, 0.5, 1.0, 95])
def test_a_level_is_a_probability(level):
    with pytest.raises(DataError, match="confidence level"):
        paired_difference(random_splits(np.random.default_rng(0)), level=level)


def test_variance_of_infinite_values_is_refused():
    with pytest.raises(DataError, match="infinite"):
        variation(PairedDifferences((np.array([[0.0, np.inf]]),), (np.arange(2),), 9))


def test_extreme_magnitudes_do_not_warn():
    for scale in (1e-150, 1e-12, 1e12, 1e99):
        got = paired_difference(random_splits(np.random.default_rng(6), scale=scale))
        assert got.low < got.estimate < got.high
