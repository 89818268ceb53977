"""Calibration errors against direct sums, known distributions and simulated noise."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, stats

from bayesify import metrics
from bayesify.errors import DataError

Z = 4.42  # failure rate 1e-5 per statistical comparison


def calibrated_data(seed, num_examples, num_classes=3, concentration=0.5):
    """Predictions and labels drawn from them."""
    rng = np.random.default_rng(seed)
    probs = rng.dirichlet(np.full(num_classes, concentration), size=num_examples)
    labels = (rng.random((num_examples, 1)) > probs.cumsum(axis=1)).sum(axis=1)
    return probs, np.minimum(labels, num_classes - 1)


def binned_error(stated, happened, num_bins):
    """The definition, for values without ties."""
    order = np.argsort(stated)
    cuts = np.arange(1, num_bins) * len(stated) // num_bins
    parts = np.split(order, cuts)
    return sum(len(p) / len(stated) * abs(stated[p].mean() - happened[p].mean()) for p in parts)


def two_class(confidence):
    return np.stack([confidence, 1 - np.asarray(confidence)], axis=1)


# --- classification -------------------------------------------------------------------------------


@given(st.integers(0, 10_000), st.integers(1, 20), st.integers(20, 200))
def test_calibration_errors_are_the_definition(seed, num_bins, num_examples):
    probs, labels = calibrated_data(seed, num_examples)
    top, right = probs.max(axis=1), (probs.argmax(axis=1) == labels).astype(float)
    expected = binned_error(top, right, num_bins)
    assert metrics.expected_calibration_error(probs, labels, num_bins) == pytest.approx(expected, abs=1e-12)
    by_class = [binned_error(probs[:, c], (labels == c).astype(float), num_bins) for c in range(3)]
    np.testing.assert_allclose(metrics.class_wise_calibration_error(probs, labels, num_bins), by_class, atol=1e-12)
    adaptive = metrics.adaptive_calibration_error(probs, labels, num_bins)
    assert adaptive == pytest.approx(np.mean(by_class), abs=1e-12)


def test_adaptive_error_has_the_published_weights_where_bins_are_equal():
    # Nixon et al. (2019): (1 / K R) Σ_k Σ_r |acc(r, k) − conf(r, k)|, R ranges of equal mass.
    probs, labels = calibrated_data(0, 60)
    terms = []
    for c in range(3):
        for part in np.argsort(probs[:, c]).reshape(6, 10):
            terms.append(abs(np.mean(labels[part] == c) - probs[part, c].mean()))
    assert metrics.adaptive_calibration_error(probs, labels, 6) == pytest.approx(np.mean(terms), abs=1e-12)


def test_error_by_hand():
    # Two bins: confidence 0.6 with 1 of 2 right, confidence 0.9 with 2 of 2 right.
    probs = two_class([0.6, 0.9, 0.6, 0.9])
    error = metrics.expected_calibration_error(probs, [0, 0, 1, 0], num_bins=2)
    assert error == pytest.approx(0.5 * 0.1 + 0.5 * 0.1)


@given(st.integers(0, 10_000), st.permutations(range(3)))
def test_order_of_examples_and_names_of_classes_do_not_matter(seed, relabelling):
    probs, labels = calibrated_data(seed, 50)
    probs = np.round(probs, 1)  # many ties
    probs = probs / probs.sum(axis=1, keepdims=True)
    order = np.random.default_rng(seed).permutation(50)
    new_name = np.asarray(relabelling)
    relabelled = np.empty_like(probs)
    relabelled[:, new_name] = probs
    same = {"abs": 1e-12}
    adaptive = metrics.adaptive_calibration_error(probs, labels)
    assert metrics.adaptive_calibration_error(relabelled, new_name[labels]) == pytest.approx(adaptive, **same)
    error = metrics.expected_calibration_error(probs, labels)
    assert metrics.expected_calibration_error(probs[order], labels[order]) == pytest.approx(error, **same)
    curve, shuffled = (
        metrics.reliability_curve(probs, labels),
        metrics.reliability_curve(probs[order], labels[order]),
    )
    for before, after in zip(curve, shuffled, strict=True):
        np.testing.assert_allclose(after, before, atol=1e-12)


def test_equal_confidences_are_never_split():
    # All sure, 3 of 4 right. Split into bins by storage order, the error would be anything up to 0.25 · more.
    probs = two_class(np.ones(1000))
    labels = np.repeat([0, 0, 0, 1], 250)
    assert metrics.expected_calibration_error(probs, labels) == pytest.approx(0.25)
    curve = metrics.reliability_curve(probs, labels)
    np.testing.assert_array_equal(curve.num_examples, [1000])
    # One saturated group and a few others: the group is one bin.
    probs = two_class(np.concatenate([np.full(80, 1.0), np.linspace(0.6, 0.9, 20)]))
    curve = metrics.reliability_curve(probs, np.zeros(100, dtype=int), num_bins=10)
    assert curve.num_examples.tolist() == [10, 10, 80]
    assert curve.confidence[-1] == 1.0


def test_more_bins_than_examples_puts_each_in_its_own():
    probs = two_class([0.7, 0.8])
    assert metrics.expected_calibration_error(probs, [0, 1], 10**15) == pytest.approx((0.3 + 0.8) / 2)


def test_certain_and_right_is_calibrated_and_certain_and_wrong_is_not():
    probs = [[1.0, 0.0], [0.0, 1.0]]
    assert metrics.expected_calibration_error(probs, [0, 1]) == 0.0
    assert metrics.expected_calibration_error(probs, [1, 0]) == 1.0
    np.testing.assert_array_equal(metrics.class_wise_calibration_error(probs, [1, 0]), [1.0, 1.0])


def test_a_shifted_confidence_is_found_with_its_size():
    # Right with probability 0.6, confidence spread just around 0.9: the error is 0.3.
    rng = np.random.default_rng(0)
    num_examples = 20_000
    probs = two_class(0.9 + 0.001 * rng.random(num_examples))
    labels = (rng.random(num_examples) > 0.6).astype(int)
    error = metrics.expected_calibration_error(probs, labels)
    assert abs(error - 0.3005) < Z * np.sqrt(0.6 * 0.4 / num_examples)


def test_noise_is_what_calibrated_predictions_show():
    num_examples, num_repeats = 300, 150
    rng = np.random.default_rng(1)
    probs = calibrated_data(0, num_examples)[0]
    errors = []
    for _ in range(num_repeats):
        labels = (rng.random((num_examples, 1)) > probs.cumsum(axis=1)).sum(axis=1)
        errors.append(metrics.expected_calibration_error(probs, np.minimum(labels, 2)))
    noise = metrics.expected_calibration_error_noise(probs, rng, num_simulations=1000)
    spread = np.std(errors) * np.sqrt(1 / num_repeats + 1 / 1000)
    assert abs(noise.mean - np.mean(errors)) < Z * spread
    exceeded = np.mean(np.asarray(errors) > noise.high)  # 5% expected, the quantile's own error included
    assert abs(exceeded - 0.05) < Z * np.sqrt(0.05 * 0.95 * (1 / num_repeats + 1 / 1000))
    assert noise.mean > 0.03  # far from the 0 that "perfectly calibrated" suggests


def test_noise_shrinks_with_the_square_root_of_the_examples():
    probs = calibrated_data(2, 500)[0]
    noise = [
        metrics.expected_calibration_error_noise(np.tile(probs, (copies, 1)), np.random.default_rng(0), 10)
        for copies in (1, 16)
    ]
    assert noise[0].mean / noise[1].mean == pytest.approx(4, rel=0.1)
    assert noise[0].mean < noise[0].high


def test_certain_predictions_have_no_noise_and_the_generator_decides():
    rng = np.random.default_rng(0)
    assert metrics.expected_calibration_error_noise(two_class(np.ones(9)), rng) == (0.0, 0.0)
    probs = calibrated_data(0, 30)[0]
    first, second = (metrics.expected_calibration_error_noise(probs, np.random.default_rng(5)) for _ in range(2))
    assert first == second


def test_reliability_curve_by_hand_and_wilson_interval_by_scipy():
    probs, labels = calibrated_data(3, 200)
    curve = metrics.reliability_curve(probs, labels, num_bins=5, level=0.9)
    assert np.all(np.diff(curve.confidence) > 0)
    assert curve.num_examples.tolist() == [40] * 5
    order = np.argsort(probs.max(axis=1)).reshape(5, 40)
    right = probs.argmax(axis=1) == labels
    np.testing.assert_allclose(curve.accuracy, right[order].mean(axis=1))
    np.testing.assert_allclose(curve.confidence, probs.max(axis=1)[order].mean(axis=1))
    for bin_right, low, high in zip(right[order].sum(axis=1), curve.low, curve.high, strict=True):
        wilson = stats.binomtest(int(bin_right), 40).proportion_ci(0.9, method="wilson")
        assert (low, high) == pytest.approx((wilson.low, wilson.high), abs=1e-12)


# --- regression -----------------------------------------------------------------------------------


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_regression_error_is_the_integral(pit):
    values = np.sort(pit)

    def gap(p):
        return abs(np.searchsorted(values, p, side="right") / values.size - p)

    edges = np.unique(np.concatenate(([0.0], values, np.arange(values.size + 1) / values.size, [1.0])))
    pieces = [integrate.quad(gap, a, b, epsabs=1e-13)[0] for a, b in pairwise(edges)]
    assert metrics.calibration_error_regression(pit) == pytest.approx(sum(pieces), abs=1e-9)


def test_regression_error_of_known_cases():
    assert metrics.calibration_error_regression([0.0, 0.0]) == 0.5  # always far below the prediction
    assert metrics.calibration_error_regression([1.0]) == 0.5
    assert metrics.calibration_error_regression([0.5] * 10) == 0.25  # far too wide
    assert metrics.calibration_error_regression([0.0, 1.0]) == 0.25  # far too narrow
    grid = (np.arange(100) + 0.5) / 100
    assert metrics.calibration_error_regression(grid) == pytest.approx(1 / 400)


def test_regression_error_of_a_calibrated_predictive_has_the_stated_size():
    rng = np.random.default_rng(0)
    num_examples, num_repeats = 400, 500
    errors = [metrics.calibration_error_regression(rng.random(num_examples)) for _ in range(num_repeats)]
    spread = np.std(errors) / np.sqrt(num_repeats)
    assert abs(np.mean(errors) - np.sqrt(np.pi / 32 / num_examples)) < Z * spread
    assert np.sqrt(np.pi / 32) == pytest.approx(0.313, abs=5e-4)


def test_quantile_curve_of_an_overconfident_predictive():
    # Truth N(0, 1), predictive N(0, ½²): P(Φ(2 y) ≤ p) = Φ(Φ⁻¹(p) / 2).
    rng = np.random.default_rng(0)
    num_examples = 5000
    curve = metrics.quantile_calibration_curve(stats.norm.cdf(2 * rng.normal(size=num_examples)), level=1 - 1e-5)
    np.testing.assert_allclose(curve.expected, np.arange(1, 20) / 20)
    truth = stats.norm.cdf(stats.norm.ppf(curve.expected) / 2)
    assert np.all((curve.low < truth) & (truth < curve.high))
    assert not np.all((curve.low < curve.expected) & (curve.expected < curve.high))  # the control: not calibrated
    assert np.all((curve.low < curve.observed) & (curve.observed < curve.high))


def test_quantile_curve_counts_values_at_the_quantile():
    curve = metrics.quantile_calibration_curve([0.0, 0.5, 1.0, 1.0], num_quantiles=1)
    np.testing.assert_array_equal(curve.observed, [0.5])


# --- inputs ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: metrics.expected_calibration_error([[0.2, 0.2]], [0]), r"probs\[0\] sums to 0.4"),
        (lambda: metrics.adaptive_calibration_error([[0.5, 0.5]], [3]), r"labels\[0\] is 3"),
        (
            lambda: metrics.expected_calibration_error([[0.5, 0.5]], [0], 0),
            r"num_bins is 0; it must be a whole",
        ),
        (lambda: metrics.reliability_curve([[0.5, 0.5]], [0], 2.5), r"num_bins is 2.5"),
        (lambda: metrics.reliability_curve([[0.5, 0.5]], [0], level=1.0), r"level is 1.0"),
        (
            lambda: metrics.calibration_error_regression([0.2, 1.2]),
            r"pit\[1\] is 1.2: it must lie in \[0, 1\]",
        ),
        (lambda: metrics.calibration_error_regression([np.nan]), r"pit\[0\] is nan"),
        (lambda: metrics.quantile_calibration_curve([]), r"pit is empty"),
        (lambda: metrics.quantile_calibration_curve([[0.5]]), r"pit has shape \(1, 1\)"),
    ],
)
def test_unusable_inputs_are_refused(call, message):
    with pytest.raises(DataError, match=message):
        call()
