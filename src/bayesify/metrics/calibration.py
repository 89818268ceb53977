"""Calibration: do stated probabilities come true as often as they say?

Bins hold equal numbers of examples, not equal ranges of confidence: a network that is sure of nearly
everything would put all examples into one range, and the other ranges' noise would decide. Bins are cut by
value, so examples with equal confidence always share a bin and the order of the examples never matters.

The binned error of a perfectly calibrated predictor is not 0 but of order √(bins / examples):
`expected_calibration_error_noise` says how large it is for the predictions at hand. Calibration errors are
not proper scores (predicting the class frequencies everywhere is calibrated and useless): report them beside
one.

Notation: B examples, C classes.
"""

from statistics import NormalDist
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from bayesify.metrics.checks import (
    FloatArray,
    IntArray,
    as_labels,
    as_probs,
    as_unit,
    open_unit,
    positive_int,
)


class ReliabilityCurve(NamedTuple):
    """Stated confidence against observed accuracy, one entry per bin, in order of confidence."""

    confidence: FloatArray
    accuracy: FloatArray
    num_examples: IntArray
    low: FloatArray
    high: FloatArray


class QuantileCalibrationCurve(NamedTuple):
    """Stated probability of lying below a quantile against the observed share, with its interval."""

    expected: FloatArray
    observed: FloatArray
    low: FloatArray
    high: FloatArray


class CalibrationNoise(NamedTuple):
    """What a perfectly calibrated predictor would show: the average error and an upper quantile of it."""

    mean: float
    high: float


def expected_calibration_error(probs: npt.ArrayLike, labels: npt.ArrayLike, num_bins: int = 15) -> float:
    """Σ_bins (n_b / B) |accuracy_b − confidence_b| for the most probable class, with equal-mass bins.

    Naeini et al. (2015) and Guo et al. (2017) with the bins of Nixon et al. (2019). With no more examples
    than bins every example is its own bin, and the value says little.

    Args:
        probs: class probabilities (B, C).
        labels: class numbers (B,).
        num_bins: how many bins; fewer where ties leave fewer distinct confidences.

    Raises:
        DataError: probabilities that do not sum to 1 within 1e-3, labels out of range, NaN, empty.
    """
    bins = positive_int(num_bins, "num_bins")
    confidence, right = _top_label(probs, labels)
    return _binned_error(confidence, right, bins)


def class_wise_calibration_error(probs: npt.ArrayLike, labels: npt.ArrayLike, num_bins: int = 15) -> FloatArray:
    """Calibration error of each class's probability, (C,): the terms of class-wise ECE (Kull et al., 2019).

    Arguments and errors as for `expected_calibration_error`. The usual single number is the mean over
    classes, `adaptive_calibration_error`.
    """
    bins = positive_int(num_bins, "num_bins")
    array = as_probs(probs)
    index = as_labels(labels, *array.shape)
    errors = [_binned_error(column, (index == c).astype(np.float64), bins) for c, column in enumerate(array.T)]
    return np.asarray(errors)


def adaptive_calibration_error(probs: npt.ArrayLike, labels: npt.ArrayLike, num_bins: int = 15) -> float:
    """Calibration of all stated class probabilities: ACE of Nixon et al. (2019), the mean over classes.

    Bins are weighted by their examples, which is the paper's 1/R where no ties make them unequal. With many
    classes most probabilities are near 0 and well calibrated, so the value shrinks as C grows: compare it
    only at equal C.
    """
    return float(class_wise_calibration_error(probs, labels, num_bins).mean())


def expected_calibration_error_noise(
    probs: npt.ArrayLike,
    rng: np.random.Generator,
    num_bins: int = 15,
    *,
    num_simulations: int = 200,
    level: float = 0.95,
) -> CalibrationNoise:
    """The `expected_calibration_error` these predictions would show if they were perfectly calibrated.

    Labels are drawn from the predictions themselves and scored in the same bins (the consistency resampling
    of Bröcker & Smith, 2007). An error below `high` is no evidence of miscalibration.

    Args:
        probs: class probabilities (B, C).
        rng: source of the simulated labels.
        num_bins: as for the error it is compared with.
        num_simulations: how many sets of labels are drawn.
        level: `high` is this quantile of the simulated errors.

    Raises:
        DataError: as `expected_calibration_error`, or a level outside (0, 1).
    """
    bins, repeats = positive_int(num_bins, "num_bins"), positive_int(num_simulations, "num_simulations")
    quantile = open_unit(level, "level")
    confidence = as_probs(probs).max(axis=-1)
    index = _equal_mass_bins(confidence, bins)
    errors = np.empty(repeats)
    for repeat in range(repeats):
        right = (rng.random(confidence.size) < confidence).astype(np.float64)
        errors[repeat] = np.abs(np.bincount(index, right - confidence)).sum() / confidence.size
    return CalibrationNoise(mean=float(errors.mean()), high=float(np.quantile(errors, quantile)))


