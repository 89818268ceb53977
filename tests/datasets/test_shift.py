from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_digits

from bayesify.datasets import Shift, image_task, load, make_splits, make_task
from bayesify.datasets.corrupt_images import IMAGE_CORRUPTIONS
from bayesify.datasets.shift import OTHER_EXAMPLES, corrupted_rows, corruptions, outside_rows, shifted_rows
from bayesify.datasets.splits import gap_tests
from bayesify.errors import DataError


def digits(labels=None):
    data = load_digits()
    return image_task((15 * data.images).astype(np.uint8), data.target if labels is None else labels)


def table(num_rows: int = 90, seed: int = 0, **columns) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(num_rows, 2))
    frame = pd.DataFrame(x, columns=["a", "b"]).assign(**columns)
    return frame.assign(y=rng.choice(["no", "yes"], num_rows))


def test_every_condition_has_the_same_rows_of_the_test_set() -> None:
    task = digits()
    split = make_splits(task, 1)[0]
    shift = Shift(corrupt=True, num_corrupted=20)
    numbers = corrupted_rows(task, split, shift)
    assert len(numbers) == 20
    assert set(numbers) <= set(split.test)
    found = list(corruptions(task, split, shift))
    assert len(found) == 5 * len(IMAGE_CORRUPTIONS)
    clean = task.features.iloc[numbers].to_numpy()
    for condition, rows in found:
        assert rows.frame.to_numpy().dtype == np.uint8, condition
        assert not np.array_equal(rows.frame.to_numpy(), clean), condition
        np.testing.assert_array_equal(rows.numbers, numbers)
        np.testing.assert_array_equal(rows.target, task.target[numbers])


def test_a_small_test_set_is_corrupted_whole() -> None:
    task = make_task(table())
    split = make_splits(task, 1)[0]
    np.testing.assert_array_equal(corrupted_rows(task, split, Shift(corrupt=True)), split.test)


def test_classes_of_a_shifted_set_are_matched_by_name() -> None:
    task, other = make_task(table()), make_task(table(seed=1, c=1.0)[["c", "b", "a", "y"]])
    rows = shifted_rows(task, other, "other", 0)
    assert list(rows.frame.columns) == ["a", "b"]
    assert [task.classes[label] for label in rows.target] == [other.classes[label] for label in other.target]
    subset = make_task(table(seed=1).replace({"yes": "zebra"}))
    with pytest.raises(DataError, match=r"classes that the data have not \('zebra'\).*--outside"):
        shifted_rows(task, subset, "other", 0)


def test_columns_that_are_constant_elsewhere_are_still_columns() -> None:
    rows = shifted_rows(make_task(table()), make_task(table(seed=1).assign(b=2.0)), "other", 0)
    assert set(rows.frame["b"]) == {2.0}


def test_an_outside_table_needs_no_target() -> None:
    rows = outside_rows(make_task(table()), make_task(table(seed=1)[["a", "b"]]), "other", 0)
    pd.testing.assert_frame_equal(rows.frame, table(seed=1)[["a", "b"]])
    assert rows.target is None


def test_other_inputs_are_refused() -> None:
    with pytest.raises(DataError, match="'b'"):
        outside_rows(make_task(table()), make_task(table(seed=1).drop(columns="b")), "other", 0)
    with pytest.raises(DataError, match="'other' is images of 8 × 8 in 1 channel and the data are a table"):
        outside_rows(make_task(table()), digits(), "other", 0)
    with pytest.raises(DataError, match="must be alike"):
        shifted_rows(digits(), digits(np.linspace(0, 1, 1797)), "other", 0)


def test_red_wine_and_white_wine(bayesify_data: Path) -> None:
    red, white = load("wine-red"), load("wine-white")
    rows = shifted_rows(red, white, "wine-white", 0)
    assert len(rows.numbers) == OTHER_EXAMPLES
    np.testing.assert_array_equal(rows.target, white.target[rows.numbers])
    assert len(white.target) == 4898


def test_gap_splits_test_the_middle_third() -> None:
    frame = table(num_rows=91, n=np.arange(91) % 7, flag=np.arange(91) % 2)
    task = make_task(frame)
    splits = make_splits(task, 9, gap=True)
    assert len(splits) == 3  # the flag has no middle
    for split, name in zip(splits, ["a", "b", "n"], strict=True):
        column = task.features[name].to_numpy()
        assert len(split.test) in (30, 31)
        outer = column[split.train]
        assert np.sum(outer <= column[split.test].min()) >= 30
        assert np.sum(outer >= column[split.test].max()) >= 30
        assert sorted([*split.train, *split.test]) == list(range(91))
    assert len(make_splits(task, 2, gap=True)) == 2


def test_gaps_are_the_published_ones_where_nothing_ties(bayesify_data: Path) -> None:
    compared = 0
    for name in ("kin8nm", "naval", "boston", "protein"):
        whole, published = load(name), load(f"{name}-gap")
        for number, (feature, test) in enumerate(gap_tests(whole.features)):
            if whole.features[feature].is_unique:
                np.testing.assert_array_equal(np.sort(test), published.splits[number].test)
                compared += 1
    assert compared >= 6


def test_gap_splits_that_cannot_be_are_refused() -> None:
    with pytest.raises(DataError, match="there is none here"):
        make_splits(digits(), 1, gap=True)
    with pytest.raises(DataError, match="by gap, one of them"):
        make_splits(make_task(table()), 1, gap=True, time="a")
    with pytest.raises(DataError, match="Class 'no' is only in the middle third by 'a'"):
        make_splits(
            make_task(pd.DataFrame({"a": np.arange(90.0), "y": ["yes"] * 35 + ["no"] * 20 + ["yes"] * 35})), 1, gap=True
        )
