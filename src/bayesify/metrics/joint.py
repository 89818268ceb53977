"""Joint predictive scores: does one function explain several examples together?

    log p(y_1 … y_τ | x_1 … x_τ) = log (1/S) Σ_s Π_t p_s(y_t | x_t)        (1)

Marginal scores (τ = 1) cannot tell a posterior over functions from independent noise; joint ones can (Osband
et al., "The Neural Testbed", 2022). For random inputs in high dimension the terms are nearly independent and
(1) again says little, so `dyadic_blocks` repeats two anchor examples ("Evaluating high-order predictive
distributions", Osband et al., 2022): the labels of an anchor are the same each time, so a predictive that
commits to a function is rewarded.

With S draws of a larger posterior (1) is biased low, the more so the longer the block: compare at equal S, or
at the S that each method really predicts with. An ensemble has S = its members, exactly.
"""

import numpy as np
import numpy.typing as npt

from bayesify.errors import DataError
from bayesify.metrics.checks import FloatArray, IntArray, as_array, as_log_probs, positive_int


def joint_log_prob(log_probs: npt.ArrayLike) -> float:
    """Log probability of all B targets together, log (1/S) Σ_s exp Σ_b log_probs[s, b]: (1) with τ = B.

    Args:
        log_probs: log p_s(y_b | x_b) of each draw (S, B); −∞ is allowed.

    Raises:
        DataError: NaN, +∞, empty, or not two axes.
    """
    return float(_log_mean_exp(as_log_probs(log_probs, "log_probs", ndim=2).sum(axis=-1)))


def blockwise_joint_log_prob(log_probs: npt.ArrayLike, blocks: npt.ArrayLike) -> FloatArray:
    """Joint log probability (1) of each block of examples, (M,); the joint score of order τ is its mean.

    Args:
        log_probs: log p_s(y_b | x_b) of each draw (S, B); −∞ is allowed.
        blocks: example numbers (M, τ) from `random_blocks` or `dyadic_blocks`; an example may
            come repeatedly.

    Raises:
        DataError: NaN, +∞, empty, not two axes, or a block that names an example that does not exist.
    """
    values = as_log_probs(log_probs, "log_probs", ndim=2)
    index = as_array(blocks, "blocks", ndim=2)
    num_examples = values.shape[1]
    wrong = (index != np.floor(index)) | (index < 0) | (index >= num_examples)
    if wrong.any():
        raise DataError(
            f"blocks holds {index[wrong][0]:g}; log_probs has {num_examples} examples, "
            f"numbered 0 to {num_examples - 1}."
        )
    positions = index.astype(np.int64)
    total = np.zeros((len(values), len(positions)))  # (S, M)
    for column in positions.T:  # adding τ columns needs S M numbers at once, gathering them all S M τ
        total += values[:, column]
    return _log_mean_exp(total)


def random_blocks(num_examples: int, order: int, rng: np.random.Generator) -> IntArray:
    """Split the examples at random into disjoint blocks of `order`, (num_examples // order, order).

    Examples left over are dropped. Order 1 gives the marginal log probabilities.

    Raises:
        DataError: fewer examples than one block needs.
    """
    size, total = positive_int(order, "order"), positive_int(num_examples, "num_examples")
    if total < size:
        raise DataError(f"{total} examples do not fill one block of {size}. Use an order of at most {total}.")
    return rng.permutation(total)[: total // size * size].reshape(-1, size)


def dyadic_blocks(num_examples: int, rng: np.random.Generator, order: int = 10, *, num_anchors: int = 2) -> IntArray:
    """Blocks of `order` examples drawn with replacement from `num_anchors` anchors each.

    Every example is an anchor once (those that do not fill a block are dropped), so there are
    num_examples // num_anchors blocks. Call again for more blocks from other pairs.

    Raises:
        DataError: fewer examples than anchors.
    """
    anchors = random_blocks(num_examples, num_anchors, rng)  # (M, κ)
    chosen = rng.integers(num_anchors, size=(len(anchors), positive_int(order, "order")))
    return np.take_along_axis(anchors, chosen, axis=1)


def _log_mean_exp(values: FloatArray) -> FloatArray:
    """Log mean exp over the first axis without overflow or underflow; −∞ where all are −∞."""
    return np.asarray(np.logaddexp.reduce(values, axis=0) - np.log(len(values)))