def reliability_curve(
    probs: npt.ArrayLike, labels: npt.ArrayLike, num_bins: int = 15, *, level: float = 0.95
) -> ReliabilityCurve:
    """Mean confidence and accuracy of the most probable class per equal-mass bin, with Wilson intervals.

    Args:
        probs: class probabilities (B, C).
        labels: class numbers (B,).
        num_bins: how many bins; fewer where ties leave fewer distinct confidences.
        level: confidence level of the intervals `low` … `high` for each bin's accuracy (Wilson, 1927).

    Raises:
        DataError: as `expected_calibration_error`, or a level outside (0, 1).
    """
    bins = positive_int(num_bins, "num_bins")
    confidence, right = _top_label(probs, labels)
    index = _equal_mass_bins(confidence, bins)
    count = np.bincount(index)
    share = np.bincount(index, right) / count
    low, high = _wilson(share, count, level)
    return ReliabilityCurve(np.bincount(index, confidence) / count, share, count.astype(np.int64), low, high)


def quantile_calibration_curve(
    pit: npt.ArrayLike, num_quantiles: int = 19, *, level: float = 0.95
) -> QuantileCalibrationCurve:
    """How often the target lies below each predicted quantile (Kuleshov et al., 2018).

    Args:
        pit: predictive CDF at the target, F_i(y_i), (B,): uniform on [0, 1] if the predictive is calibrated.
            For discrete targets pass randomised values, else they cannot be uniform.
        num_quantiles: the curve is taken at j / (num_quantiles + 1), j = 1 … num_quantiles.
        level: confidence level of the Wilson intervals for the observed shares.

    Raises:
        DataError: values outside [0, 1], NaN, empty, or a level outside (0, 1).
    """
    values = np.sort(as_unit(pit, "pit", ndim=1))
    steps = positive_int(num_quantiles, "num_quantiles")
    expected = np.arange(1, steps + 1) / (steps + 1)
    observed = np.searchsorted(values, expected, side="right") / values.size
    low, high = _wilson(observed, np.full(steps, values.size), level)
    return QuantileCalibrationCurve(expected, observed, low, high)


def calibration_error_regression(pit: npt.ArrayLike) -> float:
    """∫₀¹ |G(p) − p| dp, where G is the empirical distribution of the CDF values; at most ½.

    The mean absolute calibration error over all quantiles at once (no grid, no bins); also the Wasserstein-1
    distance of the CDF values to uniform. A perfectly calibrated predictive shows about 0.313 / √B.

    Args:
        pit: predictive CDF at the target, F_i(y_i), (B,).

    Raises:
        DataError: values outside [0, 1], NaN or empty.
    """
    values = np.sort(as_unit(pit, "pit", ndim=1))
    edges = np.concatenate(([0.0], values, [1.0]))
    heights = np.arange(values.size + 1) / values.size  # G is constant between neighbouring values
    above, below = edges[1:] - heights, edges[:-1] - heights
    # ∫ |p − h| dp = (p − h) |p − h| / 2
    return float((above * np.abs(above) - below * np.abs(below)).sum() / 2)


def _top_label(probs: npt.ArrayLike, labels: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
    array = as_probs(probs)
    right = array.argmax(axis=-1) == as_labels(labels, *array.shape)
    return array.max(axis=-1), right.astype(np.float64)


def _equal_mass_bins(values: FloatArray, num_bins: int) -> IntArray:
    """The bin of every value, numbered from 0 in order of value, none empty, equal values together."""
    num_bins = min(num_bins, values.size)
    cuts = np.sort(values)[np.arange(1, num_bins) * values.size // num_bins]
    index = np.searchsorted(np.unique(cuts), values, side="right")
    return np.unique(index, return_inverse=True)[1].astype(np.int64)


def _binned_error(stated: FloatArray, happened: FloatArray, num_bins: int) -> float:
    index = _equal_mass_bins(stated, num_bins)
    return float(np.abs(np.bincount(index, happened - stated)).sum() / stated.size)


def _wilson(share: FloatArray, count: IntArray, level: float) -> tuple[FloatArray, FloatArray]:
    """Wilson's score interval for a proportion: stays inside [0, 1] and has width at shares 0 and 1."""
    z = NormalDist().inv_cdf((1 + open_unit(level, "level")) / 2)
    centre = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    margin = z / (1 + z**2 / count) * np.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    return np.maximum(centre - margin, 0.0), np.minimum(centre + margin, 1.0)
