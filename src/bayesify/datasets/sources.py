"""Where tables come from: a DataFrame, a file, scikit-learn, a local data folder, the cache, or OpenML."""

import contextlib
import hashlib
import io
import os
import socket
import tempfile
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from bayesify.datasets.catalogue import CATALOGUE, Entry, canonical, entry
from bayesify.datasets.images import ImageShape, image_fingerprint, image_frame, read_idx
from bayesify.datasets.splits import Split, complement, gap_tests
from bayesify.datasets.table import is_table_name, read_table, table_name, tables_in
from bayesify.errors import DataError, suggest
from bayesify.files import cache_folder

if TYPE_CHECKING:
    import pandas as pd

DATA_VARIABLE = "BAYESIFY_DATA"
DOWNLOAD_SECONDS = 60.0  # without an answer for so long, a download is given up
STANDARD_SPLITS = 20
STANDARD_TRAIN_SHARE = 0.9


class Table(NamedTuple):
    """A table as it came, with what its source says about it."""

    name: str
    frame: "pd.DataFrame"
    target: str | None = None
    kind: str | None = None
    splits: tuple[Split, ...] | None = None
    leaking: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    image_shape: ImageShape | None = None


def open_source(source: "str | Path | pd.DataFrame") -> Table:
    """Open a DataFrame, a file or a named data set.

    Raises:
        DataError: there is neither a file nor a data set of that name, or it cannot be read.
    """
    if not isinstance(source, str | Path):
        return Table("data", _checked_frame(source))
    path = Path(source).expanduser()
    if path.is_file() and is_table_name(path):
        return Table(table_name(path), read_table(path))
    if isinstance(source, str) and canonical(source) in CATALOGUE:
        return read_named(source)
    if isinstance(source, Path) or path.exists() or path.suffix or len(path.parts) > 1:
        return Table(table_name(path), read_table(path))
    here = tables_in(Path())
    near = suggest(str(source), [*CATALOGUE, *here])
    hint = near if near.startswith("Did") else "Run 'bayesify datasets' for the names, or give a file's path."
    raise DataError(f"{str(source)!r} is neither a file nor a named data set. {hint}")


def read_named(name: str) -> Table:
    """Get a named data set from the nearest place that has it.

    Raises:
        DataError: the name is unknown, or the data can neither be found nor downloaded.
    """
    chosen = entry(name)
    if chosen.bundled:
        return _from_scikit_learn(chosen)
    if local_files(chosen):
        return _from_folder(chosen, local_files(chosen))
    if chosen.openml is None:
        raise DataError(
            f"{chosen.name!r} ({chosen.source}) cannot be downloaded automatically: set {DATA_VARIABLE} to a "
            f"folder that holds {chosen.files[0]}, or get it from its source and give the file's path."
        )
    return _from_openml(chosen)


def whereabouts(chosen: Entry) -> str:
    """Where ``read_named`` would take the data from."""
    if chosen.bundled:
        return "bundled"
    if local_files(chosen):
        return "local folder"
    if chosen.openml is None:
        return f"needs {DATA_VARIABLE}"
    return "cached" if cache_file(chosen).exists() else "download"


def local_files(chosen: Entry) -> tuple[Path, ...]:
    """The data set's files in the folder that BAYESIFY_DATA names, or the system's; empty unless all are there."""
    for folder in filter(None, (os.environ.get(DATA_VARIABLE, ""), chosen.system)):
        files = tuple(Path(folder) / name for name in chosen.files)
        if all(path.is_file() for path in files):
            return files
    return ()


def cache_file(chosen: Entry) -> Path:
    """Where a downloaded data set is kept."""
    return cache_folder("datasets") / f"{chosen.name}.parquet"


