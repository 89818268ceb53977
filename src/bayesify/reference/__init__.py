"""Reference posteriors: long chains on a small network, what they predict, and how well they know it themselves."""

from bayesify.reference.ceiling import Ceiling
from bayesify.reference.distance import Distance, Target
from bayesify.reference.gap import Closed, closed
from bayesify.reference.make import make_reference
from bayesify.reference.reference import Reference, Setup, parsed_setup
from bayesify.reference.stored import cached_folders, cached_reference, read_reference

__all__ = [
    "Ceiling",
    "Closed",
    "Distance",
    "Reference",
    "Setup",
    "Target",
    "cached_folders",
    "cached_reference",
    "closed",
    "make_reference",
    "parsed_setup",
    "read_reference",
]
