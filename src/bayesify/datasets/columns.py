"""Columns of any kind → four plain kinds, and a look at each for what would spoil training.

After ``plain_frame`` a column is one of: numbers (integers or floats, NaN = missing), booleans, dates
(``datetime64``, UTC, NaT = missing) or text (Python strings, NaN = missing). Everything later relies on that.

Types are a property of the whole column, decided here once; *values* are learned from training rows only, in
``encode``.
"""

import re
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from bayesify.errors import DataError, suggest

if TYPE_CHECKING:
    import pandas as pd

HUGE = 1e30  # squares of larger numbers leave the range of float32 (3.4e38) by far
PARSED_SHARE = 0.95  # a text column is numbers or dates when this share of it reads so ...
MIN_DISTINCT = 20  # ... and it has at least this many distinct numbers (codes 1, 2, 3, X stay text)
LOOKS_LIKE_DATE = re.compile(r"\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}([ T].*)?")
# A name that ends in the word "id" (id, user_id, userId, "row ID") or is a saved index.
ID_NAME = re.compile(r"(^|.*[\s_.-])(id|ID|Id|uuid|guid|index|key)$|.*[a-z]I[dD]$|Unnamed: \d+")
ID_CHARACTERS = re.compile(r"[\w.:@/+-]*\d[\w.:@/+-]*")  # one word with a digit in it, as identifiers are
MAX_NAMED = 5
MAX_SHOWN = 60  # characters


class Screened(NamedTuple):
    """Features worth training on, columns put aside, and what to tell the user."""

    features: "pd.DataFrame"
    aside: "pd.DataFrame"
    notes: tuple[str, ...]


def plain_frame(frame: "pd.DataFrame", name: str) -> "tuple[pd.DataFrame, tuple[str, ...]]":
    """Bring every column to one of the four plain kinds.

    Args:
        frame: any DataFrame.
        name: what the data are called in messages.

    Returns:
        The new frame (row labels 0, 1, ...) and notes on columns that were read as another type.

    Raises:
        DataError: duplicate column names, several header levels, complex numbers or nested values.
    """
    import pandas as pd

    if isinstance(frame.columns, pd.MultiIndex):
        raise DataError(f"{name!r} has {frame.columns.nlevels} levels of column names: join them into one.")
    names = [str(column) for column in frame.columns]
    repeated = [column for column, count in Counter(names).items() if count > 1]
    if repeated:
        raise DataError(f"{name!r} has duplicate column names: {quoted(repeated)}. Give every column its own name.")
    notes: list[str] = []
    columns = {}
    for at, column in enumerate(names):
        values = _plain(frame.iloc[:, at], column, notes)
        columns[column] = pd.Series(values, dtype=values.dtype)  # the dtype is said, or pandas guesses another
    return pd.DataFrame(columns, index=pd.RangeIndex(len(frame))), tuple(notes)


def screen(features: "pd.DataFrame") -> Screened:
    """Refuse infinite values, put columns aside that cannot teach anything, and say so.

    Put aside: columns without any value, constant columns, and identifiers (all values distinct and either named like
    one, or words with digits). Kept with a note: unnamed row counters and numbers beyond 1e30.

    Raises:
        DataError: infinite values, or no feature is left.
    """
    _refuse_infinite(features)
    notes: list[str] = []
    aside: list[str] = []
    reasons: dict[str, list[str]] = {}
    for name in features.columns:
        reason = _uselessness(features[name])
        if reason:
            aside.append(name)
            reasons.setdefault(reason, []).append(name)
        elif _counts_rows(features[name]):
            notes.append(f"{name!r} counts the rows; it is kept: drop it if it only identifies them.")
        notes.extend(_huge_note(features[name]))
    for reason, names in reasons.items():
        notes.append(f"Not used as features, because {reason}: {quoted(names)}.")
    kept = features.drop(columns=aside)
    if kept.shape[1] == 0:
        why = "; ".join(f"{quoted(names)}: {reason}" for reason, names in reasons.items()) or "there is no other column"
        raise DataError(f"No feature is left beside the target ({why}): add columns that describe the rows.")
    return Screened(kept, features[aside], tuple(notes))


