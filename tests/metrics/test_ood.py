"""Detection scores against scikit-learn and direct counting."""

import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given
from hypothesis import strategies as st

from bayesify import metrics
from bayesify.errors import DataError

scores = st.lists(st.integers(0, 6).map(float), min_size=1, max_size=30)  # few values, so many ties


@given(scores, scores)
def test_auroc_counts_pairs_with_ties_as_half(inside, outside):
    difference = np.subtract.outer(outside, inside)
    expected = np.mean((difference > 0) + 0.5 * (difference == 0))
    assert metrics.auroc(inside, outside) == pytest.approx(expected, abs=1e-12)


@given(scores, scores)
def test_detection_scores_agree_with_scikit_learn(inside, outside):
    labels = np.repeat([0, 1], [len(inside), len(outside)])
    joined = np.concatenate([inside, outside])
    assert metrics.auroc(inside, outside) == pytest.approx(sklearn.metrics.roc_auc_score(labels, joined))
    assert metrics.aupr(inside, outside) == pytest.approx(sklearn.metrics.average_precision_score(labels, joined))


@given(scores, scores)
def test_fpr95_is_the_best_threshold(inside, outside):
    inside, outside = np.asarray(inside), np.asarray(outside)
    rates = [
        np.mean(inside >= threshold)
        for threshold in np.concatenate([inside, outside])
        if np.count_nonzero(outside >= threshold) * 20 >= 19 * outside.size
    ]
    assert metrics.fpr95(inside, outside) == pytest.approx(min(rates))


@given(scores, scores)
def test_swapped_and_negated_is_the_other_convention(inside, outside):
    negated = [-np.asarray(outside), -np.asarray(inside)]
    assert metrics.auroc(*negated) == pytest.approx(metrics.auroc(inside, outside))
    assert metrics.auroc(outside, inside) == pytest.approx(1 - metrics.auroc(inside, outside))


@given(scores, scores, st.integers(0, 1000))
def test_only_the_order_of_the_scores_matters(inside, outside, seed):
    rng = np.random.default_rng(seed)
    changed = [np.exp(rng.permutation(values)) - 5 for values in (inside, outside)]
    for score in (metrics.auroc, metrics.aupr, metrics.fpr95):
        assert score(*changed) == pytest.approx(score(inside, outside), abs=1e-12)


def test_perfect_reversed_and_constant_scores():
    low, high = np.arange(40.0), np.arange(100.0, 140.0)
    assert (metrics.auroc(low, high), metrics.aupr(low, high), metrics.fpr95(low, high)) == (1.0, 1.0, 0.0)
    assert (metrics.auroc(high, low), metrics.fpr95(high, low)) == (0.0, 1.0)
    constant = np.zeros(40)
    assert (metrics.auroc(constant, constant), metrics.fpr95(constant, constant)) == (0.5, 1.0)
    assert metrics.aupr(constant, np.zeros(10)) == pytest.approx(0.2)  # the share of out-of-distribution examples


def test_exactly_95_percent_is_enough():
    # 19 of 20 lie above all in-distribution examples, the last below.
    assert metrics.fpr95([0.0], [-1.0] + [1.0] * 19) == 0.0
    assert metrics.fpr95([0.0], [-1.0] * 2 + [1.0] * 18) == 1.0


def test_infinite_and_huge_scores_are_ranked():
    assert metrics.auroc([-np.inf, 0.0, 1e308], [np.inf, np.inf]) == 1.0
    assert metrics.fpr95([1.0, np.inf], [np.inf]) == 0.5
    tiny = 1.0 + np.array([0.0, 2.3e-16])  # neighbours in float64 are different scores
    assert metrics.auroc(tiny[:1], tiny[1:]) == 1.0


@pytest.mark.parametrize("score", [metrics.auroc, metrics.aupr, metrics.fpr95])
def test_unusable_scores_are_refused(score):
    with pytest.raises(DataError, match=r"out_scores is empty"):
        score([1.0], [])
    with pytest.raises(DataError, match=r"in_scores\[1\] is nan"):
        score([1.0, np.nan], [2.0])
    with pytest.raises(DataError, match=r"in_scores has shape \(1, 1\)"):
        score([[1.0]], [2.0])
