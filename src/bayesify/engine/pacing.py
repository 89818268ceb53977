"""Step sizes and lengths of microcanonical Langevin dynamics, per chain (Robnik et al. 2023; Sommer et al. 2025).

Without a Metropolis test the step size ε sets the bias. It is chosen so that the energy changes ΔE of steps have a
given mean square v per dimension. With ξ = ΔE²/(d v), which grows as ε⁶, running means that forget over n steps,
γ = (n − 1)/(n + 1), give

    A ← γ A + w ξ/ε⁶,    T ← γ T + w,    ε ← (A/T)^(−1/6),    w = exp(−½ (log ξ / 9)²),                           (1)

so that steps far off the target count little. ε starts small and grows by a half per step until ξ is within reach: a
sixth power would remember the small ones for thousands of steps. Then the length L over which directions are forgotten
becomes the radius of the posterior, √Σ var, and at last 0.4 times the distance in which parameters forget where they
were.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from bayesify.engine import chains
from bayesify.engine.chains import Info
from bayesify.engine.convergence import MINIMUM_DRAWS, effective_sample_size
from bayesify.engine.microcanonical import Kernel, Pace, Particle, langevin
from bayesify.engine.run import Run

STEP_COST = 2
"""Gradients of all the data per step."""
TRUST = 1.5
"""log ξ is believed within a factor exp(6 · 1.5), blackjax's `trust_in_estimate`."""
GROWTH, GROWN, MAXIMUM_GROWTHS = 1.5, 0.1, 30
"""ε grows by this factor while ξ is below this bound, and at most so often."""
BACK_OFF = 0.8
"""Step sizes stay below this multiple of one that led nowhere."""
LENGTH_FACTOR = 0.4
"""L in distances of autocorrelation (blackjax's `Lfactor`)."""
MINIMUM_STEPS = 50
"""Variances, or autocorrelations, of fewer steps are not used."""
NUMBERS, PARAMETERS = 16_000_000, 2_000
"""The draws whose autocorrelation is measured hold at most so many numbers; of so many parameters it is measured."""
SHRINKAGE_DRAWS, SHRINKAGE = 5.0, 1e-3
"""Learned variances are shrunk to this multiple of the prior's as if so many draws had shown it (Stan's constants)."""


class Aims(NamedTuple):
    """What is tuned, and to what."""

    first_step: float  # ε to begin with, in units of s
    step: float | None = None  # ε if it is given
    length: float | None = None  # L if it is given
    energy_variance: tuple[float, float] = (5e-4, 5e-4)
    """v at the beginning and at the end of the phases (1) and √Σ var, linear between."""
    shares: tuple[float, float, float] = (0.8, 0.1, 0.1)
    """Of the tuning: for ε; for variances; for autocorrelation."""
    memory: float = 150.0
    masses: bool = False
    """Whether variances become the scales s, after two thirds of their phase; the rest settles ε again."""


class Spread(NamedTuple):
    """Weighted running variance of each parameter of each chain (West 1979)."""

    weight: Tensor  # (K,)
    steps: Tensor  # ()
    mean: Tensor  # (K, P)
    squares: Tensor  # (K, P)


class Pacing(NamedTuple):
    """Where the chains are and what was learned."""

    particle: Particle
    pace: Pace
    average: Tensor  # (K,) A of (1)
    weight: Tensor  # (K,) T of (1)
    largest: Tensor  # (K,) bound on ε
    growing: Tensor  # (K,) whether ε is still on its way up
    spread: Spread
    tries: Tensor  # () steps on that way
    masses_learned: Tensor  # ()


def pace_of(kernel: Kernel, particle: Particle, aims: Aims) -> Pace:
    """Before anything was learned: L is the prior's radius."""
    like, size = particle.log_prior, particle.theta.shape[1]
    radius = math.sqrt(size * kernel.problem.temperature)
    return Pace(
        torch.full_like(like, aims.step or aims.first_step),
        torch.full_like(like, aims.length or radius),
        kernel.scale.expand_as(particle.theta),
    )


def tune_step(kernel: Kernel, run: Run, particle: Particle, aims: Aims, sweep: float) -> Pacing:
    """The first two phases, until the run is spent.

    Args:
        kernel: the density.
        run: the phase.
        particle: where the chains start.
        aims: what to tune.
        sweep: gradient evaluations of one gradient of all chains.
    """
    state = run.restore(_start(kernel, particle, aims))
    if run.finished:
        return state
    begin, settle = aims.shares[0] / (aims.shares[0] + aims.shares[1]), 1.0
    if aims.masses:
        settle = 1 - (1 - begin) / 3
    while run.affords(STEP_COST * sweep):
        fraction = run.fraction
        if aims.masses and fraction >= settle and not bool(state.masses_learned):
            state = _learn_masses(kernel, state, aims)
        moved, info = langevin(kernel, state.particle, state.pace, run.rng)
        if begin <= fraction < settle:
            weight = state.pace.step * (~info.divergent)
            state = state._replace(spread=add(state.spread, moved.theta, weight))
        state = state._replace(particle=moved)
        if aims.step is None:
            v = aims.energy_variance[0] + fraction * (aims.energy_variance[1] - aims.energy_variance[0])
            state = adapt(state, info, v, aims.memory)
        run.save(state)
        run.show_progress()
    if aims.length is None and not aims.masses:
        length = radius(state.spread, state.pace.scale, state.pace.length)
        state = state._replace(pace=state.pace._replace(length=length))
    run.finish(state)
    return state


