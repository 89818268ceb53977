"""Better, equivalent, worse or undecided."""

from enum import StrEnum

from bayesify.arena.statistics.paired import Difference


class Verdict(StrEnum):
    """What the data say about a method, compared with the control.

    BETTER and WORSE: a difference is shown, and it may be larger than the margin. EQUIVALENT: whatever the difference
    is, it is smaller than the margin (Schuirmann, 1987; a region of practical equivalence). UNDECIDED: the data
    cannot tell; not a form of "no difference".
    """

    BETTER = "better"
    EQUIVALENT = "equivalent"
    WORSE = "worse"
    UNDECIDED = "undecided"


def decide(difference: Difference, p_adjusted: float, margin: float) -> Verdict:
    """Turn an interval and an adjusted p-value into a verdict.

    Equivalence is read off the same simultaneous interval that is reported, so a reader can check every verdict by
    eye. This is a little stricter than two one-sided tests need.

    Args:
        difference: with its simultaneous interval.
        p_adjusted: the p-value adjusted for the number of methods.
        margin: the largest difference that does not matter, in the unit of the difference.

    Returns:
        The verdict.
    """
    if -margin <= difference.low and difference.high <= margin:
        return Verdict.EQUIVALENT
    if p_adjusted > 1 - difference.level:
        return Verdict.UNDECIDED
    return Verdict.BETTER if difference.estimate > 0 else Verdict.WORSE
