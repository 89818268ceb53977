import json

import numpy as np
import pytest

from bayesify.arena.store import Store
from bayesify.errors import SaveError

KEY = "ab" + "0" * 30


@pytest.fixture
def store(tmp_path):
    found = Store(tmp_path / "results")
    found.prepare()
    return found


def record(key=KEY, **changes):
    plain = {"key": key, "label": "map", "spec": "map", "status": "done", "reason": None, "multiple": 1.0, "split": 0}
    return {**plain, "seed": 0, "seconds": 1.5, "scores": {"nll": 0.5}, "spent": {"total": 10.0}, **changes}


def test_a_record_comes_back_as_it_went_in(store):
    arrays = {"log_prob": np.linspace(-1, 0, 5), "rows": np.arange(5)}
    assert not store.has(KEY)
    store.write(KEY, record(), arrays)
    assert store.has(KEY)
    assert store.record(KEY) == record()
    found = store.arrays(KEY)
    assert set(found) == set(arrays)
    np.testing.assert_array_equal(found["log_prob"], arrays["log_prob"])


def test_an_unfinished_cell_has_no_record(store):
    assert store.record(KEY) is None


def test_arrays_without_a_record_do_not_count(store):
    """What is left when the process dies between the two writes."""
    store.write(KEY, record(), {"log_prob": np.zeros(3)})
    store.record_path(KEY).unlink()
    assert not store.has(KEY)


def test_nothing_unfinished_is_left_behind(store):
    store.write(KEY, record(), {"log_prob": np.zeros(3)})
    assert sorted(path.name for path in store.record_path(KEY).parent.iterdir()) == [f"{KEY}.json", f"{KEY}.npz"]


def test_damage_is_named_and_not_fatal_to_the_rest(store):
    store.write(KEY, record(), {"log_prob": np.zeros(3)})
    path = store.record_path(KEY)
    path.write_text(path.read_text()[:20])
    with pytest.raises(SaveError, match="delete it and run the same command again"):
        store.record(KEY)
    store.record_path(KEY).with_suffix(".npz").write_bytes(b"PK broken")
    with pytest.raises(SaveError, match="damaged or missing"):
        store.arrays(KEY)


def test_sql_over_the_records(store):
    for number, status in enumerate(["done", "failed", "done"]):
        key = f"{number:02d}" + "f" * 30
        store.write(key, record(key, status=status, seconds=float(number)), {})
    assert store.query("SELECT status, count(*), sum(seconds) FROM runs GROUP BY status ORDER BY status") == [
        ("done", 2, 2.0),
        ("failed", 1, 1.0),
    ]
    assert store.query("SELECT scores->>'nll' FROM runs LIMIT 1") == [("0.5",)]


def test_sql_over_an_empty_folder(store):
    assert store.query("SELECT * FROM runs") == []


def test_a_folder_with_a_quote_in_its_name(tmp_path):
    store = Store(tmp_path / "it's mine")
    store.prepare()
    store.write(KEY, record(), {})
    assert store.query("SELECT label FROM runs") == [("map",)]


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SaveError, match="choose another folder"):
        Store(tmp_path / "file").prepare()


def test_records_are_plain_json(store):
    store.write(KEY, record(scores={"nll": float("inf")}), {})
    assert json.loads(store.record_path(KEY).read_text())["scores"]["nll"] == float("inf")
