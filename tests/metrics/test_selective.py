"""Risk-coverage curves by hand, by enumeration of all orders, and under transformations."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bayesify import metrics
from bayesify.errors import DataError

pairs = st.lists(st.tuples(st.floats(0, 10), st.integers(0, 3)), min_size=1, max_size=25)


def test_curve_by_hand():
    curve = metrics.risk_coverage_curve([0.0, 1.0, 0.0, 1.0], [0.1, 0.9, 0.2, 0.3])
    np.testing.assert_allclose(curve.coverage, [0.25, 0.5, 0.75, 1.0])
    np.testing.assert_allclose(curve.risk, [0, 0, 1 / 3, 0.5])
    assert metrics.area_under_risk_coverage([0, 1, 0, 1], [0.1, 0.9, 0.2, 0.3]) == pytest.approx((1 / 3 + 0.5) / 4)


def test_ties_give_the_expectation_over_all_orders():
    losses, uncertainty = np.array([0.0, 1.0, 3.0, 2.0, 5.0]), np.array([1.0, 1.0, 0.0, 1.0, 2.0])
    risks = []
    for order in permutations(range(5)):
        order = np.asarray(order)
        if np.all(np.diff(uncertainty[order]) >= 0):
            risks.append(np.cumsum(losses[order]) / np.arange(1, 6))
    assert len(risks) == 6
    np.testing.assert_allclose(metrics.risk_coverage_curve(losses, uncertainty).risk, np.mean(risks, axis=0))


@given(pairs, st.integers(0, 1000))
def test_storage_order_and_monotone_transformations_do_not_matter(rows, seed):
    losses, uncertainty = np.array(rows).T
    order = np.random.default_rng(seed).permutation(len(rows))
    area = metrics.area_under_risk_coverage(losses, uncertainty)
    shuffled = metrics.area_under_risk_coverage(losses[order], np.exp(uncertainty[order]))
    assert shuffled == pytest.approx(area, abs=1e-12)
    scaled = metrics.area_under_risk_coverage(7 * losses, uncertainty)
    assert scaled == pytest.approx(7 * area, abs=1e-12)


@given(pairs)
def test_every_ranking_lies_between_the_perfect_and_the_worst(rows):
    losses, uncertainty = np.array(rows).T
    area = metrics.area_under_risk_coverage(losses, uncertainty)
    perfect = metrics.area_under_risk_coverage(losses, losses)
    worst = metrics.area_under_risk_coverage(losses, -losses)
    assert perfect - 1e-12 <= area <= worst + 1e-12
    excess = metrics.excess_area_under_risk_coverage(losses, uncertainty)
    assert excess == pytest.approx(area - perfect, abs=1e-12)
    assert excess >= 0
    assert metrics.excess_area_under_risk_coverage(losses, losses) == 0


def test_uninformative_uncertainty_leaves_the_risk_flat():
    losses = np.random.default_rng(0).random(30)
    np.testing.assert_allclose(metrics.risk_coverage_curve(losses, np.zeros(30)).risk, losses.mean())


def test_accuracy_at_coverage():
    correct = np.array([1.0] * 7 + [0.0] * 3)
    uncertainty = np.arange(10.0)
    assert metrics.accuracy_at_coverage(correct, uncertainty, 0.7) == 1.0
    assert metrics.accuracy_at_coverage(correct, uncertainty, 0.71) == pytest.approx(7 / 8)
    assert metrics.accuracy_at_coverage(correct, uncertainty, 1.0) == pytest.approx(0.7)
    assert metrics.accuracy_at_coverage(correct, uncertainty, 1e-12) == 1.0
    assert metrics.accuracy_at_coverage(correct, np.zeros(10), 0.1) == pytest.approx(0.7)
    # 0.07 · 100 exceeds 7 by rounding: still the 7 right ones.
    assert metrics.accuracy_at_coverage([1] * 7 + [0] * 93, np.arange(100), 0.07) == 1.0


def test_one_example_and_infinite_uncertainty():
    assert metrics.area_under_risk_coverage([3.0], [np.inf]) == 3.0
    curve = metrics.risk_coverage_curve([1.0, 0.0, 5.0], [np.inf, -np.inf, 0.0])
    np.testing.assert_allclose(curve.risk, [0.0, 2.5, 2.0])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: metrics.risk_coverage_curve([], []), "losses is empty"),
        (
            lambda: metrics.risk_coverage_curve([0.0], [0.0, 1.0]),
            r"shapes differ: losses \(1,\), uncertainty \(2,\)",
        ),
        (lambda: metrics.risk_coverage_curve([np.inf], [0.0]), r"losses\[0\] is inf"),
        (lambda: metrics.area_under_risk_coverage([0.0], [np.nan]), r"uncertainty\[0\] is nan"),
        (
            lambda: metrics.accuracy_at_coverage([1.0], [0.0], 0.0),
            r"coverage is 0.0; it must lie in \(0, 1\]",
        ),
        (lambda: metrics.accuracy_at_coverage([2.0], [0.0], 0.5), r"correct\[0\] is 2"),
    ],
)
def test_unusable_inputs_are_refused(call, message):
    with pytest.raises(DataError, match=message):
        call()
