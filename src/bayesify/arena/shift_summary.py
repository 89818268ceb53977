"""Records → what is said of corrupted copies, shifted sets and sets from outside."""

from typing import Any

import numpy as np

from bayesify.arena.compared import Collected, Finished, compare_methods, compared
from bayesify.arena.plan import Plan
from bayesify.arena.shift import AT
from bayesify.arena.verdict import headline
from bayesify.datasets.shift import CORRUPTED


def shift_summary(
    plan: Plan, found: Collected, methods: list[dict[str, Any]], multiple: float
) -> dict[str, Any] | None:
    """The sets, and verdicts on those with targets; adds each method's differences to its entry. None without sets.

    Args:
        plan: of the comparison.
        found: its records.
        methods: the result's entries, which get a 'shift' by set.
        multiple: of the budget.
    """
    settings = plan.settings
    with_targets = ([CORRUPTED] if settings.shift else []) + list(settings.shifted)
    if not with_targets and not settings.outside:
        return None
    done = {label: cells for (label, m), cells in found.done.items() if m == multiple and cells}
    sets = [_paired_set(plan, found, methods, multiple, name, done) for name in with_targets]
    outside = [{"name": name, "kind": "outside", **_size(done, name)} for name in settings.outside]
    for entry in methods:
        cells = done.get(entry["name"], [])
        entry["shift_seconds"] = float(np.mean([one.record["shift"]["seconds"] for one in cells])) if cells else None
    return {
        "sets": [*sets, *outside],
        "severities": _by_severity(done) if settings.shift else {},
        "conditions": _by_condition(done) if settings.shift else {},
    }


def _paired_set(
    plan: Plan,
    found: Collected,
    methods: list[dict[str, Any]],
    multiple: float,
    name: str,
    done: dict[str, list[Finished]],
) -> dict[str, Any]:
    comparisons = compare_methods(plan, found, multiple, name)
    judged = []
    for entry in methods:
        shown = {key: entry[key] for key in ("name", "label", "is_control", "is_null", "reason")}
        shown |= compared(shown, comparisons.get(entry["name"]), plan)
        entry.setdefault("shift", {})[name] = {k: v for k, v in shown.items() if k not in ("name", "label", "reason")}
        judged.append(shown)
    corrupted = name == CORRUPTED
    words = f"corrupted copies of {plan.card.name}" if corrupted else name
    return {
        "name": name,
        "kind": "corrupted" if corrupted else "shifted",
        "sentence": headline(judged, words, plan.settings.level, plan.settings.margin),
        **_size(done, name),
    }


def _size(done: dict[str, list[Finished]], name: str) -> dict[str, int]:
    """Examples, and conditions of each, as the first finished cell has them."""
    for cells in done.values():
        shapes = [value.shape for key, value in cells[0].arrays.items() if key.endswith(f"{AT}{name}")]
        conditions = max((shape[0] for shape in shapes if len(shape) == 2), default=1)
        return {"examples": max(shape[-1] for shape in shapes), "conditions": conditions}
    return {}


def _conditions(cells: list[Finished]) -> list[list[dict[str, Any]]]:
    return [one.record["shift"]["conditions"][CORRUPTED] for one in cells]


def _scores(condition: dict[str, Any]) -> dict[str, float]:
    return {key: value for key, value in condition.items() if key not in ("name", "severity")}


def _by_severity(done: dict[str, list[Finished]]) -> dict[str, list[dict[str, float]]]:
    """By method: mean scores over ways of corrupting, splits and seeds; severity 0 are the test rows."""
    found = {}
    for label, cells in done.items():
        runs = [condition for run in _conditions(cells) for condition in run]
        names = list(_scores(runs[0]))
        clean = {name: float(np.mean([one.record["scores"][name] for one in cells])) for name in names}
        curve = [{"severity": 0.0, **clean}]
        for severity in sorted({condition["severity"] for condition in runs}):
            some = [condition for condition in runs if condition["severity"] == severity]
            curve.append({"severity": float(severity), **{n: float(np.mean([one[n] for one in some])) for n in names}})
        found[label] = curve
    return found


def _by_condition(done: dict[str, list[Finished]]) -> dict[str, list[dict[str, Any]]]:
    """By method: mean scores over splits and seeds of every way and severity."""
    found = {}
    for label, cells in done.items():
        rows = []
        for same in zip(*_conditions(cells), strict=True):
            means = {name: float(np.mean([_scores(one)[name] for one in same])) for name in _scores(same[0])}
            rows.append({"name": same[0]["name"], "severity": same[0]["severity"], **means})
        found[label] = rows
    return found
