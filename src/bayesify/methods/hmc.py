"""Hamiltonian Monte Carlo with all the data in every gradient (Neal 2011).

A chain at θ draws a velocity v ~ N(0, I), follows Hamilton's equations for L leapfrog steps of size ε,

    v ← v + ½ ε s ∇ log p,    θ ← θ + ε s v,    v ← v + ½ ε s ∇ log p,      p = p(θ | D)^(1/T)                   (1)

and accepts the end with probability min(1, exp(−ΔH)), H = −log p(θ) + ½ |v|². (1) keeps volume and can be run
backwards, so the chain's law is exactly p whatever ε is; the draws are correlated, and few of them are few.

s is the prior's scale of each parameter, a diagonal mass matrix 1/s². In units of s the prior is N(0, I): layers whose
weights differ in scale by construction (fan-in) move alike, and the data can only narrow directions. The widest one
oscillates with period 2π√T, a quarter of which, π√T/2, is the trajectory (Izmailov et al. 2021); longer returns.

Each chain starts from a network of its own, trained on a part of the budget; ε is then tuned per chain by dual
averaging (Hoffman & Gelman 2014) towards a given acceptance; both are burn-in. Trajectories are cut short where the
budget could not pay for `MINIMUM_TRAJECTORIES` of them.

Cost: L gradients of all the data per chain and trajectory. Not here: minibatches, U-turn criteria, tuned masses.
"""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from bayesify.engine.budget import FORWARD_COST
from bayesify.engine.convergence import MINIMUM_DRAWS, convergence
from bayesify.engine.hamiltonian import Kernel, Point, evaluate, kernel_of, mode_of, transition
from bayesify.engine.optimise import Schedule, optimise
from bayesify.engine.run import Run
from bayesify.errors import BudgetError
from bayesify.methods.base import Exactness, Method, MethodInfo, Range, require, require_positive
from bayesify.model.problem import Problem
from bayesify.posterior.base import Particles, Posterior
from bayesify.posterior.draws import Draws

MINIMUM_TRAJECTORIES = 25
"""Per phase and chain: fewer could neither tune a step size nor tell anything about mixing."""
WARM_SHARE, ADAPTATION_SHARE = 0.4, 0.25
"""Of the budget to start from a trained network, at most; then of the rest to tune the step size."""
MINIMUM_GRADIENTS = 3
"""Per chain after the warm start: the start, one step, and what is lost to rounding."""
STATISTICS_SHARE = 0.1
"""At most this share of the budget goes to statistics of draws, where the network normalises by batch."""
TESTED_ROWS = 8
"""Convergence is measured on the function's values at this many training inputs: weights can be permuted."""
TEST_SHARE = 0.03
"""At most this share of the budget, in forward passes, goes to that."""
UNMIXED = 1.1
"""R-hat from which one warns: 1.01 for parameters one wants to report, but functions of networks rarely reach it."""

LOW_ACCEPTANCE = 0.4
"""Below this a chain mostly repeats itself; 0.6 to 0.9 is efficient."""
FIRST_STEP = 0.005
"""In units of the prior's scale: where the search for a step size starts. Networks on tables end at 0.001 to 0.02."""
SEARCH_SHARE = 0.2
"""Of the tuning, at most, goes to that search."""
MAXIMUM_DOUBLINGS = 20
GAMMA, T0, KAPPA = 0.05, 10.0, 0.75  # Hoffman & Gelman's
_AFTER_TUNING = 1 / ADAPTATION_SHARE - 1
"""Gradients for sampling per gradient of tuning, where the budget is time."""
TIMED_TRAJECTORY = 16
"""Steps per tuning trajectory where the budget is time and a gradient's cost is not yet known."""


class Plan(NamedTuple):
    """What is kept, and what that will cost."""

    num_draws: int  # S, per chain
    num_rows: int  # inputs at which convergence is measured
    reserve: float  # gradient evaluations for statistics of draws and for that measurement


class Tuning(NamedTuple):
    """State of the adaptation: the chains' and dual averaging's, which has one step size per chain."""

    theta: Tensor
    gradient: Tensor
    log_likelihood: Tensor
    log_prior: Tensor
    log_step: Tensor  # (K,) log ε being tried
    log_mean: Tensor  # (K,) log ε averaged, used afterwards
    error: Tensor  # (K,) running mean of target − acceptance
    anchor: Tensor  # (K,) where log ε is drawn to, μ
    updates: Tensor  # ()


