"""Files as users have them → a pandas DataFrame, or one line that says what is wrong with the file.

pandas is lenient where it hurts: it renames duplicate columns, fills short rows with NaN, and takes the first column
for row labels when rows are one field longer than the header. So the header and the shape of every row are checked
with Python's csv module before pandas parses the values.
"""

import bz2
import csv
import gzip
import io
import itertools
import lzma
import re
import zipfile
import zlib
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bayesify.errors import DataError, suggest

if TYPE_CHECKING:
    import pandas as pd

TEXT_SUFFIXES = (".csv", ".tsv", ".txt")
PARQUET_SUFFIXES = (".parquet", ".pq")
COMPRESSIONS = (".gz", ".bz2", ".xz", ".zip")
SEPARATORS = (",", ";", "\t", "|")
MISSING = ("?",)  # besides pandas' own list: the mark of UCI's and OpenML's files
SNIFFED_ROWS = 50
UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+")
BLANK_LINES = re.compile(r"\A(?:[ \t]*\r?\n)+")
READABLE = "CSV, TSV or Parquet, plain or compressed (.gz, .bz2, .xz, .zip)"


def read_table(source: str | Path) -> "pd.DataFrame":
    """Read a CSV, TSV or Parquet file, compressed or not.

    The separator of a text file is found among comma, semicolon, tab and bar (``.tsv``: tab). Empty fields, ``?`` and
    pandas' usual words (``NA``, ``NaN``, ``null``, ...) are missing values. Numbers with a decimal comma are understood
    in files that are not separated by commas.

    Args:
        source: the file's path.

    Returns:
        One row per record, columns named by the file's header.

    Raises:
        DataError: the file is missing, a directory, of another type, broken, empty, without rows, not UTF-8, has
            duplicate column names or rows of unequal length.
    """
    path = Path(source)
    _check_path(path)
    content = _decompress(path)
    if is_parquet(path):
        return _read_parquet(path, content)
    return _read_text(path, content)


def is_table_name(path: Path) -> bool:
    """Whether the name ends like a file that ``read_table`` reads."""
    return _inner_suffix(path) in TEXT_SUFFIXES + PARQUET_SUFFIXES


def is_parquet(path: Path) -> bool:
    """Whether the name says that the file is Parquet."""
    return _inner_suffix(path) in PARQUET_SUFFIXES


def table_name(path: Path) -> str:
    """The file's name without the endings that name its format: ``houses.csv.gz`` → ``houses``."""
    stem = path.name
    for endings in (COMPRESSIONS, TEXT_SUFFIXES + PARQUET_SUFFIXES):
        suffix = Path(stem).suffix
        if suffix.lower() in endings:
            stem = stem[: -len(suffix)]
    return stem or path.name


def tables_in(folder: Path) -> list[str]:
    """Names of the readable tables in a folder; none where the folder cannot be listed."""
    try:
        return sorted(item.name for item in folder.iterdir() if is_table_name(item))
    except OSError:
        return []


def _inner_suffix(path: Path) -> str:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in COMPRESSIONS:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def _check_path(path: Path) -> None:
    if path.is_dir():
        tables = tables_in(path)
        inside = f" It holds {', '.join(tables[:5])}." if tables else ""
        raise DataError(f"{str(path)!r} is a directory, not a file: name one file in it.{inside}")
    if not path.exists():
        near = tables_in(path.parent)
        hint = suggest(path.name, near) if near else f"{str(path.parent)!r} holds no table."
        raise DataError(f"There is no file {str(path)!r}. {hint}")
    if not is_table_name(path):
        ending = _inner_suffix(path) or "(none)"
        raise DataError(f"{path.name!r} has the ending {ending}, which cannot be read: save it as {READABLE}.")


def _decompress(path: Path) -> bytes:
    """The file's content, unpacked in memory."""
    suffix = path.suffix.lower()
    try:
        raw = path.read_bytes()
        if suffix == ".gz":
            return gzip.decompress(raw)
        if suffix == ".bz2":
            return bz2.decompress(raw)
        if suffix == ".xz":
            return lzma.decompress(raw)
        if suffix == ".zip":
            return _unzip(path, raw)
    except (EOFError, ValueError, lzma.LZMAError, zlib.error, zipfile.BadZipFile, NotImplementedError) as error:
        raise DataError(f"{path.name!r} is not a whole {suffix} file ({error}): get or make it again.") from error
    except (OSError, RuntimeError) as error:  # BadGzipFile is an OSError, an encrypted zip a RuntimeError
        raise DataError(f"{path.name!r} cannot be opened ({error}): check the file and its permissions.") from error
    return raw


def _unzip(path: Path, raw: bytes) -> bytes:
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        members = [item for item in archive.namelist() if is_table_name(Path(item)) and "__MACOSX" not in item]
        if len(members) != 1:
            raise DataError(f"{path.name!r} holds {len(members)} tables, not one: unpack it and name one of them.")
        return archive.read(members[0])


def _read_parquet(path: Path, content: bytes) -> "pd.DataFrame":
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not content:
        raise DataError(f"{path.name!r} is empty (0 bytes): export the data again.")
    try:
        file = pq.ParquetFile(io.BytesIO(content))
        _check_names(path, file.schema_arrow.names)
        table = file.read()
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"{path.name!r} is not a Parquet file or is damaged ({reason}): export it again.") from error
    if table.num_rows == 0:
        raise DataError(f"{path.name!r} has columns but no row: nothing can be learned from it. Export the data again.")
    frame = table.to_pandas()
    return frame if frame.index.name is None else frame.reset_index()


