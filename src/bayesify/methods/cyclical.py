"""Cyclical schedules for minibatch samplers (Zhang et al., ICLR 2020).

The sampling, after a burn-in at the method's own rate, is cut into M cycles. With r ∈ [0, 1) the share of the present
one that is over, the learning rate is

    ρ(r) = ½ peak (cos(π r) + 1)                                                                                 (1)

times the method's own. While r < `exploration` no noise is injected: large steps without noise leave a mode and find
another. The rest samples around it, and only these draws are kept. The temperature is the problem's, 1 by default: the
paper's code divides the noise's variance by 50,000, which makes its draws an ensemble of optima.

Cost: the method's. Modes weigh as much as time was spent at them, which is not their mass under the posterior. Not
here: warm restarts from fresh weights (multi).
"""

import math
from dataclasses import dataclass

from bayesify.engine.run import Run
from bayesify.engine.stochastic import Schedule, Stage
from bayesify.errors import MethodError
from bayesify.methods.base import Exactness, MethodInfo, Range, Wrapper, require, require_positive
from bayesify.methods.stochastic import StochasticSampler
from bayesify.model.problem import Problem
from bayesify.posterior.base import Posterior


@dataclass(frozen=True)
class Cyclical(Wrapper):
    """`method` in cycles of exploration and sampling.

    Attributes:
        method: a minibatch sampler: sgld, sghmc, adaptive_sghmc, sgnht, adam_sgld or smile.
        num_cycles: M.
        exploration: share of each cycle without noise and without draws.
        peak: the learning rate that a cycle begins with, in units of the method's own; much more than 2 is unstable.
    """

    num_cycles: int = 4
    exploration: float = 0.5
    peak: float = 2.0

    info = MethodInfo(
        name="cyclical",
        family="combinator",
        exactness=Exactness.APPROXIMATE,
        reference="Zhang et al., ICLR 2020",
        summary="minibatch samplers in cycles that explore, then sample",
        bias="modes weigh as much as time was spent at them; otherwise the method's",
        search_space={"num_cycles": Range(2, 20, log=True, integer=True)},
    )

    def __post_init__(self) -> None:
        if not isinstance(self.method, StochasticSampler):
            raise MethodError(
                f"cyclical needs a minibatch sampler, whose noise and step size it can schedule, got "
                f"{self.method.info.name}: use sgld, sghmc, adaptive_sghmc, sgnht, adam_sgld or smile."
            )
        good = isinstance(self.num_cycles, int) and not isinstance(self.num_cycles, bool) and self.num_cycles >= 1
        require(good, self, "num_cycles", "a positive integer")
        require(0 <= self.exploration < 1, self, "exploration", "at least 0 and below 1")
        require_positive(self, "peak")

    def fit(self, problem: Problem, run: Run) -> Posterior:
        """The method's fit with the schedule."""
        assert isinstance(self.method, StochasticSampler)
        return self.method.fit_by(cosine_cycles(self), problem, run)


def cosine_cycles(cyclical: Cyclical) -> Schedule:
    """Equation (1)."""

    def stage(fraction: float) -> Stage:
        cycle, within = divmod(min(fraction * cyclical.num_cycles, cyclical.num_cycles), 1.0)
        sampled = max(0.0, (within - cyclical.exploration) / (1 - cyclical.exploration))
        return Stage(
            rate=0.5 * cyclical.peak * (math.cos(math.pi * within) + 1),
            noisy=within >= cyclical.exploration,
            share=(cycle + sampled) / cyclical.num_cycles,
        )

    return stage
