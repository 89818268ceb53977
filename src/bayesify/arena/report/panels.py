"""Small multiples, one panel per method with the control behind it: calibration, and quality against compute."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import altair as alt
from markupsafe import Markup

from bayesify.arena.report import drawing, wording
from bayesify.arena.report.drawing import HAIR, INK, MUTED
from bayesify.arena.report.view import CalibrationPoint, CurvePoint, MethodView, ReportView

_SIZE = (150, 150)
_PADDING = (40, 8, 10, 24)
_UNIT_TICKS = [0, 0.25, 0.5, 0.75, 1]
_SMALLEST, _LARGEST = 14.0, 110.0  # areas of a point, square pixels


class Panel(NamedTuple):
    """One small chart with its heading and a line of words below it."""

    label: str
    note: str
    drawing: Markup
    is_control: bool


def reliability(view: ReportView) -> list[Panel]:
    """Stated against observed frequency, per method; the control's curve is the grey line in every panel."""
    known = [(m, view.reliability[m.name]) for m in view.ranked if m.name in view.reliability]
    control = next((points for m, points in known if m.is_control), ())
    return [
        Panel(m.label, _calibration_note(view, m), _reliability_panel(view, m, points, control), m.is_control)
        for m, points in known
    ]


def curves(view: ReportView) -> list[Panel]:
    """The score at every budget, per method, on common axes; better is up."""
    control = next((view.curve[m.name] for m in view.ranked if m.is_control and m.name in view.curve), ())
    return [
        Panel(m.label, "", _curve_panel(view, m, control), False)
        for m in view.ranked
        if m.name in view.curve and not m.is_control
    ]


def _calibration_note(view: ReportView, method: MethodView) -> str:
    wanted = "ece" if view.is_classification else "coverage_90"
    value = method.scores.get(wanted)
    if value is None:
        return ""
    if view.is_classification:
        return f"ECE {wording.fixed(value, 3)}"
    return f"90% intervals hold {wording.percent(value)}"


def _reliability_panel(
    view: ReportView, method: MethodView, points: Sequence[CalibrationPoint], control: Sequence[CalibrationPoint]
) -> Markup:
    scale = alt.Scale(domain=[0, 1], nice=False)
    axis = alt.Axis(values=_UNIT_TICKS, format=".0%", domain=False)
    axis_x = alt.Axis(values=[0, 0.5, 1], format=".0%", domain=False, grid=True)
    x = alt.X("stated:Q", scale=scale, axis=axis_x, title=None)
    y = alt.Y("observed:Q", scale=scale, axis=axis, title=None)
    rows = _calibration_rows(points, "interval" if not view.is_classification else "confidence")
    colour = drawing.look(method.verdict).stroke
    base = alt.Chart(drawing.values(rows))
    layers = [
        alt.Chart(drawing.values([{"stated": 0, "observed": 0}, {"stated": 1, "observed": 1}]))
        .mark_line(color=MUTED, strokeWidth=1, strokeDash=[2, 3], aria=False)
        .encode(x=x, y=y)
    ]
    if control and not method.is_control:
        layers.append(_line([p._asdict() for p in control], x, y, MUTED, 1.25, opacity=0.75))
    layers += [
        base.transform_filter("isValid(datum.low) && isValid(datum.high)")
        .mark_rule(color=colour, strokeWidth=1.25, opacity=0.55, aria=False)
        .encode(x=x, y=alt.Y("low:Q", scale=scale, axis=axis, title=None), y2=alt.Y2("high:Q")),
        _line(rows, x, y, colour, 1.5),
        base.mark_point(filled=True, color=colour, opacity=1).encode(
            x=x, y=y, size=drawing.raw(alt.Size, "area:Q"), description=alt.Description("description:N")
        ),
    ]
    worst = max(points, key=lambda p: abs(p.stated - p.observed))
    description = (
        f"{method.label}: largest gap where {wording.percent(worst.stated)} was stated and"
        f" {wording.percent(worst.observed)} observed"
    )
    return drawing.svg(drawing.frame(layers, *_SIZE, _PADDING), description)


