"""The forest plot: every method's difference to the control, its interval, and the band of equivalence."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import altair as alt
from markupsafe import Markup

from bayesify.arena.report import drawing, wording
from bayesify.arena.report.drawing import INK, MUTED, Align
from bayesify.arena.report.tables import difference_decimals, difference_text
from bayesify.arena.report.view import SYMBOLS, Difference, MethodView, ReportView

# One method far off must not squeeze all others into a line: beyond this multiple of the typical reach the
# axis is cut, and an arrow at the edge says so.
_CUT = 6.0
_LABEL_LIMIT = {False: 34, True: 27}  # characters; narrow or not

X = Callable[[str], Any]


@dataclass(frozen=True)
class _Layout:
    width: float
    row: float
    left: float
    top: float
    right: float
    narrow: bool


_WIDE = _Layout(width=450, row=31, left=236, top=36, right=284, narrow=False)
_NARROW = _Layout(width=340, row=54, left=10, top=34, right=10, narrow=True)


class _Range(NamedTuple):
    low: float
    high: float

    def clamp(self, value: float) -> float:
        return min(max(value, self.low), self.high)


def forest(view: ReportView, *, narrow: bool = False) -> Markup | None:
    """Differences to the control, best first; None without any.

    Args:
        view: the report.
        narrow: for a phone: labels above the intervals instead of beside them.
    """
    differences = _differences(view)
    if not differences:
        return None
    layout = _NARROW if narrow else _WIDE
    shown = _shown(view)
    rows = [_row(view, index, method, shown, narrow) for index, method in enumerate(view.compared)]
    height = layout.row * len(rows)
    scale = alt.Scale(domain=list(shown), nice=False, zero=False)
    ys = alt.Scale(domain=[-0.5, len(rows) - 0.5], reverse=True, nice=False, zero=False)

    def x(field: str) -> Any:
        return alt.X(field, scale=scale, title=None, axis=_axis())

    y = alt.Y("line:Q" if narrow else "row:Q", scale=ys, axis=None)
    base = alt.Chart(drawing.values(rows))
    layers = [
        *_ground(view, layout, shown, x),
        base.mark_rule(strokeWidth=2.25, strokeCap="round").encode(
            x=x("low:Q"),
            x2=alt.X2("high:Q"),
            y=y,
            color=drawing.raw(alt.Color, "stroke:N"),
            description=alt.Description("description:N"),
        ),
        drawing.verdict_points(base.transform_filter("isValid(datum.estimate)"), x("estimate:Q"), y, size=95),
        *_arrows(base, y, layout.width),
        *_words(base, layout, ys),
    ]
    padding = (layout.left, layout.top, layout.right, 46)
    return drawing.svg(drawing.frame(layers, layout.width, height, padding), _description(view))


def is_cut(view: ReportView) -> bool:
    """Whether some interval goes beyond the edges of the plot."""
    shown = _shown(view)
    return any(d.low < shown.low or d.high > shown.high for d in _differences(view))


def _differences(view: ReportView) -> list[Difference]:
    return [method.difference for method in view.compared if method.difference is not None]


def _shown(view: ReportView) -> _Range:
    """What the axis shows: all intervals where that is sensible, zero, and the band of equivalence."""
    differences = _differences(view)
    margin = view.margin or 0.0
    reaches = sorted(reach for d in differences if math.isfinite(reach := max(abs(d.low), abs(d.high))))
    if not reaches:
        return _Range(-(2 * margin or 1.0), 2 * margin or 1.0)
    cut = _CUT * max(reaches[len(reaches) // 2], 2 * margin)
    left = min(max(-d.low for d in differences), cut)
    right = min(max(d.high for d in differences), cut)
    widest = max(left, right, 1.5 * margin) or 1.0
    # Neither side vanishes, or the words above them would overlap.
    least = max(0.45 * widest, 1.5 * margin)
    return _Range(-1.06 * max(left, least), 1.06 * max(right, least))


def _row(view: ReportView, index: int, method: MethodView, shown: _Range, narrow: bool) -> dict[str, Any]:
    d = method.difference or Difference("", 0.0, 0.0, 0.0)
    value = difference_text(method, difference_decimals(view))
    verdict = method.verdict or "no verdict"
    reference = " (reference)" if method.is_null else ""
    return {
        "row": index,
        "line": index + 0.22,
        "above": index - 0.2,
        "label": wording.short(method.label, _LABEL_LIMIT[narrow]),
        "label_ink": MUTED if method.is_null else INK,
        "value": value,
        "verdict": f"{SYMBOLS.get(verdict, '')} {verdict}".strip(),
        "estimate": d.estimate if shown.clamp(d.estimate) == d.estimate else None,
        "low": shown.clamp(d.low),
        "high": shown.clamp(d.high),
        "beyond_left": d.low < shown.low,
        "beyond_right": d.high > shown.high,
        "description": f"{method.label}{reference}: {value}, {verdict}",
        **drawing.look(method.verdict)._asdict(),
    }


def _axis() -> alt.Axis:
    return alt.Axis(
        grid=False,
        domain=False,
        tickCount=5,
        labelExpr="datum.value == 0 ? '0' : format(datum.value, '+,~g')",
    )


def _ground(view: ReportView, layout: _Layout, shown: _Range, x: X) -> list[Any]:
    count = len(view.compared)
    lines = [{"y": layout.row * index} for index in range(count + 1)]
    # Where the words stand above the intervals, band and zero leave room for them.
    starts = [layout.row * (index + 0.46) for index in range(count)] if layout.narrow else [0.0]
    length = layout.row * (0.54 if layout.narrow else count)
    margin = view.margin or 0.0
    spans = [
        {"from": shown.clamp(-margin), "to": shown.clamp(margin), "zero": 0, "top": start, "bottom": start + length}
        for start in starts
    ]
    base = alt.Chart(drawing.values(spans))
    top, bottom = alt.Y("top:Q", scale=None, axis=None), alt.Y2("bottom:Q")
    layers = [
        alt.Chart(drawing.values(lines))
        .mark_rule(color=drawing.HAIR, strokeWidth=0.75, aria=False)
        .encode(
            x=drawing.pixel(alt.XValue, -layout.left),
            x2=drawing.pixel(alt.X2Value, layout.width + layout.right),
            y=alt.Y("y:Q", scale=None, axis=None),
        ),
        base.mark_rule(color=INK, strokeWidth=1, aria=False).encode(x=x("zero:Q"), y=top, y2=bottom),
    ]
    if view.margin is not None:
        band = base.mark_rect(color="var(--band)", aria=False)
        layers.insert(0, band.encode(x=x("from:Q"), x2=alt.X2("to:Q"), y=top, y2=bottom))
    return [*layers, *_legend(view, layout, x)]


def _legend(view: ReportView, layout: _Layout, x: X) -> list[Any]:
    zero = alt.Chart(drawing.values([{"zero": 0}]))
    sides: tuple[tuple[str, Align, float], ...] = (
        ("← worse than the control", "right", -9),
        ("better →", "left", 9),
    )
    legend = [
        zero.mark_text(text=text, align=align, dx=dx, color=MUTED).encode(
            x=x("zero:Q"), y=drawing.pixel(alt.YValue, -16)
        )
        for text, align, dx in sides
    ]
    if view.margin is not None:
        written = wording.fixed(view.margin, wording.decimals_for([view.margin], digits=1))
        band = zero.mark_text(text=f"shaded: equivalent, within ±{written}", color=MUTED)
        legend.append(band.encode(x=x("zero:Q"), y=drawing.pixel(alt.YValue, layout.row * len(view.compared) + 36)))
    return legend


def _arrows(base: alt.Chart, y: Any, width: float) -> list[Any]:
    return [
        base.transform_filter(f"datum.{field}")
        .mark_text(text=arrow, fontSize=15, dx=dx)
        .encode(x=drawing.pixel(alt.XValue, at), y=y, color=drawing.raw(alt.Color, "stroke:N"))
        for field, arrow, at, dx in (("beyond_left", "◀", 0, 3), ("beyond_right", "▶", width, -3))
    ]


def _words(base: alt.Chart, layout: _Layout, ys: alt.Scale) -> list[Any]:
    y = alt.Y("above:Q" if layout.narrow else "row:Q", scale=ys, axis=None)
    ink, colour = drawing.raw(alt.Color, "label_ink:N"), drawing.raw(alt.Color, "stroke:N")

    def column(field: str, x: float, align: Align, size: float, color: Any) -> Any:
        return base.mark_text(align=align, fontSize=size).encode(
            x=drawing.pixel(alt.XValue, x), y=y, text=alt.Text(field), color=color
        )

    if layout.narrow:
        return [
            column("label:N", -layout.left, "left", 13, ink),
            column("value:N", layout.width + layout.right, "right", 12, colour),
        ]
    return [
        column("label:N", -layout.left, "left", 13, ink),
        column("value:N", layout.width + 184, "right", 12, alt.ColorValue(INK)),
        column("verdict:N", layout.width + 198, "left", 12, colour),
    ]


def _description(view: ReportView) -> str:
    decimals = difference_decimals(view)
    rows = (f"{m.label} {difference_text(m, decimals)} {m.verdict or ''}".strip() for m in view.compared)
    return f"Differences to {view.control_label}, positive is better. " + "; ".join(rows)
