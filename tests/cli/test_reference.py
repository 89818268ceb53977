"""`bayesify reference` and `bayesify fidelity` as users meet them."""

import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from bayesify.cli import main
from bayesify.engine.budget import Budget


class Ended(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    def run_here(*arguments: object) -> Ended:
        monkeypatch.setattr(sys, "argv", ["bayesify", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        shown = capsys.readouterr()
        return Ended(int(ended.value.code or 0), shown.out, shown.err)

    return run_here


@pytest.fixture(scope="module")
def csv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 2))
    path = tmp_path_factory.mktemp("data") / "small.csv"
    lines = [f"{a:.3f},{b:.3f},{a - b + rng.normal():.3f}" for a, b in x]
    path.write_text("a,b,y\n" + "\n".join(lines) + "\n")
    return path


SMALL = [
    "--network",
    "4",
    "--chains",
    "4",
    "--draws",
    "20",
    "--minutes",
    "0.01",
    "--method",
    "hmc(warm_start_epochs=5)",
]


def test_reference_then_fidelity(csv: Path, tmp_path: Path, here: Any) -> None:
    made = here("reference", csv, "--out", tmp_path, *SMALL)
    assert made.returncode == 0, made.stderr
    assert "stage 1: " in made.stderr
    assert "ceiling: half of the 4 chains and the other half are apart by W1" in made.stdout
    assert "R-hat" in made.stdout
    assert str(tmp_path) in made.stdout
    stored = (tmp_path / "reference.json").stat().st_mtime_ns
    options = ["--methods", "laplace", "--seeds", "1", "--budget", "3"]
    found = here("fidelity", csv, "--out", tmp_path, *SMALL, *options, "--json")
    assert found.returncode == 0, found.stderr
    result = json.loads(found.stdout)
    assert found.stderr == ""
    assert [row["label"] for row in result["rows"]] == ["map", "deep_ensemble", "laplace"]
    assert (tmp_path / "reference.json").stat().st_mtime_ns == stored  # 0.01 minutes were spent before
    shown = here("fidelity", csv, "--out", tmp_path, *SMALL, *options)
    assert "0 fits to do" in shown.stderr
    assert "half of the reference" in shown.stdout
    assert "ensemble gap" in shown.stdout


BAD = {
    "network": (["--network", "16x16"], "16-16"),
    "width": (["--network", "0"], "positive integers"),
    "chains": (["--chains", "2"], "4 or more"),
    "sampler": (["--method", "swag"], "hmc"),
    "misspelt sampler": (["--method", "hmcc"], "hmc"),
    "prior": (["--prior", "nrmal"], "normal"),
    "likelihood": (["--likelihood", "categorical"], "use gaussian"),
    "minutes": (["--minutes", "-1"], "positive"),
    "target": (["--target", "z"], "no column"),
    "split": (["--split", "-1"], "0 or more"),
}


@pytest.mark.parametrize("command", ["reference", "fidelity"])
@pytest.mark.parametrize("case", BAD)
def test_bad_options_are_one_line_and_exit_2(case: str, command: str, csv: Path, tmp_path: Path, here: Any) -> None:
    options, hint = BAD[case]
    found = here(command, csv, "--out", tmp_path / "out", *options)
    assert found.returncode == 2
    last = found.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert hint in last
    assert "Traceback" not in found.stderr
    assert not (tmp_path / "out" / "reference.json").exists()


def test_misspelt_methods_fail_before_sampling(csv: Path, tmp_path: Path, here: Any) -> None:
    found = here("fidelity", csv, "--out", tmp_path / "out", *SMALL, "--methods", "swga")
    assert found.returncode == 2
    assert "swag" in found.stderr
    assert not (tmp_path / "out").exists()


def test_check_against_a_reference(csv: Path, tmp_path: Path, here: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BAYESIFY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("bayesify.exactness.check.DEFAULT_BUDGET", Budget(epochs=20))
    missing = here("check", "laplace", "--simulations", "0", "--references", csv)
    assert missing.returncode == 2
    assert missing.stderr.startswith("error: ")
    assert "bayesify reference" in missing.stderr
    assert here("reference", csv, *SMALL).returncode == 0
    found = here("check", "map", "--simulations", "0", "--references", csv)
    assert found.returncode == 0, found.stderr
    assert "small: predictive at W1 = 0." in found.stdout
    assert "halves of the chains" in found.stdout
    full = here("check", "map", "--simulations", "0", "--full", "--json")
    assert json.loads(full.stdout)["closeness"] == []
    assert [line.split(":")[0] for line in full.stderr.splitlines()] == [
        "not compared with long chains on yacht",
        "not compared with long chains on credit-g",
    ]