def tune_length(kernel: Kernel, run: Run, particle: Particle, pace: Pace, sweep: float) -> tuple[Particle, Pace]:
    """The third phase: L from the autocorrelation of parameters."""
    possible = run.limit / (STEP_COST * sweep) if math.isfinite(run.limit) else math.inf
    num_draws = max(1, int(min(possible, NUMBERS / particle.theta.numel())))
    trace = chains.sample(
        lambda state, run: langevin(kernel, state, pace, run.rng), run, particle, num_draws, STEP_COST * sweep
    )
    steps, kept = int(trace.steps), int(trace.kept)
    if steps < MINIMUM_STEPS or kept < MINIMUM_DRAWS:
        return trace.state, pace
    size = particle.theta.shape[1]
    # Evenly spaced parameters instead of random ones: no stream of random numbers is needed.
    picked = torch.linspace(0, size - 1, min(size, PARAMETERS)).round().long()
    per_draw = [_inefficiency(trace.draws[k, :kept, picked.to(trace.draws.device)]) for k in range(len(trace.draws))]
    inefficiency = steps / kept * pace.length.new_tensor(per_draw)
    found = LENGTH_FACTOR * pace.step * inefficiency
    return trace.state, pace._replace(length=torch.where(torch.isfinite(found), found, pace.length))


def _inefficiency(draws: Tensor) -> float:
    """Draws per effective draw, the mean over parameters that move; draws (S, C)."""
    effective = effective_sample_size(draws[None].double().cpu().numpy())
    moving = effective[np.isfinite(effective)]
    return float((len(draws) / moving).mean()) if len(moving) else math.nan


def adapt(state: Pacing, info: Info, energy_variance: float, memory: float) -> Pacing:
    """Equation (1) with v = `energy_variance`, for each chain."""
    step, lost = state.pace.step, info.divergent
    size = state.particle.theta.shape[1]
    xi = torch.where(lost, 1.0, info.energy_error).square() / (size * energy_variance) + 1e-8
    weight = torch.where(lost, 0.0, (-0.5 * (xi.log() / (6.0 * TRUST)).square()).exp())
    decay = (memory - 1) / (memory + 1)
    average = decay * state.average + weight * xi / step**6
    total = decay * state.weight + weight
    largest = torch.where(lost, BACK_OFF * step, state.largest)
    growing = state.growing & (xi < GROWN) & ~lost & (state.tries < MAXIMUM_GROWTHS)
    wanted = torch.where(total > 0, (average / total.clamp_min(1e-300)) ** (-1 / 6), step)
    pace = state.pace._replace(step=torch.minimum(torch.where(growing, GROWTH * step, wanted), largest))
    return state._replace(
        pace=pace,
        average=torch.where(growing, 0.0, average),
        weight=torch.where(growing, 0.0, total),
        largest=largest,
        growing=growing,
        tries=state.tries + 1,
    )


def _start(kernel: Kernel, particle: Particle, aims: Aims) -> Pacing:
    zeros = torch.zeros_like(particle.log_prior)
    none = torch.zeros((), dtype=torch.int64, device=zeros.device)
    infinite = torch.full_like(zeros, math.inf)
    pace, growing = pace_of(kernel, particle, aims), torch.ones_like(zeros, dtype=torch.bool)
    spread = no_spread(particle.theta)
    return Pacing(particle, pace, zeros, zeros.clone(), infinite, growing, spread, none, none.clone())


def no_spread(theta: Tensor) -> Spread:
    """Before anything was seen of chains at theta (K, P)."""
    none = torch.zeros((), dtype=torch.int64, device=theta.device)
    weight = torch.zeros(len(theta), dtype=torch.float64, device=theta.device)
    return Spread(weight, none, torch.zeros_like(theta), torch.zeros_like(theta))


def add(spread: Spread, theta: Tensor, weight: Tensor) -> Spread:
    """The spread with chains at theta (K, P) counted with weights (K,)."""
    total = spread.weight + weight
    share = torch.where(total > 0, weight / total, 0.0).to(theta)[:, None]
    before = theta - spread.mean
    mean = spread.mean + share * before
    squares = spread.squares + weight.to(theta)[:, None] * before * (theta - mean)
    return Spread(total, spread.steps + 1, mean, squares)


def _variance(spread: Spread) -> Tensor:
    return spread.squares / spread.weight.to(spread.squares)[:, None]


def radius(spread: Spread, scale: Tensor, otherwise: Tensor) -> Tensor:
    """√Σ var in units of scale (K, P), of each chain; `otherwise` (K,) after few steps."""
    if int(spread.steps) < MINIMUM_STEPS:
        return otherwise
    found = (_variance(spread) / scale.square()).double().sum(-1).sqrt()
    return torch.where(torch.isfinite(found) & (found > 0), found, otherwise)


def _learn_masses(kernel: Kernel, state: Pacing, aims: Aims) -> Pacing:
    learned = state.masses_learned + 1
    count = float(state.spread.steps)
    if count < MINIMUM_STEPS:
        return state._replace(masses_learned=learned)
    share = count / (count + SHRINKAGE_DRAWS)
    variance = share * _variance(state.spread) + (1 - share) * SHRINKAGE * kernel.scale.square()
    scale = torch.where(torch.isfinite(variance), variance.sqrt(), state.pace.scale)
    # A step is ε s: with s given anew, ε starts from where the step would be as long as before.
    longer = (state.pace.scale / scale).double().log().mean(-1).exp()
    step = state.pace.step * longer if aims.step is None else state.pace.step
    length = state.pace.length if aims.length else torch.full_like(step, math.sqrt(scale.shape[1]))
    forgotten = torch.zeros_like(state.average)
    return state._replace(
        pace=Pace(step, length, scale),
        average=forgotten,
        weight=forgotten.clone(),
        largest=torch.full_like(step, math.inf),
        masses_learned=learned,
    )
