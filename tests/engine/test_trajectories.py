"""How many steps of a trajectory a budget pays for."""

import math

import pytest

from bayesify.engine.budget import Meter
from bayesify.engine.run import Run
from bayesify.engine.trajectories import jittered, sampling_bound, tuning_bound

SWEEP = 10.0


def run_of(steps: float) -> Run:
    return Run(Meter(), limit=steps * SWEEP)


def test_lengths_are_uniform_between_half_and_one_and_a_half_of_the_mean() -> None:
    run = run_of(1000)
    assert {jittered(7, run, SWEEP) for _ in range(500)} == set(range(4, 11))


@pytest.mark.parametrize(("left", "steps"), [(5.0, 5), (2.9, 2), (0.5, 1)])
def test_no_trajectory_is_longer_than_what_is_left(left: float, steps: int) -> None:
    run = run_of(left)
    assert {jittered(20, run, SWEEP) for _ in range(5)} == {steps}


def test_each_phase_pays_for_25_trajectories() -> None:
    phase = run_of(250)
    assert tuning_bound(phase, SWEEP, 16) == 10
    assert sampling_bound(phase, SWEEP) == 30  # three times as much as the tuning is left
    assert tuning_bound(run_of(3), SWEEP, 16) == 1


def test_where_the_budget_is_time_the_tuning_tells_what_it_pays_for() -> None:
    phase = Run(Meter(), limit=math.inf, seconds=60.0)
    assert tuning_bound(phase, SWEEP, 16) == 16
    phase.meter.gradient(2500, 0.0)
    assert sampling_bound(phase, SWEEP) == 30
