"""The frame of samplers that follow minibatch gradients: curvature, step size, burn-in, sampling.

Step sizes are in units of the prior's scales, where the prior is N(0, I). Unless given they follow from the largest
curvature at the chains' starts and from `tolerance`: by how much the variance along the narrowest direction may exceed
the posterior's (1 is twice as much). Directions of smaller curvature are in error in proportion to it, and most are
smaller by orders of magnitude. Smaller tolerances need as many times more steps to come as far.
"""

import math
from abc import abstractmethod
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from bayesify.engine.hamiltonian import kernel_of
from bayesify.engine.run import Run
from bayesify.engine.stochastic import Dynamics, Geometry, Schedule, constant, geometry, rms_scale, sample
from bayesify.methods.base import require, require_positive
from bayesify.methods.sampler import Sampled, Sampler
from bayesify.model.problem import Problem
from bayesify.posterior.base import Posterior
from bayesify.posterior.mixing import Plan

CURVATURE_SHARE, PRECONDITIONER_SHARE = 0.12, 0.05
"""Of the budget after the warm start, at most."""
MEASUREMENTS = 4
"""Of the curvature, where the budget allows: at the start and after each third of the burn-in. Training ends where it
is smaller than under the posterior (noise scales are still to fall), by up to 20 times on small tables."""
MINIMUM_GRADIENTS = 5
"""Of all data per chain after the warm start: two for the curvature, the rest for burn-in and sampling."""


@dataclass(frozen=True)
class StochasticSampler(Sampler):
    """Base of minibatch samplers.

    Attributes:
        num_chains: chains run as one; they start independently.
        num_draws: kept per chain, spread evenly over the sampling.
        warm_start_epochs: training of each chain's start, at most and never more than 0.4 of the budget.
        learning_rate: Adam's in that training.
        batch_size: its batches.
        sampling_batch_size: those of the sampling. One as large as the data is the data: then there is no gradient
            noise; much smaller ones than the data all come equally far in an epoch, with the same error.
        step_size: in units of the prior's scales; None follows from the curvature and the tolerance.
        tolerance: relative excess of the variance along the narrowest direction that the step size is chosen for.
        burn_in: share of the sampling before the first draw.
        preconditioner: 'prior' moves parameters in proportion to their prior scales, 'rmsprop' also to the inverse
            root of their gradients' size at the start (Li et al. 2016), frozen from then on.
    """

    sampling_batch_size: int = 512
    step_size: float | None = None
    tolerance: float = 0.5
    burn_in: float = 0.2
    preconditioner: str = "prior"

    @abstractmethod
    def check_dynamics(self) -> None:
        """Refuses own settings that are out of range."""

    @abstractmethod
    def dynamics(self, theta: Tensor, geometry: Geometry) -> tuple[Dynamics, dict[str, float]]:
        """The update rule from theta (K, P), and the settings it ended up with."""

    def check(self) -> None:  # noqa: D102
        require_positive(self, "tolerance", "sampling_batch_size")
        require(0 <= self.burn_in < 1, self, "burn_in", "at least 0 and below 1")
        require(self.preconditioner in ("prior", "rmsprop"), self, "preconditioner", "'prior' or 'rmsprop'")
        require_positive(self, optional=("step_size",))
        self.check_dynamics()

    def minimum(self, problem: Problem) -> float:
        """Curvature, and as much again to move."""
        return float(MINIMUM_GRADIENTS * problem.num_examples * self.num_chains)

    def sample(self, problem: Problem, run: Run, theta: Tensor, plan: Plan) -> Sampled:
        """At one rate."""
        return self._sample(constant, problem, run, theta, plan)

    def fit_by(self, schedule: Schedule, problem: Problem, run: Run) -> Posterior:
        """As `fit`, at the rates of a schedule."""
        return self.fit_with(partial(self._sample, schedule), problem, run)

    def _sample(self, schedule: Schedule, problem: Problem, run: Run, theta: Tensor, plan: Plan) -> Sampled:
        """Burn-in in parts, each with a step size from where the last one led; then sampling."""
        batch_size = min(self.sampling_batch_size, problem.num_examples)
        step = float(batch_size * self.num_chains)
        sweep = float(problem.num_examples * self.num_chains)
        scale = self._scale(problem, run, theta, batch_size)
        share = CURVATURE_SHARE * run.remaining
        number = max(1, min(MEASUREMENTS, int(share / (3 * sweep)))) if math.isfinite(share) else MEASUREMENTS
        burn_in = run.remaining * self.burn_in / max(1, number - 1)
        measured: list[float] = []
        state = None
        for part in range(number):
            phase = run.phase(f"curvature-{part}", cost=max(2 * sweep, share / number))
            found = geometry(problem, phase, theta, scale, batch_size)
            measured.append(found.curvature)
            dynamics, settings = self.dynamics(theta, found._replace(curvature=max(measured[-2:])))
            dynamics = dynamics if state is None else dynamics._replace(start=state)
            phase = run.phase(f"burn-in-{part}", self.burn_in, cost=burn_in, reserve=plan.reserve + 2 * sweep)
            if phase.affords(step) and (part < number - 1 or number == 1):
                state = sample(problem, phase, dynamics, constant, batch_size, 1).state
                theta, scale = state.theta, scale if dynamics.metric is None else dynamics.metric(state)
        phase = run.phase("sampling", reserve=plan.reserve)
        start = dynamics.start if state is None else state
        trace = sample(problem, phase, dynamics._replace(start=start, adapt=None), schedule, batch_size, plan.num_draws)
        return Sampled(trace, settings | {"curvature": measured})

    def _scale(self, problem: Problem, run: Run, theta: Tensor, batch_size: int) -> Tensor:
        scale = kernel_of(problem).scale
        phase = run.phase("preconditioner", PRECONDITIONER_SHARE)
        if self.preconditioner == "prior" or not phase.affords(batch_size * self.num_chains):
            return scale
        return rms_scale(problem, phase, theta, scale, batch_size)
