"""What ensembles of independently trained networks share: rounds of members until the budget is spent."""

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from bayesify.engine.optimise import Schedule, optimise
from bayesify.engine.run import Run
from bayesify.methods.base import Method, require, require_positive
from bayesify.model.problem import Individual, Problem
from bayesify.posterior.base import Particles, Posterior
from bayesify.posterior.draws import Draws


class Round(NamedTuple):
    """Members that are trained as one."""

    theta: Tensor  # (K, P)
    individual: Individual | None


@dataclass(frozen=True)
class Ensemble(Method):
    """Base of ensembles.

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

    def __post_init__(self) -> None:
        require_positive(self, "num_members", "learning_rate", "batch_size", "patience")
        require(self.epochs is None or self.epochs > 0, self, "epochs", "a positive number, or None")
        self.check()

    @abstractmethod
    def check(self) -> None:
        """Refuses own settings that are out of range."""

    @abstractmethod
    def prepared(self, problem: Problem) -> Problem:
        """The problem that members are trained on."""

    @abstractmethod
    def individual(self, problem: Problem, num_members: int, rng: torch.Generator) -> Individual | None:
        """What each member of a round has of its own beside its start, for a prepared problem."""

    @property
    def num_particles(self) -> int:
        """The members of a round."""
        return self.num_members

    def fit(self, problem: Problem, run: Run) -> Posterior:
        """Rounds of members until the budget is spent."""
        problem = self.prepared(problem)
        schedule = Schedule(self.learning_rate, self.batch_size, patience=self.patience)
        statistics = problem.statistics_cost(1)  # paid for all members at the end
        training = run.limit / self.num_members - statistics
        if self.epochs is not None:
            training = min(training, self.epochs * problem.num_examples * problem.gradient_cost)
        rounds: list[Round] = []
        size, owed = self.num_members, 0.0
        while size > 0:
            owed += statistics * size
            phase = run.phase(f"round-{len(rounds)}", cost=size * training, reserve=owed)
            start = problem.start(size, phase.rng)
            own = self.individual(problem, size, phase.rng)
            members = problem if own is None else problem.with_changes(individual=own)
            trained = optimise(members, phase, start, schedule)
            rounds.append(Round(trained, own))
            size = min(self.num_members, self._affordable(run, training + statistics, owed))
        theta, problem = _gathered(problem, rounds)
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


def _gathered(problem: Problem, rounds: list[Round]) -> tuple[Tensor, Problem]:
    """All members, and the problem with what each has of its own."""
    theta = torch.cat([one.theta for one in rounds])
    owned = [one.individual for one in rounds if one.individual is not None]
    if not owned:
        return theta, problem
    indices = {name: torch.cat([own.indices[name] for own in owned]) for name in owned[0].indices}
    return theta, problem.with_changes(individual=Individual(indices))
