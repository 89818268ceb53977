"""Entropies and variance decompositions against scipy, bounds and identities."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from bayesify import metrics
from bayesify.errors import DataError


def random_draws(seed, num_draws, num_examples=6, num_classes=4, concentration=0.3):
    rng = np.random.default_rng(seed)
    return rng.dirichlet(np.full(num_classes, concentration), size=(num_draws, num_examples))


@given(st.integers(0, 10_000), st.integers(1, 6))
def test_entropies_agree_with_scipy(seed, num_draws):
    draws = random_draws(seed, num_draws)
    np.testing.assert_allclose(metrics.entropy(draws), stats.entropy(draws, axis=-1), atol=1e-12)
    total, expected = stats.entropy(draws.mean(axis=0), axis=-1), stats.entropy(draws, axis=-1).mean(axis=0)
    np.testing.assert_allclose(metrics.predictive_entropy(draws), total, atol=1e-12)
    np.testing.assert_allclose(metrics.expected_entropy(draws), expected, atol=1e-12)
    # Mutual information is also the mean divergence of the draws from their average.
    divergence = stats.entropy(draws, draws.mean(axis=0, keepdims=True), axis=-1).mean(axis=0)
    np.testing.assert_allclose(metrics.mutual_information(draws), divergence, atol=1e-12)


@given(st.integers(0, 10_000), st.integers(1, 6), st.permutations(range(4)))
def test_mutual_information_is_bounded_and_blind_to_names(seed, num_draws, relabelling):
    draws = random_draws(seed, num_draws)
    information = metrics.mutual_information(draws)
    assert np.all(information >= 0)
    assert np.all(information <= min(np.log(num_draws), np.log(4)) + 1e-12)
    np.testing.assert_allclose(metrics.mutual_information(draws[::-1][..., relabelling]), information, atol=1e-12)


def test_known_entropies():
    np.testing.assert_allclose(metrics.entropy([[0.25] * 4, [1.0, 0, 0, 0]]), [np.log(4), 0.0])
    assert metrics.entropy([0.5, 0.5]).shape == ()
    assert not np.signbit(metrics.entropy([[1.0, 0.0]])[0])


def test_disagreement_is_epistemic_and_agreement_on_doubt_is_aleatoric():
    certain_but_opposed = np.array([[[1.0, 0.0]], [[0.0, 1.0]]])
    np.testing.assert_allclose(metrics.mutual_information(certain_but_opposed), [np.log(2)])
    np.testing.assert_allclose(metrics.expected_entropy(certain_but_opposed), [0.0])
    agreed_doubt = np.full((2, 1, 2), 0.5)
    np.testing.assert_array_equal(metrics.mutual_information(agreed_doubt), [0.0])
    np.testing.assert_allclose(metrics.expected_entropy(agreed_doubt), [np.log(2)])


def test_identical_draws_have_no_mutual_information_beyond_rounding():
    draws = np.repeat(random_draws(0, 1, num_examples=500), 7, axis=0)
    information = metrics.mutual_information(draws)
    assert information.min() >= 0
    assert information.max() < 1e-14
    np.testing.assert_array_equal(metrics.mutual_information(draws[:1]), 0.0)  # a single draw


def test_extreme_probabilities_are_finite():
    draws = np.array([[[1.0, 5e-324]], [[1e-300, 1.0]]])
    for measure in (metrics.predictive_entropy, metrics.expected_entropy, metrics.mutual_information):
        assert np.all(np.isfinite(measure(draws)))


@given(st.integers(0, 10_000), st.floats(0.01, 100))
def test_variances_add_up_and_scale_with_the_square(seed, factor):
    rng = np.random.default_rng(seed)
    means, scales = rng.normal(size=(5, 7)), rng.gamma(1.0, size=(5, 7))
    parts = metrics.variance_decomposition(means, scales)
    second_moment = (means**2 + scales**2).mean(axis=0)
    np.testing.assert_allclose(parts.total, second_moment - means.mean(axis=0) ** 2, atol=1e-12)
    np.testing.assert_allclose(parts.total, parts.epistemic + parts.aleatoric)
    for before, after in zip(parts, metrics.variance_decomposition(factor * means + 3, factor * scales), strict=True):
        np.testing.assert_allclose(after, factor**2 * before, rtol=1e-7, atol=1e-11)


def test_a_single_draw_has_no_epistemic_variance():
    parts = metrics.variance_decomposition([[1.0, 2.0]], [[3.0, 0.0]])
    np.testing.assert_array_equal(parts.epistemic, [0.0, 0.0])
    np.testing.assert_array_equal(parts.aleatoric, [9.0, 0.0])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: metrics.entropy([0.5, 0.6]), r"probs sums to 1.1"),
        (lambda: metrics.mutual_information([0.5, 0.5]), r"draws come first and classes last"),
        (lambda: metrics.expected_entropy([[[0.5, 0.5], [0.9, 0.3]]]), r"probs\[0, 1\] sums to 1.2"),
        (lambda: metrics.predictive_entropy(np.empty((0, 3, 2))), r"probs is empty"),
        (lambda: metrics.predictive_entropy([[[np.nan, 0.5]]]), r"probs\[0, 0, 0\] is nan"),
        (lambda: metrics.variance_decomposition([[1.0]], [[-1.0]]), r"scales\[0, 0\] is -1"),
        (lambda: metrics.variance_decomposition([[1.0]], [[1.0], [1.0]]), r"shapes differ"),
        (lambda: metrics.variance_decomposition([1.0], [1.0]), r"draws come first, then examples"),
    ],
)
def test_unusable_inputs_are_refused(call, message):
    with pytest.raises(DataError, match=message):
        call()
