"""A field of methods against one control: the entry point of this room."""

import math
from collections.abc import Mapping
from typing import NamedTuple

from bayesify.arena.statistics.field import Spread, moderate
from bayesify.arena.statistics.multiplicity import holm, match_interval, simultaneous_tail
from bayesify.arena.statistics.paired import (
    Difference,
    check_level,
    finite_difference,
    infinite_difference,
)
from bayesify.arena.statistics.power import minimum_detectable, rows_factor, splits_needed
from bayesify.arena.statistics.variation import PairedDifferences, Replicates, Variation, check, variation
from bayesify.arena.statistics.verdict import Verdict, decide
from bayesify.errors import DataError

FEW_SPLITS = 3
FEW_EXAMPLES = 30


class Comparison(NamedTuple):
    """One method's comparison with the control, adjusted for the size of the field.

    Attributes:
        difference: with a simultaneous interval: all intervals of the field cover jointly with its level.
        p_adjusted: Holm's adjusted p-value.
        verdict: better, equivalent, worse or undecided.
        minimum_detectable: the true difference that would have been found with power 0.8; NaN where undefined.
        splits_needed: how many splits would make a difference of the margin detectable; None where no number would,
            or where one split does not say.
        rows_factor: by what factor the data set must grow to make a difference of the margin detectable.
        caveats: what a reader must know before believing the numbers, one sentence each.
    """

    difference: Difference
    p_adjusted: float
    verdict: Verdict
    minimum_detectable: float
    splits_needed: int | None
    rows_factor: float
    caveats: tuple[str, ...]


def compare_to_control(
    differences: Mapping[str, PairedDifferences], *, margin: float, level: float = 0.95
) -> dict[str, Comparison]:
    """Compare every method with the control.

    The probability that any method without a true difference is called better or worse is at most 1 − level.

    Args:
        differences: control loss − method loss per split, seed and test example, by method name.
        margin: the largest difference that does not matter, in the unit of the differences.
        level: 1 − the familywise error rate, in (0.5, 1).

    Returns:
        One comparison per method, in the order given.

    Raises:
        DataError: NaN differences, arrays that do not fit together, a negative margin or a level out of range.
    """
    check_level(level)
    if not (math.isfinite(margin) and margin >= 0):
        raise DataError(f"The margin is {margin}; give the largest difference that does not matter, 0 or more.")
    settled: dict[str, Difference] = {}
    components: dict[str, Variation] = {}
    for name, given in differences.items():
        try:
            check(given)
        except DataError as error:
            raise DataError(f"Method {name!r}: {error}") from error
        infinite = infinite_difference(given, level)
        if infinite is None:
            components[name] = variation(given)
        else:
            settled[name] = infinite
    tail = simultaneous_tail(level, max(1, len(differences)))
    spreads = dict(zip(components, moderate(list(components.values())), strict=True))
    for name, one in components.items():
        settled[name] = finite_difference(one, spreads[name], level=level, tail=tail)
    adjusted = holm([settled[name].p_value for name in differences])
    return {
        name: _comparison(settled[name], float(p), margin, tail, components.get(name), spreads.get(name))
        for name, p in zip(differences, adjusted, strict=True)
    }


def _comparison(
    difference: Difference,
    p_adjusted: float,
    margin: float,
    tail: float,
    components: Variation | None,
    spread: Spread | None,
) -> Comparison:
    if components is None or spread is None:
        return Comparison(
            difference, p_adjusted, decide(difference, p_adjusted, margin), math.nan, None, math.inf,
            (_infinite_caveat(difference),),
        )  # fmt: skip
    detectable = minimum_detectable(difference)
    matched = match_interval(difference, p_adjusted)
    return Comparison(
        difference=matched,
        p_adjusted=p_adjusted,
        verdict=decide(matched, p_adjusted, margin),
        minimum_detectable=detectable,
        splits_needed=splits_needed(components, spread, target=margin, tail=tail),
        rows_factor=rows_factor(detectable, margin),
        caveats=_caveats(components),
    )


def _infinite_caveat(difference: Difference) -> str:
    if math.isnan(difference.estimate):
        return "Method and control both gave probability zero to outcomes that occurred: the difference is undefined."
    culprit = "The method" if difference.estimate < 0 else "The control"
    return f"{culprit} gave probability zero to an outcome that occurred: its mean loss is infinite."


def _caveats(components: Variation) -> tuple[str, ...]:
    caveats = []
    if components.replicates is Replicates.NONE:
        caveats.append(
            "One split and one seed: the interval covers the choice of test examples only, and speaks about these "
            "trained models, not about the methods; chance in training is not in it."
        )
    if components.replicates is Replicates.SEEDS:
        caveats.append("One split: the interval covers test examples and seeds, not the choice of training set.")
    if components.replicates is Replicates.SPLITS and components.num_replicates <= FEW_SPLITS:
        caveats.append(
            f"{components.num_replicates} splits hardly show how much splits differ: "
            "five or more make the intervals much shorter."
        )
    if components.example_degrees < FEW_EXAMPLES:
        caveats.append("Fewer than 30 test examples: rare large losses may not have shown themselves.")
    return tuple(caveats)
