"""Proper scores against closed forms, libraries, numerical integration and Monte Carlo."""

import numpy as np
import pytest
import sklearn.metrics
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, stats

from bayesify import metrics
from bayesify.errors import DataError

# Two-sided normal quantile of a failure rate of 1e-5 per statistical comparison.
Z = 4.42


def random_classification(seed, num_examples=40, num_classes=4):
    rng = np.random.default_rng(seed)
    probs = rng.dirichlet(np.ones(num_classes), size=num_examples)
    return probs, rng.integers(num_classes, size=num_examples)


def integrated_crps(cdf, y, low, high):
    """∫ (F(t) − 1[y ≤ t])² dt, split at the jump."""
    below = integrate.quad(lambda t: cdf(t) ** 2, low, y, limit=400, epsabs=1e-11)[0]
    above = integrate.quad(lambda t: (1 - cdf(t)) ** 2, y, high, limit=400, epsabs=1e-11)[0]
    return below + above


# --- classification -------------------------------------------------------------------------------


def test_log_loss_and_brier_by_hand():
    probs = [[0.5, 0.5, 0.0], [0.2, 0.3, 0.5]]
    np.testing.assert_allclose(metrics.log_loss(probs, [0, 2]), [np.log(2), np.log(2)])
    np.testing.assert_allclose(metrics.brier(probs, [0, 2]), [0.5, 0.04 + 0.09 + 0.25])
    np.testing.assert_array_equal(metrics.correct(probs, [0, 1]), [1.0, 0.0])
    assert metrics.accuracy(probs, [0, 1]) == 0.5


@given(st.integers(0, 10_000), st.integers(2, 6))
def test_classification_scores_agree_with_scikit_learn(seed, num_classes):
    probs, labels = random_classification(seed, num_classes=num_classes)
    classes = np.arange(num_classes)
    expected = sklearn.metrics.log_loss(labels, probs, labels=classes)
    np.testing.assert_allclose(metrics.log_loss(probs, labels).mean(), expected, rtol=1e-12)
    expected = sklearn.metrics.brier_score_loss(labels, probs, labels=classes, scale_by_half=False)
    np.testing.assert_allclose(metrics.brier(probs, labels).mean(), expected, rtol=1e-12)
    assert metrics.accuracy(probs, labels) == sklearn.metrics.accuracy_score(labels, probs.argmax(1))


@given(st.integers(0, 10_000), st.permutations(range(4)))
def test_relabelled_classes_and_permuted_examples_give_the_same_scores(seed, relabelling):
    probs, labels = random_classification(seed)
    new_name = np.asarray(relabelling)  # class c becomes class new_name[c]
    relabelled = np.empty_like(probs)
    relabelled[:, new_name] = probs
    order = np.random.default_rng(seed).permutation(len(labels))
    for score in (metrics.log_loss, metrics.brier, metrics.correct):
        before = score(probs, labels)
        np.testing.assert_allclose(score(relabelled, new_name[labels]), before, rtol=1e-12, atol=1e-15)
        np.testing.assert_array_equal(score(probs[order], labels[order]), before[order])


def test_probability_zero_costs_infinity_and_one_costs_nothing():
    probs = [[0.0, 1.0], [0.0, 1.0], [1e-300, 1.0]]
    losses = metrics.log_loss(probs, [0, 1, 0])
    assert losses[0] == np.inf
    assert losses[1] == 0.0
    assert not np.signbit(losses[1])
    assert losses[2] == pytest.approx(300 * np.log(10))
    np.testing.assert_array_equal(metrics.brier(probs, [0, 1, 1]), [2.0, 0.0, 0.0])


