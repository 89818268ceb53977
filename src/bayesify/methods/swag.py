"""Stochastic weight averaging, Gaussian (Maddox, Garipov, Izmailov, Vetrov & Wilson, NeurIPS 2019).

From a mode, the optimiser goes on at a constant learning rate; snapshots θ_1, …, θ_n of its path give a Gaussian,

    mean = (1/n) Σ_i θ_i,      d = (1/n) Σ_i θ_i² − mean²,      D = [θ_i − mean_i], the last K,                  (1)
    Σ = ½ (diag(d) + D Dᵀ / (K − 1)),                                                                           (2)

with mean_i the running mean when θ_i was taken. d is accumulated by Welford's update, which cannot become negative.
One K-vector of noise serves all parameters, so that layers vary together. The spread is the optimiser's, not the
posterior's: its size follows the learning rate and the batch size, and a temperature multiplies (2) by definition only.
With held-out data the mode is the best validated point, as for every trained network here, and (1) takes the first n
snapshots whose mean validates best: at a constant rate a long path leaves the mode and overfits small noisy data.

Networks with batch normalisation get statistics re-estimated for every draw, hence a fixed number of draws. Cost: one
gradient of the batch per step, a prediction of the held-out data per snapshot, and one pass over the data per draw with
batch normalisation. Not here: SGD with momentum (its stable learning rates depend on the learned noise scale), cyclical
rates.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from bayesify.covariance import LowRank
from bayesify.engine.optimise import Moments, Schedule, adam, optimise
from bayesify.engine.run import Run
from bayesify.errors import BudgetError
from bayesify.methods.base import Exactness, Method, MethodInfo, Range, require, require_positive
from bayesify.model.network import Mode
from bayesify.model.problem import Problem
from bayesify.posterior.base import Particles, Posterior
from bayesify.posterior.draws import Draws
from bayesify.posterior.gaussian import DEFAULT_SAMPLES, Gaussian

STATISTICS_SHARE = 0.25
"""At most this share of the budget goes into re-estimating normalisation statistics; fewer draws are kept otherwise."""


@dataclass(frozen=True)
class SWAG(Method):
    """A Gaussian around the average of an optimiser's path.

    Attributes:
        learning_rate: Adam's on the way to the mode, at the start of the cosine.
        swag_learning_rate: Adam's constant rate while snapshots are taken; the spread grows with it.
        batch_size: examples per step.
        map_share: the share of the budget spent on the way to the mode; a pretrained model starts there.
        num_snapshots: n in (1), spread evenly over the rest of the budget; fewer are used where validation says so.
        max_rank: K in (2), deviations kept.
        scale: multiplies the covariance (2), ½ included: 1 is the paper's equation.
        num_samples: draws kept for networks with batch normalisation; others are sampled when they predict.
    """

    learning_rate: float = 1e-2
    swag_learning_rate: float = 5e-3
    batch_size: int = 64
    map_share: float = 0.75
    num_snapshots: int = 40
    max_rank: int = 20
    scale: float = 1.0
    num_samples: int = 30

    info = MethodInfo(
        name="swag",
        family="gaussian",
        exactness=Exactness.NOT_A_POSTERIOR,
        reference="Maddox et al., NeurIPS 2019",
        summary="a Gaussian around the average of an optimiser's path",
        bias="the spread is the optimiser's: far too narrow on linear regression (96–98%), set by the learning rate",
        uses_validation=True,
        search_space={
            "learning_rate": Range(1e-3, 3e-2, log=True),
            "swag_learning_rate": Range(1e-3, 2e-2, log=True),
            "batch_size": Range(16, 256, log=True, integer=True),
        },
    )

    def __post_init__(self) -> None:
        require_positive(self, "learning_rate", "swag_learning_rate", "batch_size", "scale", "num_samples")
        require(0 < self.map_share < 1, self, "map_share", "between 0 and 1")
        require(self.max_rank >= 2, self, "max_rank", "at least 2, because (2) divides by K − 1")
        require(self.num_snapshots >= 2, self, "num_snapshots", "at least 2")

    @property
    def num_particles(self) -> int:
        """One."""
        return 1

    @property
    def num_predictions(self) -> int:
        """Draws from the Gaussian, or those kept."""
        return max(DEFAULT_SAMPLES, self.num_samples)

    def memory(self, problem: Problem) -> float:
        """Deviations three times (path, best, scaled), the optimiser's vectors, the draws of normalised networks."""
        vectors = 3 * self.max_rank + 8 + (self.num_samples if problem.network.running else 0)
        return float(vectors * problem.num_parameters * problem.network.initial.element_size())

    def fit(self, problem: Problem, run: Run) -> Posterior:
        """To the mode, then around it."""
        num_draws = self._num_draws(problem, run)
        path = self.follow(problem, run, problem.statistics_cost(num_draws))
        found = path.state.best
        run.notes["num_snapshots"] = int(found.snapshots)
        mean, covariance = found.mean, gaussian(found, self.scale * problem.temperature)
        if num_draws == 0:
            return Gaussian(problem.model, mean, covariance)
        draws = mean + covariance.sample(num_draws, path.phase.rng)  # (S, P)
        return Draws(problem.model, Particles(draws, problem.buffers(draws)))

    def _num_draws(self, problem: Problem, run: Run) -> int:
        """How many draws get statistics of their own: none where there are none to estimate."""
        if not problem.network.running or problem.pretrained:
            return 0
        if run.limit == math.inf:
            return self.num_samples
        affordable = int(STATISTICS_SHARE * run.limit / problem.statistics_cost(1))
        if affordable >= self.num_samples:
            return self.num_samples
        count = max(1, affordable)
        run.notes.setdefault("warnings", []).append(
            f"only {count} of num_samples={self.num_samples} draws are kept, because each needs a pass over the data "
            "for its normalisation statistics: raise the budget to keep all."
        )
        return count

    def follow(self, problem: Problem, run: Run, reserve: float = 0.0) -> "Path":
        """To the mode and along the path, for all that the run affords but `reserve` gradient evaluations."""
        theta = problem.initial()[None]
        if not problem.pretrained:
            phase = run.phase("mode", self.map_share, reserve=reserve)
            schedule = Schedule(self.learning_rate, self.batch_size)
            theta = optimise(problem, phase, problem.start(1, phase.rng), schedule)
        phase = run.phase("path", reserve=reserve)
        return Path(self._follow(problem, phase, theta), phase)

    def _follow(self, problem: Problem, phase: Run, theta: Tensor) -> "State":
        state = phase.restore(init(theta, self.max_rank))
        if phase.finished:
            return state
        mode = Mode.PREDICT if problem.pretrained else Mode.TRAIN
        check = problem.validation_cost(1)
        problem.expect(phase.num_batches(problem.data, self.batch_size, 1), mode)
        for batch in phase.batches(problem.data, self.batch_size, 1, reserve=check):
            gradient = problem.gradient(state.theta, batch, mode).gradient
            state = step(state, gradient * (problem.temperature / problem.num_examples), self.swag_learning_rate)
            # In the middle of each of num_snapshots equal stretches: the last one is then never missed by rounding.
            if phase.fraction * self.num_snapshots >= int(state.snapshots) + 0.5:
                state = collect(state)
                if int(state.snapshots) >= 2:  # paid for: the loop keeps a check's cost in reserve
                    state = keep_best(state, problem.validation_loss(state.mean[None])[0])
            phase.save(state)
        if int(state.snapshots) < 2:
            raise BudgetError(
                f"the budget allows {int(state.snapshots)} snapshots, but a covariance needs at least 2: raise the "
                "budget, or lower batch_size."
            )
        phase.finish(state)
        return state


