"""Proper scores, one value per example, so that methods can be compared in pairs.

Everything is a loss (lower is better) except `correct`, `accuracy`, `interval_covered` and
`interval_coverage`. Functions return one float64 per target value, in the shape of the target; take `.mean()`
for the score of a data set. Four are averages by name and return a float: `accuracy`, `rmse`, `mae`,
`interval_coverage`. Logarithms are natural.

Notation: B examples, C classes, S draws or mixture components. Targets may have any shape with at least one
axis; the other arguments must have exactly that shape (nothing is broadcast).
"""

import numpy as np
import numpy.typing as npt

from bayesify.errors import DataError
from bayesify.metrics.checks import (
    FloatArray,
    as_array,
    as_finite,
    as_labels,
    as_log_probs,
    as_probs,
    as_scales,
    first_place,
    open_unit,
    same_shape,
    subscript,
)


def negative_log_likelihood(log_prob: npt.ArrayLike) -> FloatArray:
    """−log p(y | x) of every example, from the predictive log probability or log density.

    −∞ (the predictive excluded what happened) gives +∞. +∞ is refused: a density that is infinite at the
    target has scale 0, and one such example would hide all others.

    Raises:
        DataError: NaN, +∞ or empty.
    """
    return 0.0 - as_log_probs(log_prob, "log_prob")  # 0 − x, so that log 1 costs +0.0


def log_loss(probs: npt.ArrayLike, labels: npt.ArrayLike) -> FloatArray:
    """−log p(label) of every example, (B,).

    There is no floor: a label that was given probability 0 costs +∞, as it should. Where the 0 only comes
    from float32 underflow of a softmax, use `negative_log_likelihood` of the predictive's `log_prob`, which
    does not underflow.

    Args:
        probs: class probabilities (B, C).
        labels: class numbers (B,).

    Raises:
        DataError: probabilities that do not sum to 1 within 1e-3, labels out of range, NaN, empty.
    """
    array, index = _classification(probs, labels)
    chosen = array[np.arange(index.size), index]
    with np.errstate(divide="ignore"):
        return 0.0 - np.log(chosen)  # 0 − x, so that log 1 costs +0.0


def brier(probs: npt.ArrayLike, labels: npt.ArrayLike) -> FloatArray:
    """Multi-class Brier score Σ_c (p_c − 1[c = label])², (B,), between 0 and 2 (Brier, 1950).

    With two classes it is twice the binary score (p − y)². Arguments and errors as for `log_loss`.
    """
    array, index = _classification(probs, labels)
    residual = array.copy()
    residual[np.arange(index.size), index] -= 1
    return _floats(np.square(residual).sum(axis=-1))


def correct(probs: npt.ArrayLike, labels: npt.ArrayLike) -> FloatArray:
    """1 where the most probable class is the label, else 0, (B,); of ties the first counts, as in argmax.

    Arguments and errors as for `log_loss`.
    """
    array, index = _classification(probs, labels)
    return np.asarray(array.argmax(axis=-1) == index, dtype=np.float64)


def accuracy(probs: npt.ArrayLike, labels: npt.ArrayLike) -> float:
    """The share of examples whose most probable class is the label: the mean of `correct`."""
    return float(correct(probs, labels).mean())


def squared_error(y: npt.ArrayLike, mean: npt.ArrayLike) -> FloatArray:
    """(y − mean)² of every example."""
    return np.square(_residual(y, mean))


def rmse(y: npt.ArrayLike, mean: npt.ArrayLike) -> float:
    """Root of the mean squared error over all examples (and outputs)."""
    return float(np.sqrt(squared_error(y, mean).mean()))


def absolute_error(y: npt.ArrayLike, mean: npt.ArrayLike) -> FloatArray:
    """|y − mean| of every example; as `mean` pass the median, which minimises the expected error."""
    return np.abs(_residual(y, mean))


def mae(y: npt.ArrayLike, mean: npt.ArrayLike) -> float:
    """Mean absolute error over all examples (and outputs)."""
    return float(absolute_error(y, mean).mean())


