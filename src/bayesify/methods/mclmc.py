"""Microcanonical Langevin Monte Carlo (Robnik, De Luca, Silverstein & Seljak, JMLR 2023; Robnik & Seljak 2024).

A particle moves with constant speed, and the gradient of the log density only turns its direction; a little noise in
the direction makes it forget where it came from over a length L. Its time spent anywhere is proportional to the
posterior, as far as steps of size ε follow the dynamics: `engine.microcanonical` has the equations. Steps are not
tested, which makes each of them count, and leaves a bias that ε controls: ε is tuned so that energy changes have the
given mean square per dimension (`engine.pacing`).

Parameters move in units of the prior's scales, or with `mass="diagonal"` of standard deviations learned per chain.

Each chain starts from a network of its own, trained on a part of the budget. Cost: two gradients of all the data per
step. Not here: the Metropolis test (adjusted_mclmc), minibatches.
"""

import math
from dataclasses import dataclass

from torch import Tensor

from bayesify.engine import chains
from bayesify.engine.hamiltonian import announce
from bayesify.engine.microcanonical import Kernel, Pace, Particle, kernel_of, langevin, start
from bayesify.engine.pacing import STEP_COST, Aims, pace_of, tune_length, tune_step
from bayesify.engine.run import Run
from bayesify.errors import MethodError
from bayesify.methods.base import Exactness, MethodInfo, Range, describe, require, require_positive
from bayesify.methods.sampler import Sampled, Sampler
from bayesify.model.problem import Problem
from bayesify.posterior.mixing import Plan

TUNING_SHARE = 0.3
"""Of the budget after the warm start, in three equal phases (blackjax)."""
FIRST_STEP = 1e-3
"""In units of the scales: from so short a step the first energy changes tell how long it may be."""


@dataclass(frozen=True)
class MCLMC(Sampler):
    """Microcanonical Langevin Monte Carlo: several chains, all data, no Metropolis test.

    Attributes:
        num_chains: chains run as one; they start independently.
        num_draws: kept per chain, spread evenly over the sampling.
        warm_start_epochs: training of each chain's start, at most and never more than 0.4 of the budget.
        learning_rate: Adam's in that training.
        batch_size: its batches.
        energy_variance: mean square of a step's energy change per dimension; smaller is less biased, and slower.
        step_size: ε in units of the scales; None tunes it per chain.
        length: L over which directions are forgotten, in the same units; None tunes it per chain.
        mass: 'prior' for scales from the prior, 'diagonal' to learn them.
    """

    energy_variance: float = 5e-4
    step_size: float | None = None
    length: float | None = None
    mass: str = "prior"

    info = MethodInfo(
        name="mclmc",
        family="mcmc",
        exactness=Exactness.APPROXIMATE,
        reference="Robnik et al., JMLR 2023",
        summary="constant-speed Langevin sampling with all data, no rejections",
        bias="of the step size, set by energy_variance; chains that have not mixed describe the surroundings of their "
        "starts",
        search_space={"energy_variance": Range(1e-4, 1e-1, log=True)},
    )

    def check(self) -> None:  # noqa: D102
        require_positive(self, "energy_variance", optional=("step_size", "length"))
        require(self.mass in ("prior", "diagonal"), self, "mass", "'prior' or 'diagonal'")

    def sample(self, problem: Problem, run: Run, theta: Tensor, plan: Plan) -> Sampled:
        """Tunes steps and lengths, then samples."""
        aims = Aims(
            FIRST_STEP * math.sqrt(problem.temperature),
            self.step_size,
            self.length,
            (self.energy_variance, self.energy_variance),
            (1 / 3, 1 / 3, 1 / 3),
            masses=self.mass == "diagonal",
        )
        return sample_microcanonically(self, problem, run, theta, plan, aims, TUNING_SHARE)


def sample_microcanonically(
    method: Sampler,
    problem: Problem,
    run: Run,
    theta: Tensor,
    plan: Plan,
    aims: Aims,
    tuning_share: float,
    longest_tuning: float = math.inf,
    longest_sampling: float = math.inf,
) -> Sampled:
    """Tuning and sampling without Metropolis tests.

    Args:
        method: whose name errors carry.
        problem: the density.
        run: what may be spent.
        theta: where the chains start, (K, P).
        plan: what is kept, and left unspent.
        aims: what to tune.
        tuning_share: of the run.
        longest_tuning: steps, at most.
        longest_sampling: steps, at most.

    Raises:
        MethodError: there is only one parameter, which has no direction to turn.
    """
    if problem.num_parameters < 2:
        raise MethodError(f"{describe(method)} turns directions, and one parameter has none: use hmc.")
    sweep = float(problem.num_examples * len(theta))  # gradient evaluations of one gradient of all chains
    announce(problem, run, sweep)
    kernel = kernel_of(problem)
    begin = _phase(run, "step-size", plan, tuning_share * (aims.shares[0] + aims.shares[1]))
    # The steps are a share of the run, or so many; either way phases begin where they would.
    begin.limit = min(begin.limit, longest_tuning * (aims.shares[0] + aims.shares[1]) * STEP_COST * sweep)
    particle = start(kernel, theta, begin.rng)
    pace = pace_of(kernel, particle, aims)
    if aims.step is None or aims.length is None or aims.masses:
        tuned = tune_step(kernel, begin, particle, aims, sweep)
        particle, pace = tuned.particle, tuned.pace
    if aims.length is None:
        left = tuning_share * aims.shares[2] / (1 - tuning_share * (aims.shares[0] + aims.shares[1]))
        phase = _phase(run, "length", plan, left)
        phase.limit = min(phase.limit, longest_tuning * aims.shares[2] * STEP_COST * sweep)
        particle, pace = tune_length(kernel, phase, particle, pace, sweep)
    phase = _phase(run, "sampling", plan, 1.0)
    phase.limit = min(phase.limit, longest_sampling * STEP_COST * sweep)
    return _sample(kernel, phase, particle, pace, plan.num_draws, sweep)


def _phase(run: Run, name: str, plan: Plan, share: float) -> Run:
    return run.phase(name, share, reserve=plan.reserve)


def _sample(kernel: Kernel, run: Run, particle: Particle, pace: Pace, num_draws: int, sweep: float) -> Sampled:
    trace = chains.sample(
        lambda state, run: langevin(kernel, state, pace, run.rng), run, particle, num_draws, STEP_COST * sweep
    )
    steps = max(1, int(trace.steps)) * kernel.problem.num_parameters
    notes = {
        "step_size": pace.step.tolist(),
        "length": pace.length.tolist(),
        "energy_variance": (trace.squared_error / steps).tolist(),
    }
    return Sampled(trace, notes)
