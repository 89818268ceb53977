"""What will be run: one cell per (method, budget, split, seed), named by a hash of all that changes its result."""

import hashlib
import json
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, NamedTuple

import numpy as np

from bayesify.arena.field import CONTROL_MEMBERS, Entrant, default_epochs
from bayesify.datasets.shift import CORRUPTED_EXAMPLES, Shift
from bayesify.datasets.splits import Split, make_splits, validation_split
from bayesify.datasets.task import Task
from bayesify.errors import BudgetError, DataError

RESULT_VERSION = 2
"""Raised whenever the same cell would give another result: records of older versions are then not reused."""
SHIFT_VERSION = 1
"""The same for what is predicted beside the test rows: raised whenever a corruption or its scores change."""
LATER = ("gap", "examples", "shift", "shifted", "outside", "shift_examples")
"""Settings that folders made without them do not name: left out of names and hashes where they have no say."""


@dataclass(frozen=True)
class Settings:
    """How a comparison is made. Everything here is part of a cell's identity, except the statistics' settings."""

    entrants: tuple[Entrant, ...]
    num_splits: int = 5
    num_seeds: int = 1
    test_fraction: float = 0.1
    group: str | None = None
    time: str | None = None
    epochs: float | None = None
    """Epochs of one member of the control at multiple 1; None sizes it to the data."""
    multiples: tuple[float, ...] = (1.0,)
    model: str = "default"
    likelihood: str | None = None
    prior: str | None = None
    validation: float = 0.1
    seed: int = 0
    margin: float = 0.01
    level: float = 0.95
    gap: bool = False
    examples: int | None = None
    """Training rows of each split, at most."""
    shift: bool = False
    """Whether corrupted copies of test rows are tested on as well."""
    shifted: tuple[str, ...] = ()
    outside: tuple[str, ...] = ()
    shift_examples: int = CORRUPTED_EXAMPLES

    @property
    def control(self) -> Entrant:
        """The entrant all others are compared to."""
        return self.entrants[0]


@dataclass(frozen=True)
class Cell:
    """One training run."""

    label: str
    spec: str
    multiple: float
    split: int
    seed: int
    budget: float
    """In gradient evaluations."""
    key: str


@dataclass(frozen=True)
class TaskCard:
    """What the report says of the data; the data themselves are not needed to write it."""

    name: str
    kind: str
    target: str
    rows: int
    features: int
    classes: tuple[str, ...] | None
    notes: tuple[str, ...]
    split_kind: str
    num_train: tuple[int, ...]
    num_test: tuple[int, ...]
    image_shape: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Plan:
    """All cells of a comparison, and what they share; `as_dict` is all that a report needs beside the records."""

    card: TaskCard
    settings: Settings
    cells: tuple[Cell, ...]
    fingerprint: str

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)

    @staticmethod
    def from_dict(value: dict[str, Any]) -> "Plan":
        """The inverse of `as_dict`.

        Raises:
            KeyError, TypeError: it is not one.
        """
        settings = dict(value["settings"])
        settings["entrants"] = tuple(Entrant(*one) for one in settings["entrants"])
        for name in ("multiples", "shifted", "outside"):
            settings[name] = tuple(settings.get(name, ()))
        card: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in value["card"].items()}
        cells = tuple(Cell(**one) for one in value["cells"])
        return Plan(TaskCard(**card), Settings(**settings), cells, value["fingerprint"])


class Planned(NamedTuple):
    """A plan and the splits its cells name by number."""

    plan: Plan
    splits: tuple[Split, ...]


