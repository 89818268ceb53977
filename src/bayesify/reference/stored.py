"""References that were made before, read without sampling.

A folder holds the settings, not the data: the data are given again, and the key that follows from both must be the
folder's. Names of likelihood and prior are found by trying those there are, because the folder holds what they stand
for.
"""

import json
from collections.abc import Iterator
from pathlib import Path

from bayesify.datasets.task import Task
from bayesify.errors import DataError, SaveError
from bayesify.files import cache_folder
from bayesify.methods.registry import get_method
from bayesify.methods.sampler import Sampler
from bayesify.model.likelihoods import LIKELIHOOD_NAMES, get_likelihood
from bayesify.model.priors import PRIOR_NAMES, get_prior
from bayesify.reference.make import why_ended
from bayesify.reference.reference import Reference, Setup, key_of, read, read_arrays, readable_name


def read_reference(task: Task, folder: str | Path) -> Reference:
    """The reference in a folder.

    Args:
        task: the data that it is of.
        folder: as given to `bayesify reference --out`.

    Raises:
        DataError: no stage has been finished there.
        SaveError: it is damaged, or of other data.
    """
    place = Path(folder)
    setup = stored_setup(place)
    key = key_of(setup, setup.prepared(task))
    kept = read(place, key)
    if kept.arrays is None:
        raise DataError(f"the reference in {place} has no finished stage: run bayesify reference again to continue it.")
    draws = read_arrays(place / kept.arrays)[0]
    return Reference(setup, key, kept.stages, draws, why_ended(kept.stages) or "budget", place)


def cached_reference(task: Task) -> Reference:
    """Of the references of this data in the cache, the one that most was spent on.

    Raises:
        DataError: there is none.
    """
    found = max(_cached(task), key=lambda one: one.gradient_evaluations, default=None)
    if found is None:
        raise DataError(f"no reference of {task.name} is stored: make one with bayesify reference {task.name}.")
    return found


def cached_folders(name: str) -> list[Path]:
    """Folders in the cache that may hold references of data with this name."""
    return [path.parent for path in sorted(cache_folder("references").glob(f"{readable_name(name)}-*/reference.json"))]


def stored_setup(folder: Path) -> Setup:
    """What a folder's reference is of.

    Raises:
        DataError: there is none.
        SaveError: it is damaged, or its likelihood or prior has no name.
    """
    path = folder / "reference.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))["setup"]
        method = get_method(found["method"])
        likelihood, prior, network = found["likelihood"], found["prior"], tuple(found["network"])
        split, seed = found["split"], found["seed"]
    except FileNotFoundError:
        raise DataError(f"there is no reference in {folder}: make one with bayesify reference DATA --out.") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SaveError(f"{path} is damaged ({error}): delete the folder {folder} to make it again.") from error
    likelihood_name = next((name for name in LIKELIHOOD_NAMES if repr(get_likelihood(name)) == likelihood), None)
    prior_name = next((name for name in PRIOR_NAMES if repr(get_prior(name)) == prior), None)
    if likelihood_name is None or prior_name is None or not isinstance(method, Sampler):
        raise SaveError(
            f"the reference in {folder} has a likelihood {likelihood} and a prior {prior}, of which one has no name: "
            "build its RealProblem yourself."
        )
    return Setup(
        network, likelihood_name, prior_name, found["method"], method.num_chains, method.num_draws, split, seed
    )


def _cached(task: Task) -> Iterator[Reference]:
    """Others whose names begin alike, damaged or unfinished ones, and those of earlier formats are passed over."""
    for folder in cached_folders(task.name):
        try:
            yield read_reference(task, folder)
        except (DataError, SaveError):
            continue
