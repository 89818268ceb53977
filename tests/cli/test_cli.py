"""The command line as users meet it: a process, its output and its exit code."""

import dataclasses
import functools
import json
import os
import random
import signal
import subprocess
import sys
import time
from typing import NamedTuple

import numpy as np
import pytest

from bayesify.cli import main

FAST = ["--budget", "2", "--splits", "2", "--workers", "1", "--methods", "map, laplace"]


def run(*arguments, cwd=None, check=True):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "120"}
    found = subprocess.run(
        [sys.executable, "-m", "bayesify", *map(str, arguments)],
        capture_output=True, text=True, cwd=cwd, env=environment, timeout=240, check=False,
    )  # fmt: skip
    if check:
        assert found.returncode == 0, found.stderr
    return found


class Ended(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def here(monkeypatch, capsys):
    """The same command line without a process of its own, which takes seconds to import everything."""

    def run_here(*arguments):
        monkeypatch.setattr(sys, "argv", ["bayesify", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        shown = capsys.readouterr()
        return Ended(int(ended.value.code or 0), shown.out, shown.err)

    return run_here


@pytest.fixture
def csv(tmp_path):
    """A small table with numbers, a category and a missing value."""
    rng = np.random.default_rng(0)
    lines = ["size,colour,<script>alert(1)</script>,price"]
    for i in range(60):
        size = "" if i == 7 else f"{rng.normal():.3f}"
        lines.append(f"{size},{['red', 'green', 'blue'][i % 3]},{rng.normal():.3f},{i * 0.5 + rng.normal():.3f}")
    path = tmp_path / "houses.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_a_csv_is_compared_from_start_to_report(csv, tmp_path):
    found = run("compare", csv, "--target", "price", "--out", tmp_path / "out", *FAST)
    assert "regression of 'price'" in found.stderr
    assert "deep_ensemble" in found.stdout
    assert found.stdout.rstrip().splitlines()[-1].startswith("report: ")
    page = (tmp_path / "out" / "report.html").read_text()
    assert "<script>alert(1)" not in page
    status = run("status", tmp_path / "out")
    assert "laplace" in status.stdout
    again = run("report", tmp_path / "out")
    assert "at equal compute" in again.stdout


def test_json_is_one_object_and_nothing_else(csv, tmp_path):
    found = run("compare", csv, "--target", "price", "--out", tmp_path / "out", "--json", *FAST)
    result = json.loads(found.stdout)
    assert found.stderr == ""
    assert result["control"] == "deep_ensemble"
    assert {entry["name"] for entry in result["methods"]} == {"deep_ensemble", "map", "laplace"}


def test_shift_has_its_own_verdicts_and_scores(csv, tmp_path):
    elsewhere = tmp_path / "elsewhere.csv"
    elsewhere.write_text(csv.read_text().replace("red", "grey"))
    options = ["--target", "price", "--shift", "--shifted", elsewhere, "--outside", csv, "--examples", "40"]
    found = run("compare", csv, *options, "--out", tmp_path / "out", *FAST)
    for words in ("on corrupted rows", "on elsewhere rows", "told apart (AUROC)", "on corrupted copies of houses"):
        assert words in found.stdout
    result = json.loads(run("report", tmp_path / "out", "--json").stdout)
    assert [one["name"] for one in result["shift"]] == ["corrupted", "elsewhere", "houses"]
    entry = next(one for one in result["methods"] if one["name"] == "laplace")
    assert set(entry["shift"]) == {"corrupted", "elsewhere"}
    assert {"nll@corrupted", "rmse@elsewhere", "auroc_epistemic@houses"} <= set(entry["scores"])
    assert entry["scores"]["nll@corrupted"] > 0


def test_lists(tmp_path):
    names = {row["name"] for row in json.loads(run("methods", "--json").stdout)}
    assert {"map", "deep_ensemble", "swag", "laplace", "ivon", "hmc", "mc_dropout", "multi", "subset"} <= names
    assert "diabetes" in run("datasets").stdout
    assert "settings:" in run("methods").stdout
    assert json.loads(run("doctor", "--json").stdout)["packages"]["torch"]


BAD = {
    "target": (["--target", "prize"], "price"),
    "method": (["--methods", "swga"], "swag"),
    "parentheses": (["--methods", "multi(swag, 5"], "parentheses"),
    "setting": (["--methods", "laplace(shape=kron)"], "structure"),
    "budget": (["--budget", "lots"], "--budget 100"),
    "budgets": (["--budgets", "1,x"], "1,4,16"),
    "model": (["--model", "nowhere:net"], "cannot be imported"),
    "model name": (["--model", "lenett"], "lenet"),
    "images": (["--model", "lenet"], "default network"),
    "outside": (["--outside", "iris"], "sepal"),
    "ways to split": (["--gap", "--group", "colour"], "one of them"),
    "group": (["--group", "colur"], "colour"),
    "kind": (["--task", "ranking"], "regression"),
    "prior": (["--prior", "studentt"], "student_t"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_options_are_one_line_and_exit_2(case, csv, tmp_path, here):
    options, hint = BAD[case]
    found = here("compare", csv, "--out", tmp_path / "out", *options)
    assert found.returncode == 2
    assert hint in found.stderr
    assert "Traceback" not in found.stderr
    assert not (tmp_path / "out" / "runs").exists() or not any((tmp_path / "out" / "runs").iterdir())


def rows(*lines):
    return "a,b,y\n" + "\n".join(lines) + "\n"


GOOD_ROWS = [f"{i},{i * i % 7},{i * 0.5}" for i in range(30)]
BAD_FILES = {
    "infinite feature": rows(*GOOD_ROWS, "inf,1,2"),
    "infinite target": rows(*GOOD_ROWS, "1,1,inf"),
    "all targets missing": rows(*[f"{i},1," for i in range(30)]),
    "constant target": rows(*[f"{i},{i % 5},3.5" for i in range(30)]),
    "one class": rows(*[f"{i},{i % 5},yes" for i in range(30)]),
    "a class seen once": rows(*[f"{i},{i % 5},{'no' if i % 2 else 'yes'}" for i in range(30)], "1,2,perhaps"),
    "two rows": rows("1,2,3", "4,5,6"),
    "no rows": "a,b,y\n",
    "empty": "",
    "duplicate columns": "a,a,y\n" + "\n".join(GOOD_ROWS) + "\n",
    "not a table": "\x00\x01\x02\xff" * 50,
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_files_are_one_line_and_exit_2(case, tmp_path, here):
    path = tmp_path / "bad.csv"
    path.write_text(BAD_FILES[case], encoding="latin-1")
    found = here("compare", path, "--out", tmp_path / "out")
    assert found.returncode == 2, found.stdout + found.stderr
    last = found.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert "Traceback" not in found.stderr
    assert not (tmp_path / "out").exists()


def test_odd_but_usable_files_are_used(tmp_path):
    """NaN in a feature, NaN in some targets, an all-missing column, 10,000 levels."""
    lines = [f"{i if i % 9 else 'nan'},,level{i},{i * 0.5 if i % 11 else ''}" for i in range(10_000)]
    path = tmp_path / "odd.csv"
    path.write_text("a,empty,many,y\n" + "\n".join(lines) + "\n")
    found = run(
        "compare",
        path,
        "--out",
        tmp_path / "out",
        "--budget",
        "1",
        "--splits",
        "1",
        "--workers",
        "1",
        "--methods",
        "map",
    )
    assert "empty" in found.stderr
    assert "report: " in found.stdout


def test_missing_file_and_foreign_folder(tmp_path):
    found = run("compare", tmp_path / "nothing.csv", check=False)
    assert found.returncode == 2
    assert "nothing.csv" in found.stderr
    found = run("report", tmp_path, check=False)
    assert found.returncode == 2
    assert "results folder" in found.stderr


@pytest.mark.slow
def test_ten_kills_change_nothing(tmp_path):
    """kill -9 at random moments, then the same command: the undisturbed numbers, no finished cell computed again."""
    options = [
        "diabetes",
        "--budget",
        "30",
        "--splits",
        "3",
        "--methods",
        "map, laplace, swag",
        "--workers",
        "2",
        "--json",
    ]
    undisturbed = json.loads(run("compare", *options, "--out", tmp_path / "whole").stdout)
    rng = random.Random(0)
    folder = tmp_path / "killed"
    seen: dict[str, float] = {}
    for _ in range(10):
        with subprocess.Popen(
            [sys.executable, "-m", "bayesify", "compare", *options, "--out", str(folder)],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"},
        ) as process:  # fmt: skip
            time.sleep(rng.uniform(2.0, 8.0))
            process.send_signal(signal.SIGKILL)
        for path in folder.glob("runs/*/*.json"):
            written = path.stat().st_mtime_ns
            assert seen.setdefault(path.name, written) == written, "a finished cell was computed again"
    resumed = json.loads(run("compare", *options, "--out", folder).stdout)
    for path in folder.glob("runs/*/*.json"):
        assert seen.get(path.name, path.stat().st_mtime_ns) == path.stat().st_mtime_ns
    for before, after in zip(undisturbed["methods"], resumed["methods"], strict=True):
        assert before["scores"] == after["scores"]
        assert before["difference"] == after["difference"]
        assert before["verdict"] == after["verdict"]
        assert before["spent"]["gradient_evaluations"] == after["spent"]["gradient_evaluations"]


def test_ctrl_c_keeps_what_had_finished(tmp_path):
    options = ["compare", "diabetes", "--budget", "70", "--splits", "3", "--methods", "map", "--workers", "1"]
    with subprocess.Popen(
        [sys.executable, "-m", "bayesify", *options, "--out", str(tmp_path / "out")],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    ) as process:  # fmt: skip
        deadline = time.monotonic() + 120
        while not list((tmp_path / "out").glob("runs/*/*.json")) and time.monotonic() < deadline:
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "the same command continues" in errors
    assert "Traceback" not in errors
    assert list((tmp_path / "out").glob("runs/*/*.json"))


def test_check_says_by_its_exit_code_whether_a_method_is_what_it_declares(here, monkeypatch):
    import bayesify.exactness as exactness
    from bayesify.engine.budget import Budget
    from bayesify.methods.base import Exactness
    from bayesify.methods.map import MAP

    short = {"problems": [exactness.linear_regression()], "budget": Budget(epochs=30)}
    monkeypatch.setattr(exactness, "check_method", functools.partial(exactness.check_method, **short))
    found = here("check", "map", "--simulations", "6", "--json")
    assert found.returncode == 0
    result = json.loads(found.stdout)
    assert result["exactness"] == "not a posterior"
    assert result["calibration"]["simulations"] == 6
    monkeypatch.setattr(MAP, "info", dataclasses.replace(MAP.info, exactness=Exactness.EXACT))
    found = here("check", "map", "--simulations", "6")
    assert found.returncode == 1
    assert "NOT AS DECLARED" in found.stdout
    assert "ranks of the truth" in found.stdout


def test_the_testbed_prints_a_table_or_json(here, tmp_path):
    command = ["testbed", "--problems", "2-1-0.5-*", "--budget", "5", "--methods", "map", "--out", tmp_path / "out"]
    words = here(*command)
    assert words.returncode == 0
    assert "4 fits to do" in words.stderr
    assert all(name in words.stdout for name in ("deep_ensemble", "map", "even chances", "KL of 10"))
    found = json.loads(here(*command, "--json").stdout)
    assert [row["label"] for row in found["rows"]] == ["deep_ensemble", "map"]
    assert found["problems"] == ["2-1-0.5-0", "2-1-0.5-1"]
    wrong = here("testbed", "--problems", "7-1")
    assert wrong.returncode == 2
    assert "no problem of the testbed is called '7-1'" in wrong.stderr
