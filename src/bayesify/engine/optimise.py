"""Adam on K particles at once (Kingma & Ba 2015), with a cosine learning rate and the best validated particle kept.

The objective is the log posterior per example, (1/N) log p(θ | D), so that one learning rate serves all data sizes.
Validation is measured for every particle; each keeps its own best parameters. With patience, training stops when no
particle has improved for that many checks, and what the budget has left is the caller's.

Several trainings of one network, on data and budgets of their own, are one batch of particles: see `train`.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bayesify.engine.joint import Joint
from bayesify.engine.run import Run
from bayesify.model.network import Mode
from bayesify.model.problem import Problem

BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-8  # Kingma & Ba's defaults
VALIDATIONS = 20
"""How often validation is measured in one run: often enough to catch the minimum, cheap beside the gradients."""


class Moments(NamedTuple):
    """What Adam's own update needs."""

    theta: Tensor  # (K, P)
    first: Tensor  # (K, P) running mean of gradients
    second: Tensor  # (K, P) running mean of squared gradients
    steps: Tensor  # ()


class State(NamedTuple):
    """What the next step needs, and the best particles so far."""

    theta: Tensor  # (K, P)
    first: Tensor  # (K, P) running mean of gradients
    second: Tensor  # (K, P) running mean of squared gradients
    steps: Tensor  # ()
    best_theta: Tensor  # (K, P)
    best_loss: Tensor  # (K,) validation loss per example; infinite before the first check
    stalled: Tensor  # () checks since any particle improved
    checks: Tensor  # ()


class Schedule(NamedTuple):
    """How to train."""

    learning_rate: float = 1e-2
    batch_size: int = 32
    patience: int | None = None
    """Stop after this many validation checks without improvement in any particle; None never stops early."""
    final_fraction: float = 0.01
    """The cosine ends at this fraction of the learning rate."""
    repeats: int = 1
    """How often each example of a batch comes in it: what differs is the randomness of the network's layers."""


def init(theta: Tensor) -> State:
    """Starts at theta (K, P)."""
    zero = torch.zeros((), dtype=torch.int64, device=theta.device)
    infinite = torch.full_like(theta[:, 0], math.inf)
    zeros = torch.zeros_like(theta)
    return State(theta, zeros, zeros.clone(), zero, theta.clone(), infinite, zero.clone(), zero.clone())


def adam(moments: Moments, gradient: Tensor, learning_rate: float) -> Moments:
    """Adam's update alone, along an ascent direction (K, P)."""
    steps = moments.steps + 1
    size = moments.theta.new_tensor(step_size(float(steps), learning_rate))
    return Moments(*moved(moments.theta, moments.first, moments.second, gradient, size), steps)


def step_size(steps: float, learning_rate: float) -> float:
    """Adam's, with both corrections for the averages' start at zero."""
    size: float = learning_rate * math.sqrt(1 - BETA_2**steps) / (1 - BETA_1**steps)
    return size