class Snapshots(NamedTuple):
    """Moments of the path's snapshots."""

    mean: Tensor  # (P,)
    squares: Tensor  # (P,) sum of squared deviations from the mean
    deviations: Tensor  # (K, P) the last K, in a ring
    snapshots: Tensor  # () taken so far


class State(NamedTuple):
    """Adam's path, the moments of its snapshots, and those of the first snapshots that validated best."""

    theta: Tensor  # (1, P)
    first: Tensor  # (1, P) running mean of gradients
    second: Tensor  # (1, P) running mean of squared gradients
    steps: Tensor  # ()
    mean: Tensor
    squares: Tensor
    deviations: Tensor
    snapshots: Tensor
    best_mean: Tensor
    best_squares: Tensor
    best_deviations: Tensor
    best_snapshots: Tensor
    best_loss: Tensor  # () validation loss of best_mean per example

    @property
    def best(self) -> Snapshots:
        """What the Gaussian is made of."""
        return Snapshots(self.best_mean, self.best_squares, self.best_deviations, self.best_snapshots)


class Path(NamedTuple):
    """A path that was followed to its end."""

    state: State
    phase: Run


def init(theta: Tensor, max_rank: int) -> State:
    """Starts at theta (1, P), which is not itself a snapshot."""
    own, zeros = no_snapshots(theta[0], max_rank), torch.zeros_like(theta)
    return State(theta, zeros, zeros, own.snapshots, *own, *own, torch.full_like(theta[0, 0], math.inf))


def step(state: State, gradient: Tensor, learning_rate: float) -> State:
    """One step of the path along the gradient (1, P) of the log posterior per example."""
    moved = adam(Moments(state.theta, state.first, state.second, state.steps), gradient, learning_rate)
    return state._replace(**moved._asdict())


def collect(state: State) -> State:
    """Takes a snapshot of the path."""
    own = Snapshots(state.mean, state.squares, state.deviations, state.snapshots)
    return state._replace(**with_snapshot(own, state.theta[0])._asdict())


def no_snapshots(theta: Tensor, max_rank: int) -> Snapshots:
    """Before the first one, of parameters like theta (P,)."""
    zeros = torch.zeros_like(theta)
    return Snapshots(zeros, zeros, zeros.repeat(max_rank, 1), torch.zeros((), dtype=torch.int64, device=theta.device))


def with_snapshot(path: Snapshots, theta: Tensor) -> Snapshots:
    """One more, theta (P,): Welford's update of mean and squares, and the deviation from the new mean."""
    snapshots = path.snapshots + 1
    before = theta - path.mean
    mean = path.mean + before / snapshots  # from zero: the first snapshot is its own mean, exactly
    after = theta - mean
    deviations = path.deviations.clone()
    deviations[int(path.snapshots) % len(deviations)] = after
    return Snapshots(mean, path.squares + before * after, deviations, snapshots)


def keep_best(state: State, loss: Tensor) -> State:
    """Remembers the snapshots so far if their mean's validation loss () is the lowest yet; a tie prefers more."""
    if not loss <= state.best_loss:  # NaN is never best
        return state
    return state._replace(
        best_mean=state.mean,
        best_squares=state.squares,
        best_deviations=state.deviations,
        best_snapshots=state.snapshots,
        best_loss=loss,
    )


def gaussian(path: Snapshots, scale: float) -> LowRank:
    """The covariance (2) times `scale`, from at least two snapshots."""
    rank = min(int(path.snapshots), len(path.deviations))
    factors = path.deviations[:rank].T * math.sqrt(0.5 * scale / (rank - 1))  # (P, K)
    return LowRank(0.5 * scale * path.squares / path.snapshots, factors)
