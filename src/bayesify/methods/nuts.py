"""The no-U-turn sampler: Hamiltonian Monte Carlo that finds out for itself how far to go (Hoffman & Gelman, JMLR 2014).

A chain at θ draws a velocity v ~ N(0, I) and follows Hamilton's equations as `hmc` does, in units of a scale s of each
parameter, forwards and backwards in time at random, doubling its trajectory until that turns back on itself. The next
state is one of the trajectory's points z, drawn with probability

    p(z) ∝ exp(−H(z)),    H = −log p(θ) + ½ |v|²,    p = p(θ | D)^(1/T),                                     (1)

with a preference for the points farthest from the start (Betancourt 2017). This leaves p unchanged whatever the step
size ε is; `engine.nuts` has the algorithm.

Each chain starts from a network of its own, trained on a part of the budget. ε is then tuned per chain by dual
averaging towards a mean acceptance over the trajectory, and s by the variances seen (`engine.warm_up`); both are
burn-in. Trees are kept so small that the budget pays for `MINIMUM_TRAJECTORIES` of them.

Cost: one gradient of all the data per chain and point; no chain waits for another. A trajectory ends where it began to
turn, but one of its points is drawn: per gradient `hmc` with a good length is ahead. Not here: minibatches.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from bayesify.engine import chains
from bayesify.engine.chains import Info
from bayesify.engine.hamiltonian import Kernel, evaluate, kernel_of, mode_of
from bayesify.engine.nuts import Walk, advance, leaf_of, start_walk
from bayesify.engine.run import Run
from bayesify.engine.trajectories import ADAPTATION_SHARE, FIRST_STEP, MINIMUM_TRAJECTORIES
from bayesify.engine.warm_up import Aims, warm_up
from bayesify.methods.base import Exactness, MethodInfo, Range, require, require_positive
from bayesify.methods.sampler import Sampled, Sampler
from bayesify.model.problem import Problem
from bayesify.posterior.mixing import Plan


@dataclass(frozen=True)
class NUTS(Sampler):
    """No-U-turn sampler: several chains, all data, trajectories as long as they lead somewhere.

    Attributes:
        num_chains: chains run as one; they start independently.
        num_draws: kept per chain, spread evenly over its transitions.
        warm_start_epochs: training of each chain's start, at most and never more than 0.4 of the budget.
        learning_rate: Adam's in that training.
        batch_size: its batches.
        max_depth: a trajectory has at most 2^max_depth points, fewer where the budget is short.
        step_size: ε; None tunes it per chain.
        target_acceptance: what tuning aims at.
        mass: 'diagonal' to learn s, 'prior' for s from the prior.
    """

    max_depth: int = 10
    step_size: float | None = None
    target_acceptance: float = 0.8
    mass: str = "diagonal"

    info = MethodInfo(
        name="nuts",
        family="mcmc",
        exactness=Exactness.ASYMPTOTIC,
        reference="Hoffman & Gelman, JMLR 2014; Betancourt 2017",
        summary="Hamiltonian Monte Carlo with all data that chooses its own trajectory lengths",
        bias="none in the long run; chains that have not mixed describe the surroundings of their starts",
        search_space={"target_acceptance": Range(0.6, 0.95)},
    )

    def check(self) -> None:  # noqa: D102
        require(0 < self.target_acceptance < 1, self, "target_acceptance", "between 0 and 1")
        require(self.mass in ("prior", "diagonal"), self, "mass", "'prior' or 'diagonal'")
        require(isinstance(self.max_depth, int) and 1 <= self.max_depth <= 20, self, "max_depth", "from 1 to 20")
        if self.step_size is not None:
            require_positive(self, "step_size")

    def memory(self, problem: Problem) -> float:
        """Room for twice the draws, the trees, and about eight vectors per chain."""
        vectors = self.num_chains * (2 * self.num_draws + 3 * self.max_depth + 24)
        return float(vectors * problem.num_parameters * problem.network.initial.element_size())

    def sample(self, problem: Problem, run: Run, theta: Tensor, plan: Plan) -> Sampled:
        """Tunes step sizes and masses, then samples."""
        sweep = float(problem.num_examples * self.num_chains)  # gradient evaluations of one step of all chains
        if math.isfinite(run.limit):
            problem.expect(run.remaining / sweep, mode_of(problem))
        kernel = kernel_of(problem)
        leaf = leaf_of(kernel)

        def move(kernel: Kernel, walk: Walk, log_step: Tensor, run: Run) -> tuple[Walk, Info]:
            return advance(kernel, leaf, walk, log_step, run.rng)

        first = self.step_size or FIRST_STEP * math.sqrt(problem.temperature)
        aims = Aims(first, self.target_acceptance, step=self.step_size is None, masses=self.mass == "diagonal")
        phase = run.phase("adaptation", ADAPTATION_SHARE, reserve=plan.reserve)
        walk = start_walk(evaluate(kernel, theta), self._depth(phase.limit / sweep))
        tuned = warm_up(kernel, phase, walk, move, aims, sweep)
        kernel, log_step = kernel._replace(scale=tuned.scale), tuned.averaging.log_mean
        phase = run.phase("sampling", reserve=plan.reserve)
        # Trajectories under way have the last trial's step size.
        walk = start_walk(tuned.point, self._depth(phase.limit / sweep))

        def step(walk: Walk, run: Run) -> tuple[Walk, Info]:
            return move(kernel, walk, log_step, run)

        trace = chains.sample_uneven(step, phase, walk, plan.num_draws, sweep)
        points = phase.spent / problem.num_examples / max(1, int(torch.as_tensor(trace.steps).sum()))
        return Sampled(trace, {"step_size": log_step.exp().tolist(), "leapfrog_steps": points})

    def _depth(self, gradients: float) -> int:
        """At most `max_depth`, and less where the phase could not pay for some trajectories."""
        if not math.isfinite(gradients):
            return self.max_depth
        return max(1, min(self.max_depth, int(math.log2(max(2.0, gradients / MINIMUM_TRAJECTORIES)))))
