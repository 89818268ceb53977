"""From whatever a caller hands in to plain JSON values, and tolerant reading of them.

A result may be partial, hold NumPy scalars, NaN or control characters. `plain` normalises it once, so that the
rest of the report never has to ask. NaN reads as missing; infinities are kept, because "the method gave an
observed outcome probability zero" is a finding, and are written as ``null`` only in the JSON file, where the
standard has no other word for them.
"""

import json
import math
import numbers
import unicodedata
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import PurePath
from typing import Any

import numpy as np

Plain = dict[str, Any]
# Embeddings, overrides and isolates: one without its end would reverse the page's own words.
_TURNING = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}


def plain(value: Any) -> Any:
    """Dicts, lists, strings, numbers, booleans and None that say the same as `value`.

    Raises:
        TypeError: for a type that has no place in a result, such as a tensor or a model.
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, np.generic | np.ndarray):
        return plain(value.tolist())
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        return float(value)
    if isinstance(value, Mapping):
        return {printable(str(key)): plain(item) for key, item in value.items()}
    if isinstance(value, Sequence | set | frozenset) and not isinstance(value, bytes | bytearray):
        return [plain(item) for item in value]
    if isinstance(value, PurePath | date):
        return printable(str(value))
    raise TypeError(f"a result cannot hold a {type(value).__name__}; use numbers, strings, lists and dicts")


def printable(value: str) -> str:
    """`value` with U+FFFD for control characters, lone surrogates and marks that turn the text around them."""
    return "".join("\ufffd" if _is_unprintable(char) else char for char in value)


def strict_json(value: Any) -> str:
    """`value`, already plain, as standard JSON: NaN and infinities become ``null``."""
    return json.dumps(_finite(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def number(row: Plain, key: str) -> float | None:
    """The number under `key`; None when it is absent, NaN or not a number. Infinities are numbers."""
    return as_number(row.get(key))


def as_number(value: Any) -> float | None:
    """`value` as a float; None when it is NaN or not a number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
        return None
    try:
        return float(value)
    except OverflowError:  # an int beyond 1.8e308
        return math.inf if value > 0 else -math.inf


def whole(row: Plain, key: str) -> int | None:
    """The number under `key` as an int; None when it is absent or not finite."""
    value = number(row, key)
    return None if value is None or math.isinf(value) else round(value)


def text(row: Plain, key: str, default: str = "") -> str:
    """The words under `key`; `default` when there are none."""
    value = row.get(key)
    return default if value is None or value == "" else str(value)


def table(row: Plain, key: str) -> Plain:
    """The dict under `key`; an empty one when there is none."""
    value = row.get(key)
    return value if isinstance(value, dict) else {}


def tables(row: Plain, key: str) -> list[Plain]:
    """The dicts listed under `key`; anything else there is passed over."""
    value = row.get(key)
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def words(row: Plain, key: str) -> tuple[str, ...]:
    """The strings listed under `key`; a lone string counts as a list of one."""
    value = row.get(key)
    if isinstance(value, str):
        value = [value]
    return tuple(str(item) for item in value if item not in (None, "")) if isinstance(value, list) else ()


def _is_unprintable(char: str) -> bool:
    if char in "\n\t":
        return False
    return unicodedata.category(char) in ("Cc", "Cs") or unicodedata.bidirectional(char) in _TURNING


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return value
