"""A results folder → its result or its progress, without running anything."""

import json
from pathlib import Path
from typing import Any

from bayesify.arena.analyse import analyse
from bayesify.arena.compare import Result
from bayesify.arena.plan import Plan
from bayesify.arena.store import Store
from bayesify.errors import SaveError


def read_request(folder: Path) -> dict[str, Any]:
    """What `compare` was asked for in this folder.

    Raises:
        SaveError: the folder is not one of compare's.
    """
    path = folder / "request.json"
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SaveError(
            f"{folder} is no results folder (it has no request.json): give the folder that `compare` printed."
        ) from None
    except (OSError, ValueError) as error:
        raise SaveError(f"{path} is damaged ({error}): run the same compare command again to mend it.") from error
    return found


def result_of(folder: Path) -> Result:
    """The result of whatever has finished.

    Raises:
        SaveError: the folder is not one of compare's, or a record is damaged.
    """
    request = read_request(folder)
    return Result(analyse(_plan(request, folder), Store(folder), request["environment"]), folder)


def progress_of(folder: Path) -> dict[str, Any]:
    """Counts by method: planned, done, failed, seconds.

    Raises:
        SaveError: the folder is not one of compare's.
    """
    plan = _plan(read_request(folder), folder)
    rows = Store(folder).query("SELECT key, status, seconds, reason FROM runs")
    found = {key: (status, seconds, reason) for key, status, seconds, reason in rows}
    table: dict[str, dict[str, Any]] = {}
    for cell in plan.cells:
        entry = table.setdefault(cell.label, {"planned": 0, "done": 0, "failed": 0, "seconds": 0.0, "reason": None})
        entry["planned"] += 1
        if cell.key in found:
            state, seconds, reason = found[cell.key]
            entry[state] += 1
            entry["seconds"] += seconds
            entry["reason"] = entry["reason"] or reason
    return {"task": plan.card.name, "folder": str(folder), "methods": table}


def _plan(request: dict[str, Any], folder: Path) -> Plan:
    try:
        return Plan.from_dict(request["plan"])
    except (KeyError, TypeError) as error:
        raise SaveError(
            f"{folder / 'request.json'} was written by another version ({error}): run the compare command again."
        ) from error