class Sampling(NamedTuple):
    """State of the sampling: the chains' and a buffer of kept draws, as large however long it runs."""

    theta: Tensor
    gradient: Tensor
    log_likelihood: Tensor
    log_prior: Tensor
    draws: Tensor  # (K, S, P)
    kept: Tensor  # () how many of S are filled
    trajectories: Tensor  # ()
    acceptance: Tensor  # (K,) sum over trajectories
    divergences: Tensor  # (K,)


@dataclass(frozen=True)
class HMC(Method):
    """Hamiltonian Monte Carlo: several chains, all data, Metropolis-corrected.

    Attributes:
        num_chains: chains run as one; they start independently.
        num_draws: kept per chain, spread evenly over the sampling.
        trajectory_length: ε L in units of the prior's scale; None is π√T/2, cut where the budget is short.
        step_size: ε; None tunes it per chain.
        target_acceptance: what tuning aims at.
        warm_start_epochs: training of each chain's start, at most and never more than 0.4 of the budget.
        learning_rate: Adam's in that training.
        batch_size: its batches.
    """

    num_chains: int = 4
    num_draws: int = 100
    trajectory_length: float | None = None
    step_size: float | None = None
    target_acceptance: float = 0.8
    warm_start_epochs: float = 100.0
    learning_rate: float = 1e-2
    batch_size: int = 64

    info = MethodInfo(
        name="hmc",
        family="mcmc",
        exactness=Exactness.ASYMPTOTIC,
        reference="Neal 2011; Izmailov et al., ICML 2021",
        summary="Metropolis-corrected sampling of the posterior with all data",
        bias="none in the long run; chains that have not mixed describe the surroundings of their starts",
        search_space={"target_acceptance": Range(0.6, 0.9)},
    )

    def __post_init__(self) -> None:
        require_positive(self, "num_chains", "num_draws", "learning_rate", "batch_size")
        require(0 < self.target_acceptance < 1, self, "target_acceptance", "between 0 and 1")
        require(self.warm_start_epochs >= 0, self, "warm_start_epochs", "0 or more")
        for field in ("trajectory_length", "step_size"):
            if getattr(self, field) is not None:
                require_positive(self, field)

    @property
    def num_particles(self) -> int:
        """The chains."""
        return self.num_chains

    @property
    def num_predictions(self) -> int:
        """The kept draws."""
        return self.num_chains * self.num_draws

    def memory(self, problem: Problem) -> float:
        """The kept draws and about eight vectors per chain."""
        vectors = self.num_chains * (self.num_draws + 8)
        return float(vectors * problem.num_parameters * problem.network.initial.element_size())

    def fit(self, problem: Problem, run: Run) -> Posterior:
        """Warm start, tuning, sampling, diagnostics."""
        _check_budget(problem, run, self.num_chains)
        sweep = float(problem.num_examples * self.num_chains)  # gradient evaluations of one step of all chains
        start = self._warm_start(problem, run, sweep)
        if math.isfinite(run.limit):
            problem.expect((1 - WARM_SHARE) * run.limit / sweep, mode_of(problem))
        kernel = kernel_of(problem)
        point = evaluate(kernel, start)
        plan = self._plan(problem, run)
        tuning_run = run.phase("adaptation", ADAPTATION_SHARE, reserve=plan.reserve)
        tuning = self._tune(kernel, tuning_run, point, sweep)
        sampling_run = run.phase("sampling", reserve=plan.reserve)
        gradients = sampling_run.limit if math.isfinite(sampling_run.limit) else _AFTER_TUNING * tuning_run.spent
        mean_steps = self._mean_steps(kernel, tuning.log_mean, _longest(gradients / sweep))
        state = self._sample(kernel, sampling_run, tuning, mean_steps, plan.num_draws, sweep)
        theta = state.draws[:, : int(state.kept)].flatten(0, 1)
        particles = Particles(theta, problem.buffers(theta))
        found = _report(problem, particles, state, tuning, plan.num_rows) | {"leapfrog_steps": mean_steps}
        run.notes.update(found, warnings=[*run.notes.get("warnings", []), *_warnings(found)])
        return Draws(problem.model, particles)

    def _warm_start(self, problem: Problem, run: Run, sweep: float) -> Tensor:
        phase = run.phase("warm-start", WARM_SHARE)
        phase.limit = min(phase.limit, self.warm_start_epochs * sweep)
        theta = problem.start(self.num_chains, phase.rng)
        if problem.pretrained or phase.limit == 0:
            return theta
        return optimise(problem, phase, theta, Schedule(self.learning_rate, self.batch_size))

    def _plan(self, problem: Problem, run: Run) -> Plan:
        num_draws, num_rows = self.num_draws, min(TESTED_ROWS, problem.num_examples)
        statistics = problem.statistics_cost(self.num_chains)
        if math.isfinite(run.remaining):
            num_draws = min(num_draws, int(run.remaining / (problem.num_examples * self.num_chains)))
            if statistics > 0:
                num_draws = min(num_draws, int(STATISTICS_SHARE * run.remaining / statistics))
            num_rows = min(num_rows, int(TEST_SHARE * run.remaining / (max(1, num_draws) * self.num_chains)))
        num_draws, num_rows = max(1, num_draws), max(1, num_rows)
        return Plan(num_draws, num_rows, num_draws * (FORWARD_COST * self.num_chains * num_rows + statistics))

    def _tune(self, kernel: Kernel, run: Run, point: Point, sweep: float) -> Tuning:
        state = run.restore(start_tuning(point, self.step_size or FIRST_STEP * math.sqrt(kernel.problem.temperature)))
        if run.finished:
            return state
        longest = _longest(run.limit / sweep) if math.isfinite(run.limit) else TIMED_TRAJECTORY
        if int(state.updates) == 0 and self.step_size is None:
            state = _search(kernel, state, run, sweep)
        while run.affords(sweep):
            mean_steps = self._mean_steps(kernel, state.log_step, longest)
            steps = _jittered(mean_steps, run, sweep)
            moved, info = transition(kernel, Point(*state[:4]), state.log_step.exp(), steps, run.rng)
            state = state._replace(**moved._asdict())
            if self.step_size is None:
                state = adapt(state, info.acceptance, self.target_acceptance)
            run.save(state)
            run.show_progress()
        run.finish(state)
        return state

    def _sample(
        self, kernel: Kernel, run: Run, tuning: Tuning, mean_steps: int, num_draws: int, sweep: float
    ) -> Sampling:
        state = run.restore(start_sampling(Point(*tuning[:4]), num_draws))
        if run.finished:
            return state
        step_size = tuning.log_mean.exp()
        while run.affords(sweep):
            steps = _jittered(mean_steps, run, sweep)
            moved, info = transition(kernel, Point(*state[:4]), step_size, steps, run.rng)
            state = state._replace(
                **moved._asdict(),
                trajectories=state.trajectories + 1,
                acceptance=state.acceptance + info.acceptance,
                divergences=state.divergences + info.divergent,
            )
            # By the share of the budget, not by count: how long a trajectory takes is not known beforehand.
            if run.fraction * num_draws >= int(state.kept) + 0.5:
                state = _keep(state)
            run.save(state)
            run.show_progress()
        state = state if int(state.kept) else _keep(state)
        run.finish(state)
        return state

    def _mean_steps(self, kernel: Kernel, log_step: Tensor, longest: int) -> int:
        length = self.trajectory_length or 0.5 * math.pi * math.sqrt(kernel.problem.temperature)
        return max(1, min(longest, round(length / math.exp(float(log_step.mean())))))


