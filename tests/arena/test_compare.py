import json
import math

import numpy as np
import pytest
import torch
from torch import nn

import bayesify as bay
from bayesify.arena.resume import progress_of, result_of
from bayesify.errors import DataError, ModelError, SaveError


class Counting:
    """A watch that counts the cells that really ran."""

    def __init__(self):
        self.waiting, self.outcomes = 0, []

    def planned(self, plan, waiting, workers):
        self.waiting = len(waiting)

    def finished(self, outcome):
        self.outcomes.append(outcome)


FAST = {"splits": 2, "epochs": 3.0, "methods": ["map", "laplace", "map_whole_budget"]}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compare")
    watch = Counting()
    result = bay.compare("default", "diabetes", out=folder, watch=watch, **FAST)
    return folder, result, watch


def test_every_cell_ran_and_is_paired(finished):
    _, result, watch = finished
    assert watch.waiting == len(watch.outcomes) == 4 * 2
    assert {outcome.status for outcome in watch.outcomes} == {"done"}
    assert result.data["progress"] == {"done": 8, "planned": 8, "failed": 0}


def test_the_difference_is_the_mean_paired_difference_of_log_likelihoods(finished):
    _, result, _ = finished
    own = np.mean(result["deep_ensemble"]["scores_by_split"]["nll"]) - np.mean(
        result["laplace"]["scores_by_split"]["nll"]
    )
    assert result["laplace"]["difference"]["estimate"] == pytest.approx(own, abs=1e-9)


def test_the_result_has_what_json_promises(finished):
    _, result, _ = finished
    from bayesify.arena.summary import summary

    short = summary(result.data)
    assert {"task", "control", "budget", "methods"} <= set(short)
    for entry in short["methods"]:
        assert {"name", "status", "scores", "difference", "verdict", "spent", "predict_seconds"} <= set(entry)
        assert {"gradient_evaluations", "seconds", "flops"} <= set(entry["spent"])
        if entry["name"] != "deep_ensemble":
            assert set(entry["difference"]) == {"metric", "estimate", "low", "high"}
            assert entry["difference"]["low"] <= entry["difference"]["estimate"] <= entry["difference"]["high"]
            assert entry["verdict"] in {"better", "equivalent", "worse", "undecided"}


def test_budgets_are_spent_or_explained(finished):
    _, result, _ = finished
    for entry in result.data["methods"]:
        assert entry["budget_fraction"] <= 1.02, entry["name"]
        assert entry["budget_fraction"] >= 0.98 or entry["unspent_reason"], entry["name"]


def test_the_same_call_recomputes_nothing_and_says_the_same(finished):
    folder, result, _ = finished
    watch = Counting()
    again = bay.compare("default", "diabetes", out=folder, watch=watch, **FAST)
    assert watch.waiting == 0
    assert watch.outcomes == []
    assert again.data["methods"] == result.data["methods"]


def test_a_new_method_joins_a_finished_comparison(finished, tmp_path):
    folder, result, _ = finished
    import shutil

    copied = tmp_path / "copy"
    shutil.copytree(folder, copied)
    watch = Counting()
    more = bay.compare(
        "default", "diabetes", out=copied, watch=watch, **{**FAST, "methods": [*FAST["methods"], "swag"]}
    )
    assert {outcome.cell.label for outcome in watch.outcomes} == {"swag"}
    assert more["map"]["scores"] == result["map"]["scores"]


def test_report_and_status_work_from_the_folder_alone(finished):
    folder, result, _ = finished
    found = result_of(folder)
    assert found.sentence == result.sentence
    assert found.data["methods"] == result.data["methods"]
    paths = found.report()
    assert paths.html.stat().st_size > 10_000
    assert json.loads(paths.json.read_text())["sentence"] == result.sentence
    counts = progress_of(folder)["methods"]
    assert all(entry["done"] == entry["planned"] == 2 for entry in counts.values())


def test_a_partial_comparison_is_reported_and_says_what_is_missing(finished, tmp_path):
    folder, result, _ = finished
    import shutil

    copied = tmp_path / "copy"
    shutil.copytree(folder, copied)
    plan = json.loads((copied / "request.json").read_text())["plan"]
    lost = next(cell for cell in plan["cells"] if cell["label"] == "laplace" and cell["split"] == 1)
    (copied / "runs" / lost["key"][:2] / f"{lost['key']}.json").unlink()
    found = result_of(copied)
    assert found["laplace"]["status"] == "partial"
    assert found.data["progress"]["done"] == 7
    missing = found.data["missing"]
    assert [(one["method"], one["split"]) for one in missing] == [("laplace", 1)]
    assert "run the same command again" in missing[0]["reason"]
    assert found["map"]["verdict"] == result["map"]["verdict"]