def moved(
    theta: Tensor, first: Tensor, second: Tensor, gradient: Tensor, size: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Adam's two averages after a gradient, and where they lead with a step of that size ()."""
    first = torch.lerp(gradient, first, BETA_1)
    second = torch.lerp(gradient.square(), second, BETA_2)
    return torch.addcdiv(theta, first * size, second.sqrt().add_(EPSILON)), first, second


def cosine(fraction: float, learning_rate: float, final_fraction: float) -> float:
    """From the full learning rate at 0 to `final_fraction` of it at 1."""
    low = learning_rate * final_fraction
    return low + (learning_rate - low) * 0.5 * (1 + math.cos(math.pi * fraction))


def optimise(problem: Problem, run: Run, theta: Tensor, schedule: Schedule) -> Tensor:
    """Maximises the log posterior from theta (K, P); uses up the run unless patience runs out.

    Returns:
        (K, P): each particle at its best validation loss, or at the end when there is no validation data.
    """
    training = Training(problem, run, theta, schedule)
    if not training.finished:
        (BESIDE.get() or _alone)(training)
    return training.result


class Training:
    """One call of `optimise`: K particles, where they are, and what they learn from next."""

    def __init__(self, problem: Problem, run: Run, theta: Tensor, schedule: Schedule) -> None:
        state = run.restore(init(theta))
        self.problem, self.run, self.schedule = problem, run, schedule
        self.num_particles = len(theta)
        self.mode = Mode.PREDICT if problem.pretrained else Mode.TRAIN
        self.batch_size = min(schedule.batch_size, problem.num_examples) * schedule.repeats
        self.finished = run.finished
        self.steps = int(state.steps)
        self._moments = (state.theta, state.first, state.second)
        self._span: slice | None = None
        self._best_theta, self._best_loss = state.best_theta, state.best_loss
        self._stalled, self._checks = int(state.stalled), int(state.checks)
        self._reserve = problem.validation_cost(self.num_particles)
        rows = run.rows(
            problem.num_examples,
            schedule.batch_size,
            self.num_particles,
            independent=self.num_particles > 1,
            reserve=self._reserve,
            each=problem.gradient_cost * schedule.repeats,
        )
        self._batches = rows if schedule.repeats == 1 else _repeated(rows, schedule.repeats, problem)
        self.rows = None if self.finished else next(self._batches, None)
        """Of the next step, as `Run.rows` gives them; None when there is none."""

    @property
    def moments(self) -> tuple[Tensor, Tensor, Tensor]:
        """The particles and Adam's averages, (K, P) each."""
        theta, first, second = self._moments
        return (
            (theta, first, second) if self._span is None else (theta[self._span], first[self._span], second[self._span])
        )

    @property
    def result(self) -> Tensor:
        """(K, P): see `optimise`."""
        return self.moments[0].clone() if self.problem.validation is None else self._best_theta

    @property
    def num_batches(self) -> float:
        """How many the whole phase affords."""
        size = self.schedule.batch_size
        return self.run.num_batches(self.problem.data, size, self.num_particles * self.schedule.repeats)

    def rate(self) -> float:
        """Adam's step size for the next step."""
        now = cosine(self.run.fraction, self.schedule.learning_rate, self.schedule.final_fraction)
        return step_size(float(self.steps + 1), now)

    def stepped(self, moments: tuple[Tensor, Tensor, Tensor], span: slice | None, joint: Joint) -> None:
        """Takes note of a step: `moments` of all particles in the batch, of which `span` are these."""
        self._moments, self._span = moments, span
        self.steps += 1
        is_due = self.problem.validation is not None and self.run.fraction * VALIDATIONS >= self._checks + 1
        if is_due and self.run.affords(2 * self._reserve):  # or else the last one, in `finish`, is all that is left
            self._validate(joint)
            if self.schedule.patience is not None and self._stalled >= self.schedule.patience:
                self.rows = None
                return
        if self.run.is_due:
            self.run.save(self._state())
        self.rows = next(self._batches, None)

    def finish(self, joint: Joint) -> None:
        """After the last step."""
        if self.problem.validation is not None:
            self._validate(joint)
        self.finished = True
        self.run.finish(self._state())

    def _state(self) -> State:
        counts = (
            torch.tensor(value, device=self._best_loss.device) for value in (self.steps, self._stalled, self._checks)
        )
        steps, stalled, checks = counts
        return State(*self.moments, steps, self._best_theta, self._best_loss, stalled, checks)

    def _validate(self, joint: Joint) -> None:
        theta = self.moments[0]
        loss = joint.validation_loss(self.problem, theta)
        better = loss < self._best_loss
        self._stalled = 0 if bool(better.any()) else self._stalled + 1
        self._best_theta = torch.where(better[:, None], theta, self._best_theta)
        self._best_loss = torch.where(better, loss, self._best_loss)
        self._checks += 1


def _repeated(batches: Iterator[Tensor | slice], repeats: int, problem: Problem) -> Iterator[Tensor]:
    everything = torch.arange(problem.num_examples, device=problem.network.device)
    for rows in batches:
        yield (everything if isinstance(rows, slice) else rows).repeat_interleave(repeats, dim=-1)


BESIDE: ContextVar[Callable[[Training], None] | None] = ContextVar("BESIDE", default=None)
"""Where fits run beside others (engine/together.py): takes a training that others may join, returns when it is done."""


def can_join(one: Training, other: Training) -> bool:
    """Whether the two compute the same function of particles and batches, without randomness."""
    alike = one.mode == other.mode and one.batch_size == other.batch_size
    return alike and Joint.fits(one.problem, other.problem, one.mode)


def train(trainings: Sequence[Training]) -> None:
    """Trains all as one batch of particles, each on its own rows and for as long as its own run goes on.

    Every particle's steps are those of training it with its own problem alone, to rounding. The trainings must be
    such that any two `can_join`.
    """
    joint = Joint([one.problem for one in trainings])
    live = list(trainings)
    while live:
        ended = [one for one in live if one.rows is None]
        for one in ended:
            one.finish(joint)
        live = [one for one in live if one.rows is not None]
        if live:
            _step_until_one_ends(live, joint)
    joint.close()


def _alone(training: Training) -> None:
    train([training])


def _step_until_one_ends(live: list[Training], joint: Joint) -> None:
    moments, spans = _joined(live)
    first = live[0]
    counts = [one.num_particles for one in live]
    examples = joint.choose([one.problem for one in live], counts)

    def ascend(theta: Tensor, first: Tensor, second: Tensor, likelihood: Tensor, rate: Tensor) -> Any:
        # The log posterior per example: the temperature, which divides all of it, would only change the rate.
        gradient = torch.add(prior.score(theta) / examples, likelihood, alpha=1 / size)
        return moved(theta, first, second, gradient, rate)

    prior, size = first.problem.prior, first.batch_size
    joint.expect(max(one.num_batches for one in live), first.mode)
    update = joint.fused(ascend, first.mode)
    while all(one.rows is not None for one in live):
        rates = [one.rate() for one in live]
        likelihood = joint.likelihood_gradient(moments[0], [one.rows for one in live], first.mode)
        moments = update(*moments, likelihood, joint.spread(rates, moments[0]))
        for one, span in zip(live, spans, strict=True):
            one.stepped(moments, span, joint)


def _joined(live: list[Training]) -> tuple[tuple[Tensor, Tensor, Tensor], list[slice | None]]:
    """All particles as one tensor, likewise their averages, and which are whose."""
    if len(live) == 1:
        return live[0].moments, [None]
    parts = zip(*(one.moments for one in live), strict=True)
    theta, first, second = (torch.cat(part) for part in parts)
    spans: list[slice | None] = []
    start = 0
    for one in live:
        spans.append(slice(start, start + one.num_particles))
        start += one.num_particles
    return (theta, first, second), spans
