"""What is said of corrupted copies, shifted sets and sets from outside: verdicts, a table, and curves over severity."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import altair as alt
from markupsafe import Markup

from bayesify.arena.report import drawing, forest, tables, wording
from bayesify.arena.report.drawing import MUTED
from bayesify.arena.report.panels import Panel
from bayesify.arena.report.plain import Plain, number, table, text, whole
from bayesify.arena.report.plain import tables as rows_of
from bayesify.arena.report.tables import Cell, Column, Table
from bayesify.arena.report.view import MethodView, ReportView, method_view

_SIZE = (150, 120)
_PADDING = (40, 8, 10, 24)


class ShiftedSet(NamedTuple):
    """One set with targets: its heading, the answer, and the forest plots; `view` has its differences."""

    title: str
    sentence: str
    forest: Markup | None
    forest_narrow: Markup | None
    is_cut: bool
    view: ReportView


class Shown(NamedTuple):
    """The whole section."""

    sets: list[ShiftedSet]
    outside: list[str]
    table: Table
    severities: list[Panel]


def shown(view: ReportView, *, charts: bool) -> Shown | None:
    """The section; None where nothing but the test rows was tested on."""
    shift = table(view.raw, "shift")
    sets = rows_of(shift, "sets")
    if not sets:
        return None
    paired = [_set(view, row, charts) for row in sets if text(row, "kind") != "outside"]
    outside = [_outside_title(row) for row in sets if text(row, "kind") == "outside"]
    panels = _severities(paired[0].view if paired else view, table(shift, "severities")) if charts else []
    return Shown(paired, outside, _table(view, paired), panels)


def _set(view: ReportView, row: Plain, charts: bool) -> ShiftedSet:
    own = _differences(view, text(row, "name"))
    return ShiftedSet(
        title=_title(row),
        sentence=text(row, "sentence"),
        forest=forest.forest(own) if charts else None,
        forest_narrow=forest.forest(own, narrow=True) if charts else None,
        is_cut=forest.is_cut(own),
        view=own,
    )


def _differences(view: ReportView, name: str) -> ReportView:
    """The same view with the differences, verdicts and scores on another set."""
    methods = []
    for row in rows_of(view.raw, "methods"):
        scores = {
            key.partition("@")[0]: value for key, value in table(row, "scores").items() if key.partition("@")[2] == name
        }
        methods.append(method_view({**row, **table(table(row, "shift"), name), "scores": scores}, view.control))
    return replace(view, methods=tuple(methods))


def _title(row: Plain) -> str:
    examples, conditions = whole(row, "examples"), whole(row, "conditions")
    if text(row, "kind") == "corrupted":
        counted = f": {wording.plural(examples, 'row')}" if examples is not None else ""
        ways = f", each corrupted in {conditions // 5} ways at 5 severities" if conditions else ""
        return f"Corrupted copies of test rows{counted}{ways}"
    return f"Rows of {text(row, 'name')}" + (f": {wording.count(examples)}" if examples is not None else "")


def _outside_title(row: Plain) -> str:
    examples = whole(row, "examples")
    return text(row, "name") + (f" ({wording.plural(examples, 'row')})" if examples is not None else "")


def _table(view: ReportView, paired: Sequence[ShiftedSet]) -> Table:
    """One row per method, in the order of the first set's differences: verdicts, then all scores with an @."""
    order = paired[0].view.ranked if paired else view.ranked
    named = {method.name: method for method in view.methods}
    methods = [named[method.name] for method in order]
    columns: list[Column] = []
    cells: list[list[Cell]] = []
    for one in paired:
        name = "" if len(paired) == 1 else f", {one.title.partition(':')[0].lower()}"
        found = {method.name: method for method in one.view.methods}
        decimals = tables.difference_decimals(one.view)
        columns += [Column(f"Verdict{name}"), Column(f"Difference{name}", "of NLL to the control; positive is better")]
        cells.append([tables.verdict_cell(found[m.name]) for m in methods])
        cells.append([tables.difference_cell(found[m.name], decimals) for m in methods])
    names = dict.fromkeys(name for method in view.methods for name in method.scores if "@" in name)
    columns += [Column(wording.metric(name).label, tables.meaning(name)) for name in names]
    cells += [tables.score_column(methods, name, 0) for name in names]
    seconds = [number(row, "shift_seconds") for row in rows_of(view.raw, "methods")]
    spent = dict(zip((m.name for m in view.methods), seconds, strict=True))
    columns.append(Column("Prediction time", "of everything in this table, in one run"))
    cells.append([Cell(wording.seconds(spent[m.name]), spent[m.name]) for m in methods])
    rows = tuple((method, tuple(row)) for method, row in zip(methods, zip(*cells, strict=True), strict=True))
    return Table(tuple(columns), rows)


def _severities(view: ReportView, named: Plain) -> list[Panel]:
    """NLL over severity, per method, on common axes; better is up. The control is the grey line."""
    curves = {m.name: _points(rows_of(named, m.name)) for m in view.ranked}
    control = next((curves[m.name] for m in view.ranked if m.is_control), [])
    everything = sorted(point["score"] for points in curves.values() for point in points)
    if not everything:
        return []
    room = 0.05 * (everything[-1] - everything[0]) or 0.1
    domain = [everything[0] - room, everything[-1] + room]
    return [
        Panel(m.label, "", _panel(m, curves[m.name], control, domain), m.is_control)
        for m in view.ranked
        if curves[m.name]
    ]


def _points(rows: list[Plain]) -> list[dict[str, float]]:
    found = [(number(row, "severity"), number(row, "nll")) for row in rows]
    return [{"severity": a, "score": b} for a, b in found if a is not None and b is not None and abs(b) < float("inf")]


def _panel(
    method: MethodView, points: list[dict[str, float]], control: list[dict[str, float]], domain: list[float]
) -> Markup:
    x = alt.X(
        "severity:Q",
        scale=alt.Scale(domain=[-0.2, 5.2], nice=False),
        axis=alt.Axis(values=[0, 1, 2, 3, 4, 5], format="d", domain=False, grid=False),
        title=None,
    )
    y = alt.Y(
        "score:Q",
        scale=alt.Scale(domain=domain, reverse=True, nice=False, zero=False),
        axis=alt.Axis(tickCount=4, format=",~g", domain=False),
        title=None,
    )
    look = drawing.look(method.verdict)
    layers: list[Any] = []
    if control and not method.is_control:
        layers.append(
            alt.Chart(drawing.values(control)).mark_line(color=MUTED, strokeWidth=1.25, aria=False).encode(x=x, y=y)
        )
    base = alt.Chart(drawing.values([{**p, "description": _description(method, p)} for p in points]))
    layers += [
        base.mark_line(color=look.stroke, strokeWidth=1.5, aria=False).encode(x=x, y=y),
        base.mark_point(filled=True, color=look.stroke, opacity=1, size=28).encode(
            x=x, y=y, description=alt.Description("description:N")
        ),
    ]
    description = "; ".join(_description(method, point) for point in points)
    return drawing.svg(drawing.frame(layers, *_SIZE, _PADDING), description)


def _description(method: MethodView, point: dict[str, float]) -> str:
    where = f"severity {point['severity']:.0f}" if point["severity"] else "test rows"
    return f"{method.label}, {where}: NLL {wording.fixed(point['score'], 3)}"
