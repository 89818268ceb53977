"""What is to be predicted: is it a quantity or a class, and can it be learned at all?"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from bayesify.datasets.columns import HUGE, MAX_NAMED, is_date, is_text, quoted, rows_text
from bayesify.errors import DataError, suggest

if TYPE_CHECKING:
    import pandas as pd

Kind = Literal["regression", "binary", "multiclass"]
KINDS = ("regression", "binary", "multiclass", "classification")
MIN_ROWS = 10
MAX_CLASSES = 20  # more distinct whole numbers than this are a quantity
ROWS_PER_CLASS = 3  # so are whole numbers that hardly repeat


class Target(NamedTuple):
    """Encoded target of the rows that have one."""

    values: np.ndarray  # (n,) float64 quantities or int64 class indices
    kind: Kind
    classes: tuple[str, ...] | None
    kept: np.ndarray  # row numbers of the table that have a target
    notes: tuple[str, ...]


def read_target(column: "pd.Series", kind: str | None, whose: str = "asked") -> Target:
    """Infer the kind of a plain target column (see ``columns``), check and encode it.

    Text, booleans, two distinct values and few distinct whole numbers are classes, other numbers quantities. Rows
    without a target are left out.

    Args:
        column: the target column; its name is used in messages.
        kind: "regression", "binary", "multiclass", "classification" (binary or multiclass), or None to infer it.
        whose: says where ``kind`` comes from: "as asked", "as published".

    Raises:
        DataError: the target cannot be learned or does not fit ``kind``.
    """
    if kind is not None and kind not in KINDS:
        raise DataError(f"{kind!r} is no kind of target. {suggest(kind, KINDS)}")
    name = str(column.name)
    kept = np.flatnonzero(column.notna().to_numpy())
    present = column.iloc[kept]
    notes = []
    if not len(present):
        raise DataError(f"The target {name!r} has no value in any row: choose another target column.")
    if len(present) < MIN_ROWS:
        raise DataError(
            f"Only {rows_text(len(present))} with a value of {name!r}; at least {MIN_ROWS} are needed: add rows."
        )
    if len(present) < len(column):
        notes.append(f"{rows_text(len(column) - len(present))} without a value of {name!r} left out.")
    _check_learnable(present, name)
    chosen, reason = (kind, f"as {whose}") if kind else _infer(present, name)
    if chosen == "regression":
        values, classes = _quantities(present, name), None
    else:
        values, classes = _classes(present, name, chosen)
        chosen = chosen if chosen == "multiclass" else ("binary" if len(classes) == 2 else "multiclass")
    override = "" if kind else "; say kind= to override"
    notes.insert(0, f"{name!r} is taken as {_in_words(chosen, classes)} ({reason}{override}).")
    return Target(values, chosen, classes, kept, tuple(notes))  # type: ignore[arg-type]


def _check_learnable(present: "pd.Series", name: str) -> None:
    if is_date(present):
        raise DataError(f"The target {name!r} holds dates: turn it into a number (days since ...) or choose another.")
    if present.dtype.kind == "f":
        infinite = int(np.isinf(present.to_numpy()).sum())
        if infinite:
            raise DataError(f"The target {name!r} is infinite in {rows_text(infinite)}: mend or remove these rows.")
    if present.nunique() == 1:
        what = "one class" if is_text(present) else "constant"
        raise DataError(
            f"The target {name!r} is {what} (always {quoted([_label(present.iloc[0])])}): there is nothing to predict; "
            "choose another target column."
        )


def _infer(present: "pd.Series", name: str) -> tuple[str, str]:
    """The kind, and why."""
    distinct = present.nunique()
    if is_text(present):
        _refuse_nearly_numbers(present, name)
        return "classification", f"{distinct} distinct texts"
    if present.dtype.kind == "b":
        return "classification", "true or false"
    if distinct == 2:
        return "classification", "two distinct values"
    whole = bool((present.to_numpy(dtype=np.float64) % 1 == 0).all())
    if whole and distinct <= MAX_CLASSES and len(present) >= ROWS_PER_CLASS * distinct:
        return "classification", f"{distinct} distinct whole numbers"
    return "regression", f"{distinct:,} distinct {'whole ' if whole else ''}numbers"


def _refuse_nearly_numbers(present: "pd.Series", name: str) -> None:
    import pandas as pd

    numbers = pd.to_numeric(present, errors="coerce")
    strays = present[numbers.isna()]
    if numbers.nunique() > MAX_CLASSES and len(strays):
        raise DataError(
            f"The target {name!r} is numbers but for {quoted(strays.unique())} ({rows_text(len(strays))}): "
            "mend these values or leave them empty."
        )


def _quantities(present: "pd.Series", name: str) -> np.ndarray:
    import pandas as pd

    numbers = pd.to_numeric(present, errors="coerce")
    if numbers.isna().any():
        strays = present[numbers.isna()].unique()
        raise DataError(f"The target {name!r} cannot be regressed on: {quoted(strays)} is no number.")
    values: np.ndarray = numbers.to_numpy(dtype=np.float64)
    huge = int((np.abs(values) > HUGE).sum())
    if huge:
        raise DataError(
            f"The target {name!r} is beyond {HUGE:.0e} in {rows_text(huge)}: measure it in a larger unit, "
            "or leave it empty where such a number stands for missing."
        )
    if np.std(values) <= 1e-12 * np.abs(values).max():
        raise DataError(f"The target {name!r} is constant up to rounding: subtract its mean or choose another target.")
    return values


def _classes(present: "pd.Series", name: str, kind: str) -> tuple[np.ndarray, tuple[str, ...]]:
    raw, indices, counts = np.unique(present.to_numpy(), return_inverse=True, return_counts=True)
    labels = tuple(_label(value) for value in raw)
    if kind == "binary" and len(labels) != 2:
        raise DataError(f"The target {name!r} has {len(labels)} classes, not 2: use kind='multiclass'.")
    single = [label for label, count in zip(labels, counts, strict=True) if count == 1]
    if single:
        what = "a class of one row cannot" if len(single) == 1 else "classes of one row each cannot"
        raise DataError(
            f"The target {name!r} has {quoted(single)}: {what} be in both training and test data; "
            "remove such rows, merge the classes, or use kind='regression' if it is a quantity."
        )
    return indices.astype(np.int64), labels


def _label(value: object) -> str:
    """Whole numbers without the ``.0`` that a missing value elsewhere in the column gave them."""
    if isinstance(value, float | np.floating) and float(value).is_integer():
        return str(int(value))
    return str(value)


def _in_words(kind: str, classes: Sequence[str] | None) -> str:
    if classes is None:
        return "a quantity: regression"
    names = ", ".join(classes[:MAX_NAMED]) + (", ..." if len(classes) > MAX_NAMED else "")
    return f"{len(classes)} classes ({names}): {kind} classification"
