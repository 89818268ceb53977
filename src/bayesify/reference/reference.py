"""A reference on the disk: what it is of, what its chains predict, what they are worth.

The folder holds one JSON file, and beside it the arrays of the last finished stage, which the JSON names: arrays are
written first and both by rename, so that a kill leaves the reference as it was before or after the stage.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from bayesify.datasets.prepare import Prepared, prepare
from bayesify.datasets.splits import make_splits
from bayesify.datasets.task import Task, num_outputs
from bayesify.engine.rng import seed_of, seeded
from bayesify.errors import DataError, MethodError, ModelError, SaveError
from bayesify.files import cache_folder, replacing
from bayesify.methods.base import describe
from bayesify.methods.registry import get_method
from bayesify.methods.sampler import Sampler
from bayesify.model.likelihoods import Likelihood, get_likelihood
from bayesify.model.prior import Prior
from bayesify.model.priors import get_prior
from bayesify.models.mlp import mlp
from bayesify.predictive import Predictive
from bayesify.reference.ceiling import Ceiling, Draws

FORMAT = 1
"""Goes up when the same settings would give another reference."""
DEFAULT_NETWORK = (16, 16)
DEFAULT_METHOD = "hmc(trajectory_length=0.3)"
"""In units of the prior's scale: a quarter of the widest direction's period, 1.6, leaves few trajectories in minutes.
On credit-g (16-16, 36 s) 0.3 left the halves of the chains apart by a total variation of 0.009, 1.6 by 0.021."""


@dataclass(frozen=True)
class Setup:
    """Whose posterior it is and how it is sampled: all that a reference follows from, but the data and the budget.

    Attributes:
        network: widths of the perceptron's hidden layers; of none it is a linear model.
        likelihood: a name or a Likelihood.
        prior: a name or a Prior.
        method: the sampler, as one would write it, without its chains and draws.
        chains: run side by side; at least 4, to have halves that differ.
        draws: kept of each chain.
        split: number of the split.
        seed: of splits and sampling.
    """

    network: tuple[int, ...] = DEFAULT_NETWORK
    likelihood: str | Likelihood = "gaussian"
    prior: str | Prior = "normal"
    method: str = DEFAULT_METHOD
    chains: int = 8
    draws: int = 250
    split: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        if any(type(width) is not int or width < 1 for width in self.network):
            raise ModelError(f"network={self.network}: hidden layers' widths are positive integers, such as (16, 16).")
        for name, least in (("chains", 4), ("draws", 8), ("split", 0)):
            if getattr(self, name) < least:
                raise MethodError(f"a reference with {name}={getattr(self, name)}: it must be {least} or more.")
        if not isinstance(get_method(self.method), Sampler):
            raise MethodError(
                f"{self.method!r} does not sample the posterior: make the reference with hmc, for example."
            )
        likelihood, _ = self.parts
        if likelihood.kind not in ("regression", "classification"):
            raise MethodError(
                f"no distance is defined for a {likelihood.name} likelihood: use gaussian or categorical."
            )

    @property
    def sampler(self) -> Sampler:
        """The sampler with these chains."""
        method = get_method(self.method)
        assert isinstance(method, Sampler)
        settings = {name: getattr(method, name) for name in method.__dataclass_fields__}
        return type(method)(**(settings | {"num_chains": self.chains, "num_draws": self.draws}))

    def module(self, task: Task, num_inputs: int) -> nn.Module:
        """The network, with weights that follow from the seed."""
        with seeded(seed_of("reference", self.seed)):
            return mlp(num_inputs, num_outputs(task, self.parts[0].name), self.network)

    def prepared(self, task: Task) -> Prepared:
        """The split's arrays.

        Raises:
            DataError: there is no such split, or the likelihood does not fit the target.
        """
        kind = "regression" if task.kind == "regression" else "classification"
        likelihood, _ = self.parts
        if likelihood.kind != kind:
            fitting = "gaussian" if kind == "regression" else "categorical"
            raise DataError(f"a {likelihood.name} likelihood does not fit a target of {kind}: use {fitting}.")
        splits = make_splits(task, self.split + 1, seed=self.seed)
        if len(splits) <= self.split:
            raise DataError(f"{task.name!r} has {len(splits)} splits, numbered from 0: there is no split {self.split}.")
        return prepare(task, splits[self.split], self.seed)

    @property
    def parts(self) -> tuple[Likelihood, Prior]:
        """Likelihood and prior."""
        return get_likelihood(self.likelihood), get_prior(self.prior)

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready, with everything that names stand for."""
        likelihood, prior = self.parts
        return {
            "network": list(self.network),
            "likelihood": repr(likelihood),
            "prior": repr(prior),
            "method": describe(self.sampler),
            "split": self.split,
            "seed": self.seed,
        }


def parsed_setup(task: Task, network: str, likelihood: str | None, method: str | None, **settings: Any) -> Setup:
    """A setup from what is written on a command line.

    Args:
        task: decides the likelihood where none is named.
        network: hidden widths such as '16-16'; 'linear' is none.
        likelihood: a name, or None.
        method: the sampler, or None for the default.
        settings: the rest of `Setup`.

    Raises:
        ModelError: the network cannot be read.
        MethodError: a setting is out of range.
        DataError: the task is of images.
    """
    if task.image_shape is not None:
        raise DataError(f"References are of small networks on tables, and {task.name!r} holds images: choose a table.")
    try:
        widths = () if network == "linear" else tuple(int(part) for part in network.split("-"))
    except ValueError:
        raise ModelError(f"--network {network!r}: write the hidden layers' widths, for example 16-16 or 50.") from None
    chosen = likelihood or ("gaussian" if task.kind == "regression" else "categorical")
    return Setup(widths, chosen, method=method or DEFAULT_METHOD, **settings)


