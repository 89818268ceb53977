import datetime
import decimal

import numpy as np
import pandas as pd
import pytest

from bayesify.datasets.columns import column_not_found, plain_frame, quoted, screen
from bayesify.errors import DataError


def plain(values, **kwargs) -> pd.Series:
    return plain_frame(pd.DataFrame({"a": values}, **kwargs), "data")[0]["a"]


NUMBERS = {
    "integers": [1, 2, 3],
    "nullable integers": pd.array([1, None, 3], dtype="Int64"),
    "nullable floats": pd.array([1.5, None, 3], dtype="Float64"),
    "float32": np.array([1, 2, 3], dtype=np.float32),
    "unsigned": np.array([1, 2, 255], dtype=np.uint8),
    "decimals": [decimal.Decimal("1.5"), None, decimal.Decimal(2)],
    "huge whole numbers": [10**25, 1, None],
    "durations": pd.to_timedelta(["1s", None, "2min"]),
    "durations as objects": pd.Series([datetime.timedelta(seconds=3), None], dtype=object),
    "sparse": pd.arrays.SparseArray([0.0, 0.0, 1.0]),
    "nothing": [None, None],
}
TEXTS = {
    "objects": ["x", None, " y "],
    "strings": pd.array(["x", None, "y"], dtype="string"),
    "categories": pd.Categorical(["x", None, "y"]),
    "coded categories": pd.Categorical([1, 2, 1]),
    "true, false or missing": pd.array([True, None, False], dtype="boolean"),
    "numbers and words": [1, "x", 2.5],
    "intervals": pd.arrays.IntervalArray.from_tuples([(0, 1), (1, 2)]),
    "few codes": ["1", "2", "X"] * 10,
}
DATES = {
    "dates": pd.to_datetime(["2020-01-01", None]),
    "time zones": pd.to_datetime(["2020-01-01 12:00+02:00", "2021-01-01 12:00+02:00"]),
    "periods": pd.PeriodIndex(["2020-01", "2020-02"], freq="M"),
    "date objects": [datetime.date(2020, 1, 1), None],
    "ISO words": ["2020-01-01", "2020-12-31", None],
    "day first": ["31/01/2020", "01/02/2020"],
    "with a clock": ["2020-01-01T10:00:00", "2020-01-02T10:00:00"],
}


@pytest.mark.parametrize("values", NUMBERS.values(), ids=NUMBERS.keys())
def test_numbers(values) -> None:
    column = plain(values)
    assert column.dtype.kind in "iuf"
    assert column.isna().tolist() == pd.Series(values).isna().tolist()


@pytest.mark.parametrize("values", TEXTS.values(), ids=TEXTS.keys())
def test_text(values) -> None:
    column = plain(values)
    assert column.dtype == object
    assert all(isinstance(value, str) and value == value.strip() for value in column.dropna())
    assert column.isna().tolist() == pd.Series(values).isna().tolist()


@pytest.mark.parametrize("values", DATES.values(), ids=DATES.keys())
def test_dates(values) -> None:
    column = plain(values)
    assert column.dtype.kind == "M"
    assert column.dt.tz is None
    assert column.isna().tolist() == pd.Series(values).isna().tolist()


def test_values_survive() -> None:
    assert plain(NUMBERS["durations"]).tolist()[::2] == [1.0, 120.0]
    assert plain(DATES["time zones"])[0] == pd.Timestamp("2020-01-01 10:00")
    assert plain(DATES["day first"])[0] == pd.Timestamp("2020-01-31")
    assert plain([True, False]).dtype == bool
    assert plain(["", "  ", "x"]).isna().tolist() == [True, True, False]


def test_strays_in_numbers_and_dates_become_missing_and_are_named() -> None:
    frame, notes = plain_frame(
        pd.DataFrame(
            {
                "price": [*map(str, range(39)), "n.a."],
                "day": [f"2020-01-{day:02d}" for day in range(1, 31)] * 1 + ["2020-02-01"] * 9 + ["soon"],
            }
        ),
        "data",
    )
    assert frame["price"].isna().sum() == frame["day"].isna().sum() == 1
    assert notes == (
        "'price' is read as numbers; 1 row with 'n.a.' as missing.",
        "'day' is read as dates; 1 row with 'soon' as missing.",
    )