def test_softmax_of_huge_logits_is_scored_without_overflow():
    logits = torch.tensor([[1e6, -1e6, 0.0], [-1e30, 1e30, 0.0]], dtype=torch.float32)
    probs, labels = logits.softmax(-1), torch.tensor([0, 0])
    np.testing.assert_array_equal(metrics.log_loss(probs, labels), [0.0, np.inf])
    np.testing.assert_array_equal(metrics.brier(probs, labels), [0.0, 2.0])
    log_prob = torch.distributions.Categorical(logits=logits).log_prob(labels)
    losses = metrics.negative_log_likelihood(log_prob)  # the predictive's log probability does not underflow
    assert losses[0] == 0.0
    assert losses[1] == pytest.approx(2e30, rel=1e-6)


@given(st.integers(0, 10_000))
def test_expected_log_loss_and_brier_are_smallest_at_the_truth(seed):
    rng = np.random.default_rng(seed)
    truth, other = rng.dirichlet(np.ones(3), size=2)
    for score in (metrics.log_loss, metrics.brier):

        def expected(stated, score=score):
            return truth @ score(np.tile(stated, (3, 1)), np.arange(3))

        excess = expected(other) - expected(truth)
        assert excess > 0
        if score is metrics.brier:  # its divergence is the squared distance
            assert excess == pytest.approx(np.square(other - truth).sum(), rel=1e-9)
        else:
            assert excess == pytest.approx(stats.entropy(truth, other), rel=1e-9)


def test_negative_log_likelihood_keeps_minus_infinity_and_refuses_plus_infinity():
    np.testing.assert_array_equal(metrics.negative_log_likelihood([0.0, -np.inf, 2.0]), [0.0, np.inf, -2.0])
    with pytest.raises(DataError, match=r"log_prob\[1\] is inf: the predictive's scale is 0"):
        metrics.negative_log_likelihood([0.0, np.inf])


# --- regression -----------------------------------------------------------------------------------


@given(st.integers(0, 10_000))
def test_errors_agree_with_scikit_learn(seed):
    y, mean = np.random.default_rng(seed).normal(size=(2, 17))
    assert metrics.rmse(y, mean) == pytest.approx(sklearn.metrics.root_mean_squared_error(y, mean))
    assert metrics.mae(y, mean) == pytest.approx(sklearn.metrics.mean_absolute_error(y, mean))
    np.testing.assert_allclose(metrics.squared_error(y, mean), metrics.absolute_error(y, mean) ** 2)


def test_targets_with_several_outputs_are_scored_element_by_element():
    y = np.arange(6.0).reshape(3, 2)
    assert metrics.squared_error(y, y + 2).shape == (3, 2)
    assert metrics.rmse(y, y + 2) == 2.0
    assert metrics.crps_samples(y, np.stack([y, y + 1, y])).shape == (3, 2)
    assert metrics.crps_gaussian_mixture(y, np.stack([y, y]), np.ones((2, 3, 2))).shape == (3, 2)


@pytest.mark.parametrize(("y", "mean", "scale"), [(0.0, 0.0, 1.0), (3.0, 1.0, 0.5), (-2.0, 5.0, 2.0), (0.1, 0, 9)])
def test_crps_gaussian_is_the_integral(y, mean, scale):
    distribution = stats.norm(mean, scale)
    expected = integrated_crps(distribution.cdf, y, min(y, mean) - 12 * scale, max(y, mean) + 12 * scale)
    assert metrics.crps_gaussian([y], [mean], [scale])[0] == pytest.approx(expected, abs=1e-8)


def test_crps_mixture_is_the_integral():
    rng = np.random.default_rng(0)
    y, means, scales = rng.normal(size=6), 2 * rng.normal(size=(5, 6)), rng.gamma(2.0, size=(5, 6))
    result = metrics.crps_gaussian_mixture(y, means, scales)
    for b in range(6):

        def cdf(t, b=b):
            return stats.norm.cdf(t, means[:, b], scales[:, b]).mean()

        assert result[b] == pytest.approx(integrated_crps(cdf, y[b], -80, 80), abs=1e-7)


