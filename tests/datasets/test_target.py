import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bayesify.datasets.columns import plain_frame
from bayesify.datasets.target import Target, read_target
from bayesify.errors import DataError


def read(values, kind: str | None = None) -> Target:
    return read_target(plain_frame(pd.DataFrame({"y": values}), "data")[0]["y"], kind)


def refusal(values, kind: str | None = None) -> str:
    with pytest.raises(DataError) as caught:
        read(values, kind)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("values", "kind", "classes"),
    [
        (np.linspace(0, 1, 12), "regression", None),
        (np.arange(100), "regression", None),
        (np.arange(12), "regression", None),  # 12 distinct whole numbers in 12 rows
        ([3, 4, 5] * 4, "multiclass", ("3", "4", "5")),
        ([3.0, 4.0, 5.0, np.nan] * 4, "multiclass", ("3", "4", "5")),
        ([0, 1] * 6, "binary", ("0", "1")),
        ([0.5, 1.5] * 6, "binary", ("0.5", "1.5")),
        (["no", "yes"] * 6, "binary", ("no", "yes")),
        ([True, False] * 6, "binary", ("False", "True")),
        (pd.Categorical([10, 9, 11] * 4), "multiclass", ("10", "11", "9")),
        (["a", "b", "c", "d"] * 3, "multiclass", ("a", "b", "c", "d")),
    ],
)
def test_kind_is_inferred(values, kind: str, classes: tuple[str, ...] | None) -> None:
    target = read(values)
    assert target.kind == kind
    assert target.classes == classes
    assert "say kind= to override" in target.notes[0]


def test_kind_can_be_overridden() -> None:
    assert read([3, 4, 5] * 4, "regression").values.dtype == np.float64
    assert read(np.repeat(np.arange(30), 2), "classification").kind == "multiclass"
    assert read([0, 1] * 6, "classification").kind == "binary"
    assert read([0, 1] * 6, "multiclass").kind == "multiclass"
    assert read(["1", "2", "3"] * 4, "regression").values[:3].tolist() == [1.0, 2.0, 3.0]
    assert "(as asked)" in read([3, 4, 5] * 4, "regression").notes[0]


def test_classes_are_in_numeric_order_and_values_index_them() -> None:
    target = read([10, 9, -1, 10, 9, -1] * 2)
    assert target.classes == ("-1", "9", "10")
    assert target.values[:3].tolist() == [2, 1, 0]


def test_missing_targets_are_left_out_and_counted() -> None:
    target = read([1.5, np.nan, *np.linspace(0, 1, 10)])
    assert target.kept.tolist() == [0, *range(2, 12)]
    assert target.notes[1] == "1 row without a value of 'y' left out."


@pytest.mark.parametrize(
    ("values", "kind", "words"),
    [
        ([2.5] * 12, None, "constant (always '2.5')"),
        (["a"] * 12, None, "one class (always 'a')"),
        (["a", None] * 12, None, "one class (always 'a')"),
        (["a"] * 6 + ["b"] * 6 + ["c"], None, "has 'c': a class of one row cannot be in both training and test data"),
        (["a"] * 6 + ["b"] * 6 + list("cdefghi"), None, "'c', 'd', 'e', 'f', 'g' and 2 more: classes of one row each"),
        ([None] * 12, None, "has no value in any row"),
        ([np.nan] * 12, None, "has no value in any row"),
        ([1.0, 2.5], None, "at least 10 are needed"),
        ([1.0, 2.0] * 3, None, "Only 6 rows with a value of 'y'"),
        ([np.inf, *range(20), -np.inf], None, "infinite in 2 rows"),
        ([1e300, *range(20)], None, "beyond 1e+30 in 1 row"),
        (1e9 + np.arange(12) * 1e-7, None, "constant"),
        (pd.date_range("2020-01-01", periods=12), None, "holds dates"),
        ([*map(str, range(30)), "n/a!", "n/a!", "-"], None, "numbers but for 'n/a!', '-' (3 rows)"),
        (["a", "b"] * 6, "regression", "'a', 'b' is no number"),
        ([1, 2, 3] * 4, "binary", "has 3 classes, not 2"),
        ([1, 2] * 6, "regresion", "Did you mean 'regression'?"),
    ],
)
def test_refused_targets(values, kind: str | None, words: str) -> None:
    assert words in refusal(values, kind)


@given(st.permutations(range(24)))
def test_row_order_does_not_matter(order: list[int]) -> None:
    values = np.array([["a", "b", "c"][row % 3] for row in range(24)], dtype=object)
    straight, shuffled = read(values), read(values[order])
    assert shuffled.classes == straight.classes
    assert shuffled.values.tolist() == straight.values[order].tolist()
