import itertools

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bayesify.datasets.splits import Split, complement, make_splits, validation_split
from bayesify.datasets.task import Task, make_task
from bayesify.errors import DataError


def task(num_rows: int = 60, classes: int = 0, **columns) -> Task:
    rng = np.random.default_rng(0)
    y = [f"class {row % classes}" for row in range(num_rows)] if classes else rng.normal(size=num_rows)
    return make_task(pd.DataFrame({"x": rng.normal(size=num_rows), **columns, "y": y}))


def check(splits: list[Split], num_rows: int) -> None:
    """Ascending, disjoint, in range."""
    for split in splits:
        assert (np.diff(split.train) > 0).all()
        assert (np.diff(split.test) > 0).all()
        assert not np.intersect1d(split.train, split.test).size
        assert len(split.train)
        assert len(split.test)
        assert max(split.train[-1], split.test[-1]) < num_rows


@given(st.integers(10, 200), st.integers(1, 6), st.floats(0.01, 0.9), st.integers(0, 5))
def test_random_splits_partition_the_rows(num_rows: int, num_splits: int, fraction: float, seed: int) -> None:
    splits = make_splits(task(num_rows), num_splits, fraction, seed)
    check(splits, num_rows)
    assert [split.name for split in splits] == [f"random-{number}" for number in range(num_splits)]
    for split in splits:
        assert len(split.train) + len(split.test) == num_rows
        assert len(split.test) == min(max(1, round(fraction * num_rows)), num_rows - 1)


def test_first_splits_do_not_depend_on_their_number_but_on_the_seed() -> None:
    for data in (task(), task(classes=3)):
        few, many = make_splits(data, 2), make_splits(data, 7)
        assert all((a.test == b.test).all() for a, b in zip(few, many, strict=False))
        other = make_splits(data, 2, seed=1)
        assert any((a.test != b.test).any() for a, b in zip(few, other, strict=True))
        assert len({split.test.tobytes() for split in many}) == 7


@given(st.lists(st.integers(2, 12), min_size=2, max_size=8), st.floats(0.05, 0.8), st.integers(0, 3))
def test_every_class_trains(sizes: list[int], fraction: float, seed: int) -> None:
    labels = [f"c{index}" for index, size in enumerate(sizes) for _ in range(size)]
    if len(labels) < 10:
        labels += ["c0"] * 10
    data = make_task(pd.DataFrame({"x": np.sin(np.arange(len(labels))), "y": labels}))
    splits = make_splits(data, 4, fraction, seed)
    check(splits, len(labels))
    for split in splits:
        assert set(data.target[split.train]) == set(data.target)


def test_random_splits_are_stratified() -> None:
    data = make_task(pd.DataFrame({"x": np.sin(np.arange(200)), "y": ["rare"] * 20 + ["common"] * 180}))
    for split in make_splits(data, 5):
        assert np.sum(data.target[split.test] == data.classes.index("rare")) == 2


def test_groups_are_never_shared() -> None:
    groups = np.repeat(np.arange(12), 5)
    data = task(60, ward=groups)
    splits = make_splits(data, 5, test_fraction=0.2, group="ward")
    check(splits, 60)
    assert len(splits) == 5
    assert len({split.test.tobytes() for split in splits}) == 5
    for split in splits:
        assert not set(groups[split.train]) & set(groups[split.test])
        assert len(set(groups[split.test])) == 2


def test_few_groups_give_as_many_splits_as_there_are() -> None:
    splits = make_splits(task(60, ward=np.repeat(["a", "b", "c"], 20)), 5, group="ward")
    assert len(splits) == 3
    assert sorted(split.test[0] for split in splits) == [0, 20, 40]


def test_group_may_be_a_dropped_column() -> None:
    frame = pd.DataFrame({"x": np.sin(np.arange(40)), "who": list("abcd") * 10, "y": np.arange(40.0)})
    data = make_task(frame, drop=["who"])
    assert list(data.features.columns) == ["x"]
    assert len(make_splits(data, 2, group="who")) == 2


