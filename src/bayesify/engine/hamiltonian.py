"""Hamilton's equations for K chains at once: leapfrog, energy error, Metropolis test (Neal 2011).

For a velocity v ~ N(0, I), a step size ε, the prior's scales s and the tempered density p(θ | D)^(1/T),

    v ← v + ½ ε s ∇ log p,    θ ← θ + ε s v,    v ← v + ½ ε s ∇ log p,    H = −log p(θ) + ½ |v|².               (1)

Steps (1) keep volume and can be run backwards, so that accepting a trajectory with probability min(1, exp(−ΔH)) leaves
p unchanged whatever ε, and whatever stands in place of the gradient: errors there cost acceptance, not correctness.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from bayesify.engine.chains import Info
from bayesify.engine.compiled import Fused
from bayesify.engine.run import Run
from bayesify.model.network import Mode
from bayesify.model.problem import Problem

DIVERGENT = 1000.0
"""An energy error that no stable trajectory makes (Stan's threshold)."""


class Point(NamedTuple):
    """Where K chains are."""

    theta: Tensor  # (K, P)
    gradient: Tensor  # (K, P) of the tempered log density
    log_likelihood: Tensor  # (K,) untempered, in double precision as the next
    log_prior: Tensor  # (K,)


class Kernel(NamedTuple):
    """The density and its geometry."""

    problem: Problem
    scale: Tensor  # (P,) s, or (K, P)
    mode: Mode
    kick: Fused
    """(θ, v, ∇ log likelihood, ε s, weight) → θ of the step after, v, ∇ log p: the second and third of (1)."""


def mode_of(problem: Problem) -> Mode:
    """How layers behave: a pretrained model's statistics stay what they are."""
    return Mode.PREDICT if problem.pretrained else Mode.DENSITY


def announce(problem: Problem, run: Run, sweep: float) -> None:
    """Says how many gradients of all chains, which cost `sweep` each, a run pays for, where that is known."""
    if math.isfinite(run.limit):
        problem.expect(run.remaining / sweep, mode_of(problem))


def kernel_of(problem: Problem) -> Kernel:
    """The posterior's density with the prior's scales; `announce` gradients before."""
    scale = problem.prior.scales
    mode = mode_of(problem)

    def kick(theta: Tensor, velocity: Tensor, likelihood: Tensor, step: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
        gradient = (likelihood + problem.prior.score(theta)) / problem.temperature
        velocity = torch.addcmul(velocity, step * weight, gradient)
        return torch.addcmul(theta, step, velocity), velocity, gradient

    return Kernel(problem, scale, mode, problem.fused(kick, mode))


def evaluate(kernel: Kernel, theta: Tensor) -> Point:
    """Density and gradient at theta (K, P)."""
    found = kernel.problem.full_gradient(theta, kernel.mode)
    return _point(kernel, theta, found.gradient, found.log_likelihood)


def _point(kernel: Kernel, theta: Tensor, gradient: Tensor, log_likelihood: Tensor) -> Point:
    # Metropolis needs small differences of large sums: single precision would round them away.
    return Point(theta, gradient, log_likelihood.double(), kernel.problem.prior.log_density(theta.double()))


def leapfrog(kernel: Kernel, point: Point, velocity: Tensor, step_size: Tensor, num_steps: int) -> tuple[Point, Tensor]:
    """Equation (1), `num_steps` times, for velocity (K, P) and step_size (K,)."""
    step = step_size.to(velocity)[:, None] * kernel.scale
    half, whole = step.new_tensor(0.5), step.new_tensor(1.0)
    velocity = torch.addcmul(velocity, step, point.gradient, value=0.5)
    ahead = torch.addcmul(point.theta, step, velocity)
    for left in reversed(range(num_steps)):
        theta = ahead
        likelihood, value = kernel.problem.full_likelihood_gradient(theta, kernel.mode)
        ahead, velocity, gradient = kernel.kick(theta, velocity, likelihood, step, whole if left else half)
    return _point(kernel, theta, gradient, value), velocity


def energy_error(kernel: Kernel, start: Point, velocity: Tensor, end: Point, end_velocity: Tensor) -> Tensor:
    """ΔH (K,), each of its three parts a difference in double precision."""
    before, after = velocity.double(), end_velocity.double()
    kinetic = 0.5 * ((after - before) * (after + before)).sum(-1)
    gained = (end.log_likelihood - start.log_likelihood) + (end.log_prior - start.log_prior)
    return kinetic - gained / kernel.problem.temperature


class Proposal(NamedTuple):
    """Where a trajectory ends, and whether the chains may go there."""

    end: Point
    velocity: Tensor  # (K, P) there
    info: Info


def propose(kernel: Kernel, point: Point, step_size: Tensor, num_steps: int, rng: torch.Generator) -> Proposal:
    """One trajectory of each chain with a new velocity."""
    theta = point.theta
    velocity = torch.randn(theta.shape, generator=rng, dtype=theta.dtype, device=theta.device)
    end, end_velocity = leapfrog(kernel, point, velocity, step_size, num_steps)
    return judge(kernel, point, velocity, end, end_velocity)


def judge(kernel: Kernel, point: Point, velocity: Tensor, end: Point, end_velocity: Tensor) -> Proposal:
    """The end of a reversible trajectory that began at a point with a velocity."""
    error = energy_error(kernel, point, velocity, end, end_velocity)
    finite = torch.isfinite(error)
    acceptance = torch.where(finite, (-error).clamp_max(0).exp(), 0.0)
    return Proposal(end, end_velocity, Info(acceptance, error, ~finite | (error > DIVERGENT)))


def settle(point: Point, proposal: Proposal, rng: torch.Generator) -> Point:
    """The Metropolis test, for each chain by itself."""
    theta, end, acceptance = point.theta, proposal.end, proposal.info.acceptance
    accepted = torch.rand(len(theta), generator=rng, dtype=torch.float64, device=theta.device) < acceptance
    return Point(
        torch.where(accepted[:, None], end.theta, theta),
        torch.where(accepted[:, None], end.gradient, point.gradient),
        torch.where(accepted, end.log_likelihood, point.log_likelihood),
        torch.where(accepted, end.log_prior, point.log_prior),
    )


def transition(
    kernel: Kernel, point: Point, step_size: Tensor, num_steps: int, rng: torch.Generator
) -> tuple[Point, Info]:
    """One trajectory and its Metropolis test, for each chain by itself."""
    proposal = propose(kernel, point, step_size, num_steps, rng)
    return settle(point, proposal, rng), proposal.info
