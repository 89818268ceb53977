"""Joint log probabilities against direct products and an exact evidence; blocks by their structure."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special, stats

from bayesify import metrics
from bayesify.errors import DataError

Z = 4.42  # failure rate 1e-5 per statistical comparison


@given(st.integers(0, 10_000), st.integers(1, 6), st.integers(1, 12))
def test_joint_log_prob_is_the_mean_of_products(seed, num_draws, num_examples):
    probs = np.random.default_rng(seed).uniform(0.05, 1, size=(num_draws, num_examples))
    expected = np.log(probs.prod(axis=1).mean())
    assert metrics.joint_log_prob(np.log(probs)) == pytest.approx(expected, abs=1e-12)


@given(st.integers(0, 10_000), st.integers(1, 6))
def test_blocks_are_the_joint_of_their_examples(seed, num_draws):
    rng = np.random.default_rng(seed)
    log_probs = rng.normal(size=(num_draws, 9))
    blocks = rng.integers(9, size=(5, 4))
    expected = [metrics.joint_log_prob(log_probs[:, block]) for block in blocks]
    np.testing.assert_allclose(metrics.blockwise_joint_log_prob(log_probs, blocks), expected, atol=1e-12)


def test_order_one_is_the_marginal_and_one_block_of_all_is_the_joint():
    log_probs = np.random.default_rng(0).normal(size=(4, 6))
    marginal = special.logsumexp(log_probs, axis=0) - np.log(4)
    single = metrics.blockwise_joint_log_prob(log_probs, np.arange(6)[:, None])
    np.testing.assert_allclose(single, marginal, atol=1e-12)
    joint = metrics.blockwise_joint_log_prob(log_probs, [np.arange(6)])[0]
    assert joint == pytest.approx(metrics.joint_log_prob(log_probs), abs=1e-12)


def test_one_draw_makes_the_joint_the_sum_of_the_marginals():
    log_probs = np.random.default_rng(0).normal(size=(1, 6))
    assert metrics.joint_log_prob(log_probs) == pytest.approx(log_probs.sum())


def test_log_space_survives_what_probabilities_would_not():
    log_probs = np.array([[-1e5, -1e5], [-2e5, 0.0]])
    assert metrics.joint_log_prob(log_probs) == pytest.approx(-2e5)  # both −2e5: log mean of equals
    assert metrics.joint_log_prob([[-np.inf, 0.0], [0.0, 0.0]]) == pytest.approx(np.log(0.5))
    assert metrics.joint_log_prob([[-np.inf, 0.0], [0.0, -np.inf]]) == -np.inf
    assert metrics.joint_log_prob([[500.0] * 4]) == 2000.0  # densities may exceed 1


def test_joint_log_prob_converges_to_the_evidence_of_a_conjugate_model():
    # θ ~ N(0, 1), y_b | θ ~ N(θ, 1): jointly N(0, I + 1 1ᵀ).
    # Draws from the prior, so the average is the evidence.
    rng = np.random.default_rng(0)
    y, num_draws = np.array([0.3, -0.2, 0.9]), 200_000
    log_probs = stats.norm.logpdf(y, rng.normal(size=(num_draws, 1)))
    exact = stats.multivariate_normal(np.zeros(3), np.eye(3) + 1).logpdf(y)
    likelihood = np.exp(log_probs.sum(axis=1))
    error = likelihood.std() / likelihood.mean() / np.sqrt(num_draws)  # of the log, by the delta method
    assert abs(metrics.joint_log_prob(log_probs) - exact) < Z * error
    # The control: the marginals alone are far off.
    assert abs(stats.norm.logpdf(y, 0, np.sqrt(2)).sum() - exact) > 10 * Z * error


def test_joint_rewards_committing_to_a_function_where_marginals_do_not():
    # Two draws, each sure of one of two consistent worlds, against two that hedge: equal marginals.
    committed = np.log([[0.9, 0.9], [0.1, 0.1]])
    hedged = np.log([[0.5, 0.5], [0.5, 0.5]])
    single = np.arange(2)[:, None]
    np.testing.assert_allclose(
        metrics.blockwise_joint_log_prob(committed, single), metrics.blockwise_joint_log_prob(hedged, single)
    )
    assert metrics.joint_log_prob(committed) > metrics.joint_log_prob(hedged) + 0.4


@given(st.integers(1, 40), st.integers(1, 8), st.integers(0, 1000))
def test_random_blocks_are_disjoint(num_examples, order, seed):
    rng = np.random.default_rng(seed)
    if order > num_examples:
        with pytest.raises(DataError, match=f"{num_examples} examples do not fill one block of {order}"):
            metrics.random_blocks(num_examples, order, rng)
        return
    blocks = metrics.random_blocks(num_examples, order, rng)
    assert blocks.shape == (num_examples // order, order)
    assert len(np.unique(blocks)) == blocks.size
    assert blocks.min() >= 0
    assert blocks.max() < num_examples


@given(st.integers(2, 41), st.integers(0, 1000))
def test_dyadic_blocks_repeat_two_anchors_that_no_other_block_has(num_examples, seed):
    blocks = metrics.dyadic_blocks(num_examples, np.random.default_rng(seed))
    assert blocks.shape == (num_examples // 2, 10)
    anchors = [set(block) for block in blocks.tolist()]
    assert all(len(pair) <= 2 for pair in anchors)
    assert sum(map(len, anchors)) == len(set().union(*anchors))


def test_dyadic_blocks_choose_anchors_evenly_and_by_the_generator_alone():
    first, second = (metrics.dyadic_blocks(20_000, np.random.default_rng(7)) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    times = (first == first[:, :1]).sum(axis=1) - 1  # repetitions of the first entry among the other nine
    assert abs(times.mean() - 4.5) < Z * 1.5 / np.sqrt(len(first))  # Binomial(9, ½)
    three = metrics.dyadic_blocks(9, np.random.default_rng(0), order=50, num_anchors=3)
    assert [len(set(block)) for block in three.tolist()] == [3, 3, 3]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: metrics.joint_log_prob([0.0]), r"log_probs has shape \(1,\); this score needs 2 axes"),
        (lambda: metrics.joint_log_prob([[np.nan]]), r"log_probs\[0, 0\] is nan"),
        (lambda: metrics.joint_log_prob([[np.inf]]), r"log_probs\[0, 0\] is inf"),
        (lambda: metrics.joint_log_prob(np.empty((0, 3))), r"log_probs is empty"),
        (
            lambda: metrics.blockwise_joint_log_prob([[0.0, 0.0]], [[0, 2]]),
            r"blocks holds 2.*numbered 0 to 1",
        ),
        (lambda: metrics.blockwise_joint_log_prob([[0.0, 0.0]], [[-1]]), r"blocks holds -1"),
        (lambda: metrics.blockwise_joint_log_prob([[0.0, 0.0]], [[0.5]]), r"blocks holds 0.5"),
        (lambda: metrics.random_blocks(5, 0, np.random.default_rng(0)), r"order is 0"),
        (
            lambda: metrics.dyadic_blocks(1, np.random.default_rng(0)),
            r"1 examples do not fill one block of 2",
        ),
    ],
)
def test_unusable_inputs_are_refused(call, message):
    with pytest.raises(DataError, match=message):
        call()