@given(st.integers(0, 10_000), st.integers(1, 5))
def test_crps_mixture_of_equal_components_is_the_gaussian(seed, num_components):
    rng = np.random.default_rng(seed)
    y, mean, scale = rng.normal(size=8), rng.normal(size=8), rng.gamma(1.0, size=8)
    tiled = [np.tile(values, (num_components, 1)) for values in (mean, scale)]
    expected = metrics.crps_gaussian(y, mean, scale)
    np.testing.assert_allclose(metrics.crps_gaussian_mixture(y, *tiled), expected, rtol=1e-10, atol=1e-13)


@given(st.integers(0, 10_000), st.floats(0.01, 100), st.floats(-50, 50))
def test_crps_moves_and_scales_with_the_target(seed, factor, offset):
    rng = np.random.default_rng(seed)
    y, means, scales = rng.normal(size=5), rng.normal(size=(4, 5)), rng.gamma(1.0, size=(4, 5))
    moved = [factor * values + offset for values in (y, means)]
    tolerance = {"rtol": 1e-8, "atol": 1e-11 * factor}
    np.testing.assert_allclose(
        metrics.crps_gaussian_mixture(*moved, factor * scales),
        factor * metrics.crps_gaussian_mixture(y, means, scales),
        **tolerance,
    )
    np.testing.assert_allclose(metrics.crps_samples(*moved), factor * metrics.crps_samples(y, means), **tolerance)
    np.testing.assert_allclose(
        metrics.crps_gaussian(*(moved[0], moved[1][0]), factor * scales[0]),
        factor * metrics.crps_gaussian(y, means[0], scales[0]),
        **tolerance,
    )


def test_crps_of_point_masses_is_the_absolute_error():
    y, mean = np.array([0.0, 1.0, -3.0]), np.array([0.0, 4.0, -3.5])
    np.testing.assert_allclose(metrics.crps_gaussian(y, mean, np.zeros(3)), np.abs(y - mean))
    np.testing.assert_allclose(metrics.crps_gaussian_mixture(y, [mean], np.zeros((1, 3))), np.abs(y - mean))
    # Two point masses at 0 and 1, y = 0: ∫₀¹ (1 − ½)² dt.
    np.testing.assert_allclose(metrics.crps_gaussian_mixture([0.0], [[0.0], [1.0]], [[0.0], [0.0]]), [0.25])


def test_crps_gaussian_at_extreme_ratios():
    far = metrics.crps_gaussian([1e200, 0.0, 1e8], [0.0, 0.0, 1e8], [1e-200, 1e200, 1e-8])
    constant = (np.sqrt(2) - 1) / np.sqrt(np.pi)  # CRPS of N(0, 1) at its centre
    np.testing.assert_allclose(far, [1e200, constant * 1e200, constant * 1e-8], rtol=1e-12)


def test_expected_crps_is_smallest_at_the_truth():
    # E_{y ~ N(0,1)} CRPS(N(m, s²), y), by Gauss–Hermite quadrature; the truth is m = 0, s = 1.
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)

    def expected(mean, scale):
        stated = [np.full_like(nodes, value) for value in (mean, scale)]
        return weights @ metrics.crps_gaussian(nodes, *stated) / weights.sum()

    best = expected(0.0, 1.0)
    assert best == pytest.approx(1 / np.sqrt(np.pi), rel=1e-4)  # ½ E|X − X'|
    others = [(0.05, 1.0), (-0.05, 1.0), (0.0, 0.9), (0.0, 1.1), (1.0, 1.0), (0.0, 3.0)]
    assert all(expected(*other) > best for other in others)


@pytest.mark.parametrize("num_samples", [2, 3, 50])
def test_crps_samples_equals_the_double_sum(num_samples):
    rng = np.random.default_rng(num_samples)
    y, samples = rng.normal(size=7), rng.normal(size=(num_samples, 7))
    pairs = np.abs(samples[:, None] - samples[None]).sum((0, 1)) / (num_samples * (num_samples - 1))
    expected = np.abs(samples - y).mean(0) - 0.5 * pairs
    np.testing.assert_allclose(metrics.crps_samples(y, samples), expected, atol=1e-13)


