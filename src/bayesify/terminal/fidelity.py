"""What `reference` and `fidelity` print."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from bayesify.arena.fidelity import FidelityCell, Fitted, Watch
from bayesify.datasets.task import Task
from bayesify.reference.make import IMPROVEMENT, MIXED_ESS, MIXED_R_HAT
from bayesify.reference.reference import Reference, Stage
from bayesify.terminal.display import describe_task
from bayesify.terminal.tables import console
from bayesify.terminal.words import duration, number

ENDS = {
    "budget": "the budget is spent",
    "mixed": f"R-hat is at most {MIXED_R_HAT:g} with {MIXED_ESS:.0f} effective draws at every test input",
    "stalled": f"two more stages left the halves at more than {IMPROVEMENT:g} of the distance before",
}
MIXED, USABLE = 1.01, 1.1
"""R-hat below which chains agree, and below which they nearly do."""


class Quiet:
    """With --json nothing is said."""

    watch: Watch | None = None

    def task(self, task: Task) -> None:
        """Ignored."""

    def fraction(self, fraction: float) -> None:
        """Ignored."""

    def stage(self, stage: Stage) -> None:
        """Ignored."""


class Said:
    """Lines on standard error, with a live bar where that is a terminal."""

    def __init__(self, console: Console, bar: Progress) -> None:
        self._console, self._bar = console, bar
        self._row = bar.add_task("", total=1.0, words="sampling, stage 1")
        self._total = 0
        self.watch: Watch | None = Watch(self._planned, self._finished)

    def task(self, task: Task) -> None:
        """What was understood of the data."""
        describe_task(self._console, task)

    def fraction(self, fraction: float) -> None:
        """Of the stage."""
        self._bar.update(self._row, completed=fraction)

    def stage(self, stage: Stage) -> None:
        """A line for every finished stage."""
        self._console.print(stage_line(stage))
        self._bar.update(self._row, completed=0.0, words=f"sampling, stage {stage.number + 2}")

    def _planned(self, cells: list[FidelityCell]) -> None:
        self._total = len(cells)
        self._console.print(f"{len(cells)} fits to do")
        self._bar.update(self._row, completed=0.0, total=max(1, len(cells)), words="")

    def _finished(self, fitted: Fitted) -> None:
        self._bar.update(self._row, advance=1, words=escape(fitted.cell.label))
        done = int(self._bar.tasks[0].completed)
        cell = fitted.cell
        what = f"{done} of {self._total}: {cell.label}, budget ×{cell.multiple:g}, seed {cell.seed}"
        if fitted.status == "failed":
            self._console.print(f"{escape(what)} [red]failed[/]: {escape(str(fitted.reason))}")
        elif not sys.stderr.isatty():
            self._console.print(f"{escape(what)}, {duration(fitted.seconds)}")


@contextmanager
def display(*, quiet: bool) -> Iterator[Quiet | Said]:
    """The display that suits where standard error goes."""
    if quiet:
        yield Quiet()
        return
    out = Console(stderr=True, highlight=False, soft_wrap=not sys.stderr.isatty())
    columns = (BarColumn(24), TimeElapsedColumn(), TextColumn("{task.fields[words]}"))
    with Progress(*columns, console=out, transient=True, disable=not sys.stderr.isatty()) as bar:
        yield Said(out, bar)


def stage_line(stage: Stage) -> str:
    """What a stage found, in a line."""
    ceiling = stage.ceiling
    name = "W1" if ceiling.halves.total_variation is None else "total variation"
    return (
        f"stage {stage.number + 1}: {duration(stage.seconds)}, {stage.steps['draws_per_chain']} draws per chain, "
        f"{name} between halves {number(ceiling.halves.main)}, R-hat {ceiling.r_hat[0]:.2f} (median) to "
        f"{ceiling.r_hat[2]:.2f} (worst test input)"
    )


def ceiling_words(reference: Reference) -> list[str]:
    """The reference's own precision, in sentences."""
    found, setup = reference.ceiling, reference.setup
    if found.halves.wasserstein1 is not None:
        halves = f"W1 {number(found.halves.wasserstein1)} standard deviations of the target"
    else:
        halves = f"agreement {found.halves.agreement:.1%}, total variation {number(found.halves.total_variation)}"
    median, most, worst = found.r_hat
    if worst <= MIXED:
        verdict = "the chains have mixed"
    elif most <= USABLE:
        verdict = "the chains have nearly mixed; at a few test inputs they differ"
    else:
        verdict = (
            "the chains have not mixed: each describes the region around its start, and the reference is their "
            "average; distances below the ceiling mean nothing"
        )
    return [
        f"ceiling: half of the {setup.chains} chains and the other half are apart by {halves}, "
        f"KL {number(found.halves.kl)} nats",
        f"functions at the test inputs: R-hat {median:.3f} (median), {most:.3f} (95%), {worst:.3f} (worst); effective "
        f"draws {found.ess[0]:.0f} (median), {found.ess[1]:.0f} (worst) of {found.num_draws}",
        f"{verdict}.",
    ]


