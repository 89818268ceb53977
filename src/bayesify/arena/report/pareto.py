"""Quality against cost, and the front: the methods that none matches at their cost or less."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import altair as alt
from markupsafe import Markup

from bayesify.arena.report import drawing, wording
from bayesify.arena.report.drawing import INK, MUTED, Spot
from bayesify.arena.report.view import MethodView, ReportView

_WIDTH, _HEIGHT = 286, 250
_PADDING = (50, 12, 12, 46)
_LABEL_LIMIT = 28  # characters
_CUT = 4.0  # the axis reaches this many typical gaps to the best; what is farther is drawn at the edge
_EDGE = 0.97  # how far down that is

_TIME_LABELS = (
    "datum.value < 0.001 ? format(datum.value * 1e6, '~g') + ' µs' :"
    " datum.value < 1 ? format(datum.value * 1000, '~g') + ' ms' : format(datum.value, ',~g') + ' s'"
)


class Cost(NamedTuple):
    """A cost to plot quality against: its name, how ticks are labelled, where it is found, how it is written."""

    title: str
    tick_label: str
    of: Callable[[MethodView], float | None]
    write: Callable[[float | None], str]


COSTS = (
    Cost(
        "Gradient evaluations in training",
        "format(datum.value, '~s')",
        lambda m: m.spent.get("gradient_evaluations"),
        wording.compact,
    ),
    Cost("Training time", _TIME_LABELS, lambda m: m.spent.get("seconds"), wording.seconds),
    Cost("Prediction time", _TIME_LABELS, lambda m: m.predict_seconds, wording.seconds),
)


class ParetoPanel(NamedTuple):
    """One panel: the methods on the front from cheap to good, and those too bad for the plot."""

    title: str
    drawing: Markup
    front: tuple[str, ...]
    cut: tuple[str, ...]


class _Point(NamedTuple):
    cost: float
    score: float
    method: MethodView


class _Plane(NamedTuple):
    """The part of the plane that is shown; `bottom` is the worst score, `top` the best."""

    left: float
    right: float
    bottom: float
    top: float

    def is_cut(self, score: float) -> bool:
        return (score - self.bottom) / (self.top - self.bottom) < 0

    def held(self, score: float) -> float:
        """`score`, or the edge of the plot where it lies beyond."""
        return self.top + _EDGE * (self.bottom - self.top) if self.is_cut(score) else score

    def spot(self, cost: float, score: float, label: str = "") -> Spot:
        across = math.log(cost / self.left) / math.log(self.right / self.left)
        up = (self.held(score) - self.bottom) / (self.top - self.bottom)
        return Spot(_WIDTH * across, _HEIGHT * (1 - up), label)


def pareto(view: ReportView) -> list[ParetoPanel]:
    """Quality against each cost that at least two methods have; up and to the left is better."""
    panels = [_panel(view, cost) for cost in COSTS]
    return [panel for panel in panels if panel is not None]


def front(points: Sequence[tuple[float, float]], *, higher: bool) -> list[int]:
    """Indices of the (cost, score) that none matches at their cost or less, from the cheapest to the best."""
    sign = -1 if higher else 1
    chosen: list[int] = []
    best = math.inf
    for index in sorted(range(len(points)), key=lambda i: (points[i][0], sign * points[i][1])):
        score = sign * points[index][1]
        if score < best:
            chosen.append(index)
            best = score
    return chosen


def _panel(view: ReportView, cost: Cost) -> ParetoPanel | None:
    points = [
        _Point(spent, score, method)
        for method in view.methods
        for spent, score in [(cost.of(method), method.scores.get(view.metric.name))]
        if spent is not None and 0 < spent < math.inf and score is not None and math.isfinite(score)
    ]
    if len(points) < 2:
        return None
    higher = view.metric.direction == "higher"
    unbeaten = [points[i] for i in front([(p.cost, p.score) for p in points], higher=higher)]
    plane = _plane(points, higher)
    drawn = drawing.frame(_layers(view, cost, points, unbeaten, plane), _WIDTH, _HEIGHT, _PADDING)
    names = tuple(point.method.label for point in unbeaten)
    description = f"{view.metric.label} against {cost.title.lower()}. On the front: {wording.listing(names)}."
    cut = tuple(point.method.label for point in points if plane.is_cut(point.score))
    return ParetoPanel(cost.title, drawing.svg(drawn, description), names, cut)


def _plane(points: Sequence[_Point], higher: bool) -> _Plane:
    scores = [point.score for point in points]
    best = max(scores) if higher else min(scores)
    gaps = sorted(abs(score - best) for score in scores)
    typical = gaps[len(gaps) // 2] or gaps[-1]
    reach = min(gaps[-1], _CUT * typical) or 0.01 * max(abs(best), 1.0)
    down = -1 if higher else 1
    low, high = min(point.cost for point in points), max(point.cost for point in points)
    widen = 1.45 * max(math.sqrt(4 * low / high), 1.0)  # at least a factor of four, and room beside the points
    return _Plane(low / widen, high * widen, best + 1.1 * down * reach, best - 0.1 * down * reach)


def _layers(
    view: ReportView, cost: Cost, points: Sequence[_Point], unbeaten: Sequence[_Point], plane: _Plane
) -> list[Any]:
    x = alt.X(
        "cost:Q",
        scale=alt.Scale(type="log", domain=[plane.left, plane.right], nice=False),
        axis=alt.Axis(values=drawing.log_ticks(plane.left, plane.right), labelExpr=cost.tick_label, grid=False),
        title="log scale",
    )
    domain = sorted((plane.bottom, plane.top))
    y = alt.Y(
        "score:Q",
        scale=alt.Scale(domain=domain, reverse=plane.bottom > plane.top, nice=False, zero=False),
        axis=alt.Axis(tickCount=5, domain=False, format=",~g"),
        title=None,
    )
    steps = [{"cost": point.cost, "score": plane.held(point.score)} for point in unbeaten]
    steps.append({"cost": plane.right, "score": steps[-1]["score"]})
    line = (
        alt.Chart(drawing.values(steps))
        .mark_line(interpolate="step-after", color=MUTED, strokeWidth=1.25, strokeDash=[3, 3], aria=False)
        .encode(x=x, y=y)
    )
    on_top = sorted(points, key=lambda point: point.method.is_control)  # what is drawn last is seen
    marks = alt.Chart(drawing.values([_row(view, cost, point, plane) for point in on_top]))
    return [line, drawing.verdict_points(marks, x, y, size=70), *_labels(view, points, unbeaten, plane)]


def _row(view: ReportView, cost: Cost, point: _Point, plane: _Plane) -> dict[str, Any]:
    return {
        "cost": point.cost,
        "score": plane.held(point.score),
        "description": f"{point.method.label}: {view.metric.label} {_score(view, point)}, {cost.write(point.cost)}",
        **drawing.look(point.method.verdict)._asdict(),
    }


def _labels(view: ReportView, points: Sequence[_Point], unbeaten: Sequence[_Point], plane: _Plane) -> list[Any]:
    """The control's label first, then those of the front, then whichever still find room."""

    def important(point: _Point) -> bool:
        return point.method.is_control or point in unbeaten

    def label(point: _Point) -> str:
        value = f" ({_score(view, point)})" if plane.is_cut(point.score) else ""
        return wording.short(point.method.label, _LABEL_LIMIT) + value

    ordered = sorted(points, key=lambda point: (not point.method.is_control, not important(point)))
    spots = [plane.spot(point.cost, point.score, label(point)) for point in ordered]
    corners: list[Spot] = []
    for point in unbeaten:
        after = plane.spot(point.cost, point.score)
        corners += [Spot(after.x, corners[-1].y, ""), after] if corners else [after]
    corners.append(Spot(float(_WIDTH), corners[-1].y, ""))
    inks = {label(point): INK if important(point) else MUTED for point in ordered}
    return [
        drawing.words_at(placed.label, placed.x, placed.y, align=placed.align, color=inks[placed.label])
        for placed in drawing.place(spots, sum(map(important, ordered)), corners, _WIDTH, _HEIGHT)
    ]


def _score(view: ReportView, point: _Point) -> str:
    digits = wording.decimals_for([method.scores.get(view.metric.name) for method in view.methods])
    return wording.fixed(point.score, digits)