def test_crps_samples_loses_no_digits_to_a_common_offset():
    rng = np.random.default_rng(0)
    y, samples = rng.integers(-40, 40, size=7) / 4, rng.integers(-40, 40, size=(50, 7)) / 4
    offset = 2.0**50  # quarters are still exact there, products with 49 are not
    expected = metrics.crps_samples(y, samples)
    np.testing.assert_allclose(metrics.crps_samples(y + offset, samples + offset), expected, atol=1e-12)


@pytest.mark.parametrize("num_samples", [2, 5])
def test_crps_samples_is_unbiased_for_any_number_of_draws(num_samples):
    rng = np.random.default_rng(3)
    num_repeats = 40_000
    y = np.full(num_repeats, 0.7)
    estimates = metrics.crps_samples(y, rng.normal(size=(num_samples, num_repeats)))
    truth = metrics.crps_gaussian([0.7], [0.0], [1.0])[0]
    error = estimates.std(ddof=1) / np.sqrt(num_repeats)
    assert abs(estimates.mean() - truth) < Z * error
    # The control: the plain (1/S²) estimator is off by E|X − X'| / (2 S), far outside the tolerance.
    assert 2 / np.sqrt(np.pi) / (2 * num_samples) > 5 * Z * error


def test_crps_samples_refuses_a_single_draw():
    with pytest.raises(DataError, match=r"1 draw.*absolute_error"):
        metrics.crps_samples([0.0], [[1.0]])


# --- intervals ------------------------------------------------------------------------------------


def test_interval_score_by_hand():
    y, low, high = [0.0, -1.0, 5.0], [-1.0, 0.0, 1.0], [1.0, 2.0, 3.0]
    np.testing.assert_allclose(metrics.interval_score(y, low, high, 0.9), [2.0, 2 + 20 * 1, 2 + 20 * 2])
    np.testing.assert_array_equal(metrics.interval_covered(y, low, high), [1.0, 0.0, 0.0])
    assert metrics.interval_coverage(y, low, high) == pytest.approx(1 / 3)
    np.testing.assert_array_equal(metrics.interval_width(low, high), [2.0, 2.0, 2.0])
    assert metrics.interval_coverage([1.0, 2.0], [1.0, 1.0], [3.0, 2.0]) == 1.0  # bounds belong to the interval


@given(st.integers(0, 10_000), st.floats(0.05, 0.95))
def test_interval_score_is_the_sum_of_two_pinball_losses(seed, level):
    rng = np.random.default_rng(seed)
    y, (low, high) = rng.normal(size=20), np.sort(rng.normal(size=(2, 20)), axis=0)
    alpha = 1 - level
    pinball = [
        sklearn.metrics.mean_pinball_loss([a], [b], alpha=share)
        for a, b, c in zip(y, low, high, strict=True)
        for b, share in ((b, alpha / 2), (c, 1 - alpha / 2))
    ]
    expected = np.reshape(pinball, (20, 2)).sum(1) * 2 / alpha
    np.testing.assert_allclose(metrics.interval_score(y, low, high, level), expected, rtol=1e-9, atol=1e-12)


def test_expected_interval_score_is_smallest_at_the_true_quantiles():
    y = stats.norm.ppf((np.arange(200_000) + 0.5) / 200_000)  # a standard normal, without noise
    truth = stats.norm.ppf([0.1, 0.9])

    def expected(low, high):
        return metrics.interval_score(y, np.full_like(y, low), np.full_like(y, high), 0.8).mean()

    best = expected(*truth)
    for shift in ([-0.1, 0], [0.1, 0], [0, -0.1], [0, 0.1], [-0.1, 0.1], [0.2, 0.2]):
        assert expected(*(truth + shift)) > best


def test_infinite_bounds_cover_everything_at_infinite_cost():
    assert metrics.interval_coverage([3.0], [-np.inf], [np.inf]) == 1.0
    assert metrics.interval_score([3.0], [-np.inf], [5.0], 0.9)[0] == np.inf