def test_groups_that_hold_a_whole_class() -> None:
    frame = pd.DataFrame({"x": np.sin(np.arange(40)), "who": ["p", "q"] * 20, "y": ["a", "b"] * 20})
    with pytest.raises(DataError, match=r"No split by 'who' leaves every class .* \(missing: 'a', 'b'\)"):
        make_splits(make_task(frame), 2, group="who")


@given(st.integers(10, 80), st.integers(1, 5), st.integers(1, 12), st.integers(0, 3))
def test_time_runs_forward(num_rows: int, num_splits: int, ties: int, seed: int) -> None:
    ties = min(ties, num_rows // (num_splits + 1))  # so that the first test block has earlier rows
    moments = np.random.default_rng(seed).permutation(num_rows) // ties
    splits = make_splits(task(num_rows, when=moments), num_splits, time="when")
    check(splits, num_rows)
    assert len(splits) == num_splits
    for earlier, later in itertools.pairwise(splits):
        assert set(earlier.train) <= set(later.train)  # the window expands
        assert moments[earlier.test].max() <= moments[later.test].min()
    for split in splits:
        assert moments[split.train].max() < moments[split.test].min()
        assert set(np.flatnonzero(moments < moments[split.test].min())) == set(split.train)


def test_time_as_dates_in_any_order() -> None:
    days = pd.date_range("2020-01-01", periods=50).strftime("%Y-%m-%d").to_numpy()
    order = np.random.default_rng(0).permutation(50)
    split = make_splits(task(50, when=days[order]), 1, test_fraction=0.2, time="when")[0]
    assert sorted(order[split.test]) == list(range(40, 50))
    assert split.name == "time-0"


def test_time_before_which_a_class_is_unknown() -> None:
    frame = pd.DataFrame({"t": np.arange(40), "x": np.sin(np.arange(40)), "y": ["a"] * 30 + ["b"] * 10})
    with pytest.raises(DataError, match="Class 'b' does not occur before split 1 of 5"):
        make_splits(make_task(frame), 5, time="t")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"num_splits": 0}, "number of splits is 0"),
        ({"test_fraction": 0.0}, "test fraction is 0.0"),
        ({"test_fraction": 1.0}, "test fraction is 1.0"),
        ({"test_fraction": float("nan")}, "test fraction is nan"),
        ({"group": "x", "time": "x"}, "one of them"),
        ({"group": "wart"}, "Did you mean 'ward'?"),
        ({"group": "gap"}, "'gap' has no value in 1 row"),
        ({"group": "one"}, "'one' has one value only"),
        ({"time": "ward"}, "cannot be read as times"),
        ({"time": "one"}, "no earlier row to train on"),
    ],
)
def test_refused_arguments(arguments: dict, words: str) -> None:
    ward = ["north", "south"] * 30
    data = task(60, ward=ward, gap=[None, *ward[1:]], one=[1] * 60)
    with pytest.raises(DataError) as caught:
        make_splits(data, **arguments)
    assert words in str(caught.value)


@given(st.integers(2, 60), st.floats(0.01, 0.9), st.integers(0, 5), st.integers(0, 4))
def test_validation_rows(num_rows: int, fraction: float, seed: int, classes: int) -> None:
    rng = np.random.default_rng(seed)
    train = rng.permutation(100)[:num_rows]
    y = rng.integers(0, classes, 100) if classes else rng.normal(size=100)
    kept, held = validation_split(train, y, fraction, seed)
    assert sorted([*kept, *held]) == sorted(train)
    assert len(kept)
    assert len(held)
    if classes and num_rows > classes:
        assert set(y[kept]) == set(y[train])
    again = validation_split(train[::-1], y, fraction, seed)
    assert again.validation.tolist() == held.tolist()


def test_validation_split_refuses() -> None:
    with pytest.raises(DataError, match=r"fraction is 1\.5"):
        validation_split(np.arange(5), np.zeros(5), 1.5, 0)
    with pytest.raises(DataError, match="1 row cannot be cut"):
        validation_split(np.arange(1), np.zeros(5), 0.5, 0)


def test_complement() -> None:
    assert complement(np.array([3, 0]), 5).tolist() == [1, 2, 4]
