"""Metropolis-adjusted microcanonical dynamics (Robnik, Cohn-Gordon & Seljak 2025).

A chain draws a direction uniformly, follows the microcanonical dynamics (`engine.microcanonical`) for N steps of size ε
and accepts the end with probability min(1, exp(−ΔE)), where ΔE adds up what kicks do to volume on the sphere and what
is lost in log density. The steps can be run backwards, so the chain's law is exactly p whatever ε is.

ε is tuned per chain by dual averaging towards a given acceptance; the length N ε is a quarter period of the posterior
found on the way, π/2 √Σ var in units of the prior's scales, jittered so that no orbit closes.

Cost: two gradients of all the data per chain and step. Not here: noise along the trajectory.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from bayesify.engine import chains
from bayesify.engine.chains import Info
from bayesify.engine.hamiltonian import announce
from bayesify.engine.microcanonical import Kernel, Pace, Particle, adjusted, kernel_of, start
from bayesify.engine.pacing import STEP_COST, Spread, add, no_spread, radius
from bayesify.engine.run import Run
from bayesify.engine.step_size import Averaging, adapt, start_averaging
from bayesify.engine.trajectories import ADAPTATION_SHARE, jittered, sampling_bound, tuning_bound
from bayesify.errors import MethodError
from bayesify.methods.base import Exactness, MethodInfo, Range, describe, require, require_positive
from bayesify.methods.sampler import Sampled, Sampler
from bayesify.model.problem import Problem
from bayesify.posterior.mixing import Plan

FIRST_STEP = 0.01
"""In units of the prior's scale and per √P, where the search for a step size starts."""
GROWTH, MAXIMUM_GROWTHS, GROWN = 1.5, 20, 0.8
"""Single steps grow by this factor, at most so often, while their acceptance is above this bound."""
SEARCH_SHARE = 0.2
"""Of the tuning, at most, goes to that."""
WATCHED = (0.3, 0.6)
"""Shares of the tuning between which variances are collected."""
TIMED_STEPS = 8
"""Steps per tuning trajectory where the budget is time and a gradient's cost is not yet known."""
QUARTER = 0.5 * math.pi


class Tuned(NamedTuple):
    """Where the chains are and what was learned."""

    particle: Particle
    averaging: Averaging
    length: Tensor  # (K,)
    spread: Spread
    searched: Tensor  # () whether the search is over
    measured: Tensor  # () whether `length` comes from the spread


