"""Corrupted rows of tables at five severities: what sensors, forms and pipelines do to columns.

Strengths are in units of the training rows' standard deviations, so that they mean the same in every column. Rows are
corrupted before they are encoded, so that a method sees what it would see in use. Numbers with two values only, and
text, are only ever replaced; dates are only ever swapped.
"""

import zlib
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from bayesify.datasets.columns import is_date, is_text

if TYPE_CHECKING:
    import pandas as pd

OUTLIER_REACH = 5.0  # standard deviations


class Columns(NamedTuple):
    """What the training rows say of the columns of numbers."""

    mean: np.ndarray  # (q,)
    scale: np.ndarray  # (q,)


Numeric = Callable[[np.ndarray, Columns, float, np.random.Generator], np.ndarray]
"""(n, q) numbers, their columns, the strength and a generator → (n, q)."""


def corrupt_table(frame: "pd.DataFrame", train: "pd.DataFrame", name: str, severity: int, seed: int) -> "pd.DataFrame":
    """Corrupted copies of rows.

    Args:
        frame: rows of plain columns.
        train: the training rows of the same columns.
        name: a key of ``TABLE_CORRUPTIONS``.
        severity: from 1 to 5.
        seed: of everything random.

    Returns:
        A new frame of the same shape.
    """
    strength = TABLE_CORRUPTIONS[name][severity - 1]
    rng = np.random.default_rng([seed, zlib.crc32(name.encode()), severity])
    if name == "missing":
        return _missing(frame, train, strength, rng)
    if name == "swapped":
        return _swapped(frame, train, strength, rng)
    names = number_columns(train)
    values = train[names].to_numpy(dtype=np.float64)
    columns = Columns(np.nanmean(values, 0), np.nanstd(values, 0))
    changed = NUMERIC[name](frame[names].to_numpy(dtype=np.float64), columns, strength, rng)
    return frame.assign(**{column: changed[:, number] for number, column in enumerate(names)})


def table_corruptions(train: "pd.DataFrame") -> tuple[str, ...]:
    """Those that change anything: without numbers, values can only be missing or swapped."""
    return tuple(name for name in TABLE_CORRUPTIONS if name not in NUMERIC or number_columns(train))


def number_columns(train: "pd.DataFrame") -> list[str]:
    """Columns of numbers with three values or more among the training rows."""
    return [
        name
        for name in train.columns
        if not is_text(train[name]) and not is_date(train[name]) and train[name].nunique() > 2
    ]


def _noise(values: np.ndarray, columns: Columns, strength: float, rng: np.random.Generator) -> np.ndarray:
    return values + strength * columns.scale * rng.standard_normal(values.shape)


def _outliers(values: np.ndarray, columns: Columns, share: float, rng: np.random.Generator) -> np.ndarray:
    hit = rng.random(values.shape) < share
    return np.where(hit, values + OUTLIER_REACH * columns.scale * rng.choice([-1.0, 1.0], values.shape), values)


def _offset(values: np.ndarray, columns: Columns, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Every column drifts, all rows alike."""
    return np.asarray(values + strength * columns.scale * rng.choice([-1.0, 1.0], values.shape[1]))


def _gain(values: np.ndarray, columns: Columns, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Every column's spread grows or shrinks, all rows alike."""
    factor = (1 + strength) ** rng.choice([-1.0, 1.0], values.shape[1])
    return np.asarray(columns.mean + factor * (values - columns.mean))


def _rounding(values: np.ndarray, columns: Columns, step: float, rng: np.random.Generator) -> np.ndarray:
    del rng
    grid = np.where(columns.scale > 0, step * columns.scale, 1.0)
    return np.asarray(columns.mean + grid * np.round((values - columns.mean) / grid))


def _missing(frame: "pd.DataFrame", train: "pd.DataFrame", share: float, rng: np.random.Generator) -> "pd.DataFrame":
    """Values lost at random and filled with the training mean, or the most frequent value where there is none."""
    numbers = set(number_columns(train))
    changed = {}
    for name in frame.columns:
        lost = rng.random(len(frame)) < share
        if is_date(train[name]) or not train[name].notna().any():
            continue
        if name in numbers:
            values = frame[name].to_numpy(dtype=np.float64)
            changed[name] = np.where(lost, float(train[name].mean()), values)
        else:
            changed[name] = frame[name].mask(lost, train[name].mode().iloc[0])
    return frame.assign(**changed)


def _swapped(frame: "pd.DataFrame", train: "pd.DataFrame", share: float, rng: np.random.Generator) -> "pd.DataFrame":
    """Values replaced by those of other rows: every column keeps its distribution, rows lose their sense."""
    changed = {}
    for name in frame.columns:
        hit = rng.random(len(frame)) < share
        donors = train[name].iloc[rng.integers(len(train), size=len(frame))].set_axis(frame.index)
        changed[name] = frame[name].mask(hit, donors)
    return frame.assign(**changed)


NUMERIC: dict[str, Numeric] = {
    "noise": _noise,
    "outliers": _outliers,
    "offset": _offset,
    "gain": _gain,
    "rounding": _rounding,
}

TABLE_CORRUPTIONS: dict[str, tuple[float, ...]] = {
    "noise": (0.1, 0.2, 0.4, 0.7, 1.0),  # standard deviations
    "outliers": (0.01, 0.02, 0.05, 0.1, 0.2),  # share of values
    "offset": (0.1, 0.2, 0.4, 0.7, 1.0),  # standard deviations
    "gain": (0.2, 0.5, 1.0, 1.5, 2.0),  # added to a factor of 1
    "rounding": (0.25, 0.5, 1.0, 1.5, 2.0),  # the step, standard deviations
    "missing": (0.05, 0.1, 0.2, 0.35, 0.5),  # share of values
    "swapped": (0.05, 0.1, 0.2, 0.35, 0.5),  # share of values
}
"""By name: strengths at severities 1 to 5."""
