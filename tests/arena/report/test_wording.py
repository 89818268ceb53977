import math

import pytest

from bayesify.arena.report import wording


@pytest.mark.parametrize(
    ("value", "decimals", "sign", "written"),
    [
        (0.12345, 3, False, "0.123"),
        (-0.0104, 3, False, "−0.010"),
        (0.0104, 3, True, "+0.010"),
        (-0.0001, 3, True, "0.000"),
        (1.2345678e-05, 3, False, "0.000"),
        (12345.6, 1, False, "12,345.6"),
        (1.2345e9, 2, False, "1.2 × 10⁹"),
        (-3e300, 2, True, "−3.0 × 10³⁰⁰"),
        (math.inf, 2, False, "∞"),
        (-math.inf, 2, True, "−∞"),
        (None, 2, False, "–"),
    ],
)
def test_fixed(value: float | None, decimals: int, sign: bool, written: str) -> None:
    assert wording.fixed(value, decimals, sign=sign) == written


@pytest.mark.parametrize(
    ("values", "decimals"),
    [([4.55, 4.6, 4.7], 2), ([0.148, 0.15], 3), ([0.0123], 4), ([455.0], 0), ([1e-12], 5), ([], 3), ([None, 0.0], 3)],
)
def test_decimals(values: list[float | None], decimals: int) -> None:
    assert wording.decimals_for(values) == decimals


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (0, "0"),
        (532, "532"),
        (999.9, "1.00 k"),
        (4_860_000, "4.86 M"),
        (972_000, "972 k"),
        (1.02e11, "102 G"),
        (0.333, "0.333"),
        (None, "–"),
        (math.inf, "∞"),
    ],
)
def test_compact(value: float | None, written: str) -> None:
    assert wording.compact(value) == written


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (0.0000021, "2.10 µs"),
        (0.0021, "2.10 ms"),
        (0.9999, "1.00 s"),
        (41.26, "41.3 s"),
        (250.4, "4 min 10 s"),
        (7500, "2 h 05 min"),
        (None, "–"),
    ],
)
def test_seconds(value: float | None, written: str) -> None:
    assert wording.seconds(value) == written


def test_p_values() -> None:
    assert [wording.p_value(p) for p in (1e-9, 0.0123, 0.5, 1.0, None)] == ["< 0.001", "0.012", "0.50", "1.00", "–"]


def test_metrics_know_their_direction() -> None:
    assert wording.metric("nll").direction == "lower"
    assert wording.metric("accuracy").direction == "higher"
    coverage = wording.metric("coverage_95")
    assert (coverage.direction, coverage.target, coverage.label) == ("target", 0.95, "Coverage of 95%")
    assert wording.metric("my_own").direction is None
    assert wording.metric("my_own").label == "My own"


def test_words() -> None:
    assert wording.listing([]) == ""
    assert wording.listing(["a"]) == "a"
    assert wording.listing(["a", "b", "c"]) == "a, b and c"
    assert wording.plural(1, "run") == "1 run"
    assert wording.plural(1200, "run") == "1,200 runs"
    assert wording.short("a long label", 7) == "a long…"
