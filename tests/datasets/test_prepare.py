import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bayesify.datasets import load, make_splits, make_task, prepare
from bayesify.datasets.splits import Split
from bayesify.errors import DataError


def test_regression_is_standardised_by_the_training_rows() -> None:
    task = load("diabetes")
    split = make_splits(task, 1)[0]
    prepared = prepare(task, split)
    assert prepared.X_train.dtype == prepared.y_train.dtype == prepared.y_test.dtype == np.float32
    assert prepared.target_loc == task.target[split.train].mean()
    assert prepared.target_scale == task.target[split.train].std()
    assert abs(prepared.y_train.mean()) < 1e-5
    assert prepared.y_train.std() == pytest.approx(1, abs=1e-5)
    back = prepared.target_loc + prepared.target_scale * prepared.y_test
    np.testing.assert_allclose(back, task.target[split.test], rtol=1e-5)
    assert prepared.classes is None


@pytest.mark.parametrize(("name", "classes"), [("breast_cancer", 2), ("iris", 3), ("digits", 10)])
def test_classes_stay_indices(name: str, classes: int) -> None:
    task = load(name)
    prepared = prepare(task, make_splits(task, 1)[0])
    assert prepared.y_train.dtype == prepared.y_test.dtype == np.int64
    assert set(prepared.y_train) == set(range(classes))
    assert len(prepared.classes) == classes
    assert (prepared.target_loc, prepared.target_scale) == (0.0, 1.0)


@settings(max_examples=10)
@given(st.integers(0, 10_000))
def test_test_rows_teach_nothing(seed: int) -> None:
    """Other test rows: same training arrays, to the bit."""
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame({"x": rng.normal(size=30), "c": rng.choice(list("abc"), 30), "y": rng.normal(size=30)})
    split = Split(np.arange(20), np.arange(20, 30), "s")
    other = frame.copy()
    other.loc[20:, "x"] = rng.normal(1e6, 1e5, 10)
    other.loc[20:, "c"] = "never seen"
    other.loc[20:, "y"] = rng.normal(1e6, 1, 10)
    first, second = (prepare(make_task(table), split) for table in (frame, other))
    np.testing.assert_array_equal(first.X_train, second.X_train)
    np.testing.assert_array_equal(first.y_train, second.y_train)
    assert first.feature_names == second.feature_names


def test_the_same_numbers_every_time() -> None:
    task = load("diabetes")
    first, second = (prepare(task, make_splits(task, 1, seed=4)[0], seed=4) for _ in range(2))
    np.testing.assert_array_equal(first.X_train, second.X_train)
    np.testing.assert_array_equal(first.y_test, second.y_test)


def test_constant_training_target_is_refused() -> None:
    task = make_task(pd.DataFrame({"x": np.sin(np.arange(12)), "y": [1.0] * 6 + [2.5, 3, 4, 5, 6, 7]}))
    with pytest.raises(DataError, match="constant \\(1\\) in the 6 training rows"):
        prepare(task, Split(np.arange(6), np.arange(6, 12), "s"))
