"""What a task is tested on beside its own test rows: corrupted copies, shifted sets and sets from outside."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from bayesify.datasets.columns import column_not_found
from bayesify.datasets.corrupt_images import IMAGE_CORRUPTIONS, corrupt_images
from bayesify.datasets.corrupt_tables import corrupt_table, table_corruptions
from bayesify.datasets.images import pixel_range
from bayesify.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

    from bayesify.datasets.splits import Split
    from bayesify.datasets.task import Task

SEVERITIES = (1, 2, 3, 4, 5)
CORRUPTED = "corrupted"
CORRUPTED_EXAMPLES = 500
"""Test rows that are corrupted, each in every way: 500 rows are 25,000 predictions with 10 ways and 5 severities."""
OTHER_EXAMPLES = 2_000
"""Rows of every other set that are looked at, at most."""


class Condition(NamedTuple):
    """One way of corrupting at one severity."""

    name: str
    severity: int


class Rows(NamedTuple):
    """Rows to predict, as columns of the task."""

    frame: "pd.DataFrame"
    target: np.ndarray | None  # None where there is nothing right to predict
    numbers: np.ndarray  # row numbers in the set they come from


@dataclass(frozen=True, eq=False)
class Shift:
    """What to test on beside the test rows.

    Attributes:
        corrupt: whether corrupted copies of test rows are.
        shifted: other sets with the task's columns and target, by name.
        outside: sets that no target of the task fits, by name.
        num_corrupted: how many test rows are corrupted, at most.
        seed: of corruptions, and of the choice of rows.
    """

    corrupt: bool = False
    shifted: "dict[str, Task]" = field(default_factory=dict)
    outside: "dict[str, Task]" = field(default_factory=dict)
    num_corrupted: int = CORRUPTED_EXAMPLES
    seed: int = 0

    def named(self) -> "dict[str, Task]":
        """Shifted and outside sets."""
        return {**self.shifted, **self.outside}

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to test on."""
        return not (self.corrupt or self.shifted or self.outside)


def conditions(task: "Task", train: np.ndarray) -> tuple[Condition, ...]:
    """All ways and severities that apply to the task's columns, as the training rows show them."""
    images = task.image_shape is not None
    names = tuple(IMAGE_CORRUPTIONS) if images else table_corruptions(task.features.iloc[train])
    return tuple(Condition(name, severity) for name in names for severity in SEVERITIES)


def corrupted_rows(task: "Task", split: "Split", shift: Shift) -> np.ndarray:
    """The test rows of a split that are corrupted, ascending."""
    return _some(split.test, shift.num_corrupted, shift.seed)


def corruptions(task: "Task", split: "Split", shift: Shift) -> Iterator[tuple[Condition, Rows]]:
    """Corrupted copies of test rows, one condition at a time."""
    numbers = corrupted_rows(task, split, shift)
    clean = task.features.iloc[numbers]
    for condition in conditions(task, split.train):
        frame = _corrupted(task, clean, split, condition, shift.seed)
        yield condition, Rows(frame, task.target[numbers], numbers)


def shifted_rows(task: "Task", other: "Task", name: str, seed: int) -> Rows:
    """Rows of a set with the task's columns and target.

    Raises:
        DataError: it lacks a column or has another kind of target, or classes that the task has not.
    """
    numbers = _some(np.arange(len(other.target)), OTHER_EXAMPLES, seed)
    return Rows(_as_columns(task, other, numbers, name), _as_target(task, other, name)[numbers], numbers)


def outside_rows(task: "Task", other: "Task", name: str, seed: int) -> Rows:
    """Rows of a set with the task's columns whose targets are none of the task's.

    Raises:
        DataError: it lacks a column, or its images are of another size.
    """
    numbers = _some(np.arange(len(other.target)), OTHER_EXAMPLES, seed)
    return Rows(_as_columns(task, other, numbers, name), None, numbers)


def _some(rows: np.ndarray, most: int, seed: int) -> np.ndarray:
    if len(rows) <= most:
        return np.sort(rows)
    return np.sort(np.random.default_rng(seed).choice(rows, most, replace=False))


def _corrupted(task: "Task", clean: "pd.DataFrame", split: "Split", condition: Condition, seed: int) -> "pd.DataFrame":
    if task.image_shape is None:
        return corrupt_table(clean, task.features.iloc[split.train], condition.name, condition.severity, seed)
    import pandas as pd

    low, high = pixel_range(task.features)
    pixels = clean.to_numpy()
    scaled = (pixels.astype(np.float64) - low) / (high - low or 1.0)
    changed = corrupt_images(scaled.reshape(-1, *task.image_shape), condition.name, condition.severity, seed)
    values = low + (high - low) * changed.reshape(len(pixels), -1)
    values = np.round(values) if pixels.dtype.kind == "u" else values
    return pd.DataFrame(values.astype(pixels.dtype), columns=clean.columns)


def _as_columns(task: "Task", other: "Task", numbers: np.ndarray, name: str) -> "pd.DataFrame":
    if task.image_shape is not None or other.image_shape is not None:
        if task.image_shape != other.image_shape:
            raise DataError(
                f"{name!r} is {_inputs(other)} and the data are {_inputs(task)}: give a set of the same kind."
            )
        return other.features.iloc[numbers]
    # What is constant in the other set was put aside there; the column taken for its target may be a feature here.
    target = other.target if other.classes is None else np.array(other.classes, dtype=object)[other.target]
    frame = other.features.join(other.aside).assign(**{other.target_name: target}).iloc[numbers]
    for column in task.features.columns:
        if column not in frame.columns:
            raise column_not_found(column, frame.columns, name)
    return frame[list(task.features.columns)]


def _inputs(task: "Task") -> str:
    if task.image_shape is None:
        return "a table"
    channels, height, width = task.image_shape
    return f"images of {height} × {width} in {channels} channel{'' if channels == 1 else 's'}"


def _as_target(task: "Task", other: "Task", name: str) -> np.ndarray:
    if task.classes is None and other.classes is None:
        return other.target
    if task.classes is None or other.classes is None:
        raise DataError(f"The target of {name!r} is {other.kind} and that of the data {task.kind}: they must be alike.")
    strange = sorted(set(other.classes) - set(task.classes))
    if strange:
        raise DataError(
            f"{name!r} has classes that the data have not ({', '.join(map(repr, strange[:3]))}): ask for it with "
            "--outside instead."
        )
    place = np.array([task.classes.index(label) for label in other.classes])
    return np.asarray(place[other.target])
