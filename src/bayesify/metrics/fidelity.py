"""How close is a predictive to a reference, such as that of a long HMC run?

The three measures of Izmailov et al. ("What are Bayesian neural network posteriors really like?", 2021) and
of the NeurIPS 2021 competition on approximate inference. Closeness to the reference is not quality: the
reference may be miscalibrated itself, so never fold these into a score.
"""

import numpy as np
import numpy.typing as npt

from bayesify.errors import DataError
from bayesify.metrics.checks import FloatArray, as_finite, as_probs, same_shape


def agrees(probs: npt.ArrayLike, reference_probs: npt.ArrayLike) -> FloatArray:
    """1 where both predictives have the same most probable class, else 0, (B,); of ties the first counts.

    Args:
        probs: class probabilities (B, C).
        reference_probs: class probabilities of the reference (B, C).

    Raises:
        DataError: probabilities that do not sum to 1 within 1e-3, NaN, empty, or different shapes.
    """
    ours, reference = _pair(probs, reference_probs)
    return np.asarray(ours.argmax(axis=-1) == reference.argmax(axis=-1), dtype=np.float64)


def agreement(probs: npt.ArrayLike, reference_probs: npt.ArrayLike) -> float:
    """The share of test points on which both predict the same class: the mean of `agrees`; 1 is identical."""
    return float(agrees(probs, reference_probs).mean())


def total_variation(probs: npt.ArrayLike, reference_probs: npt.ArrayLike) -> FloatArray:
    """½ Σ_c |p_c − q_c| of every test point, (B,), from 0 (identical) to 1; published is the mean.

    Arguments and errors as for `agrees`.
    """
    ours, reference = _pair(probs, reference_probs)
    return np.asarray(0.5 * np.abs(ours - reference).sum(axis=-1))


def wasserstein1(samples: npt.ArrayLike, reference_samples: npt.ArrayLike) -> FloatArray:
    """∫ |F⁻¹(p) − G⁻¹(p)| dp between two sample sets, for every test point, (B,), in the unit of y.

    The competition reports minus its mean (and calls it W2, but it is W1). It is exact for the two sample
    sets; two sets of S draws from the same distribution still differ by order S^(−½).

    Args:
        samples: predictive draws (S, B).
        reference_samples: draws of the reference (R, B); R may differ from S.

    Raises:
        DataError: NaN, infinite, empty, or different test points.
    """
    ours = np.sort(as_finite(samples, "samples", ndim=2), axis=0)
    reference = np.sort(as_finite(reference_samples, "reference_samples", ndim=2), axis=0)
    if ours.shape[1] != reference.shape[1]:
        raise DataError(
            f"samples has {ours.shape[1]} test points and reference_samples {reference.shape[1]}. "
            "Draws come first: (S, B) and (R, B)."
        )
    num_samples, num_reference = len(ours), len(reference)
    # Both quantile functions are constant between the points i/S and j/R; in units of 1/(S R) these are
    # integers.
    steps = np.union1d(np.arange(num_samples) * num_reference, np.arange(num_reference) * num_samples)
    width = np.diff(steps, append=num_samples * num_reference) / (num_samples * num_reference)
    distance = np.abs(ours[steps // num_reference] - reference[steps // num_samples])
    return np.asarray(width @ distance)


def _pair(probs: npt.ArrayLike, reference_probs: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
    ours, reference = as_probs(probs), as_probs(reference_probs, "reference_probs")
    same_shape(probs=ours, reference_probs=reference)
    return ours, reference
