"""`compare`: plan, execute what is not stored yet, analyse, report."""

import json
import os
import platform
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from bayesify.arena.analyse import analyse
from bayesify.arena.cell import Context, Outcome
from bayesify.arena.execute.events import Watcher
from bayesify.arena.execute.local import run_local
from bayesify.arena.execute.process import run_processes
from bayesify.arena.field import entrants, tuned
from bayesify.arena.models import build, is_named, likelihood_of, load_factory, model_fingerprint, prior_of
from bayesify.arena.plan import Cell, Plan, Settings, make_plan, settings_digest
from bayesify.arena.prior_check import keep_prior_check
from bayesify.arena.report import ReportPaths, write_report
from bayesify.arena.store import Store
from bayesify.datasets.shift import CORRUPTED_EXAMPLES, Shift, outside_rows, shifted_rows
from bayesify.datasets.task import Task, image_task, make_task, num_outputs
from bayesify.errors import DataError
from bayesify.files import replacing
from bayesify.methods.base import Method, describe
from bayesify.version import __version__


@dataclass(frozen=True)
class Result:
    """What a comparison found; `data` is the report's JSON."""

    data: dict[str, Any]
    folder: Path

    @property
    def sentence(self) -> str:
        """The answer in one sentence."""
        return str(self.data["sentence"])

    @property
    def verdicts(self) -> dict[str, str | None]:
        """better, equivalent, worse, undecided or control, by method."""
        return {entry["name"]: entry["verdict"] for entry in self.data["methods"]}

    def __getitem__(self, name: str) -> dict[str, Any]:
        """One method's entry: scores, difference, verdict, spent.

        Raises:
            DataError: no such method was compared.
        """
        for entry in self.data["methods"]:
            if entry["name"] == name:
                found: dict[str, Any] = entry
                return found
        known = ", ".join(entry["name"] for entry in self.data["methods"])
        raise DataError(f"{name!r} was not compared: there are {known}.")

    def report(self, folder: str | Path | None = None) -> ReportPaths:
        """Writes report.html, report.md and report.json; by default beside the results."""
        return write_report(self.data, self.folder if folder is None else Path(folder))

    def __repr__(self) -> str:
        return f"<{self.sentence}>"


class Watch(Protocol):
    """What a display is told."""

    def planned(self, plan: Plan, waiting: list[Cell], workers: int) -> None:
        """The plan is made; these cells are not stored yet."""

    def finished(self, outcome: Outcome) -> None:
        """A cell ended."""


class Silent:
    """A watch that says nothing."""

    def planned(self, plan: Plan, waiting: list[Cell], workers: int) -> None:
        """Ignored."""

    def finished(self, outcome: Outcome) -> None:
        """Ignored."""


