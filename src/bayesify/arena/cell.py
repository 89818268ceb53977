"""Runs one cell: prepare the split, fit, predict, score, and turn whatever happens into a record."""

import time
import traceback
from dataclasses import asdict
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from bayesify.arena.chains import chain_series
from bayesify.arena.models import build, likelihood_of, prior_of
from bayesify.arena.plan import Cell, Settings
from bayesify.arena.shift import in_units, predict_shifted
from bayesify.arena.store import Arrays, Store
from bayesify.datasets.prepare import Prepared, prepare
from bayesify.datasets.shift import Shift
from bayesify.datasets.splits import Split
from bayesify.datasets.task import Task, num_outputs
from bayesify.engine.budget import Budget
from bayesify.engine.rng import seed_of
from bayesify.errors import BayesifyError
from bayesify.fitting import fit
from bayesify.metrics.evaluate import crps, evaluate
from bayesify.posterior.base import Posterior
from bayesify.predictive import Predictive

COMPILED_BUDGET = 300_000
"""From so many gradient evaluations on a cell compiles its networks: other cells, splits and methods share them. It is
a rule of the cell alone, so that a comparison gives the same digits whatever ran before. Networks of images are not:
convolutions are machine code already (LeNet, 10 at once: 0.19 ms a gradient compiled, 0.20 not)."""


class Context(NamedTuple):
    """What all cells of a comparison share; sent once to every worker."""

    task: Task
    splits: tuple[Split, ...]
    settings: Settings
    model: "str | nn.Module"
    store: Store
    shift: Shift = Shift()


class Outcome(NamedTuple):
    """A finished cell, as progress displays need it."""

    cell: Cell
    status: str
    seconds: float
    reason: str | None


def run_cell(cell: Cell, context: Context) -> Outcome:
    """Fits and scores one cell and stores its record; a failure is a record with its reason."""
    torch.set_num_threads(1)  # results must not depend on how many cells run side by side
    started = time.perf_counter()
    record: dict[str, Any] = {**asdict(cell), "status": "done", "reason": None, "started": time.time()}
    arrays: Arrays = {}
    try:
        found, arrays = _fit_and_score(cell, context)
        record |= found
    except BayesifyError as error:
        record |= {"status": "failed", "reason": str(error)}
    except (RuntimeError, ValueError, ArithmeticError, MemoryError, IndexError, TypeError) as error:
        # A user's network or a third-party method may fail in any of these ways; the other cells must go on.
        record |= {
            "status": "failed",
            "reason": f"{type(error).__name__}: {error}",
            "traceback": traceback.format_exc(),
        }
    record["seconds"] = time.perf_counter() - started
    context.store.write(cell.key, record, arrays)
    return Outcome(cell, record["status"], record["seconds"], record["reason"])


def _fit_and_score(cell: Cell, context: Context) -> tuple[dict[str, Any], Arrays]:
    split = context.splits[cell.split]
    data = prepared_split(context, cell.split)
    likelihood = likelihood_of(context.task.kind, context.settings.likelihood)
    outputs = num_outputs(context.task, likelihood)
    seed = seed_of("model", cell.split, cell.seed)
    posterior = fit(
        build(context.model, len(data.X_train), data.X_train.shape[1:], outputs, seed),
        (data.X_train, data.y_train),
        likelihood=likelihood,
        prior=prior_of(context.settings.prior),
        method=cell.spec,
        budget=Budget(gradient_evaluations=cell.budget),
        validation=context.settings.validation,
        seed=seed_of(cell.split, cell.seed) % 2**31,
        progress=False,
        way="compiled" if cell.budget >= COMPILED_BUDGET and context.task.image_shape is None else "auto",
    )
    predictive, predict_seconds = _predict(posterior, data)
    targets = context.task.target[split.test]
    arrays = _per_example(predictive, targets) | {"rows": split.test} | chain_series(posterior, data.X_test)
    if np.isnan(arrays["log_prob"]).any():
        raise ArithmeticError("the predictive densities are NaN: the network's outputs are not finite")
    further = predict_shifted(posterior, predictive, data, context.task, split, context.shift)
    arrays |= further.arrays
    diagnostics, cost = posterior.diagnostics, posterior.cost
    record = {
        "scores": evaluate(predictive, targets) | further.scores,
        # Compiled networks are shared by all cells of one shape: the time is not that of the one that came first.
        "spent": cost.as_dict() | {"total": cost.total, "seconds": cost.seconds - cost.compile_seconds},
        "predict_seconds": predict_seconds,
        "shift": further.record,
        "diagnostics": {name: value for name, value in diagnostics.values.items() if name != "unspent"},
        "warnings": list(diagnostics.warnings),
        "unspent_reason": diagnostics.values.get("unspent"),
        "num_train": len(split.train),
        "num_test": len(split.test),
        "num_parameters": posterior.model.network.layout.num_parameters,
    }
    return record, arrays


_prepared_splits: dict[tuple[int, int], Prepared] = {}
"""The last split prepared in this process: neighbouring cells share it."""


def prepared_split(context: Context, split: int) -> Prepared:
    """One split's rows as the networks see them."""
    key = (id(context.task), split)
    if key not in _prepared_splits:
        _prepared_splits.clear()
        _prepared_splits[key] = prepare(context.task, context.splits[split], context.settings.seed)
    return _prepared_splits[key]


def _predict(posterior: Posterior, data: Prepared) -> tuple[Predictive, float]:
    """The test predictive in the user's units, and the seconds a second, warmed-up prediction takes."""
    posterior.predict(data.X_test[:2])
    started = time.perf_counter()
    predictive = posterior.predict(data.X_test)
    _ = predictive.probs if predictive.kind == "classification" else predictive.mean
    seconds = time.perf_counter() - started
    return in_units(predictive, data), seconds


def _per_example(predictive: Predictive, targets: np.ndarray) -> Arrays:
    log_prob = np.asarray(predictive.log_prob(targets).double().cpu())
    if predictive.kind == "classification":
        return {"log_prob": log_prob, "probs": np.asarray(predictive.probs.float().cpu()), "labels": targets}
    arrays = {"log_prob": log_prob, "mean": np.asarray(predictive.mean.double().cpu())}
    if predictive.kind == "regression":
        arrays |= {
            "stddev": np.asarray(predictive.stddev.double().cpu()),
            "pit": np.asarray(predictive.cdf(targets).double().cpu()),
            "crps": crps(predictive, targets),
        }
    return arrays
