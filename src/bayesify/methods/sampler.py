"""The frame of all samplers: chains start from trained networks, run side by side, are judged by their functions."""

import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor

from bayesify.engine.chains import Trace
from bayesify.engine.optimise import Schedule, optimise
from bayesify.engine.preflight import Work
from bayesify.engine.run import Run
from bayesify.errors import BudgetError
from bayesify.methods.base import Method, describe, require, require_positive, stages_of
from bayesify.model.problem import Problem
from bayesify.posterior.base import Particles, Posterior
from bayesify.posterior.draws import Draws
from bayesify.posterior.mixing import Plan, make_plan, mixing, warnings

WARM_SHARE = 0.4
"""Of the budget to start from a trained network, at most."""
MINIMUM_GRADIENTS = 3
"""Per chain after the warm start: the start, one step, and what is lost to rounding."""


class Sampled(NamedTuple):
    """What a sampler found, and what it wants to report of its tuning."""

    trace: Trace
    notes: dict[str, Any]


Sample = Callable[[Problem, Run, Tensor, Plan], Sampled]
"""Tunes and samples from theta (K, P), in phases of the run that leave the plan's reserve unspent."""


@dataclass(frozen=True)
class Sampler(Method):
    """Base of samplers.

    Attributes:
        num_chains: chains run as one; they start independently.
        num_draws: kept per chain, spread evenly over the sampling.
        warm_start_epochs: training of each chain's start, at most and never more than 0.4 of the budget.
        learning_rate: Adam's in that training.
        batch_size: its batches.
    """

    num_chains: int = 4
    num_draws: int = 100
    warm_start_epochs: float = 100.0
    learning_rate: float = 1e-2
    batch_size: int = 64

    def __post_init__(self) -> None:
        require_positive(self, "num_chains", "num_draws", "learning_rate", "batch_size")
        require(self.warm_start_epochs >= 0, self, "warm_start_epochs", "0 or more")
        self.check()

    @abstractmethod
    def check(self) -> None:
        """Refuses own settings that are out of range."""

    @abstractmethod
    def sample(self, problem: Problem, run: Run, theta: Tensor, plan: Plan) -> Sampled:
        """Tunes and samples from theta (K, P), in phases of the run that leave `plan.reserve` unspent."""

    @property
    def schedule(self) -> Schedule:
        """How each chain's start is trained."""
        return Schedule(self.learning_rate, self.batch_size)

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

    def minimum(self, problem: Problem) -> float:
        """Gradient evaluations below which nothing could move: by default some of all data for every chain."""
        return float(MINIMUM_GRADIENTS * problem.num_examples * self.num_chains)

    def training(self, problem: Problem, limit: float) -> float:
        """The warm start."""
        if problem.pretrained:
            return 0.0
        return min(WARM_SHARE * limit, self.warm_start_epochs * problem.num_examples * self.num_chains)

    def stages(self, problem: Problem, limit: float, after: float | None = None) -> list[Work]:
        """The warm start, then sampling with all the data."""
        training = self.training(problem, limit)
        return stages_of(self, problem, training, limit - training)

    def fit(self, problem: Problem, run: Run) -> Posterior:
        """Warm start, tuning and sampling, diagnostics."""
        return self.fit_with(self.sample, problem, run)

    def fit_with(self, sample: Sample, problem: Problem, run: Run) -> Posterior:
        """The same with another way to sample in the place of `self.sample`."""
        self._check_budget(problem, run)
        theta = self.warm_start(problem, run)
        plan = make_plan(problem, run, self.num_chains, self.num_draws)
        trace, notes = sample(problem, run, theta, plan)
        particles = Particles(trace.theta, problem.buffers(trace.theta))
        found = trace.summary() | mixing(problem, particles, self.num_chains, plan.num_rows) | notes
        run.notes.update(found, warnings=[*run.notes.get("warnings", []), *warnings(found, self.num_chains)])
        return Draws(problem.model, particles, self.num_chains)

    def warm_start(self, problem: Problem, run: Run) -> Tensor:
        """Where the chains start, (K, P): each trained from weights of its own, on a part of the run."""
        phase = run.phase("warm-start", WARM_SHARE, cost=self.training(problem, run.remaining))
        theta = problem.start(self.num_chains, phase.rng)
        return theta if phase.limit == 0 else optimise(problem, phase, theta, self.schedule)

    def _check_budget(self, problem: Problem, run: Run) -> None:
        needed = self.minimum(problem) / (1 - WARM_SHARE)
        if not run.affords(needed):
            raise BudgetError(
                f"{describe(self)} with {self.num_chains} chains on {problem.num_examples} examples needs at least "
                f"{math.ceil(needed)} gradient evaluations to move at all, but {run.remaining:.0f} are left: raise the "
                "budget (thousands of epochs are usual) or lower num_chains."
            )