def compare(
    model: "str | nn.Module",
    data: Any,
    *,
    target: str | None = None,
    kind: str | None = None,
    methods: Sequence[str | Method] | None = None,
    control: str | Method | None = None,
    splits: int = 5,
    seeds: int = 1,
    test_fraction: float = 0.1,
    group: str | None = None,
    time: str | None = None,
    gap: bool = False,
    examples: int | None = None,
    shift: bool = False,
    shifted: Sequence[Any] = (),
    outside: Sequence[Any] = (),
    shift_examples: int = CORRUPTED_EXAMPLES,
    epochs: float | None = None,
    budgets: Sequence[float] = (1.0,),
    tune: int = 0,
    likelihood: str | None = None,
    prior: str | None = None,
    seed: int = 0,
    margin: float = 0.01,
    level: float = 0.95,
    workers: int = 1,
    out: str | Path | None = None,
    retry_failed: bool = False,
    watch: Watch | None = None,
) -> Result:
    """Compares methods at equal metered compute on one task.

    Args:
        model: a module, 'default' (a perceptron sized to the data, LeNet for images), 'lenet', 'resnet20_frn', or
            'package.module:factory'.
        data: (X, y) arrays, a DataFrame, a file, the name of a data set, or a Task. X of shape (rows, height, width) or
            (rows, channels, height, width) are images.
        target: the target column of a table; None is the last.
        kind: 'regression', 'binary' or 'multiclass'; None infers it from the target.
        methods: labels of the default field or methods; None is the whole default field.
        control: what all are compared to; None is the temperature-scaled deep ensemble of 10.
        splits: how many train/test splits.
        seeds: training runs per split.
        test_fraction: share of the rows tested on in random splits.
        group: a column whose values are never both trained and tested on.
        time: a column by which the training rows come before the test rows.
        gap: test on the middle third of the rows by one feature after the other, train on the others.
        examples: training rows of each split, at most, chosen at random.
        shift: test on corrupted copies of test rows as well, in every way and at five severities.
        shifted: other sets with the same columns and target to test on: names, files, DataFrames or Tasks.
        outside: sets that no target here fits, likewise: how well does uncertainty tell them from the test rows?
        shift_examples: how many test rows of each split are corrupted, at most.
        epochs: of one of the control's 10 members: sets the budget; None sizes it to the data.
        budgets: multiples of that budget; everything is repeated at each.
        tune: trials of hyperparameter tuning for every method, charged to its budget.
        likelihood: a name; None is student_t for numbers, categorical for classes.
        prior: a name; None is normal with standard deviation 3/√fan-in.
        seed: of splits and training.
        margin: the largest difference in nats per example that does not matter.
        level: 1 − the probability of any false 'better' or 'worse'.
        workers: processes; more than 1 needs a model that can be sent to them.
        out: the results folder; the same call with the same folder continues. None makes one by name and settings.
        retry_failed: run failed cells again.
        watch: told of the progress.

    Returns:
        The result, complete; partial ones come from `report`.

    Raises:
        DataError, ModelError, MethodError, BudgetError, SaveError: with what went wrong and what to do.
    """
    task = as_task(data, target, kind)
    field = entrants(None if methods is None else [_written(one) for one in methods], _written_or_none(control))
    if tune:
        field = tuple(tuned(one, tune) if one.role != "reference" else one for one in field)
    _check_model(model, task, likelihood)
    prior_of(prior)  # an unknown name fails before any work
    further = _shift(task, shift, shifted, outside, shift_examples, seed)
    settings = Settings(
        entrants=field,
        num_splits=splits,
        num_seeds=seeds,
        test_fraction=test_fraction,
        group=group,
        time=time,
        epochs=epochs,
        multiples=tuple(float(one) for one in budgets),
        model=model if isinstance(model, str) else "given module",
        likelihood=likelihood,
        prior=prior,
        seed=seed,
        margin=margin,
        level=level,
        gap=gap,
        examples=examples,
        shift=shift,
        shifted=tuple(further.shifted),
        outside=tuple(further.outside),
        shift_examples=shift_examples,
    )
    plan, split_rows = make_plan(task, settings, model_fingerprint(model), further)
    store = Store(Path(out) if out is not None else default_folder(plan))
    store.prepare()
    _write_request(plan, store, workers)
    context = Context(task, split_rows, settings, model, store, further)
    keep_prior_check(plan, context)
    execute(plan, context, workers, retry_failed=retry_failed, watch=watch or Silent())
    return Result(analyse(plan, store, environment(workers)), store.folder)


def execute(plan: Plan, context: Context, workers: int, *, retry_failed: bool, watch: Watch) -> None:
    """Runs the cells that have no record."""
    store = context.store
    if retry_failed:
        for cell in plan.cells:
            record = store.record(cell.key)
            if record is not None and record["status"] == "failed":
                store.discard(cell.key)
    waiting = [cell for cell in plan.cells if not store.has(cell.key)]
    waiting = list({cell.key: cell for cell in waiting}.values())
    watch.planned(plan, waiting, workers)
    if not waiting:
        return
    report: Watcher = watch.finished
    if workers > 1 and len(waiting) > 1:
        run_processes(waiting, context, report, workers)
    else:
        run_local(waiting, context, report)


