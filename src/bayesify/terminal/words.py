"""Numbers as people read them."""

import math


def duration(seconds: float) -> str:
    """'40 s', '3 min', '2.5 h'; 'an unknown time' for NaN."""
    if not math.isfinite(seconds):
        return "an unknown time"
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def number(value: float | None, digits: int = 3) -> str:
    """A score: three decimals, more for small ones, '–' for what is not there."""
    if value is None or math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    text = f"{value:.{digits}f}" if abs(value) >= 0.01 or value == 0 else f"{value:.2g}"
    return text.replace("-", "−")


def signed(value: float) -> str:
    """A difference, always with its sign."""
    return ("+" if value >= 0 else "") + number(value)
