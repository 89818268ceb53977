"""The frame of samplers that follow minibatch gradients: curvature, step size, burn-in, sampling.

Step sizes are in units of the prior's scales, where the prior is N(0, I). Unless given they follow from the largest
curvature at the chains' starts and from `tolerance`: by how much the variance along the narrowest direction may exceed
the posterior's (1 is twice as much). Directions of smaller curvature are in error in proportion to it, and most are
smaller by orders of magnitude. Smaller tolerances need as many times more steps to come as far.
"""

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

CURVATURE_SHARE, PRECONDITIONER_SHARE = 0.05, 0.05
"""Of the budget after the warm start, at most; the curvature is measured before and after the burn-in."""
MINIMUM_GRADIENTS = 8
"""Of all data per chain after the warm start: two for each curvature, the rest for burn-in and sampling."""


@dataclass(frozen=True)
class StochasticSampler(Sampler):
    """Base of minibatch samplers.

    Attributes:
        num_chains: chains run as one; they start independently.
        num_draws: kept per chain, spread evenly over the sampling.
        warm_start_epochs: training of each chain's start, at most and never more than 0.4 of the budget.
        learning_rate: Adam's in that training.
        batch_size: its batches.
        sampling_batch_size: those of the sampling; None is the same. One as large as the data is the data.
        step_size: in units of the prior's scales; None follows from the curvature and the tolerance.
        tolerance: relative excess of the variance along the narrowest direction that the step size is chosen for.
        burn_in: share of the sampling before the first draw.
        preconditioner: 'prior' moves parameters in proportion to their prior scales, 'rmsprop' also to the inverse
            root of their gradients' size at the start (Li et al. 2016), frozen from then on.
    """

    sampling_batch_size: int | None = None
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
        require_positive(self, "tolerance")
        require(0 <= self.burn_in < 1, self, "burn_in", "at least 0 and below 1")
        require(self.preconditioner in ("prior", "rmsprop"), self, "preconditioner", "'prior' or 'rmsprop'")
        for field in ("sampling_batch_size", "step_size"):
            if getattr(self, field) is not None:
                require_positive(self, field)
        self.check_dynamics()

    def minimum(self, problem: Problem) -> float:
        """Curvature twice, and as much again to move."""
        return float(MINIMUM_GRADIENTS * problem.num_examples * self.num_chains)

    def sample(self, problem: Problem, run: Run, theta: Tensor, plan: Plan) -> Sampled:
        """At one rate."""
        return self._sample(constant, problem, run, theta, plan)

    def fit_by(self, schedule: Schedule, problem: Problem, run: Run) -> Posterior:
        """As `fit`, at the rates of a schedule."""
        return self.fit_with(partial(self._sample, schedule), problem, run)

    def _sample(self, schedule: Schedule, problem: Problem, run: Run, theta: Tensor, plan: Plan) -> Sampled:
        """Burn-in with a step size from the starts, then sampling with one from where that has led."""
        batch_size = self.sampling_batch_size or self.batch_size
        scale = kernel_of(problem).scale
        if self.preconditioner == "rmsprop":
            phase = run.phase("preconditioner", PRECONDITIONER_SHARE, reserve=self.minimum(problem))
            if phase.affords(min(batch_size, problem.num_examples) * self.num_chains):
                scale = rms_scale(problem, phase, theta, scale, batch_size)
        before = geometry(problem, run.phase("curvature", CURVATURE_SHARE), theta, scale, batch_size)
        burn_in, _ = self.dynamics(theta, before)
        state = burn_in.start
        phase = run.phase("burn-in", self.burn_in, reserve=plan.reserve + 0.5 * self.minimum(problem))
        if phase.affords(min(batch_size, problem.num_examples) * self.num_chains):
            state = sample(problem, phase, burn_in, constant, batch_size, 1).state
        phase = run.phase("curvature-after", CURVATURE_SHARE)
        after = geometry(problem, phase, state.theta, scale, batch_size)
        largest = after._replace(curvature=max(before.curvature, after.curvature))
        dynamics, settings = self.dynamics(state.theta, largest)
        phase = run.phase("sampling", reserve=plan.reserve)
        dynamics = dynamics._replace(start=state, adapt=None)
        trace = sample(problem, phase, dynamics, schedule, batch_size, plan.num_draws)
        return Sampled(trace, settings | {"curvature": [before.curvature, after.curvature]})
