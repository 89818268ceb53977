import math

import pytest

from bayesify.arena.statistics import Comparison, Difference, Verdict
from bayesify.arena.verdict import headline, verdict_sentence


def entry(name, verdict=None, estimate=0.0, low=-0.1, high=0.1, **changes):
    difference = {"metric": "nll", "estimate": estimate, "low": low, "high": high} if verdict else None
    plain = {"label": name, "is_control": False, "is_null": False, "verdict": verdict, "difference": difference}
    return {**plain, "minimum_detectable": 0.05, **changes}


CONTROL = entry("deep_ensemble", is_control=True) | {"verdict": "control"}


def say(*methods):
    return headline([CONTROL, *methods], "concrete", 0.95, 0.01)


def test_yes_names_the_winner_and_by_how_much():
    text = say(entry("swag", "better", 0.043, 0.02, 0.06), entry("ivon", "worse", -0.2))
    assert text.startswith("Yes: on concrete, swag beats deep_ensemble at equal compute, by 0.043 nats per example")
    assert "+0.020 to +0.060" in text
    assert "1 worse" in text


def test_several_winners_are_named_best_first():
    text = say(entry("swag", "better", 0.02), entry("hmc", "better", 0.05))
    assert "hmc and swag beat deep_ensemble" in text
    assert "hmc by 0.050" in text


def test_no_needs_every_method_decided():
    assert say(entry("swag", "equivalent"), entry("ivon", "worse")).startswith("No: on concrete")


def test_an_undecided_method_forbids_a_no():
    text = say(entry("swag", "undecided"), entry("ivon", "worse"))
    assert text.startswith("Not shown:")
    assert "0.050 nats" in text


def test_references_are_not_counted():
    assert say(entry("map", "better", 0.4, is_null=True), entry("swag", "worse")).startswith("No:")


def test_unfinished_methods_are_counted():
    assert "1 of 2 methods have no result yet" in say(entry("swag", "worse"), entry("hmc"))
    assert say(entry("hmc")).startswith("No verdict yet on concrete")


def comparison(verdict, estimate=0.02, **changes):
    difference = Difference(
        **{
            **dict.fromkeys(Difference._fields, 0.0),
            "estimate": estimate,
            "low": estimate - 0.01,
            "high": estimate + 0.01,
        }
    )
    fields = {"minimum_detectable": 0.03, "splits_needed": 12, "rows_factor": 3.0, "caveats": ()}
    return Comparison(**{"difference": difference, "p_adjusted": 0.01, "verdict": verdict, **fields, **changes})


@pytest.mark.parametrize("verdict", list(Verdict))
def test_each_verdict_has_its_sentence(verdict):
    text = verdict_sentence("swag", comparison(verdict), "deep_ensemble")
    assert "swag" in text
    assert str(verdict) in text
    assert "+0.020 [+0.010, +0.030]" in text


def test_undecided_says_what_would_decide():
    assert "12 splits would be needed" in verdict_sentence("swag", comparison(Verdict.UNDECIDED), "de")
    never = comparison(Verdict.UNDECIDED, splits_needed=None)
    assert "more splits alone would not decide" in verdict_sentence("swag", never, "de")


def test_infinite_losses_are_said_aloud():
    text = verdict_sentence("swag", comparison(Verdict.WORSE, -math.inf), "de")
    assert "−∞" in text
