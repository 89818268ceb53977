"""Trajectories of a length in time: how many steps a budget allows them, and chains of them, tuned and sampled.

Where a budget could not pay for `MINIMUM_TRAJECTORIES`, trajectories are cut short, in the tuning and in the sampling.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from bayesify.engine import chains
from bayesify.engine.chains import Info, Trace
from bayesify.engine.hamiltonian import Kernel, Point, evaluate
from bayesify.engine.run import Run
from bayesify.engine.warm_up import Aims, warm_up

MINIMUM_TRAJECTORIES = 25
"""Per phase and chain: fewer could neither tune a step size nor tell anything about mixing."""
ADAPTATION_SHARE = 0.25
"""Of the budget after the warm start, to tune what is tuned."""
FIRST_STEP = 0.005
"""In units of the prior's scale: where the search for a step size starts. Networks on tables end at 0.001 to 0.02."""
TIMED_TRAJECTORY = 16
"""Steps per tuning trajectory where the budget is time and a gradient's cost is not yet known."""

Transition = Callable[[Kernel, Point, Tensor, int, torch.Generator], tuple[Point, Info]]
"""Trajectories of so many steps of sizes (K,), each with its Metropolis test."""


def trajectory_bound(gradients: float) -> int:
    """Steps of a trajectory of which as many gradients pay for `MINIMUM_TRAJECTORIES`."""
    return max(1, int(gradients) // MINIMUM_TRAJECTORIES)


def tuning_bound(phase: Run, sweep: float, timed: int) -> int:
    """The same for the tuning phase, of steps that cost `sweep`; `timed` where its budget is time."""
    return trajectory_bound(phase.limit / sweep) if math.isfinite(phase.limit) else timed


def sampling_bound(tuned: Run, sweep: float) -> int:
    """The same for what comes after a tuning phase that took `ADAPTATION_SHARE` of the budget."""
    spent = tuned.limit if math.isfinite(tuned.limit) else tuned.spent
    return trajectory_bound((1 / ADAPTATION_SHARE - 1) * spent / sweep)


def affordable(steps: int, run: Run, sweep: float) -> int:
    """At most as many steps as are paid for by what is left, and at least one."""
    return steps if run.affords(steps * sweep) else max(1, int(run.remaining * (1 + 1e-6) / sweep))


def jittered(mean_steps: int, run: Run, sweep: float) -> int:
    """Uniform between half and one and a half of the mean, so that no orbit closes; within what is left."""
    low, high = -(-mean_steps // 2), mean_steps + mean_steps // 2
    steps = int(torch.randint(low, high + 1, (), generator=run.rng, device=run.rng.device))
    return affordable(steps, run, sweep)


class Trajectories(NamedTuple):
    """What trajectories are to be, and what is kept of them."""

    length: float
    """ε L in units of the scales, where the budget allows it."""
    aims: Aims
    num_draws: int
    reserve: float
    """Gradient evaluations that are left unspent."""


class Walked(NamedTuple):
    """What chains of trajectories left behind, and how they went."""

    trace: Trace
    step_size: Tensor  # (K,)
    mean_steps: int


def sample(
    kernel: Kernel, run: Run, theta: Tensor, transition: Transition, wanted: Trajectories, sweep: float
) -> Walked:
    """Tunes step sizes, and masses if wanted, then samples.

    Args:
        kernel: the density, with the scales to start from.
        run: what may be spent.
        theta: where the chains start, (K, P).
        transition: from one point to the next.
        wanted: how long they are to be, and what is kept of them.
        sweep: gradient evaluations of one step of all chains.
    """
    phase = run.phase("adaptation", ADAPTATION_SHARE, reserve=wanted.reserve)
    longest = tuning_bound(phase, sweep, TIMED_TRAJECTORY)

    def move(kernel: Kernel, point: Point, log_step: Tensor, run: Run) -> tuple[Point, Info]:
        steps = jittered(_mean_steps(wanted.length, log_step, longest), run, sweep)
        return transition(kernel, point, log_step.exp(), steps, run.rng)

    tuned = warm_up(kernel, phase, evaluate(kernel, theta), move, wanted.aims, sweep)
    kernel, step_size = kernel._replace(scale=tuned.scale), tuned.averaging.log_mean.exp()
    mean_steps = _mean_steps(wanted.length, tuned.averaging.log_mean, sampling_bound(phase, sweep))

    def step(point: Point, run: Run) -> tuple[Point, Info]:
        return transition(kernel, point, step_size, jittered(mean_steps, run, sweep), run.rng)

    trace = chains.sample(step, run.phase("sampling", reserve=wanted.reserve), tuned.point, wanted.num_draws, sweep)
    return Walked(trace, step_size, mean_steps)


def _mean_steps(length: float, log_step: Tensor, longest: int) -> int:
    return max(1, min(longest, round(length / math.exp(float(log_step.mean())))))
