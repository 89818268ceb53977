"""The tables of the command line."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bayesify.datasets import DatasetRow
from bayesify.terminal.words import duration, number, signed

STYLES = {"better": "bold green", "worse": "red", "equivalent": "cyan", "undecided": "yellow", "control": "bold"}
SECOND_SCORE = {
    "regression": ("rmse", "RMSE"),
    "binary": ("accuracy", "accuracy"),
    "multiclass": ("accuracy", "accuracy"),
}
WIDTH_WITHOUT_TERMINAL = 110


def console() -> Console:
    """Standard output; wide enough for the tables when it is a file."""
    found = Console(highlight=False)
    return found if found.is_terminal else Console(highlight=False, width=WIDTH_WITHOUT_TERMINAL)


def print_result(result: dict[str, Any], report: Path) -> None:
    """The table of all methods, then the answer, then where the report is."""
    out = console()
    score, title = SECOND_SCORE[result["task"]["kind"]]
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("method", "verdict"):
        table.add_column(name, no_wrap=True)
    for name in ("NLL", title, "better by (nats)", "budget", "train", "predict"):
        table.add_column(name, justify="right", no_wrap=True)
    for entry in sorted(result["methods"], key=_rank):
        table.add_row(*_row(entry, score))
    out.print(table)
    if result.get("shift"):
        _print_shift(out, result)
    out.print()
    for caveat in result["caveats"]:
        out.print(f"[dim]note: {escape(caveat)}[/]")
    out.print()
    out.print(f"[bold]{escape(result['sentence'])}[/]")
    for one in (result.get("shift") or {}).get("sets", []):
        if "sentence" in one:
            out.print(escape(one["sentence"]))
    out.print(f"report: {escape(str(report))}", soft_wrap=True)


def _print_shift(out: Console, result: dict[str, Any]) -> None:
    """A table for every set with targets, and one for all sets from outside."""
    methods = sorted(result["methods"], key=_rank)
    outside = []
    for one in result["shift"]["sets"]:
        if one["kind"] == "outside":
            outside.append(one["name"])
        else:
            _print_set(out, methods, one["name"])
    names = [name for name in _scores_elsewhere(methods) if name.partition("@")[2] in outside]
    if not names:
        return
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("told apart (AUROC)", no_wrap=True)
    for name in names:
        measure, _, other = name.removeprefix("auroc_").partition("@")
        table.add_column(f"{escape(other)}, by {measure.replace('_', ' ')}", justify="right")
    for entry in methods:
        table.add_row(escape(entry["name"]), *(number(entry["scores"].get(name)) for name in names))
    out.print()
    out.print(table)


def _print_set(out: Console, methods: list[dict[str, Any]], other: str) -> None:
    names = [name for name in _scores_elsewhere(methods) if name.partition("@")[2] == other]
    table = Table(box=None, pad_edge=False, header_style="dim")
    for heading in (f"on {escape(other)} rows", "verdict"):
        table.add_column(heading, no_wrap=True)
    for name in names:
        score = name.partition("@")[0]
        table.add_column(score if score == "accuracy" else score.upper(), justify="right", no_wrap=True)
    table.add_column("better by (nats)", justify="right", no_wrap=True)
    for entry in methods:
        found = entry.get("shift", {}).get(other, {})
        verdict = found.get("verdict") or entry["status"]
        scores = (number(entry["scores"].get(name)) for name in names)
        shown = f"[{STYLES.get(verdict, 'dim')}]{verdict}[/]"
        table.add_row(escape(entry["name"]), shown, *scores, _interval(found.get("difference")))
    out.print()
    out.print(table)


def _scores_elsewhere(methods: list[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(name for entry in methods for name in entry["scores"] if "@" in name))


def _interval(difference: dict[str, float] | None) -> str:
    if not difference:
        return "–"
    text = f"{signed(difference['estimate'])} [{signed(difference['low'])}, {signed(difference['high'])}]"
    return text.replace("[", "\\[")


def _rank(entry: dict[str, Any]) -> tuple[int, float]:
    score = entry["scores"].get("nll")
    return (0 if entry["is_control"] else 1, float("inf") if score is None else score)


def _row(entry: dict[str, Any], score: str) -> list[str]:
    verdict = entry["verdict"] or entry["status"]
    shown = f"{verdict} (reference)" if entry["is_null"] and entry["verdict"] else verdict
    scores, spent = entry["scores"], entry["spent"]
    return [
        escape(entry["name"]),
        f"[{STYLES.get(verdict, 'dim')}]{shown}[/]",
        number(scores.get("nll")),
        number(scores.get(score)),
        _interval(entry["difference"]),
        "–" if entry["budget_fraction"] is None else f"{100 * entry['budget_fraction']:.0f}%",
        "–" if spent is None else duration(spent["seconds"]),
        "–" if entry["predict_seconds"] is None else f"{1000 * entry['predict_seconds']:.1f} ms",
    ]


def print_status(found: dict[str, Any]) -> None:
    """Counts by method."""
    out = console()
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("method")
    for name in ("done", "failed", "planned", "mean time"):
        table.add_column(name, justify="right")
    for label, entry in found["methods"].items():
        ended = entry["done"] + entry["failed"]
        mean = duration(entry["seconds"] / ended) if ended else "–"
        table.add_row(escape(label), str(entry["done"]), str(entry["failed"]), str(entry["planned"]), mean)
    out.print(f"[bold]{escape(found['task'])}[/] in {escape(found['folder'])}")
    out.print(table)
    for label, entry in found["methods"].items():
        if entry["reason"]:
            out.print(f"[red]{escape(label)}[/]: {escape(entry['reason'])}")


def method_rows() -> list[dict[str, Any]]:
    """The card of every method."""
    from bayesify.methods.registry import method_class, method_names

    rows = []
    for name in method_names():
        found = method_class(name)
        settings = {field.name: _default(field) for field in dataclasses.fields(found)}  # type: ignore[arg-type]
        info = found.info
        rows.append(
            {
                "name": name,
                "family": info.family,
                "exactness": str(info.exactness),
                "summary": info.summary,
                "bias": info.bias,
                "reference": info.reference,
                "settings": settings,
                "tuned": list(info.search_space),
            }
        )
    return rows


def _default(field: "dataclasses.Field[Any]") -> Any:
    missing = field.default is dataclasses.MISSING
    return "required" if missing else field.default


def print_methods(rows: Sequence[dict[str, Any]]) -> None:
    """Name, exactness and settings."""
    out = console()
    for row in rows:
        out.print(
            f"[bold]{row['name']}[/]  {escape(row['summary'])}  "
            f"[dim]({row['exactness']}; {escape(row['reference'])})[/]"
        )
        if row["bias"]:
            out.print(f"    deviates: {escape(row['bias'])}")
        settings = ", ".join(f"{name}={value}" for name, value in row["settings"].items())
        out.print(f"    [dim]settings: {escape(settings)}[/]")


def print_datasets(rows: Sequence[DatasetRow]) -> None:
    """Name, size and where it comes from."""
    out = console()
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("name", no_wrap=True)
    table.add_column("rows", justify="right")
    table.add_column("features", justify="right")
    for name in ("kind", "where", "source"):
        table.add_column(name)
    for row in rows:
        table.add_row(row.name, f"{row.rows:,}", str(row.features), row.kind, row.where, escape(row.source))
    out.print(table)
