"""What `testbed` prints."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from bayesify.arena.testbed import Fitted, ProblemCell, Watch
from bayesify.terminal.tables import console
from bayesify.terminal.words import duration, number


@contextmanager
def display(*, quiet: bool) -> Iterator[Watch | None]:
    """A live bar where standard error is a terminal, a line for every tenth fit where it is not, nothing if quiet."""
    if quiet:
        yield None
        return
    live = sys.stderr.isatty()
    out = Console(stderr=True, highlight=False, soft_wrap=not live)
    columns = (BarColumn(24), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.fields[words]}"))
    with Progress(*columns, console=out, transient=True, disable=not live) as bar:
        row = bar.add_task("", total=1, words="")

        def planned(cells: list[ProblemCell]) -> None:
            bar.update(row, total=max(1, len(cells)))
            out.print(f"{len(cells)} fits to do")

        def finished(fitted: Fitted) -> None:
            what = f"{fitted.cell.label} on {fitted.cell.problem}"
            bar.update(row, advance=1, words=escape(what))
            done = int(bar.tasks[0].completed)
            if fitted.status == "failed":
                out.print(f"{escape(what)} [red]failed[/]: {escape(str(fitted.reason))}")
            elif not live and done % 10 == 0:
                out.print(f"{done} of {int(bar.tasks[0].total or 0)}: {escape(what)}")

        yield Watch(planned, finished)


def print_testbed(found: dict[str, Any]) -> None:
    """One row per method, the nearest joint predictions first."""
    out = console()
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("method", overflow="fold", min_width=25)
    for title in ("problems", "draws", "KL of 1", f"KL of {found['order']}", "÷ control", "95%", "nearer", "train"):
        table.add_column(title, justify="right", no_wrap=True)
    for row in sorted(found["rows"], key=_rank):
        table.add_row(*_row(row))
    even = found["uniform"]
    table.add_row("[dim]even chances[/]", "", "", number(even["marginal"]), number(even["dyadic"]), "", "", "", "")
    out.print(table)
    out.print()
    out.print(
        f"[dim]KL from the truth in nats: mean over {len(found['problems'])} problems, of one label and of "
        f"{found['order']} labels at two inputs. ÷ control: geometric mean over problems of the latter divided by that "
        f"of {escape(found['control'])}, with its paired interval; nearer: on which share of them it is smaller.[/]"
    )
    out.print(f"results: {escape(found['folder'])}", soft_wrap=True)
    for row in found["rows"]:
        for reason in dict.fromkeys(row["failed"]):
            out.print(f"[red]{escape(row['label'])} failed[/]: {escape(reason)}", soft_wrap=True)


def _rank(row: dict[str, Any]) -> float:
    compared = row.get("dyadic_ratio")
    return float("inf") if compared is None else float(compared["estimate"])


def _row(row: dict[str, Any]) -> list[str]:
    first = [escape(row["label"]), str(row["problems"])]
    if not row["problems"]:
        return [*first, "failed"]
    shown = [*first, str(row["draws"]), number(row["marginal"]), number(row["dyadic"])]
    compared = row["dyadic_ratio"]
    if compared is None:
        return [*shown, "–", "–", "–", duration(row["fit_seconds"])]
    interval = "–" if compared["low"] is None else f"{compared['low']:.2f} to {compared['high']:.2f}"
    ratio, nearer = f"{compared['estimate']:.2f}", f"{compared['nearer']:.0%}"
    return [*shown, ratio, interval, nearer, duration(row["fit_seconds"])]
