"""A fit that is interrupted at any moment and called again gives bit for bit what an undisturbed one gives."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from contract_cases import METHODS, Cell, build, options, task_data

import bayesify as bay
from bayesify.engine import run as run_module
from bayesify.engine.rng import generator
from bayesify.errors import SaveError
from bayesify.posterior.base import Posterior

SECONDS_PER_LOOK = 5.0
"""Checkpoints are written every 30 seconds: with a clock that moves by this at every look, after every sixth step."""


class Interrupted(Exception):
    """What a test throws into a fit."""


class Clock:
    """Moves whenever it is looked at."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        self.now += SECONDS_PER_LOOK
        return self.now


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_module, "time", Clock())


class Watch:
    """Counts steps, and throws at one of them."""

    def __init__(self, last: int | None = None) -> None:
        self.steps, self.last = 0, last

    def __call__(self, fraction: float) -> None:
        self.steps += 1
        if self.steps == self.last:
            raise Interrupted


def fit(cell: Cell, watch: Watch, folder: Path | None = None, **settings: Any) -> Posterior:
    chosen = options(cell) | {"progress": watch, "checkpoint": folder} | settings
    return bay.fit(build(cell), task_data(cell.task), **chosen)


def interrupt_at(cell: Cell, steps: int, folder: Path) -> None:
    with pytest.raises(Interrupted):
        fit(cell, Watch(steps), folder)


def same(one: Posterior, other: Posterior) -> bool:
    own, others = one.tensors(), other.tensors()
    return own.keys() == others.keys() and all(torch.equal(own[name], others[name]) for name in own)


@pytest.mark.parametrize(("task", "network"), [("regression", "mlp"), ("classification", "normalised")])
@pytest.mark.parametrize("method", METHODS)
def test_resumed_equals_undisturbed(method: str, task: str, network: str, tmp_path: Path) -> None:
    cell = Cell(method, task, network)
    watch = Watch()
    undisturbed = fit(cell, watch)
    moments = torch.randint(2, watch.steps + 1, (3,), generator=generator("cpu", "moments", cell))
    for number, steps in enumerate(moments.tolist()):
        folder = tmp_path / str(number)
        interrupt_at(cell, steps, folder)
        resumed = fit(cell, Watch(), folder)
        assert same(resumed, undisturbed), f"interrupted after {steps} of {watch.steps} steps"
        assert resumed.cost.gradient_evaluations == undisturbed.cost.gradient_evaluations
        assert resumed.cost.forward_evaluations == undisturbed.cost.forward_evaluations


def test_work_that_was_saved_is_not_done_again(tmp_path: Path) -> None:
    cell, whole, rest = Cell("map", "regression", "mlp"), Watch(), Watch()
    fit(cell, whole)
    interrupt_at(cell, whole.steps - 3, tmp_path)
    fit(cell, rest, tmp_path)
    assert rest.steps <= 3 + 7


def test_a_fit_that_is_interrupted_again_and_again(tmp_path: Path) -> None:
    cell, whole = Cell("swag", "classification", "normalised"), Watch()
    undisturbed = fit(cell, whole)
    for _ in range(100):
        try:
            resumed = fit(cell, Watch(14), tmp_path)
            break
        except Interrupted:
            continue
    assert same(resumed, undisturbed)


def test_a_finished_fit_is_not_repeated(tmp_path: Path) -> None:
    cell, again = Cell("deep_ensemble", "regression", "mlp"), Watch()
    done = fit(cell, Watch(), tmp_path)
    assert same(fit(cell, again, tmp_path), done)
    assert again.steps == 0


# ---- checkpoints of something else -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"method": "map(batch_size=15)"},
        {"budget": bay.Budget(epochs=19)},
        {"likelihood": "student_t"},
        {"prior": bay.priors.Normal(scale=2.0)},
        {"validation": 0.3},
        {"pretrained": True},
    ],
    ids=str,
)
def test_another_fit_does_not_continue_from_it(change: dict[str, Any], tmp_path: Path) -> None:
    cell = Cell("map", "regression", "mlp")
    interrupt_at(cell, 20, tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(SaveError, match="belongs to a fit with other data, model or settings"):
        fit(cell, Watch(), tmp_path, **change)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("column", [0, 1], ids=["inputs", "targets"])
def test_other_data_do_not_continue_from_it(column: int, tmp_path: Path) -> None:
    cell = Cell("map", "regression", "mlp")
    interrupt_at(cell, 20, tmp_path)
    data = list(task_data(cell.task))
    data[column] = data[column] + 1e-3
    with pytest.raises(SaveError, match="belongs to a fit with other data"):
        bay.fit(build(cell), data, **options(cell), checkpoint=tmp_path)


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_a_damaged_checkpoint(share: float, tmp_path: Path) -> None:
    cell = Cell("map", "regression", "mlp")
    interrupt_at(cell, 20, tmp_path)
    (path,) = tmp_path.iterdir()
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(SaveError, match="delete it to start this fit again"):
        fit(cell, Watch(), tmp_path)
    path.unlink()
    assert same(fit(cell, Watch(), tmp_path), fit(cell, Watch()))


# ---- kill -9 ---------------------------------------------------------------------------------------------------------

PROGRAM = """
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from bayesify.engine import run
from contract_cases import Cell
from test_resuming import LONG, Clock, Watch, fit
run.time = Clock()
fit(Cell(*sys.argv[1].split()), Watch(), Path(sys.argv[2]), budget=LONG)
"""
LONG = bay.Budget(epochs=1200)


def test_killed_without_warning(tmp_path: Path) -> None:
    cell = Cell("map", "regression", "mlp")
    here = Path(__file__).parent
    places = [here.parent / "src", here / "helpers", here, os.environ.get("PYTHONPATH", "")]
    path = os.pathsep.join(map(str, places))
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, " ".join(cell), str(tmp_path)], env={**os.environ, "PYTHONPATH": path}
    )
    try:
        while process.poll() is None and not list(tmp_path.glob("*.safetensors")):
            time.sleep(0.01)
        time.sleep(0.3)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert process.returncode == -signal.SIGKILL, "it ended before it was killed: give it more to do"
    watch, whole = Watch(), Watch()
    resumed = fit(cell, watch, tmp_path, budget=LONG)
    assert same(resumed, fit(cell, whole, budget=LONG))
    assert watch.steps < whole.steps
