"""What a fitted cell predicts beside its test rows: corrupted copies, shifted sets, and sets from outside.

Nothing here is charged to the training budget: it is prediction, and its seconds are recorded as such.
"""

import time
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from bayesify import metrics
from bayesify.arena.store import Arrays
from bayesify.datasets.prepare import Prepared
from bayesify.datasets.shift import (
    CORRUPTED,
    Condition,
    Rows,
    Shift,
    corrupted_rows,
    corruptions,
    outside_rows,
    shifted_rows,
)
from bayesify.datasets.splits import Split
from bayesify.datasets.task import Task
from bayesify.posterior.base import Posterior
from bayesify.predictive import Predictive

AT = "@"
"""'nll@corrupted': a score on another set than the test rows."""
ROUNDING = 1e-5
"""Mutual information below this is rounding of float32 entropies: one network has none, whatever the digits say."""


class Further(NamedTuple):
    """Scores and per-example results beside the test rows'."""

    scores: dict[str, float]
    arrays: Arrays
    record: dict[str, Any]


class _Found(NamedTuple):
    """Per-example results of one set under one condition, all (n,)."""

    log_prob: np.ndarray
    error: np.ndarray  # 0 or 1 for classes, else the distance of the mean from the target
    confidence: np.ndarray  # largest class probability; empty for numbers
    scores: dict[str, float]


def predict_shifted(
    posterior: Posterior, clean: Predictive, data: Prepared, task: Task, split: Split, shift: Shift
) -> Further:
    """Predicts what `shift` asks for.

    Args:
        posterior: the cell's.
        clean: the predictive of the test rows, in the user's units.
        data: the prepared split.
        task: the data.
        split: the cell's.
        shift: what to test on.
    """
    further = Further({}, {}, {})
    if shift.is_empty:
        return further
    started = time.perf_counter()
    count = 0
    if shift.corrupt:
        count += _add_targets(further, CORRUPTED, corruptions(task, split, shift), posterior, data)
        further.arrays[f"rows{AT}{CORRUPTED}"] = corrupted_rows(task, split, shift)
    for name, other in shift.shifted.items():
        rows = shifted_rows(task, other, name, shift.seed)
        count += _add_targets(further, name, [(Condition(name, 0), rows)], posterior, data)
        further.arrays[f"rows{AT}{name}"] = rows.numbers
    if shift.outside:
        inside = _uncertainty(clean)
        further.arrays.update(inside)
        for name, other in shift.outside.items():
            count += _add_outside(further, name, outside_rows(task, other, name, shift.seed), inside, posterior, data)
    further.record.update({"seconds": time.perf_counter() - started, "predictions": count})
    return further


def _add_targets(
    further: Further,
    name: str,
    parts: Iterable[tuple[Condition, Rows]],
    posterior: Posterior,
    data: Prepared,
) -> int:
    """Adds a set whose targets are known; returns how many rows were predicted."""
    found, conditions = [], []
    for condition, rows in parts:  # one at a time: what is held is one condition's rows
        assert rows.target is not None
        one = _score(predicted(posterior, rows, data), rows.target)
        found.append(one)
        conditions.append({**condition._asdict(), **one.scores})
    for key in ("log_prob", "error", "confidence"):
        stacked = np.stack([getattr(one, key) for one in found]).astype(np.float32)
        if stacked.size:
            further.arrays[f"{key}{AT}{name}"] = stacked  # (conditions, n)
    for score in found[0].scores:
        further.scores[f"{score}{AT}{name}"] = float(np.mean([condition[score] for condition in conditions]))
    further.record.setdefault("conditions", {})[name] = conditions
    return sum(len(one.log_prob) for one in found)


def _add_outside(further: Further, name: str, rows: Rows, inside: Arrays, posterior: Posterior, data: Prepared) -> int:
    """Adds how well each measure of uncertainty tells a set from outside; returns how many rows were predicted."""
    for measure, values in _uncertainty(predicted(posterior, rows, data)).items():
        further.arrays[f"{measure}{AT}{name}"] = values
        further.scores[f"auroc_{measure}{AT}{name}"] = metrics.auroc(inside[measure], values)
    return len(rows.numbers)


def predicted(posterior: Posterior, rows: Rows, data: Prepared) -> Predictive:
    """The predictive of rows of the task's columns, in the user's units."""
    return in_units(posterior.predict(data.encoder.transform(rows.frame)), data)


def in_units(predictive: Predictive, data: Prepared) -> Predictive:
    """Back from standardised targets, where they are numbers."""
    return predictive.rescaled(data.target_loc, data.target_scale) if predictive.kind == "regression" else predictive


def _score(predictive: Predictive, targets: np.ndarray) -> _Found:
    log_prob = np.asarray(predictive.log_prob(targets).double().cpu())
    if np.isnan(log_prob).any():
        raise ArithmeticError("the predictive densities of shifted rows are NaN: the network's outputs are not finite")
    nll = {"nll": float(-np.mean(log_prob))}
    if predictive.kind == "classification":
        probs = np.asarray(predictive.logits.double().softmax(-1).cpu())
        error = 1.0 - metrics.correct(probs, targets)
        calibration = metrics.expected_calibration_error(probs, targets)
        scores = nll | {"accuracy": float(1 - np.mean(error)), "ece": calibration}
        return _Found(log_prob, error, probs.max(-1), scores)
    mean = np.asarray(predictive.mean.double().cpu()).reshape(-1)
    return _Found(log_prob, np.abs(mean - targets), np.zeros(0), nll | {"rmse": metrics.rmse(targets, mean)})


def _uncertainty(predictive: Predictive) -> Arrays:
    """Per example: all of it, and the part that the posterior's spread explains."""
    if predictive.kind == "classification":
        knowable = predictive.epistemic
        measured = {"entropy": predictive.entropy(), "mutual_information": knowable.where(knowable > ROUNDING, 0.0)}
    else:
        measured = {"stddev": predictive.stddev, "epistemic": predictive.epistemic}
    return {name: np.asarray(values.float().cpu()) for name, values in measured.items()}
