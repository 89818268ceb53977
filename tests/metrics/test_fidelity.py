"""Distances to a reference predictive, by hand and against scipy."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from bayesify import metrics
from bayesify.errors import DataError


def test_agreement_and_total_variation_by_hand():
    ours, reference = [[0.6, 0.4], [0.9, 0.1]], [[0.4, 0.6], [0.7, 0.3]]
    np.testing.assert_array_equal(metrics.agrees(ours, reference), [0.0, 1.0])
    assert metrics.agreement(ours, reference) == 0.5
    np.testing.assert_allclose(metrics.total_variation(ours, reference), [0.2, 0.2])


@given(st.integers(0, 10_000), st.permutations(range(4)))
def test_total_variation_is_a_distance_blind_to_names(seed, relabelling):
    p, q, r = np.random.default_rng(seed).dirichlet(np.full(4, 0.3), size=(3, 20))
    distance = metrics.total_variation(p, q)
    np.testing.assert_allclose(distance, metrics.total_variation(q, p))
    np.testing.assert_array_equal(metrics.total_variation(p, p), 0.0)
    assert np.all(distance <= metrics.total_variation(p, r) + metrics.total_variation(r, q) + 1e-12)
    assert np.all((distance >= 0) & (distance <= 1))
    np.testing.assert_allclose(metrics.total_variation(p[:, relabelling], q[:, relabelling]), distance, atol=1e-12)
    assert metrics.agreement(p[:, relabelling], q[:, relabelling]) == metrics.agreement(p, q)


def test_opposite_certainties_are_at_distance_one():
    np.testing.assert_array_equal(metrics.total_variation([[1.0, 0.0]], [[0.0, 1.0]]), [1.0])
    assert metrics.agreement([[1.0, 0.0]], [[0.0, 1.0]]) == 0.0


@given(st.integers(0, 10_000), st.integers(1, 9), st.integers(1, 9))
def test_wasserstein_agrees_with_scipy(seed, num_samples, num_reference):
    rng = np.random.default_rng(seed)
    ours, reference = rng.normal(size=(num_samples, 5)), rng.normal(1, 2, size=(num_reference, 5))
    expected = [stats.wasserstein_distance(ours[:, b], reference[:, b]) for b in range(5)]
    result = metrics.wasserstein1(ours, reference)
    np.testing.assert_allclose(result, expected, atol=1e-12)
    np.testing.assert_allclose(metrics.wasserstein1(rng.permutation(ours), reference), result, atol=1e-12)
    np.testing.assert_allclose(metrics.wasserstein1(3 * ours - 7, 3 * reference - 7), 3 * result, atol=1e-12)


def test_wasserstein_of_shifted_and_single_samples():
    samples = np.random.default_rng(0).normal(size=(100, 3))
    np.testing.assert_allclose(
        metrics.wasserstein1(samples, samples + np.array([1.0, -2.0, 0.0])), [1.0, 2.0, 0.0], atol=1e-12
    )
    np.testing.assert_array_equal(metrics.wasserstein1([[4.0]], [[1.0]]), [3.0])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: metrics.agreement([[0.5, 0.5]], [[0.2, 0.3, 0.5]]),
            r"probs \(1, 2\), reference_probs \(1, 3\)",
        ),
        (lambda: metrics.total_variation([[0.5, 0.5]], [[0.5, 0.7]]), r"reference_probs\[0\] sums to 1.2"),
        (
            lambda: metrics.wasserstein1([[0.0, 1.0]], [[0.0]]),
            r"samples has 2 test points and reference_samples 1",
        ),
        (lambda: metrics.wasserstein1([[np.inf]], [[0.0]]), r"samples\[0, 0\] is inf"),
        (lambda: metrics.wasserstein1([0.0], [[0.0]]), r"samples has shape \(1,\)"),
    ],
)
def test_unusable_inputs_are_refused(call, message):
    with pytest.raises(DataError, match=message):
        call()