def crps_gaussian(y: npt.ArrayLike, mean: npt.ArrayLike, scale: npt.ArrayLike) -> FloatArray:
    """Continuous ranked probability score ∫ (F(t) − 1[y ≤ t])² dt of N(mean, scale²), in the unit of y.

    Closed form of Gneiting et al. (2005). A scale of 0 is a point mass: the score is then |y − mean|.

    Raises:
        DataError: NaN, infinite, negative scale, empty, or different shapes.
    """
    target, centre, spread = as_finite(y, "y"), as_finite(mean, "mean"), as_scales(scale, "scale")
    same_shape(y=target, mean=centre, scale=spread)
    score = _expected_absolute(target - centre, spread) - spread / np.sqrt(np.pi)
    return _floats(np.maximum(score, 0.0))  # the score is not negative; rounding may be


def crps_gaussian_mixture(y: npt.ArrayLike, means: npt.ArrayLike, scales: npt.ArrayLike) -> FloatArray:
    """CRPS of the equally weighted mixture of S normal distributions, exactly (Grimit et al., 2006).

    E|X − y| − ½ E|X − X'| with X, X' independent draws of the mixture; both are averages of E|N(m, s²)| over
    components and pairs of components. Cost: S² B / 2 error functions.

    Args:
        y: targets, any shape, say (B,).
        means: component means (S, B).
        scales: component standard deviations (S, B); 0 is a point mass.

    Raises:
        DataError: NaN, infinite, negative scale, empty, or shapes that do not fit.
    """
    target, centres, spreads = as_finite(y, "y"), as_finite(means, "means"), as_scales(scales, "scales")
    same_shape(means=centres, scales=spreads)
    _one_per_draw(target, centres, "means")
    num_components = len(centres)
    accuracy_term = _expected_absolute(target - centres, spreads).mean(axis=0)
    pairs = np.zeros_like(target)
    for first in range(num_components):  # one row of pairs at a time: S² B numbers at once would not fit
        rest = slice(first + 1, None)
        difference = _expected_absolute(centres[rest] - centres[first], np.hypot(spreads[rest], spreads[first]))
        pairs += 2 * difference.sum(axis=0)
    pairs += (2 / np.sqrt(np.pi)) * spreads.sum(axis=0)  # a component with itself: E|N(0, 2 s²)| = 2 s / √π
    return _floats(np.maximum(accuracy_term - 0.5 * pairs / num_components**2, 0.0))


