"""What an interval, a p-value and a margin say; and the whole field through the public function."""

import numpy as np
import pytest

from bayesify.arena.statistics import (
    Difference,
    PairedDifferences,
    Verdict,
    compare_to_control,
    decide,
    paired_difference,
)
from bayesify.errors import DataError


@pytest.mark.parametrize(
    ("low", "high", "p", "verdict"),
    [
        (0.1, 0.5, 0.01, "better"),
        (0.3, 0.5, 0.01, "better"),
        (-0.5, -0.1, 0.01, "worse"),
        (-0.1, 0.5, 0.2, "undecided"),
        (-0.5, 0.5, 1.0, "undecided"),
        (-0.1, 0.1, 0.5, "equivalent"),
        (0.05, 0.1, 0.001, "equivalent"),  # shown, but too small to matter
        (-0.2, 0.2, 0.5, "equivalent"),
        (-np.inf, -np.inf, 0.0, "worse"),
        (np.inf, np.inf, 0.0, "better"),
        (-np.inf, np.inf, 1.0, "undecided"),
    ],
)
def test_the_four_verdicts(low, high, p, verdict):
    estimate = low if low == high else np.nan if np.isinf(low) else (low + high) / 2
    assert decide(Difference(estimate, low, high, 0.1, p, 10.0, 0.95), p, margin=0.2) == verdict


def field(**effects):
    rng = np.random.default_rng(0)
    indices = tuple(rng.choice(1000, 100, replace=False) for _ in range(5))
    common = rng.standard_normal(1000)
    found = {}
    for name, effect in effects.items():
        examples = 0.5 * (common + rng.standard_normal(1000))
        values = tuple((effect + examples[rows] + 0.02 * rng.standard_normal())[None] for rows in indices)
        found[name] = PairedDifferences(values, indices, 900)
    return found


def test_a_field_of_known_effects():
    given = field(good=1.0, bad=-1.0, same=0.0)
    given["identical"] = given["same"]._replace(values=(np.zeros((1, 100)),) * 5)
    given["broken"] = given["same"]._replace(values=(np.full((1, 100), -np.inf),) * 5)
    got = compare_to_control(given, margin=0.4)
    assert list(got) == list(given)
    assert [str(one.verdict) for one in got.values()] == ["better", "worse", "equivalent", "equivalent", "worse"]
    assert got["broken"].difference.low == -np.inf
    assert "probability zero" in got["broken"].caveats[0]
    assert got["identical"].minimum_detectable == 0.0
    assert got["good"].caveats == ()
    assert got["good"].rows_factor == 1.0
    small = compare_to_control({"same": given["same"]}, margin=0.001)["same"]
    assert small.verdict is Verdict.UNDECIDED
    assert small.splits_needed is None  # this data set has too few rows, however often it is split
    assert small.rows_factor > 100


def test_both_infinite_is_undecided():
    given = field(odd=0.0)
    values = (np.where(np.arange(100) < 1, np.inf, 0.0)[None], np.where(np.arange(100) < 1, -np.inf, 0.0)[None])
    odd = PairedDifferences(values, given["odd"].indices[:2], 900)
    got = compare_to_control({"odd": odd}, margin=0.1)["odd"]
    assert got.verdict is Verdict.UNDECIDED
    assert "undefined" in got.caveats[0]


def test_intervals_widen_with_the_field_and_decisions_agree_with_them():
    given = field(a=0.15, b=0.1, c=0.0, d=-0.2)
    alone = compare_to_control({"a": given["a"]}, margin=0.0)["a"]
    own = paired_difference(given["a"])
    assert alone.difference == own
    assert alone.p_adjusted == own.p_value
    for one in compare_to_control(given, margin=0.0).values():
        inside = one.difference.low < 0 < one.difference.high
        assert (one.p_adjusted <= 0.05) == (not inside)
        assert one.p_adjusted >= one.difference.p_value


@pytest.mark.parametrize(
    ("num_splits", "num_seeds", "words"),
    [(1, 1, "chance in training"), (1, 3, "not the choice of training set"), (2, 1, "2 splits hardly show")],
)
def test_what_cannot_be_seen_is_said(num_splits, num_seeds, words):
    rng = np.random.default_rng(1)
    values = tuple(rng.standard_normal((num_seeds, 50)) for _ in range(num_splits))
    rows = tuple(np.arange(50) + 50 * split for split in range(num_splits))
    (caveat,) = compare_to_control({"m": PairedDifferences(values, rows, 450)}, margin=0.1)["m"].caveats
    assert words in caveat


def test_few_examples_are_said():
    given = PairedDifferences((np.random.default_rng(2).standard_normal((1, 10)),), (np.arange(10),), 90)
    assert "Fewer than 30" in compare_to_control({"m": given}, margin=0.1)["m"].caveats[-1]


def test_errors_name_the_method():
    given = field(fine=0.0, broken=0.0)
    given["broken"] = given["broken"]._replace(values=(np.full((1, 100), np.nan),) * 5)
    with pytest.raises(DataError, match="Method 'broken': Split 0 has 100 NaN"):
        compare_to_control(given, margin=0.1)


@pytest.mark.parametrize("margin", [-0.1, np.nan, np.inf])
def test_a_margin_is_finite_and_not_negative(margin):
    with pytest.raises(DataError, match="margin"):
        compare_to_control(field(a=0.0), margin=margin)


def test_an_empty_field_has_no_verdicts():
    assert compare_to_control({}, margin=0.1) == {}
