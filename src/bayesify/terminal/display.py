"""Progress: a live bar with the time left on a terminal, plain lines elsewhere, nothing with --json."""

import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from bayesify.arena.cell import Outcome
from bayesify.arena.plan import Cell, Plan
from bayesify.datasets.task import Task
from bayesify.terminal.words import duration

LINE_SECONDS = 10.0
"""Where there is no terminal, one line of progress at most this often."""


class Clock:
    """The time left: what each method's cells took so far, slowest of what is known for methods not seen yet."""

    def __init__(self, cells: list[Cell], workers: int) -> None:
        self.left: dict[str, int] = defaultdict(int)
        for cell in cells:
            self.left[cell.label] += 1
        self.taken: dict[str, list[float]] = defaultdict(list)
        self.started = time.monotonic()
        self.workers = workers

    def finished(self, outcome: Outcome) -> None:
        """Learns from a finished cell."""
        self.left[outcome.cell.label] -= 1
        self.taken[outcome.cell.label].append(outcome.seconds)

    def seconds_left(self) -> float:
        """Wall seconds, assuming the workers stay as busy as they were."""
        everything = [s for seconds in self.taken.values() for s in seconds]
        if not everything:
            return float("nan")
        typical: float = sum(everything) / len(everything)
        work: float = sum(
            count * (sum(self.taken[label]) / len(self.taken[label]) if self.taken[label] else typical)
            for label, count in self.left.items()
        )
        busy = sum(everything) / max(1e-9, time.monotonic() - self.started)
        return work / max(busy, 0.5)


class Quiet:
    """With --json nothing is said; standard output belongs to the object."""

    def task(self, task: Task) -> None:
        """Ignored."""

    def planned(self, plan: Plan, waiting: list[Cell], workers: int) -> None:
        """Ignored."""

    def finished(self, outcome: Outcome) -> None:
        """Ignored."""


class Lines:
    """Plain lines, for logs."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.clock: Clock | None = None
        self.count = self.total = 0
        self.last = -LINE_SECONDS

    def task(self, task: Task) -> None:
        """What was understood of the data."""
        describe_task(self.console, task)

    def planned(self, plan: Plan, waiting: list[Cell], workers: int) -> None:
        """How much there is to do."""
        describe_plan(self.console, plan, waiting)
        self.clock, self.total = Clock(waiting, workers), len(waiting)

    def finished(self, outcome: Outcome) -> None:
        """A line now and then, and for every failure."""
        assert self.clock is not None
        self.clock.finished(outcome)
        self.count += 1
        if outcome.status == "failed":
            self.console.print(failure(outcome))
        now = time.monotonic()
        if now - self.last >= LINE_SECONDS or self.count == self.total:
            self.last = now
            left = duration(self.clock.seconds_left())
            self.console.print(f"{self.count} of {self.total} runs, about {left} left")


class Bar:
    """A live bar with the time left."""

    def __init__(self, console: Console, bar: Progress) -> None:
        self.console, self.bar = console, bar
        self.clock: Clock | None = None
        self.row: TaskID | None = None

    def task(self, task: Task) -> None:
        """What was understood of the data."""
        describe_task(self.console, task)

    def planned(self, plan: Plan, waiting: list[Cell], workers: int) -> None:
        """Starts the bar."""
        describe_plan(self.console, plan, waiting)
        self.clock = Clock(waiting, workers)
        if waiting:
            self.row = self.bar.add_task("", total=len(waiting), words="estimating the time")

    def finished(self, outcome: Outcome) -> None:
        """One step on; failures stay on the screen above the bar."""
        assert self.clock is not None
        assert self.row is not None
        self.clock.finished(outcome)
        if outcome.status == "failed":
            self.bar.console.print(failure(outcome))
        left = duration(self.clock.seconds_left())
        words = f"about {left} left · {escape(outcome.cell.label)}, split {outcome.cell.split + 1}"
        self.bar.update(self.row, advance=1, words=words)


@contextmanager
def display(*, quiet: bool) -> Iterator[Quiet | Lines | Bar]:
    """The display that suits where standard error goes."""
    if quiet:
        yield Quiet()
        return
    console = Console(stderr=True, highlight=False)
    if not sys.stderr.isatty():
        yield Lines(Console(stderr=True, highlight=False, soft_wrap=True))
        return
    columns = (BarColumn(24), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.fields[words]}"))
    with Progress(*columns, console=console, transient=True) as bar:
        yield Bar(console, bar)


def describe_task(console: Console, task: Task) -> None:
    """One line of data and one for every note."""
    classes = f", {len(task.classes)} classes" if task.classes else ""
    rows = f"{len(task.target):,} rows, {task.features.shape[1]} features"
    console.print(f"[bold]{escape(task.name)}[/]: {rows}; {task.kind} of {escape(repr(task.target_name))}{classes}")
    for note in task.notes:
        console.print(f"  [dim]{escape(note)}[/]")


def describe_plan(console: Console, plan: Plan, waiting: list[Cell]) -> None:
    """How many runs, at what budget, and how many are there already."""
    count = len(plan.cells)
    first = plan.cells[0]
    stored = f", {count - len(waiting)} of them stored already" if len(waiting) < count else ""
    budget = f"{first.budget:,.0f} gradient evaluations each"
    console.print(f"{len(plan.settings.entrants)} methods, {count} runs{stored}; {budget}")


def failure(outcome: Outcome) -> str:
    """A failed cell in one line."""
    cell = outcome.cell
    return f"[red]failed[/] {escape(cell.label)}, split {cell.split + 1}: {escape(outcome.reason or '')}"
