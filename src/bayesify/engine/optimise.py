"""Adam on K particles at once (Kingma & Ba 2015), with a cosine learning rate and the best validated particle kept.

The objective is the log posterior per example, (1/N) log p(θ | D), so that one learning rate serves all data sizes.
Validation is measured for every particle; each keeps its own best parameters. With patience, training stops when no
particle has improved for that many checks, and what the budget has left is the caller's.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

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
    state = run.restore(init(theta))
    if run.finished:
        return _result(problem, state)
    num_particles = len(theta)
    mode = Mode.PREDICT if problem.pretrained else Mode.TRAIN
    reserve = problem.validation_cost(num_particles)
    size = min(schedule.batch_size, problem.num_examples)

    def ascend(theta: Tensor, first: Tensor, second: Tensor, likelihood: Tensor, rate: Tensor) -> Any:
        # The log posterior per example: the temperature, which divides all of it, would only change the rate.
        gradient = torch.add(problem.prior.score(theta) / problem.num_examples, likelihood, alpha=1 / size)
        return moved(theta, first, second, gradient, rate)

    problem.expect(run.num_batches(problem.data, schedule.batch_size, num_particles), mode)
    batches = run.batches(
        problem.data, schedule.batch_size, num_particles, independent=num_particles > 1, reserve=reserve
    )
    update = problem.fused(ascend, mode)
    for batch in batches:
        learning_rate = cosine(run.fraction, schedule.learning_rate, schedule.final_fraction)
        likelihood, _ = problem.likelihood_gradient(state.theta, batch, mode)
        steps = state.steps + 1
        rate = state.theta.new_tensor(step_size(float(steps), learning_rate))
        theta, first, second = update(state.theta, state.first, state.second, likelihood, rate)
        state = state._replace(theta=theta, first=first, second=second, steps=steps)
        due = problem.validation is not None and run.fraction * VALIDATIONS >= int(state.checks) + 1
        if due and run.affords(2 * reserve):  # or else the last one, below, is all that is left
            state = _validate(problem, state)
            if schedule.patience is not None and int(state.stalled) >= schedule.patience:
                break
        run.save(state)
    if problem.validation is not None:
        state = _validate(problem, state)
    run.finish(state)
    return _result(problem, state)


def _result(problem: Problem, state: State) -> Tensor:
    return state.theta if problem.validation is None else state.best_theta


def _validate(problem: Problem, state: State) -> State:
    loss = problem.validation_loss(state.theta)
    better = loss < state.best_loss
    stalled = torch.zeros_like(state.stalled) if bool(better.any()) else state.stalled + 1
    return state._replace(
        best_theta=torch.where(better[:, None], state.theta, state.best_theta),
        best_loss=torch.where(better, loss, state.best_loss),
        stalled=stalled,
        checks=state.checks + 1,
    )
