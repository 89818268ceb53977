"""Maximum a posteriori: one network at the mode of p(θ | D).

    θ* = argmax_θ  Σ_n log p(y_n | f(x_n; θ)) + log p(θ)                                                       (1)

by Adam with a cosine learning rate; the parameters with the best validation likelihood are kept. With a flat prior this
is maximum likelihood. A point has no posterior uncertainty: all its spread is the likelihood's noise.

Cost: one gradient of the batch per step. Not here: any averaging.
"""

from dataclasses import dataclass

from bayesify.engine.optimise import Schedule, optimise
from bayesify.engine.run import Run
from bayesify.methods.base import Exactness, Method, MethodInfo, Range, require_positive
from bayesify.model.problem import Problem
from bayesify.posterior.base import Particles, Posterior
from bayesify.posterior.draws import Draws


@dataclass(frozen=True)
class MAP(Method):
    """One network at the posterior's mode.

    Attributes:
        learning_rate: Adam's, at the start of the cosine.
        batch_size: examples per step.
        epochs: stop after this many even if the budget allows more; None spends all of it.
    """

    learning_rate: float = 1e-2
    batch_size: int = 64
    epochs: float | None = None

    info = MethodInfo(
        name="map",
        family="point",
        exactness=Exactness.NOT_A_POSTERIOR,
        reference="penalised maximum likelihood",
        summary="one network at the posterior's mode",
        bias="no epistemic uncertainty at all",
        uses_validation=True,
        search_space={
            "learning_rate": Range(1e-3, 3e-2, log=True),
            "batch_size": Range(16, 256, log=True, integer=True),
        },
    )

    def __post_init__(self) -> None:
        require_positive(self, "learning_rate", "batch_size", optional=("epochs",))

    @property
    def num_particles(self) -> int:
        """One."""
        return 1

    def training(self, problem: Problem, limit: float) -> float:
        """At most `epochs`."""
        return limit if self.epochs is None else min(limit, self.epochs * problem.num_examples)

    def fit(self, problem: Problem, run: Run) -> Posterior:
        """A single particle."""
        cost = None if self.epochs is None else self.epochs * problem.num_examples
        phase = run.phase("map", cost=cost, reserve=problem.statistics_cost(1))
        theta = problem.start(1, phase.rng)
        theta = optimise(problem, phase, theta, Schedule(self.learning_rate, self.batch_size))
        if cost is not None and run.remaining > 0.02 * run.limit:
            run.notes["unspent"] = f"stops after {self.epochs:g} epochs by definition"
        return Draws(problem.model, Particles(theta, problem.buffers(theta)))
