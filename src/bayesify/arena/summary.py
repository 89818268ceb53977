"""The short JSON object of `--json`: what scripts need, in a form that stays."""

from typing import Any

_METHOD = ("name", "status", "scores", "difference", "verdict", "predict_seconds")


def summary(result: dict[str, Any]) -> dict[str, Any]:
    """task, control, budget and one entry per method, from the full result."""
    return {
        "task": result["task"],
        "control": result["control"],
        "budget": result["budget"],
        "sentence": result["sentence"],
        **({"shift": result["shift"]["sets"]} if result.get("shift") else {}),
        "methods": [_method(entry) for entry in result["methods"]],
    }


def _method(entry: dict[str, Any]) -> dict[str, Any]:
    spent = entry["spent"]
    kept = {name: entry[name] for name in _METHOD}
    names = ("gradient_evaluations", "seconds", "flops")
    if "shift" in entry:
        kept["shift"] = {
            name: {key: found[key] for key in ("difference", "verdict")} for name, found in entry["shift"].items()
        }
    return {**kept, "reason": entry["reason"], "spent": {name: spent[name] for name in names} if spent else None}