# --- inputs ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("probs", "labels", "message"),
    [
        ([[0.5, 0.4]], [0], r"probs\[0\] sums to 0.9, not 1 within 0.001. Pass probabilities, not logits"),
        ([[0.5, 0.5], [1.5, -0.5]], [0, 0], r"probs\[1, 1\] is -0.5: a probability cannot be negative"),
        ([[0.5, np.nan]], [0], r"probs\[0, 1\] is nan: NaN has no score"),
        ([[np.inf, -np.inf]], [0], r"probs\[0\] sums to nan"),
        ([[1.0]], [0], r"one class only.*np.stack"),
        ([0.5, 0.5], [0], r"probs has shape \(2,\); this score needs 2 axes"),
        (np.empty((0, 2)), [], r"probs is empty \(shape \(0, 2\)\)"),
        ([[0.5, 0.5]], [2], r"labels\[0\] is 2: probs has 2 classes, numbered 0 to 1"),
        ([[0.5, 0.5]] * 3, [0, -1, -1], r"labels\[1\] is -1 \(2 of 3 values\)"),
        ([[0.5, 0.5]], [0.5], r"labels\[0\] is 0.5: a label is a whole number"),
        ([[0.5, 0.5]], [0, 1], r"there are 2 labels for 1 examples"),
        ([[0.5, 0.5]], [[0]], r"labels has shape \(1, 1\); this score needs one axis"),
        ([[0.5, 0.5]], ["cat"], r"labels cannot be read as real numbers: its type is <U3"),
        ([[0.5, 0.5j]], [0], r"probs cannot be read as real numbers: its type is complex128"),
        ([[0.5, 0.5], [1.0]], [0], r"probs cannot be read as real numbers"),
        (torch.full((1, 2), 0.5, requires_grad=True), [0], r"probs cannot be read.*detached CPU tensor"),
    ],
)
def test_unusable_class_probabilities_and_labels_are_refused(probs, labels, message):
    for score in (metrics.log_loss, metrics.brier, metrics.correct, metrics.accuracy):
        with pytest.raises(DataError, match=message):
            score(probs, labels)


def test_rounding_of_float32_and_float16_is_accepted():
    rng = np.random.default_rng(0)
    logits = torch.from_numpy(rng.normal(size=(50, 10)))
    labels = rng.integers(10, size=50)
    exact = metrics.log_loss(logits.softmax(-1), labels)
    for dtype, tolerance in ((torch.float32, 1e-6), (torch.float16, 2e-2)):
        np.testing.assert_allclose(metrics.log_loss(logits.softmax(-1).to(dtype), labels), exact, rtol=tolerance)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: metrics.rmse([1.0, 2.0], [[1.0], [2.0]]), r"shapes differ: y \(2,\), mean \(2, 1\)"),
        (lambda: metrics.mae([], []), r"y is empty"),
        (lambda: metrics.mae(1.0, 1.0), r"y has shape \(\); this score needs at least one axis"),
        (lambda: metrics.squared_error([np.inf], [0.0]), r"y\[0\] is inf"),
        (lambda: metrics.crps_gaussian([0.0], [0.0], [-1.0]), r"scale\[0\] is -1: a standard deviation"),
        (
            lambda: metrics.crps_samples([0.0, 1.0], np.zeros((2, 5))),
            r"\(2, 5\), but y has \(2,\): pass \(S, 2\)",
        ),
        (
            lambda: metrics.crps_gaussian_mixture([0.0], [[0.0]], [[1.0], [1.0]]),
            r"means \(1, 1\), scales \(2, 1\)",
        ),
        (
            lambda: metrics.interval_score([0.0], [0.0], [1.0], 90),
            r"level is 90; it must lie strictly between",
        ),
        (
            lambda: metrics.interval_score([0.0], [1.0], [0.0], 0.9),
            r"interval 0 runs from 1 to 0: it is empty",
        ),
        (lambda: metrics.interval_width([np.inf], [np.inf]), r"interval 0 runs from inf to inf"),
    ],
)
def test_unusable_regression_inputs_are_refused(call, message):
    with pytest.raises(DataError, match=message):
        call()