def _calibration_rows(points: Sequence[CalibrationPoint], what: str) -> list[dict[str, Any]]:
    most = max((p.examples for p in points if p.examples is not None), default=0)
    rows = []
    for point in points:
        share = point.examples / most if point.examples is not None and most > 0 else 0.3
        row: dict[str, Any] = {name: _unit(value) for name, value in point._asdict().items() if name != "examples"}
        row["area"] = _SMALLEST + (_LARGEST - _SMALLEST) * max(share, 0.0)
        counted = f", {wording.count(point.examples)} examples" if point.examples is not None else ""
        row["description"] = (
            f"{what} {wording.percent(point.stated)}: {wording.percent(point.observed, 1)} observed{counted}"
        )
        rows.append(row)
    return rows


def _curve_panel(view: ReportView, method: MethodView, control: Sequence[CurvePoint]) -> Markup:
    everyone = [point for points in view.curve.values() for point in points]
    low, high = _curve_range(view)
    higher = view.metric.direction == "higher"
    multiples = sorted({point.multiple for point in everyone})
    x = alt.X(
        "multiple:Q",
        scale=alt.Scale(type="log", base=2, domain=[multiples[0] / 1.15, multiples[-1] * 1.15], nice=False),
        axis=alt.Axis(values=multiples, labelExpr="format(datum.value, '~g') + '×'", domain=False, grid=False),
        title=None,
    )
    scale = alt.Scale(domain=[low, high], reverse=not higher, nice=False, zero=False, clamp=True)
    axis = alt.Axis(tickCount=4, format=",~g", domain=False)
    y = alt.Y("score:Q", scale=scale, axis=axis, title=None)
    rows = [_curve_row(view, method, point) for point in view.curve[method.name]]
    layers = []
    if control:
        behind = [p._asdict() for p in control]
        layers += [_band(behind, x, scale, axis), _line(behind, x, y, INK, 1.5)]
    base = alt.Chart(drawing.values(rows))
    layers += [
        base.transform_filter("isValid(datum.low) && isValid(datum.high)")
        .mark_rule(strokeWidth=1.5, aria=False)
        .encode(
            x=x,
            y=alt.Y("low:Q", scale=scale, axis=axis, title=None),
            y2=alt.Y2("high:Q"),
            color=drawing.raw(alt.Color, "stroke:N"),
        ),
        _line(rows, x, y, MUTED, 1.25),
        drawing.verdict_points(base, x, y, size=62),
    ]
    description = f"{method.label} at several budgets: " + "; ".join(str(row["description"]) for row in rows)
    return drawing.svg(drawing.frame(layers, *_SIZE, _PADDING), description)


def _curve_row(view: ReportView, method: MethodView, point: CurvePoint) -> dict[str, Any]:
    decimals = wording.decimals_for([p.score for points in view.curve.values() for p in points])
    return {
        **point._asdict(),
        **drawing.look(point.verdict)._asdict(),
        "description": f"{method.label} at {point.multiple:g}×: {view.metric.label}"
        f" {wording.fixed(point.score, decimals)}" + (f", {point.verdict}" if point.verdict else ""),
    }


def _curve_range(view: ReportView) -> tuple[float, float]:
    """The scores that every panel shows: a method far behind leaves the panel rather than flattening the rest."""
    scores = sorted(p.score for points in view.curve.values() for p in points)
    if view.metric.direction == "higher":
        scores = [-score for score in reversed(scores)]
    best, typical = scores[0], scores[len(scores) // 2] - scores[0]
    worst = min(scores[-1], best + 3 * (typical or 1.0))
    room = 0.08 * (worst - best) or 0.01 * max(abs(best), 1.0)
    low, high = best - room, worst + room
    return (-high, -low) if view.metric.direction == "higher" else (low, high)


def _line(rows: Sequence[dict[str, Any]], x: Any, y: Any, colour: str, width: float, opacity: float = 1.0) -> Any:
    return (
        alt.Chart(drawing.values(rows))
        .mark_line(color=colour, strokeWidth=width, opacity=opacity, aria=False)
        .encode(x=x, y=y)
    )


def _band(rows: Sequence[dict[str, Any]], x: Any, scale: alt.Scale, axis: alt.Axis) -> Any:
    return (
        alt.Chart(drawing.values(rows))
        .transform_filter("isValid(datum.low) && isValid(datum.high)")
        .mark_area(color=HAIR, opacity=0.9, aria=False)
        .encode(x=x, y=alt.Y("low:Q", scale=scale, axis=axis, title=None), y2=alt.Y2("high:Q"))
    )


def _unit(value: float | None) -> float | None:
    return None if value is None else min(max(value, 0.0), 1.0)