# ---- the step size ---------------------------------------------------------------------------------------------------


def start_tuning(point: Point, step_size: float) -> Tuning:
    """Dual averaging that begins at, and is drawn to, one step size."""
    log_step = torch.full_like(point.log_prior, math.log(step_size))
    zero = torch.zeros_like(log_step)
    updates = torch.zeros((), dtype=torch.int64, device=log_step.device)
    return Tuning(*point, log_step, log_step.clone(), zero, log_step.clone(), updates)


def adapt(state: Tuning, acceptance: Tensor, target: float) -> Tuning:
    """One step of dual averaging (Hoffman & Gelman 2014, algorithm 5) per chain."""
    updates = state.updates + 1
    m = float(updates)
    error = state.error + (target - acceptance - state.error) / (m + T0)
    log_step = state.anchor - math.sqrt(m) / GAMMA * error
    log_mean = torch.lerp(state.log_mean, log_step, m**-KAPPA)
    return state._replace(log_step=log_step, log_mean=log_mean, error=error, updates=updates)


def _search(kernel: Kernel, state: Tuning, run: Run, sweep: float) -> Tuning:
    """Doubles or halves ε until one step's acceptance crosses ½ (Hoffman & Gelman 2014, algorithm 4)."""
    tries = int(SEARCH_SHARE * run.limit / sweep) if math.isfinite(run.limit) else MAXIMUM_DOUBLINGS
    log_step = state.log_step
    rising, settled = None, torch.zeros_like(log_step, dtype=torch.bool)
    for _ in range(min(tries, MAXIMUM_DOUBLINGS)):
        _, info = transition(kernel, Point(*state[:4]), log_step.exp(), 1, run.rng)
        good = info.acceptance > 0.5
        rising = good if rising is None else rising
        settled = settled | (good != rising)
        if bool(settled.all()):
            break
        moved = log_step + math.log(2.0) * torch.where(rising, 1.0, -1.0)
        log_step = torch.where(settled, log_step, moved)
    return state._replace(log_step=log_step, log_mean=log_step.clone(), anchor=log_step.clone())