def fingerprint(frame: "pd.DataFrame") -> str:
    """A hash of the rows in their order, whatever the columns are called and however they are ordered.

    Numbers count to six significant digits, so that copies which went through text agree.
    """

    def word(value: Any) -> str:
        try:
            return f"{float(value):.6g}"
        except (TypeError, ValueError):
            return "nan" if value is None else str(value)

    digest = hashlib.sha256()
    for row in frame.astype(object).itertuples(index=False, name=None):
        digest.update("\x1f".join(sorted(map(word, row))).encode() + b"\n")
    return digest.hexdigest()[:16]


def standard_tests(num_rows: int, num_splits: int) -> Iterator[np.ndarray]:
    """Test rows of the standard 90/10 splits (Hernández-Lobato and Adams, 2015), as published with Gal's code."""
    rng = np.random.RandomState(1)  # the published splits come from this old generator
    for _ in range(num_splits):
        order = rng.choice(range(num_rows), num_rows, replace=False)
        yield order[round(STANDARD_TRAIN_SHARE * num_rows) :]


def _checked_frame(source: Any) -> "pd.DataFrame":
    import pandas as pd

    if not isinstance(source, pd.DataFrame):
        raise DataError(
            f"Data of type {type(source).__name__} cannot be used: "
            "give a file's path, a data set's name or a DataFrame."
        )
    return source


def _from_scikit_learn(chosen: Entry) -> Table:
    import sklearn.datasets

    bunch = getattr(sklearn.datasets, chosen.bundled)(as_frame=True)
    frame = bunch.frame
    if chosen.kind != "regression":
        names = np.array([str(name) for name in bunch.target_names], dtype=object)
        frame = frame.assign(target=names[frame["target"].to_numpy()])
    return Table(chosen.name, frame, target="target", kind=chosen.kind)


def _from_folder(chosen: Entry, files: tuple[Path, ...]) -> Table:
    if chosen.image_shape is not None:
        arrays = [read_idx(path) for path in files]
        return _from_images(chosen, np.concatenate(arrays[::2]), np.concatenate(arrays[1::2]))
    if files[0].suffix == ".npz":
        return _from_arrays(chosen, files[0])
    import pandas as pd

    frame = pd.concat([_unquoted(read_table(path)) for path in files], ignore_index=True)
    if chosen.columns:
        frame.columns = [*chosen.columns, chosen.target]
    return _with_splits(chosen, frame, str(frame.columns[-1]))


def _from_images(chosen: Entry, images: np.ndarray, labels: np.ndarray) -> Table:
    if len(images) != chosen.rows or len(labels) != chosen.rows:
        raise DataError(
            f"The files of {chosen.name!r} hold {len(images)} images and {len(labels)} labels, not {chosen.rows}: "
            "get the files again."
        )
    frame = image_frame(images)
    if image_fingerprint(frame.to_numpy(), labels) != chosen.fingerprint:
        raise DataError(f"The images of {chosen.name!r} are not the published ones in their order: get them again.")
    frame["label"] = np.array(chosen.labels, dtype=object)[labels]
    return _with_splits(chosen, frame, "label")._replace(image_shape=chosen.image_shape)


def _unquoted(frame: "pd.DataFrame") -> "pd.DataFrame":
    """OpenML's text files put names with spaces in single quotes."""
    words = [name for name in frame.columns if frame[name].dtype.kind not in "biufM"]
    return frame.assign(**{name: frame[name].str.strip("'") for name in words})


def _from_arrays(chosen: Entry, path: Path) -> Table:
    import pandas as pd

    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as archive:
            arrays = dict(archive)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{str(path)!r} cannot be read ({error}): get the file again.") from error
    parts = [key.removeprefix("X") for key in ("X", "X_train", "X_valid") if key in arrays]
    features = np.concatenate([arrays[f"X{part}"] for part in parts])
    names = chosen.columns or tuple(arrays.get("columns", [f"x{at + 1}" for at in range(features.shape[1])]))
    frame = pd.DataFrame(features, columns=[str(name) for name in names])
    frame[chosen.target] = np.concatenate([arrays[f"y{part}"] for part in parts])
    if chosen.splits in ("standard", "gap"):
        key = "test" if chosen.splits == "standard" else "gap_test"
        tests = [arrays[f"{key}_{number}"] for number in range(sum(name.startswith(f"{key}_") for name in arrays))]
        return _with_tests(chosen, frame, tests)
    return _with_splits(chosen, frame, chosen.target)


