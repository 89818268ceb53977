"""Which rows train and which rows test.

Random splits repeat with one generator, so the first k of any number of splits are the same. Grouped splits never
share a group; splits by time train on the past only; a data set's own splits are used where it has them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from bayesify.datasets.columns import column_not_found, is_date, is_text, quoted, rows_text
from bayesify.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

    from bayesify.datasets.task import Task

DRAWS_PER_SPLIT = 20  # grouped splits that repeat or miss a class are drawn again, this often at most


@dataclass(frozen=True, eq=False)
class Split:
    """Row numbers of a task, ascending, that train and that test.

    Attributes:
        train: (n_train,) int64.
        test: (n_test,) int64.
        name: for example ``random-0``, ``standard-3``, ``time-1``.
    """

    train: np.ndarray
    test: np.ndarray
    name: str


class Holdout(NamedTuple):
    """Training rows, cut in two."""

    train: np.ndarray
    validation: np.ndarray


def make_splits(
    task: "Task",
    num_splits: int = 5,
    test_fraction: float = 0.1,
    seed: int = 0,
    group: str | None = None,
    time: str | None = None,
    gap: bool = False,
) -> list[Split]:
    """Splits of a task's rows.

    In this order: by ``group``, ``time`` or ``gap`` where asked; the task's own splits where it has any (the first
    ``num_splits``; fewer where it has fewer); random ones, stratified by class.

    Args:
        task: the data.
        num_splits: how many splits.
        test_fraction: share of rows (of groups, with ``group``) that test.
        seed: seed of random and grouped splits.
        group: a column, feature or not; rows that share its value stay together.
        time: a column, feature or not; every test row is later than all training rows of its split.
        gap: the middle third of the rows by one feature test, the others train; split k is by the k-th feature of
            numbers (Foong et al., 2019, "In-between uncertainty").

    Raises:
        DataError: a value out of range, an unknown column, or no such split exists.
    """
    _check_arguments(num_splits, test_fraction, (group is not None) + (time is not None) + gap)
    if gap:
        return _by_gap(task, num_splits)
    if group is not None:
        return _by_group(task, _column(task, group), num_splits, test_fraction, seed)
    if time is not None:
        return _by_time(task, _column(task, time), num_splits, test_fraction)
    if task.splits:
        return list(task.splits[:num_splits])
    return _random(task, num_splits, test_fraction, seed)


def validation_split(train: np.ndarray, y: np.ndarray, fraction: float, seed: int) -> Holdout:
    """Cut training rows in two, at random, stratified where ``y`` is classes.

    Args:
        train: (n,) row numbers of the training rows.
        y: targets of ALL rows (so ``y[train]`` are the training targets): integers are classes, floats quantities.
        fraction: share of ``train`` that validates; at least one row does and at least one trains.
        seed: the cut depends on nothing else.

    Returns:
        Two ascending arrays of row numbers; every class of ``train`` is among the rows that still train.

    Raises:
        DataError: the fraction is not between 0 and 1 or there are fewer than two rows.
    """
    if not 0 < fraction < 1:
        raise DataError(f"The validation fraction is {fraction}; it must lie between 0 and 1: 0.1 is usual.")
    if len(train) < 2:
        raise DataError(f"{rows_text(len(train))} cannot be cut into training and validation rows: add rows.")
    train = np.sort(train)
    classes = y[train] if np.issubdtype(y.dtype, np.integer) else None
    kept, held = next(_shuffles(len(train), classes, 1, fraction, seed))
    return Holdout(train[kept], train[held])


def complement(test: np.ndarray, num_rows: int) -> np.ndarray:
    """All row numbers that are not in ``test``, ascending."""
    rest = np.ones(num_rows, dtype=bool)
    rest[test] = False
    return np.flatnonzero(rest)


class Gap(NamedTuple):
    """The middle third by one feature."""

    feature: str
    rows: np.ndarray


def gap_tests(features: "pd.DataFrame") -> list[Gap]:
    """Test rows of one gap split for every feature of numbers with three values or more; ties in order of rows."""
    found = []
    for name in features.columns:
        column = features[name]
        if is_text(column) or is_date(column) or column.nunique() < 3:
            continue
        order = np.argsort(column.to_numpy(dtype=np.float64), kind="stable")  # missing values come last
        found.append(Gap(str(name), order[round(len(order) / 3) : round(2 * len(order) / 3)]))
    return found


def _check_arguments(num_splits: int, test_fraction: float, ways: int) -> None:
    if num_splits < 1:
        raise DataError(f"The number of splits is {num_splits}; it must be 1 or more.")
    if not 0 < test_fraction < 1:
        raise DataError(f"The test fraction is {test_fraction}; it must lie between 0 and 1: 0.1 is usual.")
    if ways > 1:
        raise DataError("Splits are by group, by time or by gap, one of them: leave the others out.")


def _column(task: "Task", name: str) -> "pd.Series":
    for frame in (task.features, task.aside):
        if name in frame.columns:
            column = frame[name]
            missing = int(column.isna().sum())
            if missing:
                raise DataError(f"{name!r} has no value in {rows_text(missing)}: fill or remove them to split by it.")
            return column
    raise column_not_found(name, [*task.features.columns, *task.aside.columns], task.name)


def _by_gap(task: "Task", num_splits: int) -> list[Split]:
    splits = []
    for number, (feature, rows) in enumerate(gap_tests(task.features)[:num_splits] if task.image_shape is None else []):
        train = complement(rows, len(task.target))
        absent = _absent_classes(task, train)
        if absent:
            raise DataError(
                f"Class {quoted(absent)} is only in the middle third by {feature!r}: gap splits cannot be made of it."
            )
        splits.append(Split(train, np.sort(rows), f"gap-{number}"))
    if not splits:
        raise DataError("Gap splits are by features of numbers with three values or more, and there is none here.")
    return splits


def _random(task: "Task", num_splits: int, test_fraction: float, seed: int) -> list[Split]:
    classes = None if task.classes is None else task.target
    shuffles = _shuffles(len(task.target), classes, num_splits, test_fraction, seed)
    return [Split(train, test, f"random-{number}") for number, (train, test) in enumerate(shuffles)]


def _shuffles(
    num_rows: int, classes: np.ndarray | None, num_splits: int, fraction: float, seed: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Ascending (kept, held-out) row numbers; every class has a row among the kept ones."""
    from sklearn.model_selection import ShuffleSplit, StratifiedShuffleSplit

    held = min(max(1, round(fraction * num_rows)), num_rows - 1)
    splitter = ShuffleSplit(num_splits, test_size=held, random_state=seed)
    if classes is not None:
        _, counts = np.unique(classes, return_counts=True)
        if counts.min() > 1 and len(counts) <= min(held, num_rows - held):  # what stratification needs
            splitter = StratifiedShuffleSplit(num_splits, test_size=held, random_state=seed)
    for kept, test in splitter.split(np.zeros((num_rows, 1)), classes):
        yield _with_every_class(np.sort(kept), np.sort(test), classes)


