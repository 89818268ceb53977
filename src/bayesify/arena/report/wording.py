"""How numbers are written for readers: few digits, no exponents, one width per column.

Every function takes None for "not available" and gives `NOTHING` for it.
"""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

NOTHING = "–"
MINUS = "\u2212"
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_PLAIN_LIMIT = 1e6  # from here on a score is written as m × 10ⁿ


@dataclass(frozen=True)
class Metric:
    """How a score is called and which way it is good."""

    name: str
    label: str
    direction: Literal["lower", "higher", "target"] | None
    target: float | None = None
    percent: bool = False


_METRICS = {
    metric.name: metric
    for metric in (
        Metric("nll", "NLL", "lower"),
        Metric("dyadic_nll", "Joint NLL of 10", "lower"),
        Metric("log_likelihood", "Log likelihood", "higher"),
        Metric("rmse", "RMSE", "lower"),
        Metric("mae", "MAE", "lower"),
        Metric("crps", "CRPS", "lower"),
        Metric("accuracy", "Accuracy", "higher", percent=True),
        Metric("error", "Error", "lower", percent=True),
        Metric("brier", "Brier", "lower"),
        Metric("ece", "ECE", "lower"),
        Metric("adaptive_ece", "Adaptive ECE", "lower"),
        Metric("classwise_ece", "Class-wise ECE", "lower"),
        Metric("auroc", "AUROC", "higher"),
        Metric("auroc_entropy", "AUROC by entropy", "higher"),
        Metric("auroc_mutual_information", "AUROC by mutual information", "higher"),
        Metric("auroc_stddev", "AUROC by standard deviation", "higher"),
        Metric("auroc_epistemic", "AUROC by epistemic variance", "higher"),
        Metric("aupr", "AUPR", "higher"),
        Metric("fpr95", "FPR95", "lower", percent=True),
        Metric("aurc", "AURC", "lower"),
        Metric("entropy", "Entropy", None),
        Metric("mutual_information", "Mutual information", None),
    )
}
_INTERVAL_METRIC = re.compile(r"(coverage|width)_(\d{1,2})")


def metric(name: str) -> Metric:
    """What is known about the score called `name`; an unknown one has no good direction.

    A name such as ``nll@corrupted`` is that score on another set than the test rows.
    """
    known, at, other = name.partition("@")
    if at:
        found = metric(known)
        return replace(found, name=name, label=f"{found.label}, {other}")
    if name in _METRICS:
        return _METRICS[name]
    interval = _INTERVAL_METRIC.fullmatch(name)
    if interval is None:
        return Metric(name, name.replace("_", " ").capitalize(), None)
    level = int(interval[2])
    if interval[1] == "coverage":
        return Metric(name, f"Coverage of {level}%", "target", target=level / 100, percent=True)
    return Metric(name, f"Width of {level}%", "lower")


def decimals_for(values: Iterable[float | None], digits: int = 3) -> int:
    """Decimals that give the typical one of `values` that many significant digits, between 0 and 5."""
    sizes = sorted(abs(v) for v in values if v is not None and math.isfinite(v) and v != 0)
    if not sizes:
        return digits
    return min(max(digits - 1 - math.floor(math.log10(sizes[len(sizes) // 2])), 0), 5)


def fixed(value: float | None, decimals: int, *, sign: bool = False) -> str:
    """``0.123``, ``−0.010``, ``∞``; with `sign`, ``+0.123``."""
    if value is None:
        return NOTHING
    if math.isinf(value):
        return f"{MINUS if value < 0 else ('+' if sign else '')}∞"
    if abs(value) >= _PLAIN_LIMIT:
        return _powers_of_ten(value, sign)
    written = f"{abs(value):,.{decimals}f}"
    if not written.strip("0.,"):
        return written  # zero has no sign
    return f"{MINUS if value < 0 else ('+' if sign else '')}{written}"


def interval(low: float | None, high: float | None, decimals: int) -> str:
    """``[−0.012, 0.034]``."""
    return f"[{fixed(low, decimals)}, {fixed(high, decimals)}]"


def percent(value: float | None, decimals: int = 0) -> str:
    """``98.7%`` from 0.987."""
    return NOTHING if value is None else f"{fixed(100 * value, decimals)}%"


def share(value: float) -> str:
    """A round percentage, as levels are: ``95%``, ``99.5%``."""
    return f"{100 * value:.4g}%"


def p_value(value: float | None) -> str:
    """``0.034``; ``< 0.001`` below that."""
    if value is None:
        return NOTHING
    return "< 0.001" if value < 0.001 else fixed(value, 3 if value < 0.1 else 2)


def count(value: float | None) -> str:
    """``1,234,567``."""
    return NOTHING if value is None else fixed(value, 0) if math.isinf(value) else f"{round(value):,}"


def compact(value: float | None, unit: str = "") -> str:
    """Three digits and an SI prefix: ``1.24 M``, ``532``, ``9.1 G``."""
    prefixes = ("", "k", "M", "G", "T", "P", "E")
    if value is None or math.isinf(value):
        return fixed(value, 0)
    step = 0
    while abs(value) >= 999.5 and step < len(prefixes) - 1:
        value, step = value / 1000, step + 1
    written = f"{value:.0f}" if step == 0 and float(value).is_integer() else _three(value)
    return f"{written} {prefixes[step]}{unit}".rstrip()


def seconds(value: float | None) -> str:
    """``1.2 ms``, ``41 s``, ``4 min 10 s``, ``2 h 05 min``."""
    if value is None or math.isinf(value):
        return fixed(value, 0)
    if value < 0.9995:
        return f"{_three(value * 1e3)} ms" if value >= 1e-4 or value == 0 else f"{_three(value * 1e6)} µs"
    if value < 120:
        return f"{_three(value)} s"
    whole = round(value)
    if whole < 7200:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600:,} h {whole % 3600 // 60:02d} min"


def size(value: float | None) -> str:
    """Bytes: ``312 MB``."""
    return compact(value, "B")


def plural(number: int, noun: str) -> str:
    """``1 method``, ``13 methods``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def listing(items: Sequence[str]) -> str:
    """``a, b and c``."""
    return " and ".join(filter(None, (", ".join(items[:-1]), items[-1] if items else "")))


def short(label: str, limit: int) -> str:
    """`label`, cut with an ellipsis to `limit` characters."""
    return label if len(label) <= limit else label[: limit - 1].rstrip() + "…"


def _three(value: float) -> str:
    """Three digits, also where the last is zero: columns line up."""
    return f"{value:#.3g}".rstrip(".") if abs(value) < 999.5 else f"{value:.0f}"


def _powers_of_ten(value: float, sign: bool) -> str:
    mantissa, exponent = f"{abs(value):.1e}".split("e")
    head = MINUS if value < 0 else ("+" if sign else "")
    return f"{head}{mantissa} × 10{str(int(exponent)).translate(_SUPERSCRIPT)}"
