"""What all charts share: colours, shapes, drawing to SVG, and labels that do not overlap.

The charts are drawn to SVG once, here, so that the page needs no charting library, prints, and works without
scripts. Colours are the page's CSS variables: the same drawing serves light, dark and print.
"""

import math
import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import altair as alt
import vl_convert
from markupsafe import Markup

from bayesify.arena.report.view import Verdict

Align = Literal["left", "center", "right"]

INK, MUTED, HAIR, PAPER = "var(--ink)", "var(--muted)", "var(--hair)", "var(--paper)"
FONT_SIZE = 11
_CHARACTER = 0.55 * FONT_SIZE  # mean advance of a sans-serif letter
_LINE = 1.15 * FONT_SIZE
_GAP = 8.0  # from a point's centre to its label
_INVISIBLE_TEXT = re.compile(r"<text\b[^>]*\bopacity=\"0\"[^>]*>[^<]*</text>")

# Verdicts differ by shape as well as by colour; the undecided are hollow.
_SHAPES = {
    "better": "triangle-up",
    "equivalent": "diamond",
    "undecided": "circle",
    "worse": "triangle-down",
    "control": "circle",
}


class Look(NamedTuple):
    """How a verdict is drawn."""

    stroke: str
    fill: str
    shape: str


class Spot(NamedTuple):
    """A point in pixels with the label that it would like to have."""

    x: float
    y: float
    label: str


class PlacedLabel(NamedTuple):
    """A label and where its text is anchored, in pixels."""

    x: float
    y: float
    align: Align
    label: str


def look(verdict: Verdict | None) -> Look:
    """The colour and shape of a verdict; without one, as undecided."""
    known = verdict or "undecided"
    colour = f"var(--{known})"
    return Look(colour, PAPER if known == "undecided" else colour, _SHAPES[known])


def values(rows: Sequence[dict[str, Any]]) -> alt.InlineData:
    """`rows` as the data of a chart."""
    return alt.InlineData(values=list(rows))


def raw(channel: type[Any], field: str) -> Any:
    """An encoding whose field already holds the colour, shape or size to draw."""
    return channel(field, scale=None, legend=None)


def pixel(channel: type[Any], value: float) -> Any:
    """A fixed place in pixels of the plot, such as ``pixel(alt.XValue, 12)``."""
    return channel(value)


def svg(chart: alt.LayerChart, title: str) -> Markup:
    """`chart` as an SVG element; `title` is what a screen reader says instead of it.

    Vega escapes the strings that it writes, so the markup is safe to put into a page.
    """
    styled = (
        chart.configure(font="sans-serif", background="transparent")
        .configure_view(stroke=None)
        .configure_axis(
            aria=False,
            domainColor=MUTED,
            domainWidth=0.75,
            gridColor=HAIR,
            gridWidth=0.75,
            labelColor=MUTED,
            labelFontSize=FONT_SIZE,
            labelPadding=5,
            ticks=False,
            titleColor=MUTED,
            titleFontSize=FONT_SIZE,
            titleFontWeight="normal",
            titlePadding=8,
        )
        .configure_text(fontSize=FONT_SIZE, color=INK, aria=False)
    )
    version = ".".join(alt.SCHEMA_VERSION.removeprefix("v").split(".")[:2])
    spec = styled.to_json(validate=False)  # its parts were validated when they were made; again costs half the time
    drawn = str(vl_convert.vegalite_to_svg(spec, vl_version=version))
    named = Markup('<svg role="img" aria-label="{}" ').format(title)
    return Markup(_INVISIBLE_TEXT.sub("", drawn).replace("<svg ", named, 1))


def frame(layers: Sequence[Any], width: float, height: float, padding: tuple[float, float, float, float]) -> Any:
    """`layers` on one plot of exactly this size; `padding` is left, top, right, bottom."""
    return alt.layer(*layers).properties(
        width=width,
        height=height,
        autosize=alt.AutoSizeParams(type="none"),
        padding=dict(zip(("left", "top", "right", "bottom"), padding, strict=True)),
    )