def _with_every_class(kept: np.ndarray, held: np.ndarray, classes: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Move the first held-out row of each class that is not among the kept rows there.

    Where that would empty the held-out rows, a kept row of a repeated class takes their place.
    """
    if classes is None:
        return kept, held
    absent = np.setdiff1d(classes[held], classes[kept])
    moved = np.array([held[classes[held] == label][0] for label in absent], dtype=held.dtype)
    if not len(moved):
        return kept, held
    rest = np.setdiff1d(held, moved)
    if not len(rest):
        labels, counts = np.unique(classes[kept], return_counts=True)
        rest = kept[np.isin(classes[kept], labels[counts > 1])][-1:]
        kept = np.setdiff1d(kept, rest)
    return (np.sort(np.concatenate([kept, moved])), rest) if len(rest) else (kept, held)


def _by_group(task: "Task", column: "pd.Series", num_splits: int, test_fraction: float, seed: int) -> list[Split]:
    from sklearn.model_selection import GroupShuffleSplit

    groups = np.unique(column.to_numpy(), return_inverse=True)[1]
    count = int(groups.max()) + 1
    if count < 2:
        raise DataError(f"{column.name!r} has one value only: splitting by group needs two groups or more.")
    held = min(max(1, round(test_fraction * count)), count - 1)
    draws = GroupShuffleSplit(DRAWS_PER_SPLIT * num_splits, test_size=held, random_state=seed)
    found: dict[bytes, Split] = {}
    lacking: set[str] = set()
    for train, test in draws.split(np.zeros((len(groups), 1)), groups=groups):
        absent = _absent_classes(task, train)
        lacking.update(absent)
        if not absent:
            found.setdefault(np.sort(test).tobytes(), Split(np.sort(train), np.sort(test), f"group-{len(found)}"))
        if len(found) == num_splits:
            break
    if not found:
        raise DataError(
            f"No split by {column.name!r} leaves every class in the training rows "
            f"(missing: {quoted(sorted(lacking))}): use a smaller test fraction or random splits."
        )
    return list(found.values())


def _by_time(task: "Task", column: "pd.Series", num_splits: int, test_fraction: float) -> list[Split]:
    """Consecutive test blocks that end with the last row; each trains on all rows strictly before its block."""
    moments = np.unique(_moments(column), return_inverse=True)[1]
    order = np.argsort(moments, kind="stable")
    num_rows = len(order)
    block = max(1, min(round(test_fraction * num_rows), num_rows // (num_splits + 1)))
    splits = []
    for number in range(num_splits):
        start = num_rows - (num_splits - number) * block
        test = order[max(start, 0) : start + block]
        train = np.flatnonzero(moments < moments[test].min()) if len(test) else test
        if not len(train):
            raise DataError(
                f"Split {number + 1} of {num_splits} by {column.name!r} has no earlier row to train on: "
                "ask for fewer splits."
            )
        absent = _absent_classes(task, train)
        if absent:
            raise DataError(
                f"Class {quoted(absent)} does not occur before split {number + 1} of {num_splits} by {column.name!r}: "
                "ask for fewer splits."
            )
        splits.append(Split(train, np.sort(test), f"time-{number}"))
    return splits


def _moments(column: "pd.Series") -> np.ndarray:
    if is_text(column):
        raise DataError(
            f"{column.name!r} cannot be read as times (for example {column.iloc[0]!r}): "
            "write them as 2024-01-31, or as numbers."
        )
    values = column.to_numpy()
    return np.asarray(values.astype(np.int64) if is_date(column) else values)


def _absent_classes(task: "Task", train: np.ndarray) -> list[str]:
    if task.classes is None:
        return []
    present = set(task.target[train].tolist())
    return [label for index, label in enumerate(task.classes) if index not in present]
