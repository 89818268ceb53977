"""The page's tables: columns, cells as written, and the number each cell is sorted by."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from bayesify.arena.report import wording
from bayesify.arena.report.view import SYMBOLS, VERDICTS, MethodView, ReportView

_FRACTION_SPENT = 0.98  # a method that spent less than this has to say why


class Cell(NamedTuple):
    """One cell: what it says; its sort key (with a key, no word is the user's); best of column; CSS class."""

    text: str
    key: float | None = None
    best: bool = False
    note: str = ""
    style: str = ""


class Column(NamedTuple):
    """A column's heading and, in the tooltip, what it means."""

    label: str
    help: str = ""


@dataclass(frozen=True)
class Table:
    """Columns beside the method's name, and one row of cells per method."""

    columns: tuple[Column, ...]
    rows: tuple[tuple[MethodView, tuple[Cell, ...]], ...]


def difference_decimals(view: ReportView) -> int:
    """Decimals for differences: two digits of the margin, or three of the typical interval's half-width."""
    margin = wording.decimals_for([view.margin], digits=2) if view.margin else 0
    widths = [(m.difference.high - m.difference.low) / 2 for m in view.compared if m.difference]
    return max(margin, wording.decimals_for(widths, digits=2))


def difference_text(method: MethodView, decimals: int) -> str:
    """``+0.012 [0.004, 0.021]``."""
    d = method.difference
    if d is None:
        return wording.NOTHING
    return f"{wording.fixed(d.estimate, decimals, sign=True)} {wording.interval(d.low, d.high, decimals)}"


def score_names(view: ReportView) -> list[str]:
    """Every score of the test rows that some method has, the comparison's first, then in the order given."""
    names = dict.fromkeys(name for method in view.methods for name in method.scores if "@" not in name)
    return sorted(names, key=lambda name: name != view.metric.name)


def scores(view: ReportView) -> Table:
    """Verdict, difference to the control and every score."""
    decimals = difference_decimals(view)
    names = score_names(view)
    columns = [
        Column("Verdict"),
        Column("Difference", f"to the control, with its {wording.share(view.level)} interval; positive is better"),
        Column("p", "two-sided, adjusted for the number of methods compared"),
        Column("Detectable", "the true difference that this comparison would have found four times out of five"),
        *(Column(wording.metric(name).label, meaning(name)) for name in names),
    ]
    # Scores that are compared show as many digits as their differences.
    finest = {view.metric.name: decimals}
    lists = {name: score_column(view.ranked, name, finest.get(name, 0)) for name in names}
    rows = []
    for index, method in enumerate(view.ranked):
        cells = (
            verdict_cell(method),
            difference_cell(method, decimals),
            Cell(wording.p_value(method.p_adjusted), method.p_adjusted),
            Cell(wording.fixed(method.minimum_detectable, decimals), method.minimum_detectable),
        )
        rows.append((method, (*cells, *(lists[name][index] for name in names))))
    return _without_empty_columns(Table(tuple(columns), tuple(rows)), keep=1)


def costs(view: ReportView) -> Table:
    """What training and prediction cost."""
    measures: list[tuple[Column, Callable[[MethodView], float | None], Callable[[float | None], str]]] = [
        (
            Column("Gradient evaluations", "one gradient of one example for one network"),
            lambda m: m.spent.get("gradient_evaluations"),
            wording.compact,
        ),
        (Column("Of budget"), lambda m: m.budget_fraction, lambda v: wording.percent(v, 0)),
        (
            Column("Forward passes", "without a gradient; each counts a third"),
            lambda m: m.spent.get("forward_evaluations"),
            wording.compact,
        ),
        (Column("Training time"), lambda m: m.spent.get("seconds"), wording.seconds),
        (Column("FLOPs"), lambda m: m.spent.get("flops"), wording.compact),
        (Column("Peak memory"), lambda m: m.spent.get("peak_memory_bytes"), wording.size),
        (Column("Prediction time"), lambda m: m.predict_seconds, wording.seconds),
    ]
    rows = tuple(
        (method, tuple(_cost_cell(read(method), write) for _, read, write in measures)) for method in view.ranked
    )
    return _without_empty_columns(Table(tuple(column for column, _, _ in measures), rows), keep=1)


def splits(view: ReportView) -> Table:
    """The comparison's score on every split."""
    name = view.metric.name
    values = [method.by_split.get(name, ()) for method in view.ranked]
    decimals = wording.decimals_for([value for row in values for value in row])
    length = max(map(len, values), default=0)
    rows = tuple(
        (method, tuple(Cell(wording.fixed(value, decimals), value) for value in _padded(row, length)))
        for method, row in zip(view.ranked, values, strict=True)
        if row
    )
    return Table(tuple(Column(f"Split {index}") for index in range(length)), rows)


def underspent(view: ReportView) -> tuple[MethodView, ...]:
    """Methods that left a part of the budget unspent."""
    return tuple(m for m in view.ranked if m.budget_fraction is not None and m.budget_fraction < _FRACTION_SPENT)


def _cost_cell(value: float | None, write: Callable[[float | None], str]) -> Cell:
    exact = wording.count(value) if value is not None and value >= 1000 else ""
    return Cell(write(value), value, note=exact)


def verdict_cell(method: MethodView) -> Cell:
    """The verdict in words, with its mark."""
    if method.is_control:
        return Cell(f"{SYMBOLS['control']} control", -1, style="control")
    if method.verdict is None:
        return Cell(method.status if method.status != "done" else wording.NOTHING)
    word = f"{SYMBOLS[method.verdict]} {method.verdict}"
    return Cell(word, VERDICTS.index(method.verdict), note=method.verdict_sentence, style=method.verdict)


def difference_cell(method: MethodView, decimals: int) -> Cell:
    """The difference to the control with its interval."""
    if method.is_control:
        return Cell(wording.fixed(0, decimals), 0)
    estimate = method.difference.estimate if method.difference else None
    return Cell(difference_text(method, decimals), estimate)


def score_column(methods: Sequence[MethodView], name: str, at_least: int) -> list[Cell]:
    """One score of all methods, with at least so many decimals."""
    metric = wording.metric(name)
    values = [method.scores.get(name) for method in methods]
    decimals = max(wording.decimals_for(values), at_least)
    best = _best(values, metric)

    def cell(value: float | None) -> Cell:
        written = wording.percent(value, 1) if metric.percent else wording.fixed(value, decimals)
        return Cell(written, value, best=value is not None and value == best)

    return [cell(value) for value in values]


def _best(values: Sequence[float | None], metric: wording.Metric) -> float | None:
    finite = [value for value in values if value is not None and math.isfinite(value)]
    if len(finite) < 2 or metric.direction is None:
        return None
    if metric.direction == "target":
        return min(finite, key=lambda value: abs(value - (metric.target or 0)))
    return min(finite) if metric.direction == "lower" else max(finite)


def meaning(name: str) -> str:
    """Which way a score is good."""
    metric = wording.metric(name)
    if metric.direction == "target":
        return f"should be {wording.percent(metric.target)}"
    return {"lower": "lower is better", "higher": "higher is better"}.get(metric.direction or "", "")


def _without_empty_columns(table: Table, keep: int) -> Table:
    used = [
        index < keep or any(cells[index].text != wording.NOTHING for _, cells in table.rows)
        for index in range(len(table.columns))
    ]
    rows = tuple(
        (method, tuple(cell for cell, use in zip(cells, used, strict=True) if use)) for method, cells in table.rows
    )
    return Table(tuple(column for column, use in zip(table.columns, used, strict=True) if use), rows)


def _padded(row: tuple[float | None, ...], length: int) -> tuple[float | None, ...]:
    return row + (None,) * (length - len(row))
