"""Immutable records: one JSON and one array file per cell, written by rename, named by the cell's key.

A cell is done if and only if its record exists, so being killed anywhere loses only the cells that were running.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bayesify.errors import SaveError
from bayesify.files import replacing

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Store:
    """A results folder."""

    folder: Path

    def prepare(self) -> None:
        """Creates the folder.

        Raises:
            SaveError: it cannot be written to.
        """
        try:
            (self.folder / "runs").mkdir(parents=True, exist_ok=True)
            probe = self.folder / f".probe-{os.getpid()}"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise SaveError(
                f"cannot write results to {self.folder} ({error.strerror}): choose another folder with --out."
            ) from error

    def record_path(self, key: str) -> Path:
        """Where a cell's record is or will be."""
        return self.folder / "runs" / key[:2] / f"{key}.json"

    def has(self, key: str) -> bool:
        """Whether the cell is finished, well or badly."""
        return self.record_path(key).exists()

    def write(self, key: str, record: dict[str, Any], arrays: Arrays) -> None:
        """Stores a finished cell; the arrays first, so that a record never lacks them."""
        path = self.record_path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        if arrays:
            with replacing(path.with_suffix(".npz")) as partial, partial.open("wb") as file:
                np.savez_compressed(file, allow_pickle=False, **arrays)
        with replacing(path) as partial:
            partial.write_text(json.dumps(record), encoding="utf-8")

    def discard(self, key: str) -> None:
        """Forgets a record, so that its cell runs again."""
        self.record_path(key).unlink(missing_ok=True)

    def record(self, key: str) -> dict[str, Any] | None:
        """A cell's record, or None if it has not finished.

        Raises:
            SaveError: the record is damaged.
        """
        path = self.record_path(key)
        try:
            found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise SaveError(
                f"the record {path} is damaged ({error}): delete it and run the same command again."
            ) from error
        return found

    def arrays(self, key: str) -> Arrays:
        """A cell's per-example arrays.

        Raises:
            SaveError: they are missing or damaged.
        """
        path = self.record_path(key).with_suffix(".npz")
        try:
            with np.load(path, allow_pickle=False) as file:
                return {name: file[name] for name in file.files}
        except (OSError, ValueError, KeyError) as error:
            raise SaveError(
                f"the arrays {path} are damaged or missing: delete {path.with_suffix('.json').name} beside it and run "
                "the same command again."
            ) from error

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        """Rows of an SQL query over the table `runs`, one row per record, read by DuckDB."""
        import duckdb

        files = str(self.folder / "runs" / "*" / "*.json")
        if not any((self.folder / "runs").glob("*/*.json")):
            return []
        with duckdb.connect() as connection:
            connection.execute(
                "CREATE VIEW runs AS SELECT * FROM read_json(?, columns={key: 'VARCHAR', label: 'VARCHAR', "
                "spec: 'VARCHAR', status: 'VARCHAR', reason: 'VARCHAR', multiple: 'DOUBLE', split: 'INTEGER', "
                "seed: 'INTEGER', seconds: 'DOUBLE', scores: 'JSON', spent: 'JSON'})".replace(
                    "?", f"'{_quoted(files)}'"
                )
            )
            return connection.execute(sql).fetchall()


def _quoted(text: str) -> str:
    return text.replace("'", "''")
