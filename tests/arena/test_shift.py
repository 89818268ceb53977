"""Shifted and outside sets in the arena, on the small digits that come with scikit-learn."""

import json

import numpy as np
import pytest
from sklearn.datasets import load_digits

import bayesify as bay
from bayesify import metrics
from bayesify.arena.compare import default_folder
from bayesify.arena.plan import Settings, make_plan
from bayesify.arena.resume import result_of
from bayesify.arena.shift_summary import shift_summary
from bayesify.arena.statistics import compare_to_control
from bayesify.arena.statistics.variation import PairedDifferences
from bayesify.arena.store import Store
from bayesify.arena.summary import summary
from bayesify.datasets import Shift, image_task, make_task
from bayesify.errors import DataError, ModelError

FAST = {"methods": ["map", "laplace_last_layer"], "control": "deep_ensemble(3)", "splits": 2, "epochs": 3.0}


def digits():
    data = load_digits()
    return image_task((15 * data.images).astype(np.uint8), data.target)


def noise():
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (80, 8, 8), dtype=np.uint8), np.arange(80) % 2


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shift")
    result = bay.compare(
        "default", digits(), out=folder, examples=300, shift=True, shift_examples=40, outside=[noise()], **FAST
    )
    return folder, result


def cells(folder):
    plan = json.loads((folder / "request.json").read_text())["plan"]
    store = Store(folder)
    return [(cell, store.record(cell["key"]), store.arrays(cell["key"])) for cell in plan["cells"]]


def test_every_cell_keeps_what_paired_statistics_need(finished):
    folder, _ = finished
    for _, record, arrays in cells(folder):
        assert record["status"] == "done", record["reason"]
        assert record["num_train"] == 300
        assert arrays["log_prob@corrupted"].shape == (50, 40)
        assert arrays["error@corrupted"].shape == arrays["confidence@corrupted"].shape == (50, 40)
        assert set(arrays["rows@corrupted"]) <= set(arrays["rows"])
        scores = record["scores"]
        assert scores["nll@corrupted"] == pytest.approx(-arrays["log_prob@corrupted"].mean(), rel=1e-5)
        assert scores["accuracy@corrupted"] == pytest.approx(1 - arrays["error@corrupted"].mean(), abs=1e-6)
        assert scores["nll@corrupted"] > scores["nll"]
        for measure in ("entropy", "mutual_information"):
            again = metrics.auroc(arrays[measure], arrays[f"{measure}@images"])
            assert scores[f"auroc_{measure}@images"] == pytest.approx(again, abs=1e-12)
        assert len(arrays["entropy@images"]) == 80
        assert record["shift"]["predictions"] == 50 * 40 + 80
        assert record["shift"]["seconds"] > 0


def test_one_network_has_no_mutual_information(finished):
    _, result = finished
    assert result["map"]["scores"]["auroc_mutual_information@images"] == 0.5
    assert result["deep_ensemble(3)"]["scores"]["auroc_mutual_information@images"] != 0.5


def test_verdicts_under_shift_are_those_of_paired_differences(finished):
    folder, result = finished
    found = {(cell["label"], cell["split"]): arrays for cell, _, arrays in cells(folder)}
    num_test = len(found["map", 0]["rows"])
    differences = {}
    for name in ("map", "laplace_last_layer"):
        own, control = ([found[label, split] for split in (0, 1)] for label in (name, "deep_ensemble(3)"))
        values = tuple(
            (a["log_prob@corrupted"].astype(float) - b["log_prob@corrupted"]).mean(0)[None]
            for a, b in zip(own, control, strict=True)
        )
        rows = tuple(one["rows@corrupted"] for one in control)
        # 40 rows are corrupted, but training sets overlap as test sets of this size leave them.
        differences[name] = PairedDifferences(values, rows, round(300 * 40 / num_test))
    for name, comparison in compare_to_control(differences, margin=0.01).items():
        entry = result[name]["shift"]["corrupted"]
        assert entry["verdict"] == str(comparison.verdict)
        for key in ("estimate", "low", "high"):
            assert entry["difference"][key] == pytest.approx(getattr(comparison.difference, key), abs=1e-5)
        assert "nats per example" in entry["verdict_sentence"]
    assert result["deep_ensemble(3)"]["shift"]["corrupted"]["verdict"] == "control"


