import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from urllib.error import URLError

import numpy as np
import pandas as pd
import pytest
import sklearn.datasets

from bayesify.datasets import list_datasets, load, make_splits, make_task, prepare
from bayesify.datasets.catalogue import CATALOGUE, canonical, entry
from bayesify.datasets.sources import cache_file, fingerprint, local_files, read_named, standard_tests
from bayesify.errors import DataError

BUNDLED = ["breast_cancer", "diabetes", "digits", "iris", "wine"]
GAP_NAMES = sorted(name for name in CATALOGUE if name.endswith("-gap"))
LOCAL = sorted(name for name, item in CATALOGUE.items() if not item.bundled and item.image_shape is None)


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No data folder, and an empty cache."""
    monkeypatch.delenv("BAYESIFY_DATA", raising=False)
    monkeypatch.setenv("BAYESIFY_CACHE", str(tmp_path / "cache"))
    return tmp_path


def offer(monkeypatch: pytest.MonkeyPatch, data: pd.DataFrame, target: pd.Series) -> list[dict]:
    """Stand in for OpenML; returns the calls it got."""
    calls: list[dict] = []

    def fetch(**arguments):
        calls.append(arguments)
        return SimpleNamespace(data=data, target=target)

    monkeypatch.setattr(sklearn.datasets, "fetch_openml", fetch)
    return calls


def yacht_like(num_rows: int) -> tuple[pd.DataFrame, pd.Series]:
    rng = np.random.default_rng(0)
    data = pd.DataFrame(rng.normal(size=(num_rows, 3)), columns=["a", "b", "c"])
    return data, pd.Series(rng.normal(size=num_rows), name="y")


@pytest.mark.parametrize("name", BUNDLED)
def test_bundled_sets_fit_their_description(name: str) -> None:
    task, item = load(name), entry(name)
    assert len(task.target) == item.rows
    assert task.features.shape[1] + task.aside.shape[1] == item.features
    assert task.kind == item.kind
    raw = getattr(sklearn.datasets, item.bundled)()
    if task.classes is None:
        np.testing.assert_array_equal(task.target, raw.target)
    else:
        truth = [str(raw.target_names[label]) for label in raw.target]
        assert [task.classes[index] for index in task.target] == truth


def test_list(bare: Path) -> None:
    rows = {row.name: row for row in list_datasets()}
    assert list(rows) == sorted(rows)
    assert rows["iris"].where == "bundled"
    assert rows["credit-g"].where == "download"
    assert rows["yacht"].where == "needs BAYESIFY_DATA"
    assert rows["mnist"].where == "download"
    assert all(row.licence and row.source and row.rows and row.features for row in rows.values())
    path = cache_file(entry("credit-g"))
    path.parent.mkdir(parents=True)
    path.touch()
    assert {row.name: row.where for row in list_datasets()}["credit-g"] == "cached"


def test_names_are_forgiving_and_unique() -> None:
    assert entry("Wine_Red") is entry("wine-red")
    assert len({canonical(item.name) for item in CATALOGUE.values()}) == len(CATALOGUE)
    with pytest.raises(DataError, match=r"no data set 'concret'\. Did you mean 'concrete'\?"):
        load("concret")


def test_without_network(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(**arguments):
        raise URLError("Name or service not known")

    monkeypatch.setattr(sklearn.datasets, "fetch_openml", fetch)
    with pytest.raises(DataError) as caught:
        load("credit-g")
    message = str(caught.value)
    assert "'credit-g' could not be downloaded from OpenML" in message
    assert "set BAYESIFY_DATA to a folder that has it" in message
    assert not cache_file(entry("credit-g")).exists()


def test_not_downloadable(bare: Path) -> None:
    with pytest.raises(DataError, match=r"'yacht' \(UCI 243\) cannot be downloaded .* uci_regression/yacht.npz"):
        load("yacht")


def test_download_is_cached(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, _ = yacht_like(208)
    target = pd.Series(pd.Categorical(["Mine", "Rock"] * 104), name="Class")
    calls = offer(monkeypatch, data, target)
    first, second = load("sonar"), load("sonar")
    assert len(calls) == 1
    assert calls[0]["data_id"] == 40
    assert first.classes == second.classes == ("Mine", "Rock")
    pd.testing.assert_frame_equal(first.features, second.features)
    assert [path.name for path in cache_file(entry("sonar")).parent.iterdir()] == ["sonar.parquet"]
    cache_file(entry("sonar")).write_bytes(b"PAR1 broken")
    pd.testing.assert_frame_equal(load("sonar").features, first.features)
    assert len(calls) == 2


def test_download_into_a_cache_that_cannot_be_written(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (bare / "cache").write_text("in the way")
    data, _ = yacht_like(208)
    offer(monkeypatch, data, pd.Series(["Mine", "Rock"] * 104, name="Class"))
    assert load("sonar").kind == "binary"


def test_download_of_other_rows_is_refused(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offer(monkeypatch, *yacht_like(50))
    with pytest.raises(DataError, match="OpenML 40 has 50 rows, not the 208 of 'sonar'"):
        load("sonar")


def test_standard_splits_need_the_published_row_order(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, target = yacht_like(1030)
    offer(monkeypatch, data, target)
    task = load("concrete")
    assert task.splits is None
    assert "not in the published order: the published splits are not used" in task.notes[0]
    assert make_splits(task, 1)[0].name == "random-0"


def test_fingerprint_sees_rows_not_columns() -> None:
    data, target = yacht_like(50)
    frame = data.assign(y=target, word=["x", None] * 25)
    same = fingerprint(frame)
    assert fingerprint(frame[["word", "c", "y", "a", "b"]].set_axis(list("vwxyz"), axis=1)) == same
    assert fingerprint(frame.assign(a=frame["a"] * (1 + 1e-12), word=["x", np.nan] * 25)) == same
    assert fingerprint(frame.iloc[::-1]) != same
    assert fingerprint(frame.assign(a=frame["a"] + 1e-3)) != same


def test_broken_local_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BAYESIFY_DATA", str(tmp_path))
    path = tmp_path / "uci_regression" / "yacht.npz"
    path.parent.mkdir()
    path.write_bytes(b"PK\x03\x04 nonsense")
    with pytest.raises(DataError, match=r"yacht\.npz' cannot be read"):
        load("yacht")


def test_importing_the_room_is_cheap() -> None:
    heavy = ("pandas", "sklearn", "skrub", "pyarrow")
    code = f"import sys, bayesify.datasets; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", LOCAL)
def test_local_sets_fit_their_description(bayesify_data: Path, name: str) -> None:
    item = entry(name)
    assert local_files(item)
    table = read_named(name)
    assert table.frame.shape == (item.rows, item.features + 1)
    if item.fingerprint:
        assert fingerprint(table.frame) == item.fingerprint


@pytest.mark.parametrize("name", ["concrete", "energy", "yacht", "wine-red", "kin8nm", "protein"])
def test_standard_splits_are_the_files_own_and_can_be_made_again(bayesify_data: Path, name: str) -> None:
    task = load(name)
    arrays = np.load(bayesify_data / "uci_regression" / f"{name}.npz", allow_pickle=False)
    count = int(arrays["n_splits"])
    assert len(task.splits) == count
    np.testing.assert_array_equal(task.target, arrays["y"])
    np.testing.assert_array_equal(task.features.to_numpy(), arrays["X"])
    for number, made in enumerate(standard_tests(len(task.target), count)):
        np.testing.assert_array_equal(np.sort(made), task.splits[number].test)
        np.testing.assert_array_equal(np.sort(arrays[f"test_{number}"]), task.splits[number].test)
    splits = make_splits(task, 5)
    assert [split.name for split in splits] == [f"standard-{number}" for number in range(5)]


def test_published_rows_get_their_splits_from_a_download(
    bayesify_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("concrete", "adult", "shuttle")
    tables = {name: read_named(name).frame for name in names}
    local = {name: load(name) for name in names}
    monkeypatch.delenv("BAYESIFY_DATA")
    monkeypatch.setenv("BAYESIFY_CACHE", str(tmp_path))
    for name in names:
        frame = tables[name].rename(columns=lambda column: f"other {column}")
        offer(monkeypatch, frame.iloc[:, :-1].iloc[:, ::-1], frame.iloc[:, -1])
        task = load(name)
        assert len(task.splits) == len(local[name].splits)
        for split, own in zip(task.splits, local[name].splits, strict=True):
            np.testing.assert_array_equal(split.test, own.test)


@pytest.mark.parametrize("name", GAP_NAMES)
def test_gap_splits_test_the_middle_of_one_feature(bayesify_data: Path, name: str) -> None:
    task = load(name)
    whole = read_named(name).frame
    for number, split in enumerate(make_splits(task, 20)):
        assert split.name == f"gap-{number}"
        feature = whole.iloc[:, number]
        assert feature[split.test].min() >= feature[split.train].min()
        assert feature[split.test].max() <= feature[split.train].max()
        assert len(split.test) == pytest.approx(len(task.target) / 3, abs=2)


def test_official_splits(bayesify_data: Path) -> None:
    wine, bikes = load("wine-shift"), load("bike-sharing-hour")
    assert len(wine.splits[0].train) == 1599
    assert {"casual", "registered"} <= set(bikes.aside.columns)
    years = bikes.features["dteday"].dt.year.to_numpy()
    assert set(years[bikes.splits[0].train]) == {2011}
    assert set(years[bikes.splits[0].test]) == {2012}


@pytest.mark.parametrize("name", ["concrete", "credit-g", "segment", "vehicle", "mushroom", "glass", "breast-w"])
def test_local_sets_can_be_prepared(bayesify_data: Path, name: str) -> None:
    task = make_task(name)
    for split in make_splits(task, 2):
        prepared = prepare(task, split)
        assert np.isfinite(prepared.X_train).all()
        assert np.isfinite(prepared.X_test).all()
        if task.classes:
            assert set(prepared.y_train) == set(range(len(task.classes)))
    words = [value for name in task.features for value in task.features[name].unique() if isinstance(value, str)]
    assert not any(word.startswith("'") for word in words)