def crps_samples(y: npt.ArrayLike, samples: npt.ArrayLike) -> FloatArray:
    """CRPS estimated from S independent draws of the predictive: the fair estimator (Ferro, 2014).

    mean_i |x_i − y| − Σ_{i<j} |x_i − x_j| / (S (S − 1)): unbiased for every S, so methods with different
    numbers of draws can be compared. Single values may therefore be slightly negative. Cost: S log S per
    example.

    Args:
        y: targets, any shape, say (B,).
        samples: draws (S, B), S ≥ 2.

    Raises:
        DataError: one draw only, NaN, infinite, empty, or shapes that do not fit.
    """
    target, draws = as_finite(y, "y"), as_finite(samples, "samples")
    _one_per_draw(target, draws, "samples")
    num_samples = len(draws)
    if num_samples < 2:
        raise DataError(
            "samples holds 1 draw, and the spread of one draw cannot be estimated. "
            "Draw at least 2, or use absolute_error for a point prediction."
        )
    ordered = np.sort(draws, axis=0)
    rank = np.arange(1, num_samples + 1, dtype=np.float64)
    # Σ_{i<j} (x_(j) − x_(i)) = Σ_i (2i − S − 1) x_(i); measured from the median, since the weights sum to 0
    # and a large common offset would only cost digits.
    centred = ordered - ordered[num_samples // 2]
    pairs = np.tensordot(2 * rank - num_samples - 1, centred, axes=1)
    error = np.abs(draws - target).mean(axis=0)
    return _floats(error - pairs / (num_samples * (num_samples - 1)))


def interval_score(y: npt.ArrayLike, low: npt.ArrayLike, high: npt.ArrayLike, level: float) -> FloatArray:
    """Width plus 2/(1 − level) times the distance by which y lies outside (Gneiting & Raftery, 2007, eq. 43).

    Proper for the central interval that is to hold y with probability `level`. Bounds may be infinite (a
    conformal interval that could not be bounded); the score is then +∞.

    Raises:
        DataError: level outside (0, 1), low above high, NaN, empty, or different shapes.
    """
    miss = 1 - open_unit(level, "level")
    target, lower, upper = _interval(y, low, high)
    outside = np.maximum(lower - target, 0.0) + np.maximum(target - upper, 0.0)
    return (upper - lower) + (2 / miss) * outside


def interval_covered(y: npt.ArrayLike, low: npt.ArrayLike, high: npt.ArrayLike) -> FloatArray:
    """1 where low ≤ y ≤ high, else 0."""
    target, lower, upper = _interval(y, low, high)
    return ((lower <= target) & (target <= upper)).astype(np.float64)


def interval_coverage(y: npt.ArrayLike, low: npt.ArrayLike, high: npt.ArrayLike) -> float:
    """The share of targets inside their interval: compare with the level that was asked for."""
    return float(interval_covered(y, low, high).mean())


def interval_width(low: npt.ArrayLike, high: npt.ArrayLike) -> FloatArray:
    """Upper minus lower bound of every interval."""
    lower, upper = _bounds(low, high)
    return upper - lower


def _classification(probs: npt.ArrayLike, labels: npt.ArrayLike) -> tuple[FloatArray, npt.NDArray[np.int64]]:
    array = as_probs(probs)
    return array, as_labels(labels, *array.shape)


def _residual(y: npt.ArrayLike, mean: npt.ArrayLike) -> FloatArray:
    target, centre = as_finite(y, "y"), as_finite(mean, "mean")
    same_shape(y=target, mean=centre)
    return target - centre


def _bounds(low: npt.ArrayLike, high: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
    lower, upper = as_array(low, "low"), as_array(high, "high")
    same_shape(low=lower, high=upper)
    empty = (lower > upper) | np.isposinf(lower) | np.isneginf(upper)
    if empty.any():
        place = first_place(empty)
        raise DataError(
            f"interval {subscript(place)} runs from {lower[place]:g} to {upper[place]:g}: it is empty. "
            "Pass the lower bounds first."
        )
    return lower, upper


def _interval(y: npt.ArrayLike, low: npt.ArrayLike, high: npt.ArrayLike) -> tuple[FloatArray, FloatArray, FloatArray]:
    target, (lower, upper) = as_finite(y, "y"), _bounds(low, high)
    same_shape(y=target, low=lower, high=upper)
    return target, lower, upper


def _one_per_draw(target: FloatArray, draws: FloatArray, name: str) -> None:
    if draws.shape[1:] != target.shape:
        raise DataError(
            f"{name} has shape {draws.shape}, but y has {target.shape}: pass (S, {subscript(target.shape)}), "
            "draws first."
        )


def _expected_absolute(mean: FloatArray, scale: FloatArray) -> FloatArray:
    """E|N(mean, scale²)| = 2 s φ(m/s) + m (2 Φ(m/s) − 1); |mean| for scale 0."""
    from scipy.special import erf

    with np.errstate(over="ignore"):  # a ratio beyond float64 is the limit that infinity stands for
        ratio = np.divide(mean, scale, out=np.copysign(np.inf, mean), where=scale > 0)
        density = np.exp(-0.5 * np.square(ratio)) / np.sqrt(2 * np.pi)
    return _floats(2 * scale * density + mean * erf(ratio / np.sqrt(2)))


def _floats(values: npt.ArrayLike) -> FloatArray:
    return np.asarray(values, dtype=np.float64)