def test_the_result_says_what_was_tested_on(finished):
    _, result = finished
    corrupted, outside = result.data["shift"]["sets"]
    assert (corrupted["kind"], corrupted["examples"], corrupted["conditions"]) == ("corrupted", 40, 50)
    assert "corrupted copies of images" in corrupted["sentence"]
    assert (outside["name"], outside["kind"], outside["examples"]) == ("images", "outside", 80)
    curve = result.data["shift"]["severities"]["map"]
    assert [point["severity"] for point in curve] == [0, 1, 2, 3, 4, 5]
    assert curve[0]["nll"] == pytest.approx(result["map"]["scores"]["nll"])
    assert np.mean([p["nll"] for p in curve[1:]]) == pytest.approx(result["map"]["scores"]["nll@corrupted"])
    short = summary(result.data)
    entry = next(one for one in short["methods"] if one["name"] == "map")
    assert set(entry["shift"]["corrupted"]) == {"difference", "verdict"}


def test_the_report_has_the_section(finished):
    folder, result = finished
    assert result_of(folder).data["shift"] == result.data["shift"]
    paths = result.report()
    page, words = paths.html.read_text(), paths.markdown.read_text()
    for text in (page, words):
        assert "Under shift" in text
        assert "Corrupted copies of test rows: 40 rows, each corrupted in 10 ways at 5 severities" in text
        assert "AUROC by mutual information, images" in text
        assert "NLL, corrupted" in text


def test_what_is_predicted_beside_costs_no_training_budget(finished, tmp_path):
    _, result = finished
    plain = bay.compare("default", digits(), out=tmp_path, examples=300, **FAST)
    assert plain.data["shift"] is None
    for entry in plain.data["methods"]:
        more = result[entry["name"]]
        assert more["spent"]["total"] == entry["spent"]["total"]
        assert more["scores"]["nll"] == entry["scores"]["nll"]
    assert "Under shift" not in plain.report().html.read_text()


def test_a_table_with_a_shifted_set_and_gaps(tmp_path):
    whole = make_task("diabetes")
    other = whole.features.iloc[:60].assign(target=whole.target[:60] + 100.0)
    result = bay.compare(
        "default", "diabetes", out=tmp_path, gap=True, shift=True, shift_examples=30, shifted=[other], **FAST
    )
    assert result.data["task"]["split_kind"] == "gap"
    scores = result["map"]["scores"]
    assert scores["rmse@data"] > scores["rmse"] + 20
    assert {"nll@corrupted", "rmse@corrupted", "nll@data"} <= set(scores)
    assert result["map"]["shift"]["data"]["verdict"] in {"better", "equivalent", "worse", "undecided"}
    assert [one["name"] for one in result.data["shift"]["sets"]] == ["corrupted", "data"]
    assert "Rows of data: 60" in result.report().html.read_text()


def test_what_cannot_be_is_refused_before_any_training(tmp_path):
    with pytest.raises(DataError, match="is a table and the data are images"):
        bay.compare("default", digits(), outside=["iris"], out=tmp_path, **FAST)
    with pytest.raises(DataError, match="called the same"):
        bay.compare("default", digits(), outside=[noise(), noise()], out=tmp_path, **FAST)
    with pytest.raises(ModelError, match="lenet is for images"):
        bay.compare("lenet", "diabetes", out=tmp_path, **FAST)
    with pytest.raises(ModelError, match="Did you mean 'lenet'"):
        bay.compare("lenett", digits(), out=tmp_path, **FAST)
    with pytest.raises(DataError, match="at least 2"):
        bay.compare("default", digits(), shift=True, shift_examples=1, out=tmp_path, **FAST)
    assert not list(tmp_path.rglob("*.json"))


def test_plans_without_shift_keep_their_names_and_keys():
    from bayesify.arena.field import entrants

    task = make_task("diabetes")
    settings = Settings(entrants=entrants(["map"]), num_splits=1)
    plan, _ = make_plan(task, settings, "default")
    same, _ = make_plan(task, settings, "default", Shift())
    assert plan.cells == same.cells
    more, _ = make_plan(task, settings, "default", Shift(corrupt=True))
    assert not {cell.key for cell in more.cells} & {cell.key for cell in plan.cells}
    assert default_folder(plan) != default_folder(more)
    assert type(plan).from_dict(json.loads(json.dumps(more.as_dict()))) == more


def test_fewer_training_rows_are_a_stratified_draw():
    from bayesify.arena.field import entrants

    settings = Settings(entrants=entrants(["map"]), num_splits=2, examples=100)
    plan, splits = make_plan(digits(), settings, "default")
    whole = make_plan(digits(), Settings(entrants=entrants(["map"]), num_splits=2), "default").splits
    for split, full in zip(splits, whole, strict=True):
        assert len(split.train) == 100
        assert set(split.train) <= set(full.train)
        np.testing.assert_array_equal(split.test, full.test)
        assert np.bincount(digits().target[split.train]).min() >= 8
    assert plan.card.num_train == (100, 100)


def test_nothing_to_say_without_shift():
    from types import SimpleNamespace

    plan = SimpleNamespace(settings=Settings(entrants=()))
    assert shift_summary(plan, SimpleNamespace(done={}), [], 1.0) is None