def test_processes_give_what_one_process_gives(finished, tmp_path):
    _, result, _ = finished
    watch = Counting()
    parallel = bay.compare("default", "diabetes", out=tmp_path, workers=2, watch=watch, **FAST)
    assert len(watch.outcomes) == 8
    for entry, other in zip(parallel.data["methods"], result.data["methods"], strict=True):
        assert entry["scores"] == other["scores"]
        assert entry["difference"] == other["difference"]


class Refusing(nn.Module):
    """Works on the first look, then not any more."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(10, 1)
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        if self.calls > 3:
            raise RuntimeError("broken on purpose")
        return self.linear(x)


def test_a_failing_method_is_a_record_with_a_reason_and_the_others_go_on(tmp_path):
    result = bay.compare(
        nn.Sequential(nn.Linear(10, 4), nn.ReLU(), nn.Linear(4, 1)),
        "diabetes",
        likelihood="gaussian",
        methods=["map", "mc_dropout(rate=0.5)", "hmc(num_chains=100000)"],
        splits=1,
        epochs=2.0,
        out=tmp_path,
    )
    failed = result["hmc(num_chains=100000)"]
    assert failed["status"] == "failed"
    assert failed["reason"]
    assert failed["verdict"] is None
    assert result["map"]["status"] == "done"
    assert any("runs failed" in text for text in result.data["caveats"])


def test_a_users_network_that_breaks_is_a_failed_record(tmp_path):
    result = bay.compare(
        Refusing(), "diabetes", likelihood="gaussian", methods=["map"], splits=1, epochs=2.0, out=tmp_path
    )
    assert result["map"]["status"] == "failed"
    assert "broken on purpose" in result["map"]["reason"]
    assert result.sentence.startswith("No verdict yet")


def test_arrays_and_classes(tmp_path):
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(90, 3))
    labels = (inputs[:, 0] + 0.3 * rng.normal(size=90) > 0).astype(int)
    result = bay.compare("default", (inputs, labels), methods=["map"], splits=2, epochs=2.0, out=tmp_path)
    assert result.data["task"]["kind"] == "binary"
    scores = result["map"]["scores"]
    assert 0 <= scores["accuracy"] <= 1
    assert math.isfinite(scores["ece"])
    assert result.data["reliability"]["map"][0]["count"] > 0


def test_several_budgets_draw_a_curve(tmp_path):
    result = bay.compare(
        "default", "diabetes", methods=["map_whole_budget"], splits=2, epochs=1.0, budgets=[1, 2], out=tmp_path
    )
    points = {(point["method"], point["multiple"]): point for point in result.data["curve"]}
    assert set(points) == {(m, k) for m in ("deep_ensemble", "map_whole_budget") for k in (1.0, 2.0)}
    assert points["map_whole_budget", 2.0]["gradient_evaluations"] == pytest.approx(
        2 * points["map_whole_budget", 1.0]["gradient_evaluations"], rel=0.05
    )


def test_tuning_is_charged_to_the_budget(tmp_path):
    result = bay.compare("default", "diabetes", methods=["swag"], splits=1, epochs=6.0, tune=2, out=tmp_path)
    assert result["swag"]["spec"].startswith("tuned(")
    assert result["swag"]["status"] == "done", result["swag"]["reason"]
    assert result["swag"]["budget_fraction"] <= 1.02


def test_bad_models(tmp_path):
    with pytest.raises(ModelError, match=r"package\.module:factory"):
        bay.compare("nonsense", "diabetes", out=tmp_path)
    with pytest.raises(ModelError, match="cannot be imported"):
        bay.compare("no_such_module:make", "diabetes", out=tmp_path)


def test_bad_inputs(tmp_path):
    with pytest.raises(DataError, match="compares on tables"):
        bay.compare("default", (torch.zeros(5, 2, 3, 4, 4), torch.zeros(5)), out=tmp_path)
    with pytest.raises(SaveError, match=r"no results folder"):
        result_of(tmp_path)
    (tmp_path / "request.json").write_text("{}")
    with pytest.raises(SaveError, match="another version"):
        result_of(tmp_path)
