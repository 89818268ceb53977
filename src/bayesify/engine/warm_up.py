"""Warm-up of Hamiltonian samplers: step sizes always, masses if wanted, in windows (Stan Reference Manual, HMC).

Step sizes are adapted throughout. Variances of each parameter are estimated per chain in windows that double in length,
each of which starts afresh from where the last one ended, so that the way to the typical set is forgotten; at its end
the scales become the standard deviations and the step size is sought again.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bayesify.engine.chains import Info
from bayesify.engine.hamiltonian import Kernel
from bayesify.engine.run import Run
from bayesify.engine.step_size import MAXIMUM_DOUBLINGS, Averaging, adapt, search, start_averaging

Move = Callable[[Kernel, Any, Tensor, Run], tuple[Any, Info]]
"""A transition of the sampler with log step sizes (K,), or a part of one (`Info.done`)."""

SEARCH_SHARE = 0.2
"""Of the warm-up, at most, goes to the first guess of a step size."""
WINDOWS = (0.15, 0.25, 0.45, 0.9)
"""Shares of the warm-up at which a window begins; the last one leaves time for the step size alone."""
SHRINKAGE_DRAWS, SHRINKAGE = 5.0, 1e-3
"""Variances are shrunk to this multiple of the prior's as if so many draws had shown it (Stan's constants)."""
MINIMUM_WINDOW = 10
"""Fewer transitions say nothing of a variance: the window goes on into the next."""


class Spread(NamedTuple):
    """Welford's running variance of each parameter of each chain."""

    number: Tensor  # (K,) of transitions
    mean: Tensor  # (K, P)
    squares: Tensor  # (K, P)


class WarmUp(NamedTuple):
    """Where the chains are and what was learned."""

    point: Any  # a Point, or a NamedTuple with its fields and more
    averaging: Averaging
    scale: Tensor  # (K, P) standard deviations: the masses are 1/scale²
    spread: Spread
    window: Tensor  # () how many of WINDOWS have begun; -1 before the first guess of a step size


class Aims(NamedTuple):
    """What to adapt, and to what."""

    first_step: float
    acceptance: float
    step: bool = True
    masses: bool = False
    pooled: bool = False
    """Whether masses are the same for all chains, of the variances within them."""


def start(kernel: Kernel, point: Any, aims: Aims) -> WarmUp:
    """Before anything was learned."""
    averaging = start_averaging(torch.full_like(point.log_prior, math.log(aims.first_step)))
    begun = torch.full((), -1, dtype=torch.int64, device=point.theta.device)
    return WarmUp(point, averaging, kernel.scale.expand_as(point.theta), _no_spread(point.theta), begun)


def warm_up(kernel: Kernel, run: Run, point: Any, move: Move, aims: Aims, sweep: float) -> WarmUp:
    """Adapts until the run is spent.

    Args:
        kernel: the density, with the scales to start from.
        run: the phase.
        point: where the chains are: a Point, or a NamedTuple with its fields and what else `move` needs.
        move: the sampler's transition.
        aims: what to adapt.
        sweep: gradient evaluations of one step of all chains.
    """
    state = run.restore(start(kernel, point, aims))
    if run.finished:
        return state
    if int(state.window) < 0:
        state = state._replace(averaging=_first_guess(kernel, state, run, aims, sweep), window=state.window + 1)
    while run.affords(sweep):
        moved, info = move(kernel._replace(scale=state.scale), state.point, state.averaging.log_step, run)
        state = state._replace(point=moved)
        if info.done is None or bool(info.done.any()):
            state = _learn(kernel, state, info, aims, run)
        run.save(state)
        run.show_progress()
    run.finish(state)
    return state


def _first_guess(kernel: Kernel, state: WarmUp, run: Run, aims: Aims, sweep: float) -> Averaging:
    if not aims.step:
        return state.averaging
    tries = int(SEARCH_SHARE * run.limit / sweep) if math.isfinite(run.limit) else MAXIMUM_DOUBLINGS
    return start_averaging(search(kernel, state.point, state.averaging.log_step, tries, run.rng))


def _learn(kernel: Kernel, state: WarmUp, info: Info, aims: Aims, run: Run) -> WarmUp:
    if aims.step:
        state = state._replace(averaging=adapt(state.averaging, info.acceptance, aims.acceptance, info.done))
    return _learn_masses(kernel, state, info.done, aims, run) if aims.masses else state


def _learn_masses(kernel: Kernel, state: WarmUp, done: Tensor | None, aims: Aims, run: Run) -> WarmUp:
    begun = int(state.window)
    if begun:
        state = state._replace(spread=_add(state.spread, state.point.theta, done))
    if begun == len(WINDOWS) or run.fraction < WINDOWS[begun]:
        return state
    if begun and int(state.spread.number.min()) < MINIMUM_WINDOW:
        return state
    if begun:
        scale = _scale(kernel, state.spread, aims.pooled)
        # A step is ε s: with s given anew, ε starts from where the step would be as long as before.
        longer = (state.scale / scale).log().mean(-1).to(state.averaging.log_mean)
        averaging = start_averaging(state.averaging.log_mean + longer)
        state = state._replace(scale=scale, averaging=averaging)
    return state._replace(spread=_no_spread(state.point.theta), window=state.window + 1)


def _scale(kernel: Kernel, spread: Spread, pooled: bool) -> Tensor:
    free = (spread.number - 1).to(spread.squares)[:, None]
    squares = spread.squares
    if pooled:
        free, squares = free.sum(0).expand_as(free), squares.sum(0).expand_as(squares)
    weight = free / (free + SHRINKAGE_DRAWS)
    return (weight * squares / free + (1 - weight) * SHRINKAGE * kernel.scale.square()).sqrt()


def _no_spread(theta: Tensor) -> Spread:
    none = torch.zeros(len(theta), dtype=torch.int64, device=theta.device)
    return Spread(none, torch.zeros_like(theta), torch.zeros_like(theta))


def _add(spread: Spread, theta: Tensor, done: Tensor | None) -> Spread:
    number = spread.number + (1 if done is None else done)
    before = theta - spread.mean if done is None else (theta - spread.mean) * done[:, None]
    mean = spread.mean + before / number.clamp_min(1)[:, None]
    return Spread(number, mean, spread.squares + before * (theta - mean))
