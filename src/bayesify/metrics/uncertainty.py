"""How uncertain, and why: too little knowledge (epistemic) or a world that is noisy (aleatoric).

Entropies are in nats. S draws from the posterior come first; then any shape of examples, say B; classes C
come last.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from bayesify.errors import DataError
from bayesify.metrics.checks import FloatArray, as_finite, as_probs, as_scales, same_shape


class VarianceDecomposition(NamedTuple):
    """total = epistemic + aleatoric, each (B,)."""

    total: FloatArray
    epistemic: FloatArray
    aleatoric: FloatArray


def entropy(probs: npt.ArrayLike) -> FloatArray:
    """−Σ_c p_c log p_c of class probabilities (..., C), with 0 log 0 = 0; between 0 and log C.

    Raises:
        DataError: probabilities that do not sum to 1 within 1e-3, NaN or empty.
    """
    return _entropy(as_probs(probs, ndim=None))


def predictive_entropy(probs: npt.ArrayLike) -> FloatArray:
    """Total uncertainty: the entropy of the averaged draws, (B,).

    Args:
        probs: class probabilities of every draw (S, B, C).

    Raises:
        DataError: probabilities that do not sum to 1 within 1e-3, NaN, empty, or fewer than two axes.
    """
    return _entropy(_draws(probs).mean(axis=0))


def expected_entropy(probs: npt.ArrayLike) -> FloatArray:
    """Aleatoric uncertainty: the mean entropy of the draws, (B,). Arguments as for `predictive_entropy`."""
    return np.asarray(_entropy(_draws(probs)).mean(axis=0))


def mutual_information(probs: npt.ArrayLike) -> FloatArray:
    """Epistemic uncertainty: `predictive_entropy` − `expected_entropy`, (B,) (BALD; Houlsby et al., 2011).

    0 where all draws agree, at most min(log C, log S). Arguments as for `predictive_entropy`.
    """
    draws = _draws(probs)
    difference = _entropy(draws.mean(axis=0)) - _entropy(draws).mean(axis=0)
    return np.asarray(np.maximum(difference, 0.0))  # entropy is concave: below 0 is rounding, of the order of 1e-16


def variance_decomposition(means: npt.ArrayLike, scales: npt.ArrayLike) -> VarianceDecomposition:
    """Law of total variance for an equally weighted mixture of S predictive distributions.

    The variance of the means is epistemic, the mean of the variances aleatoric. The S draws are the mixture
    itself, not a sample from a larger one, so the first divides by S; with S = 1 it is 0.

    Args:
        means: predictive mean of every draw (S, B).
        scales: predictive standard deviation of every draw (S, B).

    Raises:
        DataError: NaN, infinite, negative scale, empty, or different shapes.
    """
    centres, spreads = as_finite(means, "means"), as_scales(scales, "scales")
    same_shape(means=centres, scales=spreads)
    if centres.ndim < 2:
        raise DataError(f"means has shape {centres.shape}; draws come first, then examples: (S, B).")
    epistemic = centres.var(axis=0)
    aleatoric = np.square(spreads).mean(axis=0)
    return VarianceDecomposition(epistemic + aleatoric, epistemic, aleatoric)


def _draws(probs: npt.ArrayLike) -> FloatArray:
    array = as_probs(probs, ndim=None)
    if array.ndim < 2:
        raise DataError(f"probs has shape {array.shape}; draws come first and classes last: (S, B, C).")
    return array


def _entropy(probs: FloatArray) -> FloatArray:
    logarithm = np.log(np.where(probs > 0, probs, 1.0))
    return np.asarray(np.maximum(-(probs * logarithm).sum(axis=-1), 0.0))  # +0.0 for a sure prediction
