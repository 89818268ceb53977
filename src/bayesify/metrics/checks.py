"""What every score demands of its inputs, said once.

Scores are the last thing between a method and its verdict: a NaN, a broadcast (B,) against (B, 1) or a
probability vector that sums to 0.9 would give a number that looks fine. So everything is refused that is not
exactly what the score is defined on, with the offending value in the message.
"""

import numbers

import numpy as np
import numpy.typing as npt

from bayesify.errors import DataError

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

# float16 class probabilities sum to 1 within about 1e-3; a forgotten softmax is off by far more.
SUM_TOLERANCE = 1e-3
# float32 arithmetic leaves [0, 1] by a few units of its 1e-7 spacing.
RANGE_TOLERANCE = 1e-6


def as_array(values: npt.ArrayLike, name: str, *, ndim: int | None = None) -> FloatArray:
    """Read numbers as a float64 array with at least one element and no NaN; infinities pass.

    Args:
        values: anything `numpy.asarray` reads, CPU tensors included.
        name: how the message calls it.
        ndim: the number of axes; None accepts any number but zero.

    Raises:
        DataError: not numbers, wrong number of axes, empty, or NaN.
    """
    try:
        array = np.asarray(values)
        if array.dtype.kind not in "biufO":
            raise TypeError(f"its type is {array.dtype}")
        array = array.astype(np.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        cause = str(error).splitlines()[0].rstrip(".")
        raise DataError(
            f"{name} cannot be read as real numbers: {cause}. "
            "Pass a NumPy array or a detached CPU tensor of float32 or float64."
        ) from error
    if array.ndim == 0 or (ndim is not None and array.ndim != ndim):
        wanted = "at least one axis" if ndim is None else f"{ndim} axes" if ndim > 1 else "one axis"
        raise DataError(f"{name} has shape {array.shape}; this score needs {wanted}. Reshape it.")
    if array.size == 0:
        raise DataError(f"{name} is empty (shape {array.shape}): there is nothing to score. Pass data.")
    _refuse(np.isnan(array), array, name, "NaN has no score; find where the values became NaN")
    return array


def as_finite(values: npt.ArrayLike, name: str, *, ndim: int | None = None) -> FloatArray:
    """Like `as_array`, and refuses infinities."""
    array = as_array(values, name, ndim=ndim)
    _refuse(np.isinf(array), array, name, "the score of an infinite value is not defined; remove or bound it")
    return array


def as_log_probs(values: npt.ArrayLike, name: str, *, ndim: int | None = None) -> FloatArray:
    """Read log probabilities or log densities: −∞ passes, +∞ does not."""
    array = as_array(values, name, ndim=ndim)
    reason = "the predictive's scale is 0 there; give the likelihood a noise scale above 0"
    _refuse(np.isposinf(array), array, name, reason)
    return array


def as_scales(values: npt.ArrayLike, name: str) -> FloatArray:
    """Read standard deviations: finite and not negative; zero is a point mass."""
    array = as_finite(values, name)
    _refuse(array < 0, array, name, "a standard deviation cannot be negative")
    return array


def as_unit(values: npt.ArrayLike, name: str, *, ndim: int | None = None) -> FloatArray:
    """Read numbers from [0, 1]; those that rounding put outside are moved to the border."""
    array = as_array(values, name, ndim=ndim)
    outside = (array < -RANGE_TOLERANCE) | (array > 1 + RANGE_TOLERANCE)
    _refuse(outside, array, name, "it must lie in [0, 1]")
    return np.clip(array, 0.0, 1.0)


def as_probs(probs: npt.ArrayLike, name: str = "probs", *, ndim: int | None = 2) -> FloatArray:
    """Read class probabilities (..., C) with C >= 2 that sum to 1 within 1e-3; they are not rescaled."""
    array = as_array(probs, name, ndim=ndim)
    if array.shape[-1] < 2:
        raise DataError(
            f"{name} has shape {array.shape}: one class only. "
            "For two classes pass both columns, np.stack([1 - p, p], axis=-1)."
        )
    with np.errstate(invalid="ignore"):  # ∞ − ∞ is NaN, which the next line refuses
        sums = array.sum(axis=-1)
    wrong = ~(np.abs(sums - 1) <= SUM_TOLERANCE)
    if wrong.any():
        place = first_place(wrong)
        raise DataError(
            f"{_entry(name, place)} sums to {sums[place]:.6g}, not 1 within {SUM_TOLERANCE:g}. "
            "Pass probabilities, not logits: softmax(logits, -1)."
        )
    # A row within the tolerance may hold one entry slightly above 1: its sum was checked, so it is clipped.
    _refuse(array < -RANGE_TOLERANCE, array, name, "a probability cannot be negative")
    return np.clip(array, 0.0, 1.0)


def as_labels(labels: npt.ArrayLike, num_examples: int, num_classes: int) -> IntArray:
    """Read class numbers 0 … num_classes − 1, one per example.

    Raises:
        DataError: wrong length, fractions, or a label outside the range.
    """
    array = as_array(labels, "labels", ndim=1)
    if array.size != num_examples:
        raise DataError(f"there are {array.size} labels for {num_examples} examples. Pass one label per example.")
    _refuse(array != np.floor(array), array, "labels", "a label is a whole number, the index of its class")
    outside = (array < 0) | (array >= num_classes)
    _refuse(outside, array, "labels", f"probs has {num_classes} classes, numbered 0 to {num_classes - 1}")
    return array.astype(np.int64)


def same_shape(**arrays: FloatArray) -> None:
    """Refuse arrays of different shapes: broadcasting (B,) against (B, 1) would score every pair."""
    shapes = {name: array.shape for name, array in arrays.items()}
    if len(set(shapes.values())) > 1:
        listed = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise DataError(f"shapes differ: {listed}. Reshape them to agree; nothing is broadcast.")


def open_unit(value: float, name: str) -> float:
    """A number strictly between 0 and 1, such as a level."""
    if not 0 < value < 1:
        raise DataError(f"{name} is {value!r}; it must lie strictly between 0 and 1, such as 0.9.")
    return float(value)


def positive_int(value: int, name: str) -> int:
    """A whole number of at least 1, such as a number of bins."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < 1:
        raise DataError(f"{name} is {value!r}; it must be a whole number of at least 1.")
    return int(value)


def first_place(wrong: npt.NDArray[np.bool_]) -> tuple[int, ...]:
    """The index of the first True."""
    return tuple(int(axis) for axis in np.unravel_index(np.argmax(wrong), wrong.shape))


def subscript(place: tuple[int, ...]) -> str:
    """An index or shape in words for a message: ``3, 0``."""
    return ", ".join(str(index) for index in place)


def _refuse(wrong: npt.NDArray[np.bool_], array: FloatArray, name: str, reason: str) -> None:
    """Raise with the first offending value, its place and the number of offenders."""
    count = int(wrong.sum())
    if count:
        place = first_place(wrong)
        more = f" ({count} of {array.size} values)" if count > 1 else ""
        raise DataError(f"{_entry(name, place)} is {array[place]:g}{more}: {reason}.")


def _entry(name: str, place: tuple[int, ...]) -> str:
    return f"{name}[{subscript(place)}]" if place else name
