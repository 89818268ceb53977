"""Records → paired comparisons with the control, on the test rows or on another set.

Works on whatever is finished: a split counts for a comparison once both the method and the control have all its seeds.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from bayesify.arena.field import Entrant
from bayesify.arena.plan import Cell, Plan
from bayesify.arena.shift import AT
from bayesify.arena.statistics import Comparison, PairedDifferences, compare_to_control
from bayesify.arena.store import Arrays, Store
from bayesify.arena.verdict import verdict_sentence

METRIC = "nll"


class Finished(NamedTuple):
    """A cell with its record and arrays."""

    cell: Cell
    record: dict[str, Any]
    arrays: Arrays


class Collected(NamedTuple):
    """All that is known of a plan so far."""

    done: dict[tuple[str, float], list[Finished]]  # by (label, multiple)
    failed: list[Finished]
    missing: list[Cell]


def collect(plan: Plan, store: Store) -> Collected:
    """Reads the records of a plan's cells."""
    done: dict[tuple[str, float], list[Finished]] = {}
    failed, missing = [], []
    for cell in plan.cells:
        record = store.record(cell.key)
        if record is None:
            missing.append(cell)
        elif record["status"] == "done":
            done.setdefault((cell.label, cell.multiple), []).append(Finished(cell, record, store.arrays(cell.key)))
        else:
            failed.append(Finished(cell, record, {}))
    return Collected(done, failed, missing)


def _by_split(cells: Iterable[Finished], num_seeds: int) -> dict[int, list[Finished]]:
    """Splits of which all seeds are there, in order of seed."""
    splits: dict[int, list[Finished]] = {}
    for one in cells:
        splits.setdefault(one.cell.split, []).append(one)
    return {
        split: sorted(group, key=lambda one: one.cell.seed)
        for split, group in sorted(splits.items())
        if len(group) == num_seeds
    }


def compare_methods(plan: Plan, found: Collected, multiple: float, name: str = "") -> dict[str, Comparison]:
    """Every method against the control by log likelihood.

    Args:
        plan: of the comparison.
        found: its records.
        multiple: of the budget.
        name: of a further set with targets; empty are the test rows.
    """
    settings = plan.settings
    own_name = f"rows{AT}{name}" if name else "rows"
    control = _by_split(found.done.get((settings.control.label, multiple), []), settings.num_seeds)
    differences = {}
    for entrant in settings.entrants[1:]:
        own = _by_split(found.done.get((entrant.label, multiple), []), settings.num_seeds)
        shared = [split for split in own if split in control]
        if not shared:
            continue
        with np.errstate(invalid="ignore"):  # both gave probability 0: the statistics say so in words
            values = tuple(_log_probs(own[split], name) - _log_probs(control[split], name) for split in shared)
        rows = tuple(control[split][0].arrays[own_name] for split in shared)
        # Training sets overlap as the splits say, however many rows of another set are looked at.
        scale = sum(map(len, rows)) / sum(plan.card.num_test[split] for split in shared)
        num_train = float(np.mean([plan.card.num_train[split] for split in shared]))
        differences[entrant.label] = PairedDifferences(values, rows, max(1, round(scale * num_train)))
    if not differences:
        return {}
    return compare_to_control(differences, margin=settings.margin, level=settings.level)


def _log_probs(cells: list[Finished], name: str) -> np.ndarray:
    """(seeds, n), averaged over conditions, of which the test rows have none."""
    if not name:
        return np.stack([one.arrays["log_prob"] for one in cells])
    return np.stack([one.arrays[f"log_prob{AT}{name}"].astype(np.float64).mean(0) for one in cells])


def compared(entry: dict[str, Any], comparison: Comparison | None, plan: Plan) -> dict[str, Any]:
    """What a method's comparison adds to its entry."""
    if entry["is_control"]:
        return {"difference": None, "verdict": "control", "verdict_sentence": "the control all others are compared to"}
    if comparison is None:
        return {
            "difference": None,
            "verdict": None,
            "verdict_sentence": entry["reason"] or "no finished split to compare",
        }
    difference = comparison.difference
    found = {
        "difference": {
            "metric": METRIC,
            "estimate": difference.estimate,
            "low": difference.low,
            "high": difference.high,
        },
        "p_value": difference.p_value,
        "p_adjusted": comparison.p_adjusted,
        "minimum_detectable": comparison.minimum_detectable,
        "splits_needed": comparison.splits_needed,
        "verdict": str(comparison.verdict),
    }
    found["verdict_sentence"] = verdict_sentence(entry["label"], comparison, title_of(plan.settings.control))
    return found


def title_of(entrant: Entrant) -> str:
    """How reports write a method."""
    return entrant.title or entrant.label
