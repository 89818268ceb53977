"""Reference posteriors: long chains on a small network, what they predict, and how well they know it themselves."""

from bayesify.reference.ceiling import Ceiling
from bayesify.reference.distance import Distance, Target
from bayesify.reference.gap import Closed, closed
from bayesify.reference.make import make_reference
from bayesify.reference.reference import Reference, Setup, parsed_setup

__all__ = ["Ceiling", "Closed", "Distance", "Reference", "Setup", "Target", "closed", "make_reference", "parsed_setup"]
