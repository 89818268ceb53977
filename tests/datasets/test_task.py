"""Whole tables, good and bad. Files first: that is what users have."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bayesify.datasets.prepare import prepare
from bayesify.datasets.sources import Table
from bayesify.datasets.splits import Split, make_splits
from bayesify.datasets.task import build_task, make_task
from bayesify.errors import DataError

XSS = "<script>alert(1)</script>"


def houses(num_rows: int = 40) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "size": rng.normal(100, 20, num_rows),
            "colour": rng.choice(["red", "blue"], num_rows),
            "price": rng.normal(3e5, 1e5, num_rows).round(2),
        }
    )


def refusal(source, **arguments) -> str:
    with pytest.raises(DataError) as caught:
        make_task(source, **arguments)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 400
    return message


def test_defaults_are_inferred_and_said() -> None:
    task = make_task(houses())
    assert (task.name, task.target_name, task.kind, task.classes) == ("data", "price", "regression", None)
    assert task.splits is None
    assert task.notes == (
        "The target is 'price', the last column; say target= for another.",
        "'price' is taken as a quantity: regression (40 distinct numbers; say kind= to override).",
    )


def test_target_kind_and_drop_can_be_chosen() -> None:
    task = make_task(houses(), target="colour", drop=["price"])
    assert (task.kind, task.classes) == ("binary", ("blue", "red"))
    assert list(task.features.columns) == ["size"]
    assert list(task.aside.columns) == ["price"]
    assert list(make_task(houses(), drop="size").features.columns) == ["colour"]


@pytest.mark.parametrize("name", ["houses.csv", "houses.tsv", "houses.csv.gz", "houses.parquet"])
def test_files(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if "parquet" in name:
        houses().to_parquet(path)
    else:
        houses().to_csv(path, index=False, sep="\t" if "tsv" in name else ",")
    from_path, from_text = make_task(path), make_task(str(path))
    assert from_path.name == from_text.name == "houses"
    np.testing.assert_array_equal(from_path.target, houses()["price"])


def test_a_file_wins_over_a_data_set_of_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "wine").mkdir()
    assert make_task("wine").classes == ("class_0", "class_1", "class_2")
    houses().to_csv("wine.csv", index=False)
    assert make_task("wine.csv").target_name == "price"


def test_unknown_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    houses().to_csv("houses.csv", index=False)
    assert "Did you mean 'iris'?" in refusal("irys")
    assert "Did you mean 'houses.csv'?" in refusal("house.csv")
    assert "Did you mean 'houses.csv'?" in refusal("houses")
    assert "Run 'bayesify datasets'" in refusal("qqqqqqqqqqqq")
    assert "is a directory" in refusal(str(tmp_path))
    assert "There is no file" in refusal(Path("wine"))
    assert "Data of type list cannot be used" in refusal([[1, 2]])


def with_column(**columns) -> pd.DataFrame:
    return pd.concat([pd.DataFrame(columns), houses()], axis=1)


def bad_tables() -> dict[str, tuple[pd.DataFrame, dict, str]]:
    base = houses()
    some = base["size"].mask(base.index < 3, np.inf)
    one = base.assign(grade=["a"] * 20 + ["b"] * 19 + ["c"])
    return {
        "inf in features": (base.assign(size=some), {}, "Infinite values in 'size' (3 rows)"),
        "inf in target": (base.assign(price=[-np.inf, *base["price"][1:]]), {}, "'price' is infinite in 1 row"),
        "all-missing target": (base.assign(price=np.nan), {}, "'price' has no value in any row"),
        "constant target": (base.assign(price=7), {}, "'price' is constant (always '7')"),
        "one class": (base.assign(grade="a"), {}, "'grade' is one class (always 'a')"),
        "a class seen once": (one, {}, "'grade' has 'c': a class of one row"),
        "2 rows": (base.head(2), {}, "Only 2 rows"),
        "0 rows": (base.head(0), {}, "has no row"),
        "target not found": (base, {"target": "prise"}, "no column 'prise'. Did you mean 'price'?"),
        "dropped column not found": (base, {"drop": ["sise"]}, "no column 'sise'. Did you mean 'size'?"),
        "target dropped": (base, {"drop": ["price"]}, "'price' is the target and cannot be dropped"),
        "no features": (base[["price"]], {}, "No feature is left"),
        "huge target": (base.assign(price=base["price"] * 1e295), {}, "beyond 1e+30 in 40 rows"),
        "dates as target": (base.assign(day=pd.date_range("2020-01-01", periods=40)), {}, "holds dates"),
        "wrong kind": (base, {"kind": "regresson"}, "Did you mean 'regression'?"),
    }


@pytest.mark.parametrize("as_file", [False, True], ids=["frame", "file"])
@pytest.mark.parametrize("case", bad_tables())
def test_bad_tables_are_refused(tmp_path: Path, case: str, as_file: bool) -> None:
    frame, arguments, words = bad_tables()[case]
    source = frame
    if as_file:
        source = tmp_path / "bad.csv"
        frame.to_csv(source, index=False)
        words = {"0 rows": "a header but no row", "no features": "one column"}.get(case, words)
    assert words in refusal(source, **arguments)


def test_duplicate_names_are_refused(tmp_path: Path) -> None:
    frame = houses().set_axis(["size", "size", "price"], axis=1)
    assert "duplicate column names: 'size'" in refusal(frame)
    frame.to_csv(tmp_path / "bad.csv", index=False)
    assert "duplicate column names: 'size' (2 times)" in refusal(tmp_path / "bad.csv")


def awkward_tables() -> dict[str, tuple[pd.DataFrame, str]]:
    """What is usable, with the note that says what was done."""
    base = houses()
    return {
        "all-missing column": (with_column(gone=[np.nan] * 40), "because all values are missing: 'gone'"),
        "constant column": (with_column(same=[1] * 40), "because the value is always the same: 'same'"),
        "identifiers": (with_column(user_id=range(40)), "own value (identifiers): 'user_id'"),
        "missing target": (base.assign(price=base["price"].mask(base.index < 4)), "4 rows without a value of 'price'"),
        "missing features": (base.assign(size=base["size"].mask(base.index < 9)), "regression"),
        "huge feature": (base.assign(size=base["size"].mask(base.index == 3, 1e300)), "numbers beyond 1e+30"),
        "a hostile name": (with_column(**{XSS: list("abcd") * 10}), "regression"),
        "two hundred levels": (pd.concat([with_column(town=[f"town {n}a" for n in range(40)])] * 5), "regression"),
        "dates": (with_column(day=pd.date_range("2020-01-01", periods=40)), "regression"),
    }


@pytest.mark.parametrize("case", awkward_tables())
def test_awkward_tables_are_used_and_noted(tmp_path: Path, case: str) -> None:
    frame, words = awkward_tables()[case]
    frame.to_csv(tmp_path / "table.csv", index=False)
    for source in (frame, tmp_path / "table.csv"):
        task = make_task(source)
        assert words in " ".join(task.notes)
        for split in make_splits(task, 2):
            prepared = prepare(task, split)
            assert prepared.X_train.shape == (len(split.train), len(prepared.feature_names))
            for array in (prepared.X_train, prepared.X_test, prepared.y_train, prepared.y_test):
                assert np.isfinite(array).all()


def test_ten_thousand_level_category() -> None:
    num_rows = 10_000
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "x": rng.normal(size=num_rows),
            "word": [f"word {n} of {n % 7}" for n in range(num_rows)],
            "y": rng.normal(size=num_rows),
        }
    )
    task = make_task(frame)
    prepared = prepare(task, make_splits(task, 1)[0])
    assert prepared.X_train.shape == (9_000, 31)


def test_dropped_rows_move_the_splits() -> None:
    frame = houses(20)
    frame.loc[[1, 15], "price"] = np.nan
    splits = (Split(np.arange(10), np.arange(10, 20), "official"),)
    task = build_task(Table("houses", frame, "price", "regression", splits))
    assert task.num_dropped == 2
    assert task.splits[0].train.tolist() == list(range(9))
    assert task.splits[0].test.tolist() == list(range(9, 18))
    np.testing.assert_array_equal(task.target[task.splits[0].test], frame["price"][10:].dropna())
    frame.loc[10:, "price"] = np.nan
    frame.loc[1, "price"] = 5.0
    with pytest.raises(DataError, match="'official' is left with 10 rows to train and 0 rows to test"):
        build_task(Table("houses", frame, "price", "regression", splits))


def test_leaking_columns_serve_only_another_target() -> None:
    frame = houses()[["size", "price"]].assign(cents=lambda table: table["price"] * 100)
    table = Table("houses", frame, "price", "regression", leaking=("cents",))
    assert list(build_task(table).features.columns) == ["size"]
    assert "give the target away: 'cents'" in " ".join(build_task(table).notes)
    assert list(build_task(table, target="size").features.columns) == ["price", "cents"]


@settings(max_examples=15)
@given(st.permutations(range(40)))
def test_row_order_does_not_matter(order: list[int]) -> None:
    frame = houses()
    straight, shuffled = make_task(frame), make_task(frame.iloc[order])
    assert shuffled.notes == straight.notes
    np.testing.assert_array_equal(shuffled.target, straight.target[order])
    rows = Split(np.arange(40), np.arange(40), "all")
    first, second = prepare(straight, rows), prepare(shuffled, rows)
    np.testing.assert_allclose(second.X_train, first.X_train[order], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(second.y_train, first.y_train[order], rtol=1e-5, atol=1e-6)


def test_the_source_is_left_alone() -> None:
    frame = houses()
    frame.loc[3, "size"] = np.nan
    before = frame.copy(deep=True)
    task = make_task(frame)
    prepare(task, make_splits(task, 1)[0])
    pd.testing.assert_frame_equal(frame, before)
