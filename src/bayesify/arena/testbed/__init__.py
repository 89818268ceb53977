"""A small neural testbed: problems with known truths, from which predictions of one or many labels have a distance."""

from bayesify.arena.testbed.environment import PROBLEMS, Environment, Setting, environment, select
from bayesify.arena.testbed.measure import Fitted, ProblemCell, Watch, measure_testbed
from bayesify.arena.testbed.score import Divergence, divergence

__all__ = [
    "PROBLEMS",
    "Divergence",
    "Environment",
    "Fitted",
    "ProblemCell",
    "Setting",
    "Watch",
    "divergence",
    "environment",
    "measure_testbed",
    "select",
]
