"""Per-example score differences → an honest verdict. numpy and scipy only."""

from bayesify.arena.statistics.compare import Comparison, compare_to_control
from bayesify.arena.statistics.multiplicity import holm
from bayesify.arena.statistics.paired import Difference, paired_difference
from bayesify.arena.statistics.variation import PairedDifferences
from bayesify.arena.statistics.verdict import Verdict, decide

__all__ = [
    "Comparison",
    "Difference",
    "PairedDifferences",
    "Verdict",
    "compare_to_control",
    "decide",
    "holm",
    "paired_difference",
]