def _read_text(path: Path, content: bytes) -> "pd.DataFrame":
    import pandas as pd

    text = _decode(path, content)
    separator = "\t" if _inner_suffix(path) == ".tsv" else _separator(text)
    names = _check_rows(path, text, separator)

    def parse(decimal: str) -> "pd.DataFrame":
        return pd.read_csv(
            io.StringIO(text),
            sep=separator,
            header=0,
            names=names,
            index_col=False,
            na_values=list(MISSING),
            skipinitialspace=separator != "\t",
            decimal=decimal,
            low_memory=False,
        )

    try:
        frame = parse(".")
        if separator != "," and _has_decimal_commas(frame):
            frame = parse(",")
    except (ValueError, OverflowError) as error:  # pandas' ParserError is a ValueError
        raise DataError(f"{path.name!r} cannot be parsed ({error}): save it again as plain CSV.") from error
    return frame


def _decode(path: Path, content: bytes) -> str:
    if not content.strip():
        raise DataError(f"{path.name!r} is empty ({len(content)} bytes): export the data again.")
    if content.startswith(b"PAR1"):
        raise DataError(f"{path.name!r} is a Parquet file by content: rename it to end in .parquet.")
    if content.startswith(UTF16_MARKS):
        raise DataError(f"{path.name!r} is written in UTF-16: save it as UTF-8.")
    if b"\x00" in content:
        raise DataError(f"{path.name!r} holds binary data, not text: save it as {READABLE}.")
    try:
        return BLANK_LINES.sub("", content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path.name!r} is not UTF-8 text (byte 0x{content[error.start]:02x} in line {line}): save it as UTF-8."
        ) from error


def _rows(text: str, separator: str, strict: bool = False) -> Any:
    return csv.reader(
        io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=separator != "\t", strict=strict
    )


def _separator(text: str) -> str:
    """The separator that cuts the first rows into equal numbers of fields, the more the better."""

    def score(separator: str) -> tuple[bool, int]:
        try:
            widths = [len(row) for row in itertools.islice(_rows(text, separator), SNIFFED_ROWS) if row]
        except csv.Error:
            return False, 0
        return widths[0] > 1 and len(set(widths)) == 1, widths[0]

    return max(SEPARATORS, key=score)


def _check_rows(path: Path, text: str, separator: str) -> list[str]:
    """Column names, after every row was found to have one field per name."""
    reader = _rows(text, separator, strict=True)
    ragged: list[tuple[int, int]] = []  # (line, fields)
    num_rows = num_ragged = 0
    try:
        header = next(reader)
        for row in reader:
            if len(row) < 2 and not "".join(row).strip():
                continue  # pandas skips blank lines too
            num_rows += 1
            if len(row) != len(header):
                num_ragged += 1
                ragged = ragged or [(reader.line_num, len(row))]
    except csv.Error as error:
        raise DataError(
            f"{path.name!r} cannot be parsed at line {reader.line_num} ({error}): "
            "look for a stray quotation mark there."
        ) from error
    names = [name.strip() or f"Unnamed: {position}" for position, name in enumerate(header)]
    _check_header(path, names)
    if num_rows == 0:
        raise DataError(
            f"{path.name!r} has a header but no row: nothing can be learned from it. Export the data again."
        )
    if ragged:
        line, fields = ragged[0]
        raise DataError(
            f"{path.name!r} has {num_ragged} of {num_rows} rows with another number of fields than the header's "
            f"{len(header)} (line {line} has {fields}): mend these rows, or quote fields that contain {separator!r}."
        )
    return names


def _check_header(path: Path, names: list[str]) -> None:
    if len(names) == 1:
        raise DataError(
            f"{path.name!r} has one column ({names[0]!r}) when cut at comma, semicolon, tab or bar: a table needs at "
            "least one feature and a target."
        )
    numbers = [_is_number(name) for name in names]
    # Names such as 0, 1, 2 are fine; fractions and repeated numbers betray a row of data.
    if all(numbers) and (len(set(names)) < len(names) or not all(name.isdigit() for name in names)):
        raise DataError(
            f"{path.name!r} begins with a row of numbers instead of column names: add a header line, "
            "for example x1,x2,target."
        )
    _check_names(path, names)


def _check_names(path: Path, names: list[str]) -> None:
    repeated = [f"{name!r} ({count} times)" for name, count in Counter(names).items() if count > 1]
    if repeated:
        more = f" and {len(repeated) - 5} more" if len(repeated) > 5 else ""
        raise DataError(
            f"{path.name!r} has duplicate column names: {', '.join(repeated[:5])}{more}. "
            "Give every column its own name."
        )


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _has_decimal_commas(frame: "pd.DataFrame") -> bool:
    """Whether some text column consists of numbers such as ``3,14``."""
    from pandas.api.types import is_numeric_dtype

    for name in frame.columns:
        if is_numeric_dtype(frame[name].dtype):
            continue
        values = frame[name].dropna()
        if len(values) and all(DECIMAL_COMMA.fullmatch(str(value)) for value in values.head(SNIFFED_ROWS)):
            return True
    return False
