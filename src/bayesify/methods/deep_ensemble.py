"""Deep ensembles (Lakshminarayanan, Pritzel & Blundell, NeurIPS 2017).

K networks from independent initialisations, each trained on its own order of all the data to the mode of the posterior;
their predictive distributions are averaged,

    p(y | x) = (1/K) Σ_k p(y | f(x; θ_k)).                                                                      (1)

All members of a round are trained as one batched model. With `epochs` set, more budget means more members; so does
whatever early stopping leaves over. Cost: K gradients of the batch per step. Not here: adversarial training (the
paper's optional step), bootstrapped data.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from bayesify.engine.optimise import Schedule, optimise
from bayesify.engine.run import Run
from bayesify.methods.base import Exactness, Method, MethodInfo, Range, require, require_positive
from bayesify.model.problem import Problem
from bayesify.posterior.base import Particles, Posterior
from bayesify.posterior.draws import Draws


@dataclass(frozen=True)
class DeepEnsemble(Method):
    """An average of independently trained networks.

    Attributes:
        num_members: members trained together in a round, and at least kept.
        learning_rate: Adam's, at the start of the cosine.
        batch_size: examples per step and member.
        epochs: at most this many per member, so that budget beyond `num_members` × `epochs` buys more members; None
            divides the whole budget among `num_members`.
        patience: a round stops after this many of its 20 validation checks without any member improving.
    """

    num_members: int = 10
    learning_rate: float = 1e-2
    batch_size: int = 64
    epochs: float | None = None
    patience: int = 6

    info = MethodInfo(
        name="deep_ensemble",
        family="ensemble",
        exactness=Exactness.NOT_A_POSTERIOR,
        reference="Lakshminarayanan et al., NeurIPS 2017",
        summary="average of independently trained networks",
        bias="modes only: no spread within a mode, weights of modes not the posterior's",
        uses_validation=True,
        search_space={
            "learning_rate": Range(1e-3, 3e-2, log=True),
            "batch_size": Range(16, 256, log=True, integer=True),
        },
    )

    def __post_init__(self) -> None:
        require_positive(self, "num_members", "learning_rate", "batch_size", "patience")
        require(self.epochs is None or self.epochs > 0, self, "epochs", "a positive number, or None")

    @property
    def num_particles(self) -> int:
        """The members of a round."""
        return self.num_members

    def fit(self, problem: Problem, run: Run) -> Posterior:
        """Rounds of members until the budget is spent."""
        schedule = Schedule(self.learning_rate, self.batch_size, patience=self.patience)
        statistics = problem.statistics_cost(1)  # paid for all members at the end
        training = run.limit / self.num_members - statistics
        if self.epochs is not None:
            training = min(training, self.epochs * problem.num_examples)
        rounds: list[Tensor] = []
        size, owed = self.num_members, 0.0
        while size > 0:
            owed += statistics * size
            phase = run.phase(f"round-{len(rounds)}", cost=size * training, reserve=owed)
            rounds.append(optimise(problem, phase, problem.start(size, phase.rng), schedule))
            size = min(self.num_members, self._affordable(run, training + statistics, owed))
        theta = torch.cat(rounds)
        run.notes["num_members"] = len(theta)
        particles = Particles(theta, problem.buffers(theta))
        if 0.02 * run.limit < run.remaining < math.inf:
            run.notes["unspent"] = "early stopping left less than half a member's training"
        return Draws(problem.model, particles)

    def _affordable(self, run: Run, member_cost: float, owed: float) -> int:
        """More members for what is left; a last one may get up to half less than its full training."""
        if run.remaining == float("inf"):
            return 0 if run.fraction >= 1 else self.num_members
        return max(0, int((run.remaining - owed) / member_cost + 0.5))