def column_not_found(column: str, columns: Iterable[str], name: str) -> DataError:
    """The error for a column that is not there, with the nearest name."""
    known = list(columns)
    hint = suggest(column, known)
    if hint.startswith("Known"):
        hint = f"Its columns: {quoted(known)}."
    return DataError(f"{name!r} has no column {column!r}. {hint}")


def quoted(names: Iterable[str]) -> str:
    """The first few names in quotation marks, long ones cut, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    shown = [name if len(name) <= MAX_SHOWN else f"{name[: MAX_SHOWN - 3]}..." for name in names[:MAX_NAMED]]
    return ", ".join(map(repr, shown)) + more


def rows_text(count: int) -> str:
    """``1 row``, ``2 rows``."""
    return "1 row" if count == 1 else f"{count:,} rows"


def is_text(column: "pd.Series") -> bool:
    """Whether a plain column holds text."""
    return bool(column.dtype.kind == "O")


def is_date(column: "pd.Series") -> bool:
    """Whether a plain column holds dates."""
    return bool(column.dtype.kind == "M")


def _plain(column: "pd.Series", name: str, notes: list[str]) -> Any:
    """The column as a numpy array of one of the plain kinds."""
    import pandas as pd

    dtype = column.dtype
    if isinstance(dtype, pd.SparseDtype):
        column = column.sparse.to_dense()
        dtype = column.dtype
    if isinstance(dtype, pd.PeriodDtype):
        column = column.dt.to_timestamp()
        dtype = column.dtype
    if dtype.kind == "c":
        raise DataError(f"Column {name!r} holds complex numbers: split it into two real columns.")
    if isinstance(dtype, pd.CategoricalDtype | pd.IntervalDtype):
        return _text(column)
    if dtype.kind == "M":
        return _utc(column)
    if dtype.kind == "m":
        return column.dt.total_seconds().to_numpy(dtype=np.float64, na_value=np.nan)
    if dtype.kind == "b":
        return column.to_numpy(dtype=bool) if column.notna().all() else _text(column)
    if dtype.kind in "iuf":
        return _numbers(column)
    return _from_objects(column, name, notes)


def _numbers(column: "pd.Series") -> np.ndarray:
    if column.dtype.kind in "iu" and column.notna().all():
        return np.asarray(column.to_numpy())
    return np.asarray(column.to_numpy(dtype=np.float64, na_value=np.nan))


def _text(column: "pd.Series") -> np.ndarray:
    """Stripped strings; empty ones are missing."""
    stripped = column.astype(object).map(lambda value: str(value).strip(), na_action="ignore")
    words: np.ndarray = stripped.to_numpy(dtype=object, copy=True)
    missing = column.isna().to_numpy() | (words == "")
    words[missing] = np.nan
    return words


def _utc(column: "pd.Series") -> Any:
    if column.dt.tz is not None:
        column = column.dt.tz_convert("UTC").dt.tz_localize(None)
    return column.to_numpy(dtype="datetime64[us]")


def _from_objects(column: "pd.Series", name: str, notes: list[str]) -> Any:
    """Columns of Python objects and of strings: find out what they hold."""
    import pandas as pd

    content = pd.api.types.infer_dtype(column, skipna=True)
    if content in ("integer", "floating", "mixed-integer-float", "decimal"):
        return column.map(float, na_action="ignore").to_numpy(dtype=np.float64, na_value=np.nan)
    if content in ("datetime", "datetime64", "date"):
        return _utc(pd.to_datetime(column, utc=True, errors="coerce"))
    if content in ("timedelta", "timedelta64"):
        return pd.to_timedelta(column).dt.total_seconds().to_numpy(dtype=np.float64)
    if content == "empty":
        return np.full(len(column), np.nan)
    if content == "bytes" or any(isinstance(value, list | tuple | dict | set | np.ndarray) for value in column):
        raise DataError(f"Column {name!r} holds {_kinds_of(column)} values: flatten it to numbers or text, or drop it.")
    return _parsed_text(_text(column), name, notes)


def _kinds_of(column: "pd.Series") -> str:
    return ", ".join(sorted({type(value).__name__ for value in column.dropna()})[:3])


def _parsed_text(words: np.ndarray, name: str, notes: list[str]) -> Any:
    """Text that is numbers or dates but for a few strays becomes numbers or dates; the strays become missing."""
    import pandas as pd

    column = pd.Series(words, dtype=object)
    present = column.dropna()
    if present.empty:
        return np.full(len(column), np.nan)
    numbers = pd.to_numeric(column, errors="coerce")
    if numbers.notna().sum() >= PARSED_SHARE * len(present) and numbers.nunique() >= MIN_DISTINCT:
        _note_strays(name, "numbers", present[numbers[present.index].isna()], notes)
        return numbers.to_numpy(dtype=np.float64)
    dates = _dates(column, present)
    if dates is not None and dates.notna().sum() >= PARSED_SHARE * len(present):
        _note_strays(name, "dates", present[dates[present.index].isna()], notes)
        return _utc(dates)
    return words


def _dates(column: "pd.Series", present: "pd.Series") -> "pd.Series | None":
    """Words that look like dates as dates, the others as NaT; None when no one format reads them."""
    alike = present.map(lambda word: LOOKS_LIKE_DATE.fullmatch(word) is not None).astype(bool)
    if alike.sum() < PARSED_SHARE * len(present):
        return None
    import skrub

    parsed = skrub.to_datetime(column.where(column.index.isin(present.index[alike])))
    return parsed if parsed.dtype.kind == "M" else None


def _note_strays(name: str, kind: str, strays: "pd.Series", notes: list[str]) -> None:
    if len(strays):
        notes.append(f"{name!r} is read as {kind}; {rows_text(len(strays))} with {quoted(strays.unique())} as missing.")


def _refuse_infinite(features: "pd.DataFrame") -> None:
    counts = {
        name: int(np.isinf(features[name].to_numpy()).sum())
        for name in features.columns
        if features[name].dtype.kind == "f"
    }
    bad = [f"{name!r} ({rows_text(count)})" for name, count in counts.items() if count]
    if bad:
        more = f" and {len(bad) - MAX_NAMED} more columns" if len(bad) > MAX_NAMED else ""
        raise DataError(
            f"Infinite values in {', '.join(bad[:MAX_NAMED])}{more}: "
            "replace them by numbers, or leave them empty (missing)."
        )


def _uselessness(column: "pd.Series") -> str:
    """Why the column is put aside; empty where it is kept."""
    present = column.dropna()
    if present.empty:
        return "all values are missing"
    distinct = present.nunique()
    if distinct == 1 and len(present) == len(column):
        return "the value is always the same"
    if distinct < len(column) or is_date(column):
        return ""
    whole = column.dtype.kind in "iu" or (column.dtype.kind == "f" and bool((column % 1 == 0).all()))
    named_so = ID_NAME.fullmatch(str(column.name)) is not None
    if (whole or is_text(column)) and named_so:
        return "every row has its own value (identifiers)"
    if is_text(column) and all(ID_CHARACTERS.fullmatch(word) for word in column):
        return "every row has its own value (identifiers)"
    return ""


def _counts_rows(column: "pd.Series") -> bool:
    """Whether an integer column is 0, 1, 2, ... or 1, 2, 3, ... in row order."""
    return (
        column.dtype.kind in "iu" and len(column) > 1 and bool((np.diff(column.to_numpy().astype(np.int64)) == 1).all())
    )


def _huge_note(column: "pd.Series") -> list[str]:
    if column.dtype.kind not in "iuf":
        return []
    count = int((np.abs(column.to_numpy(dtype=np.float64)) > HUGE).sum())
    if not count:
        return []
    return [
        f"{column.name!r} has {rows_text(count)} with numbers beyond {HUGE:.0e}; the scaling squashes them: "
        "leave them empty if they stand for missing values."
    ]
