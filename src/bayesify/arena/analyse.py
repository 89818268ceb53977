"""Records → the result: scores, differences to the control, verdicts, reliability, the curve over budgets."""

import math
from typing import Any

import numpy as np

from bayesify import metrics
from bayesify.arena.chains import chain_summary
from bayesify.arena.compared import METRIC, Collected, Finished, collect, compare_methods, compared, title_of
from bayesify.arena.field import Entrant, default_epochs
from bayesify.arena.models import likelihood_of
from bayesify.arena.plan import Cell, Plan
from bayesify.arena.prior_check import stored_prior_check
from bayesify.arena.shift_summary import shift_summary
from bayesify.arena.statistics import Comparison
from bayesify.arena.store import Store
from bayesify.arena.verdict import headline

METRIC_LABEL = "negative log likelihood (nats per example)"
BUDGET_TOLERANCE = 0.02
"""A method that spends within this share of the budget has used it."""


def analyse(plan: Plan, store: Store, environment: dict[str, Any]) -> dict[str, Any]:
    """The result dictionary (schema 1) of a plan, complete or partial."""
    found = collect(plan, store)
    settings = plan.settings
    multiple = settings.multiples[0]
    comparisons = {m: compare_methods(plan, found, m) for m in settings.multiples}
    methods = [_method(entrant, plan, found, multiple, comparisons[multiple]) for entrant in settings.entrants]
    caveats = _caveats(plan, found, methods, comparisons[multiple])
    shift = shift_summary(plan, found, methods, multiple)
    return {
        "schema": 1,
        "sentence": headline(methods, plan.card.name, settings.level, settings.margin),
        "task": _task(plan, methods),
        "control": settings.control.label,
        "level": settings.level,
        "margin": settings.margin,
        "budget": _budget(plan, multiple),
        "environment": environment,
        "methods": methods,
        "reliability": _reliability(plan, found, multiple),
        "curve": _curve(plan, found, comparisons),
        "chains": _chains(plan, found, multiple),
        "shift": shift,
        "prior_check": stored_prior_check(store.folder),
        "progress": {
            "done": sum(len(cells) for cells in found.done.values()),
            "planned": len(plan.cells),
            "failed": len(found.failed),
        },
        "missing": [
            *(_lost(one.cell, one.record["reason"]) for one in found.failed),
            *(_lost(cell, "not run yet: run the same command again") for cell in found.missing),
        ],
        "caveats": caveats,
    }


def _lost(cell: Cell, reason: str | None) -> dict[str, Any]:
    return {"method": cell.label, "split": cell.split, "seed": cell.seed, "multiple": cell.multiple, "reason": reason}


# ---- one method ----------------------------------------------------------------------------------------------------


def _method(
    entrant: Entrant, plan: Plan, found: Collected, multiple: float, comparisons: dict[str, Comparison]
) -> dict[str, Any]:
    from bayesify.methods.registry import get_method

    cells = found.done.get((entrant.label, multiple), [])
    failed = [one for one in found.failed if one.cell.label == entrant.label and one.cell.multiple == multiple]
    planned = sum(cell.label == entrant.label and cell.multiple == multiple for cell in plan.cells)
    spec = next(cell.spec for cell in plan.cells if cell.label == entrant.label)
    method = get_method(spec)
    entry: dict[str, Any] = {
        "name": entrant.label,
        "label": title_of(entrant),
        "spec": spec,
        "family": method.info.family,
        "exactness": str(method.exactness),
        "is_control": entrant.role == "control",
        "is_null": entrant.role == "reference",
        "status": _status(len(cells), len(failed), planned),
        "reason": failed[0].record["reason"] if failed else None,
    }
    entry |= _scores(cells) | _costs(cells)
    entry |= compared(entry, comparisons.get(entrant.label), plan)
    return entry


def _status(done: int, failed: int, planned: int) -> str:
    if done == planned:
        return "done"
    if done:
        return "partial"
    return "failed" if failed else "missing"


def _scores(cells: list[Finished]) -> dict[str, Any]:
    names = list(cells[0].record["scores"]) if cells else []
    by_split = {name: [one.record["scores"][name] for one in cells] for name in names}
    return {"scores": {name: _mean(values) for name, values in by_split.items()}, "scores_by_split": by_split}


def _costs(cells: list[Finished]) -> dict[str, Any]:
    if not cells:
        return {"spent": None, "budget_fraction": None, "unspent_reason": None, "predict_seconds": None}
    spent = {name: _mean([one.record["spent"][name] for one in cells]) for name in cells[0].record["spent"]}
    fraction = _mean([one.record["spent"]["total"] / one.cell.budget for one in cells])
    reason = next((one.record["unspent_reason"] for one in cells if one.record["unspent_reason"]), None)
    if fraction < 1 - BUDGET_TOLERANCE and reason is None:
        reason = "its steps do not divide the budget evenly"
    return {
        "spent": spent,
        "budget_fraction": fraction,
        "unspent_reason": reason if fraction < 1 - BUDGET_TOLERANCE else None,
        "predict_seconds": _mean([one.record["predict_seconds"] for one in cells]),
        "num_parameters": cells[0].record["num_parameters"],
        "warnings": list(dict.fromkeys(text for one in cells for text in one.record["warnings"])),
        "diagnostics": [f"{name}: {_short(value)}" for name, value in cells[0].record["diagnostics"].items()],
    }


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


# ---- the rest of the page ------------------------------------------------------------------------------------------