def test_row_labels_are_dropped_and_names_become_strings() -> None:
    frame, _ = plain_frame(pd.DataFrame({1: [1, 2]}, index=[7, 7]), "data")
    assert frame.index.tolist() == [0, 1]
    assert list(frame.columns) == ["1"]


@pytest.mark.parametrize(
    ("frame", "words"),
    [
        (pd.DataFrame([[1, 2]], columns=["a", "a"]), "duplicate column names: 'a'"),
        (pd.DataFrame([[1, 2]], columns=["1", 1]), "duplicate column names: '1'"),
        (pd.DataFrame([[1, 2]], columns=pd.MultiIndex.from_tuples([("a", "b"), ("a", "c")])), "2 levels"),
        (pd.DataFrame({"a": [1j]}), "'a' holds complex numbers"),
        (pd.DataFrame({"a": [[1, 2], [3]]}), "'a' holds list values"),
        (pd.DataFrame({"a": [{"b": 1}]}), "'a' holds dict values"),
        (pd.DataFrame({"a": [b"1"]}), "'a' holds bytes values"),
    ],
)
def test_refused_frames(frame: pd.DataFrame, words: str) -> None:
    with pytest.raises(DataError) as caught:
        plain_frame(frame, "data")
    assert words in str(caught.value)


def screened(**columns):
    return screen(plain_frame(pd.DataFrame(columns), "data")[0])


def test_useless_columns_are_put_aside() -> None:
    result = screened(
        good=[1.0, 2.0, 2.0],
        empty=[None] * 3,
        same=["x"] * 3,
        same_or_missing=["x", None, "x"],
        user_id=[30, 10, 20],
        userId=["p", "q", "r"],
        ticket=["A-1", "B-2", "C-3"],
        review=["very good", "very bad", "so so"],
        idea=[30, 10, 20],
        day=pd.to_datetime(["2020-01-01", "2020-01-02", "2020-01-03"]),
    )
    assert list(result.features.columns) == ["good", "same_or_missing", "review", "idea", "day"]
    assert list(result.aside.columns) == ["empty", "same", "user_id", "userId", "ticket"]
    assert result.notes == (
        "Not used as features, because all values are missing: 'empty'.",
        "Not used as features, because the value is always the same: 'same'.",
        "Not used as features, because every row has its own value (identifiers): 'user_id', 'userId', 'ticket'.",
    )


def test_row_counters_and_huge_numbers_are_kept_and_noted() -> None:
    result = screened(t=[1, 2, 3], big=[1e300, -1e300, 0.0])
    assert list(result.features.columns) == ["t", "big"]
    assert "'t' counts the rows" in result.notes[0]
    assert "'big' has 2 rows with numbers beyond 1e+30" in result.notes[1]


def test_infinite_features_are_refused_with_counts() -> None:
    with pytest.raises(DataError, match=r"Infinite values in 'a' \(2 rows\), 'b' \(1 row\): replace them"):
        screened(a=[np.inf, -np.inf, 1.0], b=[1.0, np.inf, np.nan], c=[1.0, 2.0, np.nan])


def test_no_feature_left() -> None:
    with pytest.raises(DataError, match="No feature is left beside the target \\('a': the value is always the same\\)"):
        screened(a=[1, 1])
    with pytest.raises(DataError, match="there is no other column"):
        screen(pd.DataFrame(index=range(3)))


def test_column_not_found_names_the_nearest_or_the_first() -> None:
    assert str(column_not_found("pric", ["price", "size"], "houses")) == (
        "'houses' has no column 'pric'. Did you mean 'price'?"
    )
    many = [f"x{number}" for number in range(9000)]
    message = str(column_not_found("weight", many, "houses"))
    assert message.endswith("Its columns: 'x0', 'x1', 'x2', 'x3', 'x4' and 8995 more.")


def test_quoted() -> None:
    assert quoted(["a", "b"]) == "'a', 'b'"
    assert quoted(["a" * 61]) == repr("a" * 57 + "...")
    assert quoted("abcdefg") == "'a', 'b', 'c', 'd', 'e' and 2 more"
