"""Files: written whole or not at all, and the folder of what can be made again."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CACHE_VARIABLE = "BAYESIFY_CACHE"


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Gives a path beside `path` to write; when the block ends without error it is on the disk and becomes `path`.

    A reader, or a kill, finds the old file or the new, never half of one.
    """
    partial = path.with_name(f".{os.getpid()}.{path.name}")  # two processes may write the same file
    try:
        yield partial
        with partial.open("r+b") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def cache_folder(name: str) -> Path:
    """The folder of that name under BAYESIFY_CACHE, or else the user's cache; it may not exist yet."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "bayesify"
    return Path(os.environ.get(CACHE_VARIABLE) or base) / name