def _task(plan: Plan, methods: list[dict[str, Any]]) -> dict[str, Any]:
    card, settings = plan.card, plan.settings
    return {
        "name": card.name,
        "kind": card.kind,
        "target": card.target,
        "rows": card.rows,
        "features": card.features,
        "image_shape": list(card.image_shape) if card.image_shape else None,
        "classes": list(card.classes) if card.classes else None,
        "metric": METRIC,
        "metric_label": METRIC_LABEL,
        "splits": len(card.num_train),
        "seeds": settings.num_seeds,
        "split_kind": card.split_kind,
        "num_train": card.num_train[0],
        "num_test": card.num_test[0],
        "likelihood": likelihood_of(card.kind, settings.likelihood),
        "model": settings.model,
        "num_parameters": next((m["num_parameters"] for m in methods if m.get("num_parameters")), None),
        "notes": list(card.notes),
    }


def _budget(plan: Plan, multiple: float) -> dict[str, Any]:
    first = next(cell for cell in plan.cells if cell.multiple == multiple)
    epochs = first.budget / multiple / 10 / plan.card.num_train[0]
    return {
        "gradient_evaluations": first.budget,
        "multiple": multiple,
        "epochs_per_member": epochs,
        "description": f"what 10 networks need for {epochs:g} epochs",
    }


def _reliability(plan: Plan, found: Collected, multiple: float) -> dict[str, list[dict[str, float]]]:
    curves = {}
    for entrant in plan.settings.entrants:
        cells = found.done.get((entrant.label, multiple), [])
        if not cells:
            continue
        if plan.card.kind == "regression":
            curves[entrant.label] = _quantile_curve(cells)
        else:
            curves[entrant.label] = _class_curve(cells)
    return curves


def _quantile_curve(cells: list[Finished]) -> list[dict[str, float]]:
    if "pit" not in cells[0].arrays:
        return []
    curve = metrics.quantile_calibration_curve(np.concatenate([one.arrays["pit"] for one in cells]))
    return [{"level": float(a), "coverage": float(b)} for a, b in zip(curve.expected, curve.observed, strict=True)]


def _class_curve(cells: list[Finished]) -> list[dict[str, float]]:
    probs = np.concatenate([one.arrays["probs"] for one in cells]).astype(np.float64)
    labels = np.concatenate([one.arrays["labels"] for one in cells])
    curve = metrics.reliability_curve(probs / probs.sum(-1, keepdims=True), labels, num_bins=10)
    names = ("confidence", "accuracy", "low", "high", "count")
    columns = (curve.confidence, curve.accuracy, curve.low, curve.high, curve.num_examples)
    return [dict(zip(names, map(float, row), strict=True)) for row in zip(*columns, strict=True)]


def _curve(plan: Plan, found: Collected, comparisons: dict[float, dict[str, Comparison]]) -> list[dict[str, Any]]:
    if len(plan.settings.multiples) < 2:
        return []
    points = []
    for multiple in plan.settings.multiples:
        for entrant in plan.settings.entrants:
            cells = found.done.get((entrant.label, multiple), [])
            if not cells:
                continue
            comparison = comparisons[multiple].get(entrant.label)
            scores = [one.record["scores"][METRIC] for one in cells]
            error = float(np.std(scores, ddof=1) / math.sqrt(len(scores))) if len(scores) > 1 else 0.0
            points.append(
                {
                    "method": entrant.label,
                    "multiple": multiple,
                    "gradient_evaluations": _mean([one.record["spent"]["total"] for one in cells]),
                    "score": _mean(scores),
                    "low": _mean(scores) - error,
                    "high": _mean(scores) + error,
                    "verdict": str(comparison.verdict) if comparison else "control",
                }
            )
    return points


def _chains(plan: Plan, found: Collected, multiple: float) -> dict[str, dict[str, Any]]:
    """The first run of every sampler: chains of different runs have different posteriors."""
    shown = {}
    for entrant in plan.settings.entrants:
        cells = found.done.get((entrant.label, multiple), [])
        summary = chain_summary(min(cells, key=lambda one: (one.cell.split, one.cell.seed)).arrays) if cells else None
        if summary is not None:
            shown[entrant.label] = summary
    return shown


def _caveats(
    plan: Plan, found: Collected, methods: list[dict[str, Any]], comparisons: dict[str, Comparison]
) -> list[str]:
    texts = list(dict.fromkeys(text for one in comparisons.values() for text in one.caveats))
    asked, usual = plan.settings.epochs, default_epochs(plan.card.num_train[0])
    if asked is not None and asked < usual:
        texts.insert(
            0,
            f"The budget is smaller than the usual one: the control's members train for {asked:g} epochs instead of "
            f"{usual}. Ten undertrained networks are a weak control; compare map_whole_budget.",
        )
    if found.missing:
        texts.append(
            f"{len(found.missing)} of {len(plan.cells)} runs have not finished; the verdicts may still change."
        )
    if found.failed:
        texts.append(f"{len(found.failed)} runs failed; their reasons are listed below.")
    for entry in methods:
        if entry["unspent_reason"] and not entry["is_null"]:
            share = f"{100 * entry['budget_fraction']:.0f}%"
            texts.append(f"{entry['label']} used {share} of the budget: {entry['unspent_reason']}.")
    return texts


def _mean(values: list[float]) -> float:
    # Infinite losses stay infinite; numpy would warn on inf − inf only in a variance.
    return float(np.mean(values)) if values else math.nan