# ---- helpers ---------------------------------------------------------------------------------------------------------


def start_sampling(point: Point, num_draws: int) -> Sampling:
    """An empty buffer."""
    chains, size = point.theta.shape
    draws = torch.zeros(chains, num_draws, size, dtype=point.theta.dtype, device=point.theta.device)
    none = torch.zeros((), dtype=torch.int64, device=point.theta.device)
    zeros = torch.zeros_like(point.log_prior)
    return Sampling(*point, draws, none, none.clone(), zeros, zeros.clone())


def _keep(state: Sampling) -> Sampling:
    state.draws[:, int(state.kept)] = state.theta  # in place: a copy of the buffer per draw would be quadratic
    return state._replace(kept=state.kept + 1)


def _longest(gradients: float) -> int:
    return max(1, int(gradients) // MINIMUM_TRAJECTORIES)


def _jittered(mean_steps: int, run: Run, sweep: float) -> int:
    """Uniform between half and one and a half of the mean, so that no orbit closes; within what is left."""
    low, high = -(-mean_steps // 2), mean_steps + mean_steps // 2
    steps = int(torch.randint(low, high + 1, (), generator=run.rng, device=run.rng.device))
    return steps if run.affords(steps * sweep) else max(1, int(run.remaining * (1 + 1e-6) / sweep))


def _check_budget(problem: Problem, run: Run, num_chains: int) -> None:
    needed = MINIMUM_GRADIENTS / (1 - WARM_SHARE) * problem.num_examples * num_chains
    if not run.affords(needed):
        raise BudgetError(
            f"hmc with {num_chains} chains on {problem.num_examples} examples needs at least {math.ceil(needed)} "
            f"gradient evaluations to move at all, but {run.remaining:.0f} are left: raise the budget (thousands "
            "of epochs are usual) or lower num_chains."
        )


def _report(problem: Problem, particles: Particles, state: Sampling, tuning: Tuning, num_rows: int) -> dict[str, Any]:
    chains, kept, trajectories = len(state.theta), int(state.kept), int(state.trajectories)
    found: dict[str, Any] = {
        "acceptance": float(state.acceptance.sum() / max(1, chains * trajectories)),
        "divergences": int(state.divergences.sum()),
        "step_size": tuning.log_mean.exp().tolist(),
        "trajectories_per_chain": trajectories,
        "draws_per_chain": kept,
    }
    if kept >= MINIMUM_DRAWS:
        found |= _mixing(problem, particles, chains, num_rows)
    return found


def _mixing(problem: Problem, particles: Particles, chains: int, num_rows: int) -> dict[str, float]:
    """The worst R-hat and effective sample size among values of the function and the likelihood's parameters."""
    rows = torch.linspace(0, problem.num_examples - 1, num_rows, device=particles.theta.device).long()
    outputs = problem.outputs(particles.theta, problem.data.select(rows).inputs, particles.buffers)
    own = problem.model.split(particles.theta)[1]
    values = torch.cat([outputs.flatten(1), own], dim=1)
    result = convergence(values.reshape(chains, -1, values.shape[1]).double().cpu().numpy())
    r_hat, ess = result.r_hat[~np.isnan(result.r_hat)], result.ess[~np.isnan(result.ess)]
    return {"r_hat": float(r_hat.max(initial=1.0)), "ess": float(ess.min(initial=float(len(values))))}


def _warnings(found: dict[str, Any]) -> list[str]:
    result = []
    if "r_hat" not in found:
        result.append(
            f"{found['draws_per_chain']} draws per chain are too few to tell whether the chains mixed: they describe "
            "the region around each start; raise the budget."
        )
    elif found["r_hat"] > UNMIXED:
        result.append(
            f"R-hat {found['r_hat']:.2g}: chains have not mixed; the draws describe the region around each start. "
            "Raise the budget, or read them as an ensemble."
        )
    if found["divergences"]:
        result.append(
            f"{found['divergences']} trajectories diverged: parts of the posterior are narrower than the step size can "
            "follow and may be missing; raise target_acceptance or lower step_size."
        )
    if found["acceptance"] < LOW_ACCEPTANCE:
        result.append(
            f"only {found['acceptance']:.0%} of the trajectories were accepted: the step size is too large; raise the "
            "budget so that it can be tuned, or lower step_size."
        )
    return result
