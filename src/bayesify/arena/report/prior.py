"""What the page says of the prior: the functions it believes in before it has seen data."""

from typing import NamedTuple

from bayesify.arena.report import wording
from bayesify.arena.report.notes import Fact
from bayesify.arena.report.plain import Plain, number, text, whole, words
from bayesify.arena.report.view import ReportView


class PriorNote(NamedTuple):
    """A paragraph, the numbers behind it, and what is wrong with the prior."""

    sentence: str
    facts: tuple[Fact, ...]
    warnings: tuple[str, ...]


def prior(view: ReportView) -> PriorNote | None:
    """The prior predictive check; None where the result has none."""
    found = view.prior_check
    name, reason = text(found, "prior", "the prior"), text(found, "reason")
    if reason:
        return PriorNote(f"No functions were drawn from {name}: {reason}", (), ())
    functions, inputs = whole(found, "num_functions"), whole(found, "num_inputs")
    if functions is None or inputs is None:
        return None
    drawn = (
        f"All methods but those that choose their own share the prior {name}. {functions:,} functions were drawn from "
        f"it, on {inputs:,} training inputs, before any target was looked at."
    )
    warnings = words(found, "warnings")
    verdict = "" if warnings else " Most of them are neither saturated, nor constant, nor exploding."
    facts = _classes(found) if number(found, "confidence") is not None else _outputs(found)
    return PriorNote(drawn + verdict, tuple(fact for fact in facts if fact.value), warnings)


def _classes(found: Plain) -> list[Fact]:
    confidence, entropy = number(found, "confidence"), number(found, "entropy")
    one_class, certain = _share(found, "one_class"), _share(found, "one_class_certain")
    return [
        Fact("One class for all inputs", f"{one_class} of functions, {certain} with certainty"),
        Fact("Largest class probability", "" if confidence is None else f"{confidence:.2f} on average"),
        Fact("Entropy of classes", "" if entropy is None else f"{wording.percent(entropy)} of that of equal chances"),
        Fact("Constant", f"{_share(found, 'constant')} of functions"),
    ]


def _outputs(found: Plain) -> list[Fact]:
    unit = "log rates" if text(found, "kind") == "count" else "standard deviations of the targets"
    between, across = number(found, "between_functions"), number(found, "across_inputs")
    return [
        Fact("Spread between functions", "" if between is None else f"{wording.compact(between)} {unit}"),
        Fact("Spread across inputs", "" if across is None else f"{wording.compact(across)} {unit}"),
        Fact("Exploding, typically beyond ±10", f"{_share(found, 'exploding')} of functions"),
        Fact("Constant", f"{_share(found, 'constant')} of functions"),
    ]


def _share(found: Plain, key: str) -> str:
    return wording.percent(number(found, key))