@dataclass(frozen=True)
class AdjustedMCLMC(Sampler):
    """Microcanonical trajectories: several chains, all data, Metropolis-corrected.

    Attributes:
        num_chains: chains run as one; they start independently.
        num_draws: kept per chain, spread evenly over the sampling.
        warm_start_epochs: training of each chain's start, at most and never more than 0.4 of the budget.
        learning_rate: Adam's in that training.
        batch_size: its batches.
        step_size: ε in units of the prior's scales; None tunes it per chain.
        length: N ε, in the same units; None finds it.
        target_acceptance: what tuning aims at.
    """

    step_size: float | None = None
    length: float | None = None
    target_acceptance: float = 0.9

    info = MethodInfo(
        name="adjusted_mclmc",
        family="mcmc",
        exactness=Exactness.ASYMPTOTIC,
        reference="Robnik, Cohn-Gordon & Seljak 2025",
        summary="Metropolis-corrected constant-speed trajectories with all data",
        bias="none in the long run; chains that have not mixed describe the surroundings of their starts",
        search_space={"target_acceptance": Range(0.7, 0.95)},
    )

    def check(self) -> None:  # noqa: D102
        require(0 < self.target_acceptance < 1, self, "target_acceptance", "between 0 and 1")
        require_positive(self, optional=("step_size", "length"))

    def sample(self, problem: Problem, run: Run, theta: Tensor, plan: Plan) -> Sampled:
        """Tunes steps and lengths, then samples."""
        if problem.num_parameters < 2:
            raise MethodError(f"{describe(self)} turns directions, and one parameter has none: use hmc.")
        sweep = float(STEP_COST * problem.num_examples * self.num_chains)  # gradient evaluations of a step
        announce(problem, run, sweep / STEP_COST)
        kernel = kernel_of(problem)
        phase = run.phase("adaptation", ADAPTATION_SHARE, reserve=plan.reserve)
        tuned = self._tune(kernel, phase, start(kernel, theta, phase.rng), sweep)
        pace = _pace(kernel, tuned, tuned.averaging.log_mean)
        mean_steps = _mean_steps(pace, sampling_bound(phase, sweep))

        def step(particle: Particle, run: Run) -> tuple[Particle, Info]:
            return adjusted(kernel, particle, pace, jittered(mean_steps, run, sweep), run.rng)

        trace = chains.sample(step, run.phase("sampling", reserve=plan.reserve), tuned.particle, plan.num_draws, sweep)
        notes = {"step_size": pace.step.tolist(), "length": pace.length.tolist(), "steps_per_trajectory": mean_steps}
        return Sampled(trace, notes)

    def _tune(self, kernel: Kernel, run: Run, particle: Particle, sweep: float) -> Tuned:
        longest = tuning_bound(run, sweep, TIMED_STEPS)
        radius = math.sqrt(kernel.problem.num_parameters * kernel.problem.temperature)
        like = particle.log_prior
        averaging = start_averaging(torch.full_like(like, math.log(self.step_size or FIRST_STEP * radius)))
        length = torch.full_like(like, self.length or QUARTER * radius)
        spread = no_spread(particle.theta)
        state = run.restore(Tuned(particle, averaging, length, spread, spread.steps, spread.steps.clone()))
        if self.step_size is None and not run.finished and not bool(state.searched):
            state = _searched(kernel, run, state, sweep)
        while not run.finished and run.affords(sweep):
            pace = _pace(kernel, state, state.averaging.log_step)
            steps = jittered(_mean_steps(pace, longest), run, sweep)
            particle, info = adjusted(kernel, state.particle, pace, steps, run.rng)
            state = state._replace(particle=particle)
            if self.step_size is None:
                state = state._replace(averaging=adapt(state.averaging, info.acceptance, self.target_acceptance))
            state = self._measure(state, pace, run.fraction)
            run.save(state)
            run.show_progress()
        if not run.finished:
            run.finish(state)
        return state

    def _measure(self, state: Tuned, pace: Pace, fraction: float) -> Tuned:
        if self.length is not None or bool(state.measured) or fraction < WATCHED[0]:
            return state
        if fraction < WATCHED[1]:
            return state._replace(spread=add(state.spread, state.particle.theta, torch.ones_like(pace.step)))
        length = QUARTER * radius(state.spread, pace.scale, state.length / QUARTER)
        return state._replace(length=length, measured=state.measured + 1)


def _searched(kernel: Kernel, run: Run, state: Tuned, sweep: float) -> Tuned:
    """With the averages beginning where single steps begin to be refused."""
    tries = int(SEARCH_SHARE * run.limit / sweep) if math.isfinite(run.limit) else MAXIMUM_GROWTHS
    log_step, growing = state.averaging.log_step, torch.ones_like(state.length, dtype=torch.bool)
    for _ in range(min(tries, MAXIMUM_GROWTHS)):
        particle, info = adjusted(kernel, state.particle, _pace(kernel, state, log_step), 1, run.rng)
        growing = growing & (info.acceptance > GROWN)
        log_step = torch.where(growing, log_step + math.log(GROWTH), log_step)
        state = state._replace(particle=particle)
        if not bool(growing.any()):
            break
    return state._replace(averaging=start_averaging(log_step), searched=state.searched + 1)


def _pace(kernel: Kernel, state: Tuned, log_step: Tensor) -> Pace:
    return Pace(log_step.exp(), state.length, kernel.scale.expand_as(state.particle.theta))


def _mean_steps(pace: Pace, longest: int) -> int:
    return max(1, min(longest, round(float(pace.length.mean() / pace.step.log().mean().exp()))))
