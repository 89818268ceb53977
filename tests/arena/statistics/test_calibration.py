"""Simulated nulls and planted effects: the promised rates hold, and the simulation can tell when they do not.

Bounds are binomial quantiles at a failure rate of 1e-5. `benchmarks/statistics_calibration.py`, which draws the
fields, runs more scenarios with more fields.
"""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from bayesify.arena.statistics import holm

PATH = Path(__file__).parents[3] / "benchmarks" / "statistics_calibration.py"
SPEC = importlib.util.spec_from_file_location("statistics_calibration", PATH)
simulation = importlib.util.module_from_spec(SPEC)
sys.modules[SPEC.name] = simulation  # dataclasses look their module up
SPEC.loader.exec_module(simulation)

FIELDS = 150
Scenario = simulation.Scenario

NULLS = [
    Scenario("default", num_methods=6),
    Scenario("large shift", num_methods=6, excess=3.0),
    Scenario("skewed", num_methods=6, tails="skewed"),
    Scenario("heavy tails, few rows", num_methods=6, tails="t3", num_rows=200),
    Scenario("one split", num_methods=6, num_splits=1, excess=0.0),
    Scenario("two splits", num_methods=6, num_splits=2),
    Scenario("seeds only", num_methods=6, num_splits=1, num_seeds=4, excess=4.0, training_share=0.0),
    Scenario("folds", num_methods=6, num_splits=10, folds=True),
    Scenario("one unstable", num_methods=6, excess=(0.1,) * 5 + (10.0,)),
    Scenario("shared control", num_methods=6, excess=3.0, control_share=0.95),
    Scenario("one method", num_methods=1, excess=1.0),
]


@pytest.mark.parametrize("law", NULLS, ids=lambda law: law.name)
def test_familywise_rate_and_joint_coverage(law):
    rng = np.random.default_rng(0)
    fields = [simulation.compare(simulation.draw_field(law, rng)) for _ in range(FIELDS)]
    false = sum(any(simulation.shown(one) for one in field) for field in fields)
    missed = sum(any(not simulation.covers(one, 0.0) for one in field) for field in fields)
    assert false <= stats.binom.isf(1e-5, FIELDS, 0.05)
    assert missed <= stats.binom.isf(1e-5, FIELDS, 0.05)


@pytest.mark.parametrize("law", NULLS[1:2] + NULLS[6:7] + NULLS[8:10], ids=lambda law: law.name)
def test_the_simulation_catches_a_test_that_sees_examples_only(law):
    rng = np.random.default_rng(0)
    false = 0
    for _ in range(FIELDS):
        field = simulation.draw_field(law, rng)
        pooled = [np.concatenate([value.mean(0) for value in one.values]) for one in field.values()]
        false += holm([stats.ttest_1samp(values, 0.0).pvalue for values in pooled]).min() <= 0.05
    assert false > stats.binom.isf(1e-5, FIELDS, 0.05)


@pytest.mark.parametrize(
    ("law", "least"),
    [(NULLS[0], 0.60), (NULLS[4], 0.85), (Scenario("field of 12"), 0.55)],
    ids=lambda value: getattr(value, "name", ""),
)
def test_an_effect_of_five_standard_errors_is_found(law, least):
    rng = np.random.default_rng(1)
    fields = [simulation.draw_field(law, rng) for _ in range(FIELDS)]
    error = np.std([np.mean([value.mean() for value in field["method 0"].values]) for field in fields])
    found = simulation.power(fields, [5 * error] * FIELDS)
    assert found * (FIELDS // 2) >= stats.binom.ppf(1e-5, FIELDS // 2, least)


@pytest.mark.parametrize("law", [NULLS[0], NULLS[4], NULLS[10]], ids=lambda law: law.name)
def test_the_minimum_detectable_difference_is_found_with_its_power(law):
    got = simulation.calibrate(law, FIELDS, seed=2)
    error = np.sqrt(0.8 * 0.2 / (FIELDS // 2))
    assert abs(got.power - 0.8) < 0.03 + stats.norm.isf(0.5e-5) * error