def as_task(data: Any, target: str | None = None, kind: str | None = None) -> Task:
    """Anything comparable → a Task."""
    if isinstance(data, Task):
        return data
    if isinstance(data, (tuple, list)) and len(data) == 2:
        import pandas as pd

        inputs, targets = np.asarray(data[0]), np.asarray(data[1])
        if inputs.ndim in (3, 4):
            return image_task(inputs, targets, kind)
        if inputs.ndim != 2:
            raise DataError(
                f"the arena compares on tables, X (rows, features), and images; this X has shape {inputs.shape}: use "
                "bayesify.fit and bayesify.evaluate for other inputs."
            )
        frame = pd.DataFrame(inputs, columns=[f"x{i}" for i in range(inputs.shape[1])])
        return make_task(frame.assign(target=targets), "target", kind)
    return make_task(data, target, kind)


def _check_model(model: "str | nn.Module", task: Task, likelihood: str | None) -> None:
    """Fails before any work."""
    if is_named(model):
        shape = task.image_shape or (task.features.shape[1],)
        build(model, len(task.target), shape, num_outputs(task, likelihood_of(task.kind, likelihood)), 0)
    elif isinstance(model, str):
        load_factory(model)


def _shift(
    task: Task, corrupt: bool, shifted: Sequence[Any], outside: Sequence[Any], examples: int, seed: int
) -> Shift:
    """What is tested on beside the test rows, tried out before any work."""
    if examples < 2:
        raise DataError(f"{examples} test rows were to be corrupted; at least 2 are needed: 500 is usual.")
    inner, outer = ([_other(task, one) for one in sets] for sets in (shifted, outside))
    names = [one.name for one in (*inner, *outer)]
    if len(set(names)) < len(names):
        raise DataError(f"Two of the sets {', '.join(map(repr, names))} are called the same: give each its own name.")
    found = Shift(corrupt, {one.name: one for one in inner}, {one.name: one for one in outer}, examples, seed)
    for name, other in found.shifted.items():
        shifted_rows(task, other, name, seed)
    for name, other in found.outside.items():
        outside_rows(task, other, name, seed)
    return found


def _other(task: Task, source: Any) -> Task:
    """Another set; the target is the column called as the task's, where it has one."""
    if isinstance(source, (Task, tuple, list)):
        return as_task(source)
    found = make_task(source)
    columns = (*found.features.columns, *found.aside.columns)
    return make_task(source, task.target_name) if task.target_name in columns else found


def default_folder(plan: Plan) -> Path:
    """bayesify-results/NAME-HASH: the same command finds its own results again."""
    name = "".join(c if c.isalnum() or c in "-_" else "-" for c in plan.card.name)[:40] or "data"
    return Path("bayesify-results") / f"{name}-{settings_digest(plan.fingerprint, plan.settings)[:8]}"


def environment(workers: int) -> dict[str, Any]:
    """Versions and machine, for the report."""
    return {
        "bayesify": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "threads": 1,
        "workers": workers,
        "timing_exclusive": workers == 1,
        "command": _command(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }


def _write_request(plan: Plan, store: Store, workers: int) -> None:
    """What was asked for, so that `report` and `status` can tell what is missing."""
    request = {"plan": plan.as_dict(), "environment": environment(workers)}
    with replacing(store.folder / "request.json") as partial:
        partial.write_text(json.dumps(request), encoding="utf-8")


def _command() -> str:
    program = Path(sys.argv[0]).name
    return shlex.join([program, *sys.argv[1:]]) if program == "bayesify" else "bayesify.compare(...)"


def _written(method: str | Method) -> str:
    return describe(method) if isinstance(method, Method) else method


def _written_or_none(method: str | Method | None) -> str | None:
    return None if method is None else _written(method)