def print_reference(reference: Reference) -> None:
    """The ceiling in words, and where the reference is."""
    out = console()
    spelled = reference.setup.as_dict()
    width = "-".join(map(str, reference.setup.network)) or "linear"
    out.print(escape(f"network {width}, {spelled['likelihood']}, prior {spelled['prior']}, {spelled['method']}"))
    evaluations = f"{reference.gradient_evaluations:.3g} gradient evaluations, {duration(reference.seconds)}"
    out.print(escape(f"{len(reference.stages)} stages, {evaluations}; it ended because {ENDS[reference.end]}"))
    for line in ceiling_words(reference):
        out.print(escape(line), soft_wrap=True)
    out.print(escape(f"reference: {reference.folder}"), soft_wrap=True)


def print_fidelity(found: dict[str, Any]) -> None:
    """One row per method and budget, the nearest first."""
    out = console()
    main = found["main"]
    titles = ["method", "budget", "W1" if main == "wasserstein1" else "TV"]
    titles += (["agreement"] if main == "total_variation" else []) + ["KL", "NLL", "cost", "MAP gap", "ensemble gap"]
    table = Table(box=None, pad_edge=False, header_style="dim")
    for title in titles:
        if title == "method":
            table.add_column(title, overflow="fold", min_width=25)
        else:
            table.add_column(title, justify="right", no_wrap=True)
    for row in sorted(found["rows"], key=lambda row: (row["multiple"], row[main]["mean"] if row["seeds"] else 1e9)):
        table.add_row(*_row(row, main))
    ceiling, own = found["reference"]["ceiling"]["halves"], found["reference"]["nll"]
    share = [] if main == "wasserstein1" else [f"{ceiling['agreement']:.1%}"]
    table.add_row(
        "[dim]half of the reference[/]",
        "",
        number(ceiling[main]),
        *share,
        number(ceiling["kl"]),
        number(own),
        "",
        "",
        "",
    )
    out.print(table)
    out.print()
    out.print(
        "[dim]gap: the fraction of the baseline's distance that is gone (100%: at the reference; negative: further "
        "away), ± its standard error over seeds; in brackets what half of the reference's chains would reach. NLL is "
        "on the test rows, and closeness to the reference is not quality.[/]"
    )
    for row in found["rows"]:
        for reason in dict.fromkeys(row["failed"]):
            out.print(f"[red]{escape(row['label'])} failed[/]: {escape(reason)}", soft_wrap=True)


def _row(row: dict[str, Any], main: str) -> list[str]:
    first = [escape(row["label"]), f"×{row['multiple']:g}"]
    if not row["seeds"]:
        return [*first, "failed"]
    share = [] if main == "wasserstein1" else [f"{row['agreement']['mean']:.1%}"]
    return [
        *first,
        with_error(row[main]["mean"], row[main]["standard_error"]),
        *share,
        number(row["kl"]["mean"]),
        number(row["nll"]),
        f"{row['total']:.2g}",
        gap_words(row["map_gap"]),
        gap_words(row["ensemble_gap"]),
    ]


def gap_words(gap: dict[str, Any] | None) -> str:
    """'62% ± 4% (91%)'; negative fractions are shown as such."""
    if gap is None:
        return "–"
    error = "" if gap["standard_error"] is None else f" ± {gap['standard_error']:.0%}"
    return f"{gap['fraction']:.0%}{error} ({gap['ceiling']:.0%})".replace("-", "−")


def with_error(value: float, error: float | None) -> str:
    """'0.031 ± 0.002'."""
    return number(value) if error is None else f"{number(value)} ± {error:.1g}"
