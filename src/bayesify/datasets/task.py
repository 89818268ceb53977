"""A table and a target column → a Task: checked, cleaned, and with a note on everything that was decided."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bayesify.datasets.columns import column_not_found, plain_frame, rows_text, screen
from bayesify.datasets.images import ImageShape, image_frame, image_shape_of
from bayesify.datasets.sources import Table, open_source
from bayesify.datasets.splits import Split
from bayesify.datasets.target import Kind, Target, read_target
from bayesify.errors import DataError

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False)
class Task:
    """Something to predict from something.

    Attributes:
        name: the data set's name, or the file's.
        features: (n, columns) DataFrame of plain columns (see ``columns``); may hold missing values.
        target: (n,) float64 quantities, or int64 indices into ``classes``.
        kind: "regression", "binary" or "multiclass".
        classes: class names in index order, None for regression.
        target_name: the target column.
        aside: (n, ...) columns that are not features (dropped by the user or useless); groups and times may live here.
        splits: the data set's own splits, None where it has none.
        num_dropped: rows of the table that were left out because their target is missing.
        notes: sentences for the user: what was inferred, put aside or left out.
        image_shape: (channels, height, width) where every row of ``features`` is an image's pixels, else None.
    """

    name: str
    features: "pd.DataFrame"
    target: np.ndarray
    kind: Kind
    classes: tuple[str, ...] | None
    target_name: str
    aside: "pd.DataFrame"
    splits: tuple[Split, ...] | None = None
    num_dropped: int = 0
    notes: tuple[str, ...] = field(default=())
    image_shape: ImageShape | None = None


def num_outputs(task: Task, likelihood: str) -> int:
    """How many outputs a network for this task and the likelihood of that name has."""
    if likelihood == "heteroscedastic_gaussian":
        return 2
    return len(task.classes or ()) if likelihood == "categorical" else 1


def make_task(
    source: "str | Path | pd.DataFrame",
    target: str | None = None,
    kind: str | None = None,
    drop: Sequence[str] = (),
) -> Task:
    """Make a task of a file, a named data set or a DataFrame.

    Args:
        source: a file that ``read_table`` reads, a name that ``list_datasets`` lists, or a DataFrame. A file of that
            name wins over a data set of that name.
        target: the column to predict; by default the named data set's own, else the last column.
        kind: "regression", "binary", "multiclass" or "classification"; inferred by default.
        drop: columns not to learn from. They stay available to split by.

    Raises:
        DataError: anything that would spoil training, in one line with what to do.
    """
    return build_task(open_source(source), target, kind, drop)


def build_task(table: Table, target: str | None = None, kind: str | None = None, drop: Sequence[str] = ()) -> Task:
    """``make_task`` for a table that is already open."""
    if table.image_shape is not None:
        if target not in (None, table.target) or drop:
            raise DataError(f"{table.name!r} is a set of images: it has no other target and no column to drop.")
        pixels = table.frame.drop(columns=[str(table.target)])
        return _image_task(table, pixels, read_target(table.frame[str(table.target)], kind or table.kind, "published"))
    frame, notes = plain_frame(table.frame, table.name)
    if not len(frame):
        raise DataError(f"{table.name!r} has no row: nothing can be learned from it.")
    column, how = _target_column(frame, target, table.target, table.name)
    drop = (drop,) if isinstance(drop, str) else tuple(drop)
    for name in drop:
        if name not in frame.columns:
            raise column_not_found(name, frame.columns, table.name)
    if column in drop:
        raise DataError(f"{column!r} is the target and cannot be dropped: name another target or keep it.")
    own_target = column == table.target
    if own_target and kind is None and table.kind is not None:
        answer = read_target(frame[column], table.kind, whose="published")
    else:
        answer = read_target(frame[column], kind)
    leaking = [name for name in table.leaking if own_target and name not in drop]
    unused = [*drop, *leaking]
    rest = frame.iloc[answer.kept].reset_index(drop=True).drop(columns=[column])
    screened = screen(rest.drop(columns=unused))
    if leaking:
        notes += (f"Not used as features, because they give the target away: {', '.join(map(repr, leaking))}.",)
    return Task(
        name=table.name,
        features=screened.features.copy(),  # one block per type: thousands of single columns are slow
        target=answer.values,
        kind=answer.kind,
        classes=answer.classes,
        target_name=column,
        aside=rest[unused].join(screened.aside),
        splits=_on_kept_rows(table.splits, answer.kept, len(frame)),
        num_dropped=len(frame) - len(answer.kept),
        notes=(*table.notes, *([how] if how else []), *answer.notes, *notes, *screened.notes),
    )


def image_task(images: np.ndarray, labels: np.ndarray, kind: str | None = None) -> Task:
    """Make a task of images.

    Args:
        images: (n, height, width) or (n, channels, height, width), numbers; bytes are taken to range from 0 to 255.
        labels: (n,) what to predict of each.
        kind: as for ``make_task``.

    Raises:
        DataError: anything that would spoil training, in one line with what to do.
    """
    import pandas as pd

    shape = image_shape_of(images)
    if labels.shape != (len(images),):
        raise DataError(f"{len(images)} images came with targets of shape {labels.shape}: give one target per image.")
    table = Table("images", image_frame(images), "target", kind, image_shape=shape)
    return _image_task(table, table.frame, read_target(pd.Series(labels, name="target"), kind))


def _image_task(table: Table, pixels: "pd.DataFrame", answer: Target) -> Task:
    """Pixels are neither screened nor cleaned: a constant one keeps its place."""
    whole = len(answer.kept) == len(pixels)
    return Task(
        name=table.name,
        features=pixels if whole else pixels.iloc[answer.kept].reset_index(drop=True),
        target=answer.values,
        kind=answer.kind,
        classes=answer.classes,
        target_name=str(table.target),
        aside=pixels.iloc[answer.kept, :0],
        splits=_on_kept_rows(table.splits, answer.kept, len(pixels)),
        num_dropped=len(pixels) - len(answer.kept),
        notes=(*table.notes, *answer.notes),
        image_shape=table.image_shape,
    )


def _target_column(frame: "pd.DataFrame", asked: str | None, own: str | None, name: str) -> tuple[str, str]:
    """The target column, and a note where nobody named it."""
    if asked is not None:
        if asked not in frame.columns:
            raise column_not_found(asked, frame.columns, name)
        return asked, ""
    if own is not None:
        return own, ""
    if not len(frame.columns):
        raise DataError(f"{name!r} has no column: nothing can be learned from it.")
    last = str(frame.columns[-1])
    return last, f"The target is {last!r}, the last column; say target= for another."


def _on_kept_rows(splits: Sequence[Split] | None, kept: np.ndarray, num_rows: int) -> tuple[Split, ...] | None:
    """Splits of the table's rows → splits of the rows that have a target."""
    if not splits:
        return None
    if len(kept) == num_rows:
        return tuple(splits)
    position = np.full(num_rows, -1)
    position[kept] = np.arange(len(kept))

    def moved(rows: np.ndarray) -> np.ndarray:
        new: np.ndarray = position[rows]
        return np.asarray(new[new >= 0])

    remaining = tuple(Split(moved(split.train), moved(split.test), split.name) for split in splits)
    for split in remaining:
        if not len(split.train) or not len(split.test):
            raise DataError(
                f"The data set's own split {split.name!r} is left with {rows_text(len(split.train))} to train and "
                f"{rows_text(len(split.test))} to test on, because the others lack a target: choose another target."
            )
    return remaining