def make_plan(task: Task, settings: Settings, model_fingerprint: str, shift: Shift | None = None) -> Planned:
    """Splits the task and lists the cells, cheap and telling ones first.

    Args:
        task: the data.
        settings: of the comparison.
        model_fingerprint: what identifies the network.
        shift: what is predicted beside the test rows.

    Raises:
        DataError: the task cannot be split as asked.
        BudgetError: the budget is not positive.
    """
    if settings.epochs is not None and not settings.epochs > 0:
        raise BudgetError(f"a budget of {settings.epochs} epochs per ensemble member: it must be positive.")
    splits = make_splits(
        task, settings.num_splits, settings.test_fraction, settings.seed, settings.group, settings.time, settings.gap
    )
    if settings.examples is not None:
        splits = [_limited(task, split, settings.examples, settings.seed) for split in splits]
    shared: dict[str, Any] = {
        "version": RESULT_VERSION,
        "task": fingerprint(task),
        "model": model_fingerprint,
        "likelihood": settings.likelihood,
        "prior": settings.prior,
        "validation": settings.validation,
    }
    if shift is not None and not shift.is_empty:
        shared["shift"] = _identity(shift)
    cells = []
    # Splits outermost: an interrupted comparison has whole splits, which can be compared already.
    for multiple in settings.multiples:
        for number, split in enumerate(splits):
            for seed in range(settings.num_seeds):
                for entrant in settings.entrants:
                    cells.append(_cell(entrant, multiple, number, split, settings, seed, shared))
    return Planned(Plan(_card(task, settings, splits), settings, tuple(cells), digest(shared)), tuple(splits))


def _limited(task: Task, split: Split, examples: int, seed: int) -> Split:
    """The split with so many of its training rows, at random, every class among them."""
    num_train = len(split.train)
    if examples < 2:
        raise DataError(f"{examples} training rows were asked for; at least 2 are needed.")
    if examples >= num_train:
        return split
    return replace(split, train=validation_split(split.train, task.target, 1 - examples / num_train, seed).train)


def _identity(shift: Shift) -> dict[str, Any]:
    return {
        "version": SHIFT_VERSION,
        "corrupted": shift.num_corrupted if shift.corrupt else 0,
        "seed": shift.seed,
        "shifted": {name: fingerprint(task) for name, task in shift.shifted.items()},
        "outside": {name: fingerprint(task) for name, task in shift.outside.items()},
    }


def settings_digest(plan_fingerprint: str, settings: Settings) -> str:
    """Names a comparison's folder: all that is asked for but the statistics' settings."""
    named = {field.name: field.default for field in fields(Settings) if field.name in LATER}
    told = {name: value for name, value in asdict(settings).items() if name not in ("margin", "level")}
    kept = {name: value for name, value in told.items() if name not in named or value != named[name]}
    return digest([plan_fingerprint, kept])


def _card(task: Task, settings: Settings, splits: list[Split]) -> TaskCard:
    own = "provided" if task.splits else "random"
    kind = "group" if settings.group else "time" if settings.time else "gap" if settings.gap else own
    return TaskCard(
        name=task.name,
        kind=task.kind,
        target=task.target_name,
        rows=len(task.target),
        features=task.features.shape[1],
        classes=task.classes,
        notes=task.notes,
        split_kind=kind,
        num_train=tuple(len(split.train) for split in splits),
        num_test=tuple(len(split.test) for split in splits),
        image_shape=task.image_shape,
    )


def _cell(
    entrant: Entrant, multiple: float, number: int, split: Split, settings: Settings, seed: int, shared: dict[str, Any]
) -> Cell:
    num_train = len(split.train)
    epochs = settings.epochs if settings.epochs is not None else default_epochs(num_train)
    spec = entrant.spec.format(epochs=f"{epochs:g}")
    budget = multiple * CONTROL_MEMBERS * epochs * num_train
    own_seed = settings.seed + seed
    rows = digest([split.train.tolist(), split.test.tolist()])
    key = digest({**shared, "spec": spec, "budget": budget, "rows": rows, "seed": own_seed})
    return Cell(entrant.label, spec, multiple, number, own_seed, budget, key)


def fingerprint(task: Task) -> str:
    """A hash of the data: the same rows, columns and target give the same one in every process."""
    import pandas as pd

    rows = pd.util.hash_pandas_object(task.features, index=False).to_numpy()
    hashed = hashlib.blake2b(np.ascontiguousarray(rows).tobytes(), digest_size=16)
    hashed.update(repr([str(name) for name in task.features.columns]).encode())
    hashed.update(np.ascontiguousarray(task.target).tobytes())
    hashed.update(repr((task.kind, task.classes)).encode())
    return hashed.hexdigest()


def digest(value: Any) -> str:
    """A short hash of anything JSON can write."""
    return hashlib.blake2b(json.dumps(value, sort_keys=True).encode(), digest_size=16).hexdigest()
