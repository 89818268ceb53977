"""Named data sets: what there is, and load one."""

from typing import NamedTuple

from bayesify.datasets.catalogue import CATALOGUE
from bayesify.datasets.sources import read_named, whereabouts
from bayesify.datasets.task import Task, build_task


class DatasetRow(NamedTuple):
    """One line of the list of data sets."""

    name: str
    rows: int
    features: int
    kind: str
    source: str
    licence: str
    where: str  # "bundled", "local folder", "cached", "download", or what is needed to have it


def list_datasets() -> tuple[DatasetRow, ...]:
    """All named data sets, by name, and where each would come from now."""
    entries = sorted(CATALOGUE.values(), key=lambda item: item.name)
    return tuple(
        DatasetRow(item.name, item.rows, item.features, item.kind, item.source, item.licence, whereabouts(item))
        for item in entries
    )


def load(name: str) -> Task:
    """Load a named data set as a task; case, hyphens and underscores in the name do not matter.

    The data come from scikit-learn, else from the folder that the environment variable BAYESIFY_DATA names, else
    from the cache (BAYESIFY_CACHE, by default ``~/.cache/bayesify``), else from OpenML.

    Raises:
        DataError: the name is unknown, or the data can neither be found nor downloaded.
    """
    return build_task(read_named(name))