def verdict_points(base: Any, x: Any, y: Any, size: float) -> Any:
    """Points drawn as their row's `look` says, with the row's `description` for tooltips."""
    return base.mark_point(size=size, strokeWidth=1.9, opacity=1).encode(
        x=x,
        y=y,
        stroke=raw(alt.Stroke, "stroke:N"),
        fill=raw(alt.Fill, "fill:N"),
        shape=raw(alt.Shape, "shape:N"),
        description=alt.Description("description:N"),
    )


def words_at(text: str, x: float, y: float, align: Align = "left", color: str = MUTED, **style: Any) -> Any:
    """A piece of text at a pixel position of the plot."""
    return (
        alt.Chart(values([{}]))
        .mark_text(text=text, align=align, color=color, **style)
        .encode(x=pixel(alt.XValue, x), y=pixel(alt.YValue, y))
    )


def log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten between `low` and `high`; with 2 and 5 between them where that leaves fewer than three."""
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps in ((1,), (1, 3), (1, 2, 5)):
        ticks = [step * 10.0**exponent for exponent in exponents for step in steps]
        inside = [tick for tick in ticks if low <= tick <= high]
        if len(inside) >= 3:
            break
    stride = math.ceil(len(inside) / 5)
    return inside[::stride]


def place(
    spots: Sequence[Spot], important: int, line: Sequence[Spot], width: float, height: float
) -> list[PlacedLabel]:
    """Labels beside their points, none over anything else or the edge; those without room are left out.

    Args:
        spots: all points, those with the most important labels first.
        important: how many of them may, where nothing else is free, cross `line`.
        line: corners of a line of horizontal and vertical pieces.
        width: of the plot, pixels.
        height: of the plot, pixels.
    """
    taken = [_Box(spot.x - 5, spot.y - 5, spot.x + 5, spot.y + 5) for spot in spots]
    crossed = [
        _Box(min(a.x, b.x) - 1, min(a.y, b.y) - 1, max(a.x, b.x) + 1, max(a.y, b.y) + 1) for a, b in pairwise(line)
    ]
    plot = _Box(2, 0, width - 2, height)
    placed = []
    for index, spot in enumerate(spots):
        free = [label for label in _candidates(spot) if _is_free(_box(label), plot, taken)]
        clear = [label for label in free if not any(_overlap(_box(label), piece) for piece in crossed)]
        chosen = clear or (free if index < important else [])
        if chosen:
            placed.append(chosen[0])
            taken.append(_box(chosen[0]))
    return placed


class _Box(NamedTuple):
    left: float
    top: float
    right: float
    bottom: float


def _candidates(spot: Spot) -> list[PlacedLabel]:
    lean, near = 1.05 * _LINE, 0.7 * _GAP
    offsets: tuple[tuple[float, float, Align], ...] = (
        (_GAP, 0.0, "left"),
        (-_GAP, 0.0, "right"),
        (0.0, -_GAP - _LINE / 2, "center"),
        (0.0, _GAP + _LINE / 2, "center"),
        (near, -lean, "left"),
        (near, lean, "left"),
        (-near, -lean, "right"),
        (-near, lean, "right"),
    )
    return [PlacedLabel(spot.x + dx, spot.y + dy, align, spot.label) for dx, dy, align in offsets]


def _box(label: PlacedLabel) -> _Box:
    length = _CHARACTER * len(label.label)
    left = label.x - length * {"left": 0.0, "center": 0.5, "right": 1.0}[label.align]
    return _Box(left, label.y - _LINE / 2, left + length, label.y + _LINE / 2)


def _is_free(box: _Box, plot: _Box, taken: Sequence[_Box]) -> bool:
    inside = box.left >= plot.left and box.right <= plot.right and box.top >= plot.top and box.bottom <= plot.bottom
    return inside and not any(_overlap(box, other) for other in taken)


def _overlap(a: _Box, b: _Box) -> bool:
    return a.left < b.right and b.left < a.right and a.top < b.bottom and b.top < a.bottom