class Stage(NamedTuple):
    """One finished stage of sampling; the last one's draws are the reference."""

    number: int
    gradient_evaluations: float
    seconds: float
    """Of sampling; compiling not counted."""
    steps: dict[str, Any]
    """Acceptance, divergences, energy error, steps and draws per chain."""
    ceiling: Ceiling

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return self._asdict() | {"ceiling": self.ceiling.as_dict()}


@dataclass(frozen=True, eq=False)
class Reference:
    """A finished reference.

    Attributes:
        setup: whose posterior.
        key: of setup and data.
        stages: how it was made.
        draws: what the last stage's chains predict at the split's test inputs.
        end: why no further stage was run: 'budget', 'mixed' or 'stalled'.
        folder: where it is.
    """

    setup: Setup
    key: str
    stages: tuple[Stage, ...]
    draws: Draws
    end: str
    folder: Path

    @property
    def ceiling(self) -> Ceiling:
        """The last stage's."""
        return self.stages[-1].ceiling

    @property
    def predictive(self) -> Predictive:
        """At the split's test inputs, in the network's units: standardised targets."""
        return self.draws.predictive(self.setup.parts[0])

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready: setup, stages, ceiling, and why and where it ended."""
        return {
            "setup": self.setup.as_dict(),
            "stages": [stage.as_dict() for stage in self.stages],
            "ceiling": self.ceiling.as_dict(),
            "end": self.end,
            "gradient_evaluations": self.gradient_evaluations,
            "seconds": self.seconds,
            "folder": str(self.folder),
        }

    @property
    def gradient_evaluations(self) -> float:
        """Of all stages."""
        return sum(stage.gradient_evaluations for stage in self.stages)

    @property
    def seconds(self) -> float:
        """Of all stages."""
        return sum(stage.seconds for stage in self.stages)


def key_of(setup: Setup, data: Prepared) -> str:
    """What a reference's numbers follow from, but for how long it was sampled."""
    digest = hashlib.blake2b(json.dumps([FORMAT, setup.as_dict()], sort_keys=True).encode(), digest_size=16)
    for array in (data.X_train, data.y_train, data.X_test):
        digest.update(repr((array.shape, array.dtype)).encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def default_folder(task: Task, setup: Setup, key: str) -> Path:
    """A folder in the cache whose name people can read."""
    return cache_folder("references") / f"{readable_name(task.name)}-{'-'.join(map(str, setup.network))}-{key[:8]}"


def readable_name(name: str) -> str:
    """A task's name as part of a folder's."""
    return "".join(c if c.isalnum() or c in "-_" else "-" for c in name)[:40] or "data"


class Kept(NamedTuple):
    """What is in a reference's folder."""

    stages: tuple[Stage, ...]
    next_limit: float | None
    """Gradient evaluations of the stage that was begun and not finished."""
    arrays: str | None
    """The file of the last stage."""


def read(folder: Path, key: str) -> Kept:
    """What was kept, or nothing.

    Raises:
        SaveError: it is damaged or of something else.
    """
    path = folder / "reference.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["key"] != key:
            raise SaveError(f"{folder} holds a reference of other data or settings: choose another folder with --out.")
        stages = tuple(Stage(**(one | {"ceiling": Ceiling.from_dict(one["ceiling"])})) for one in found["stages"])
        return Kept(stages, found["next_limit"], found["arrays"])
    except FileNotFoundError:
        return Kept((), None, None)
    except (OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, SaveError):
            raise
        raise SaveError(f"{path} is damaged ({error}): delete the folder {folder} to make it again.") from error


def write(folder: Path, key: str, setup: Setup, kept: Kept) -> None:
    """Replaces the JSON file, then removes arrays that it no longer names."""
    stages = [stage.as_dict() for stage in kept.stages]
    value = {"key": key, "setup": setup.as_dict(), **kept._asdict(), "stages": stages}
    with replacing(folder / "reference.json") as partial:
        partial.write_text(json.dumps(value, indent=1), encoding="utf-8")
    for old in folder.glob("stage-*.safetensors"):
        if old.name != kept.arrays:
            old.unlink(missing_ok=True)


def write_arrays(path: Path, draws: Draws, theta: Tensor) -> None:
    """Predictions, and the chains' last positions, from which they continue."""
    tensors = {"outputs": draws.outputs, "parameters": draws.parameters, "theta": theta}
    with replacing(path) as partial:
        save_file({name: value.contiguous().clone() for name, value in tensors.items()}, partial)


def read_arrays(path: Path) -> tuple[Draws, Tensor]:
    """The inverse.

    Raises:
        SaveError: the file is missing or damaged.
    """
    try:
        found = load_file(path)
        return Draws(found["outputs"], found["parameters"]), found["theta"]
    except (OSError, SafetensorError, KeyError) as error:
        raise SaveError(f"{path} is damaged ({error}): delete the folder {path.parent} to make it again.") from error
