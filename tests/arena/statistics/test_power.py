"""Planning: the formulas against what the design itself then delivers."""

import math

import numpy as np
import pytest

from bayesify.arena.statistics import PairedDifferences, compare_to_control, paired_difference
from bayesify.arena.statistics.field import own_spread
from bayesify.arena.statistics.paired import finite_difference
from bayesify.arena.statistics.power import minimum_detectable, rows_factor, splits_needed
from bayesify.arena.statistics.variation import variation


def draw(rng, num_splits=6, num_rows=1000, shift=0.1):
    n_test = num_rows // 10
    examples = 0.5 * rng.standard_normal(num_rows)
    indices = tuple(rng.choice(num_rows, n_test, replace=False) for _ in range(num_splits))
    values = tuple((examples[rows] + shift * rng.standard_normal())[None] for rows in indices)
    return PairedDifferences(values, indices, num_rows - n_test)


def test_minimum_detectable_of_one_split_is_the_textbook_formula():
    half = np.random.default_rng(0).standard_normal(5000)
    values = np.concatenate([half, -half])
    got = paired_difference(PairedDifferences((values[None],), (np.arange(10_000),), 90_000))
    assert minimum_detectable(got) == pytest.approx((1.9602 + 0.8416) * values.std() / 100, rel=1e-3)
    assert minimum_detectable(got, power=0.5) == pytest.approx(1.9602 * values.std() / 100, rel=1e-3)


def test_splits_needed_is_what_that_many_splits_deliver():
    rng = np.random.default_rng(1)
    promised, delivered = [], []
    for _ in range(40):
        differences = draw(rng)
        components = variation(differences)
        spread = own_spread(components)
        now = minimum_detectable(finite_difference(components, spread, level=0.95, tail=0.025))
        count = splits_needed(components, spread, target=0.6 * now, tail=0.025)
        if count is not None:
            promised.append(0.6 * now)
            delivered.append(minimum_detectable(paired_difference(draw(rng, num_splits=count))))
    assert len(promised) > 15
    assert np.median(delivered) == pytest.approx(np.median(promised), rel=0.25)


def test_splits_needed_at_its_limits():
    components = variation(draw(np.random.default_rng(2)))
    spread = own_spread(components)
    assert splits_needed(components, spread, target=10.0, tail=0.025) == 6
    assert splits_needed(components, spread, target=1e-6, tail=0.025) is None
    assert splits_needed(components, spread, target=0.0, tail=0.025) is None
    needed = [splits_needed(components, spread, target=t, tail=0.025) for t in (0.2, 0.17, 0.15)]
    assert needed == sorted(needed)
    one = variation(draw(np.random.default_rng(2), num_splits=1))
    assert splits_needed(one, own_spread(one), target=10.0, tail=0.025) is None


def test_rows_factor():
    assert rows_factor(0.1, 0.2) == 1.0
    assert rows_factor(0.2, 0.1) == pytest.approx(4.0)
    assert rows_factor(0.2, 0.0) == math.inf
    assert rows_factor(0.0, 0.0) == 1.0


def test_rows_factor_is_what_that_many_rows_deliver():
    rng = np.random.default_rng(3)
    small, large = (
        np.median(
            [
                compare_to_control({"m": draw(rng, num_rows=n, shift=0.0)}, margin=0.0)["m"].minimum_detectable
                for _ in range(60)
            ]
        )
        for n in (500, 2000)
    )
    assert rows_factor(small, large) == pytest.approx(4.0, rel=0.25)