def _with_tests(chosen: Entry, frame: "pd.DataFrame", tests: "list[np.ndarray]") -> Table:
    splits = tuple(
        Split(complement(test, len(frame)), np.sort(test).astype(np.int64), f"{chosen.splits}-{number}")
        for number, test in enumerate(tests)
    )
    return Table(chosen.name, frame, str(frame.columns[-1]), chosen.kind, splits, chosen.leaking)


def _with_splits(chosen: Entry, frame: "pd.DataFrame", target: str) -> Table:
    splits = None
    if chosen.splits:
        rows = np.arange(len(frame))
        splits = (Split(rows[: chosen.train_rows], rows[chosen.train_rows :], "official"),)
    return Table(chosen.name, frame, target, chosen.kind, splits, chosen.leaking)


def _from_openml(chosen: Entry) -> Table:
    frame = _cached(cache_file(chosen))
    if frame is None:
        frame = _download(chosen, cache_file(chosen))
    target = str(frame.columns[-1])
    if chosen.image_shape is not None:
        return _from_images(chosen, frame.iloc[:, :-1].to_numpy(np.uint8), frame.iloc[:, -1].to_numpy(np.uint8))
    if not chosen.splits:
        return Table(chosen.name, frame, target, chosen.kind)
    if fingerprint(frame) != chosen.fingerprint:
        note = "The downloaded rows are not in the published order: the published splits are not used."
        return Table(chosen.name, frame, target, chosen.kind, notes=(note,))
    if chosen.splits == "standard":
        count = 5 if chosen.name == "protein" else STANDARD_SPLITS
        return _with_tests(chosen, frame, list(standard_tests(len(frame), count)))
    if chosen.splits == "gap":
        tests = [gap.rows for gap in gap_tests(frame.drop(columns=[target]))]
        return _with_tests(chosen, frame, tests)
    return _with_splits(chosen, frame, target)


def _cached(path: Path) -> "pd.DataFrame | None":
    """The kept download; None where there is none or it cannot be read (then it is fetched anew)."""
    import pandas as pd

    try:
        return pd.read_parquet(path)
    except (OSError, ValueError):  # pyarrow's errors are ValueErrors
        return None


def _download(chosen: Entry, path: Path) -> "pd.DataFrame":
    """Fetch from OpenML, target last, and keep it in the cache."""
    from sklearn.datasets import fetch_openml

    try:
        with warnings.catch_warnings(), _network_timeout(DOWNLOAD_SECONDS):
            warnings.simplefilter("ignore")  # the error below says what a warning about a retry would
            bunch = fetch_openml(
                data_id=chosen.openml, as_frame=True, parser="auto", cache=False, n_retries=1, delay=0.1
            )
    except (OSError, ValueError) as error:  # no network, time-out, HTTP error; OpenML's own errors
        raise DataError(
            f"{chosen.name!r} could not be downloaded from OpenML ({error}): check the network, set {DATA_VARIABLE} "
            "to a folder that has it, or give a file's path."
        ) from error
    frame = bunch.data if bunch.target is None else bunch.data.join(bunch.target)
    if len(frame) != chosen.rows:
        raise DataError(
            f"OpenML {chosen.openml} has {len(frame)} rows, not the {chosen.rows} of {chosen.name!r}: "
            "report this, and give a file's path meanwhile."
        )
    _keep(frame, path)
    return frame


def _keep(frame: "pd.DataFrame", path: Path) -> None:
    """Write by rename: a killed download leaves no broken cache. A cache that cannot be written is no error."""
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            fresh = Path(folder) / path.name
            frame.to_parquet(fresh)
            fresh.replace(path)


@contextlib.contextmanager
def _network_timeout(seconds: float) -> Iterator[None]:
    """fetch_openml takes no time-out, so that a silent network would hang for ever."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
