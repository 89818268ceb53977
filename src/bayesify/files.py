"""Writing a file beside its place and renaming it: a reader, or a kill, finds the old file or the new, never half."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Gives a path to write; when the block ends without error it is on the disk and becomes `path`."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")  # two processes may write the same file
    try:
        yield partial
        with partial.open("r+b") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
