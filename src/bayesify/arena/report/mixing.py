"""Did a sampler's chains mix? Trace, ranks and autocorrelation of the function value on which they agree least."""

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import altair as alt
from markupsafe import Markup

from bayesify.arena.report import drawing, wording
from bayesify.arena.report.drawing import HAIR, MUTED
from bayesify.arena.report.panels import Panel
from bayesify.arena.report.view import ChainsView, ReportView

_SIZE = (270, 150)
_PADDING = (42, 8, 10, 40)
_COLOURS = 4
_Z = 1.96


class SamplerPanels(NamedTuple):
    """One sampler."""

    label: str
    note: str
    panels: tuple[Panel, ...]


def chains(view: ReportView) -> list[SamplerPanels]:
    """Three panels for every method that has chains."""
    return [
        SamplerPanels(m.label, _note(view.chains[m.name]), _panels(m.label, view.chains[m.name]))
        for m in view.ranked
        if m.name in view.chains
    ]


def _note(found: ChainsView) -> str:
    parts = []
    if found.row is not None:
        of = f" of {wording.plural(found.tested, 'example')} looked at" if found.tested else ""
        parts.append(f"row {found.row} of the data, the worst{of}")
    if found.r_hat is not None:
        parts.append(f"R-hat {wording.fixed(found.r_hat, 2)} (1 when chains agree)")
    if found.ess is not None:
        draws = sum(map(len, found.trace))
        parts.append(f"{found.ess:.0f} effective draws of {draws}")
    return "; ".join(parts)


def _panels(label: str, found: ChainsView) -> tuple[Panel, ...]:
    drawn = [Panel("Trace", "", _trace(label, found), False)]
    if found.ranks:
        drawn.append(Panel("Ranks", "", _ranks(label, found), False))
    if found.autocorrelation:
        drawn.append(Panel("Autocorrelation", "", _autocorrelation(label, found), False))
    return tuple(drawn)


def _trace(label: str, found: ChainsView) -> Markup:
    longest = max(map(len, found.trace))
    x = alt.X("place:Q", scale=alt.Scale(domain=[0, max(1, longest - 1)], nice=False), axis=_axis(5), title="kept draw")
    y = alt.Y("value:Q", scale=alt.Scale(zero=False), axis=_axis(4, "~g"), title=None)
    layers = _lines(found.trace, x, y, width=1.0)
    words = f"{label}: values of {len(found.trace)} chains over {longest} kept draws"
    return _drawn(layers, words)


def _ranks(label: str, found: ChainsView) -> Markup:
    bins = max(map(len, found.ranks))
    top = max(max(chain) for chain in found.ranks)
    expected = sum(map(sum, found.ranks)) / len(found.ranks) / bins
    x = alt.X(
        "place:Q",
        scale=alt.Scale(domain=[0, bins], nice=False),
        axis=_axis(0),
        title="rank among all draws, low to high",
    )
    y = alt.Y("value:Q", scale=alt.Scale(domain=[0, max(1.05 * top, 2 * expected)]), axis=_axis(4), title=None)
    # A step line needs the last bin's right edge.
    steps = [(*chain, chain[-1]) for chain in found.ranks]
    layers = [_level(expected, y, [2, 3]), *_lines(steps, x, y, width=1.25, interpolate="step-after")]
    words = f"{label}: ranks of {len(found.ranks)} chains; between 0 and {top:g} draws in a bin, {expected:.3g} if flat"
    return _drawn(layers, words)


def _autocorrelation(label: str, found: ChainsView) -> Markup:
    lags = max(map(len, found.autocorrelation))
    noise = _Z / math.sqrt(max(map(len, found.trace)))
    low = min(-noise, *(min(chain) for chain in found.autocorrelation)) - 0.05
    x = alt.X(
        "place:Q", scale=alt.Scale(domain=[0, max(1, lags - 1)], nice=False), axis=_axis(5), title="kept draws apart"
    )
    scale = alt.Scale(domain=[max(-1.0, low), 1.0], nice=False)
    y = alt.Y("value:Q", scale=scale, axis=_axis(4, "~g"), title=None)
    band = (
        alt.Chart(drawing.values([{"low": -noise, "high": noise}]))
        .mark_rect(color=HAIR, opacity=0.9, aria=False)
        .encode(y=alt.Y("low:Q", scale=scale, axis=_axis(4, "~g"), title=None), y2=alt.Y2("high:Q"))
    )
    layers = [band, _level(0.0, y, []), *_lines(found.autocorrelation, x, y, width=1.25)]
    words = f"{label}: autocorrelation of {len(found.autocorrelation)} chains up to {lags - 1} kept draws apart"
    return _drawn(layers, words)


def _lines(
    series: Sequence[Sequence[float]],
    x: Any,
    y: Any,
    *,
    width: float,
    interpolate: Literal["linear", "step-after"] = "linear",
) -> list[Any]:
    drawn = []
    for number, chain in enumerate(series):
        rows = [{"place": place, "value": value} for place, value in enumerate(chain)]
        colour = f"var(--chain-{number % _COLOURS + 1})"
        line = alt.Chart(drawing.values(rows)).mark_line(
            color=colour, strokeWidth=width, opacity=0.85, interpolate=interpolate, aria=False
        )
        drawn.append(line.encode(x=x, y=y))
    return drawn


def _level(value: float, y: Any, dash: list[int]) -> Any:
    rule = alt.Chart(drawing.values([{"value": value}])).mark_rule(
        color=MUTED, strokeWidth=1, strokeDash=dash, aria=False
    )
    return rule.encode(y=y)


def _axis(ticks: int, form: str = "d") -> Any:
    return alt.Axis(tickCount=ticks, labels=ticks > 0, format=form, domain=False, grid=ticks > 0)


def _drawn(layers: list[Any], words: str) -> Markup:
    return drawing.svg(drawing.frame(layers, *_SIZE, _PADDING), words)
