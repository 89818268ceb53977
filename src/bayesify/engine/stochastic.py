"""Chains that follow minibatch gradients: K of them side by side, each with its own order of the data.

A sampler is an update rule: a pure function of the chains' state, a gradient estimate of the tempered log posterior,
standard normal noise and a rate. Everything else is here: batches, schedules, which draws are kept, checkpoints, chains
that blow up (they go back to their starts and are counted). The target is p(θ | D)^(1/T): its gradient is divided by T,
so the noise is that of unit temperature.

Step sizes follow from one number, the largest curvature λ of −log p in units of the parameters' scales s, found by
power iteration on differences of gradients. Batches of B out of N examples add noise to the gradient, whose variance
along a direction of curvature λ is about λ (N/B − 1)/T where the model fits the data: Fisher's identity.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bayesify.engine.chains import Info, Trace, advance, keep, start_trace
from bayesify.engine.hamiltonian import kernel_of, mode_of
from bayesify.engine.run import Run
from bayesify.model.problem import Problem

POWER_ITERATIONS = 12
"""Curvature is then known to a few percent: spectra of networks fall quickly."""
FIRST_DISPLACEMENT = 1e-2
"""In units of s; later ones are 1/√λ, the posterior's own width in that direction."""
FLAT = 1e-12
"""No curvature at all: the prior is improper and the data say nothing."""
PRECONDITIONER_BATCHES = 50
"""Gradients that the RMS preconditioner is measured from, at most."""


class Stage(NamedTuple):
    """What a schedule says of a moment."""

    rate: float = 1.0
    """Multiplies the learning rate: ε of Langevin dynamics, h² of dynamics with velocities."""
    noisy: bool = True
    """Whether noise is injected; without it a chain looks for a mode."""
    share: float = 0.0
    """Of the draws, that should have been kept by now."""


Schedule = Callable[[float], Stage]
"""From the share of the run that is over."""

Update = Callable[[Any, Tensor, Tensor, Tensor], Any]
"""(state, gradient (K, P), noise (K, P), rate ()) → state, a NamedTuple of (K, ...) tensors with a `theta` (K, P)."""

Adapt = Callable[[Any, Tensor], Any]
"""(state, gradient) → state, before an update in the burn-in."""


class Dynamics(NamedTuple):
    """A sampler's rule."""

    start: Any
    update: Update
    adapt: Adapt | None = None
    metric: Callable[[Any], Tensor] | None = None
    """(state) → the scales that were adapted, in which curvature is to be measured."""


class Geometry(NamedTuple):
    """What step sizes follow from."""

    scale: Tensor  # (P,) or (K, P): s
    prior_scale: Tensor  # (P,)
    curvature: float
    """λ, in units of s, the largest of all chains at their starts."""
    noise: float
    """(N/B − 1)/T: the gradient noise's variance in units of the curvature."""
    temperature: float


class _Power(NamedTuple):
    direction: Tensor  # (K, P) of length 1, in units of s
    gradient: Tensor  # (K, P) at the start, in units of 1/s
    curvature: Tensor  # (K,)
    number: Tensor  # () of evaluations


def constant(fraction: float) -> Stage:
    """The schedule of one rate throughout."""
    return Stage(share=fraction)


def geometry(problem: Problem, phase: Run, theta: Tensor, scale: Tensor, batch_size: int) -> Geometry:
    """Measures the curvature at theta (K, P) in units of scale, (P,) or (K, P), with at least two full gradients."""
    sweep = problem.num_examples * len(theta)
    affordable = int(phase.limit / sweep) - 1 if math.isfinite(phase.limit) else POWER_ITERATIONS
    iterations = max(1, min(POWER_ITERATIONS, affordable))
    noise = (problem.num_examples / min(batch_size, problem.num_examples) - 1) / problem.temperature
    found = _power(problem, phase, theta, scale, iterations)
    return Geometry(scale, kernel_of(problem).scale, float(found.max()), noise, problem.temperature)


def _power(problem: Problem, run: Run, theta: Tensor, scale: Tensor, iterations: int) -> Tensor:
    mode = mode_of(problem)
    none = torch.zeros((), dtype=torch.int64, device=theta.device)
    state = run.restore(_Power(torch.zeros_like(theta), torch.zeros_like(theta), torch.zeros_like(theta[:, 0]), none))
    if int(state.number) == 0:
        random = torch.randn(theta.shape, generator=run.rng, dtype=theta.dtype, device=theta.device)
        gradient = scale * problem.full_gradient(theta, mode).gradient
        curvature = torch.full_like(state.curvature, FIRST_DISPLACEMENT**-2)
        state = _Power(_unit(random), gradient, curvature, state.number + 1)
    while int(state.number) <= iterations:
        length = state.curvature.rsqrt()[:, None]
        there = problem.full_gradient(theta + length * scale * state.direction, mode).gradient
        product = (state.gradient - scale * there) / length
        curvature = torch.linalg.vector_norm(product, dim=-1)
        good = torch.isfinite(curvature) & (curvature > FLAT)
        state = state._replace(
            direction=torch.where(good[:, None], _unit(product), state.direction),
            curvature=torch.where(good, curvature, state.curvature),
            number=state.number + 1,
        )
        run.save(state)
    run.finish(state)
    found: Tensor = state.curvature
    return found


def _unit(vector: Tensor) -> Tensor:
    length: Tensor = torch.linalg.vector_norm(vector, dim=-1, keepdim=True)
    return vector / length.clamp_min(torch.finfo(vector.dtype).tiny)


def rms_scale(problem: Problem, run: Run, theta: Tensor, scale: Tensor, batch_size: int) -> Tensor:
    """The scales s v^(−¼) (K, P) with v the mean square of batch gradients s ĝ at theta: RMSprop's, frozen.

    (Li et al., AAAI 2016: their preconditioner v^(−½) multiplies the step, as s² does here.) Under the posterior v is
    at least 1/T, the prior's part of the curvature, whatever it is where training has ended.
    """
    squares = run.restore((torch.zeros_like(theta),))[0]
    if not run.finished:
        for count, batch in enumerate(run.batches(problem.data, batch_size, len(theta), independent=len(theta) > 1)):
            gradient = scale * problem.gradient(theta, batch, mode_of(problem)).gradient
            squares = squares + (gradient.square() - squares) / (count + 1)
            if count + 1 == PRECONDITIONER_BATCHES:
                break
        run.finish((squares,))
    return scale * squares.clamp_min(1 / problem.temperature) ** -0.25


def sample(
    problem: Problem, run: Run, dynamics: Dynamics, schedule: Schedule, batch_size: int, num_draws: int
) -> Trace:
    """Follows the dynamics until the run is spent; at least one draw is kept."""
    trace = run.restore(start_trace(dynamics.start, num_draws))
    if run.finished:
        return trace
    theta = trace.state.theta
    chains, mode = len(theta), mode_of(problem)
    problem.expect(run.num_batches(problem.data, batch_size, chains), mode)
    info = Info(*(torch.full_like(trace.acceptance, value) for value in (1.0, 0.0, 0.0)))
    step = _step(problem, dynamics, min(batch_size, problem.num_examples))
    silence = torch.zeros_like(theta)
    for batch in run.batches(problem.data, batch_size, chains, independent=chains > 1):
        stage = schedule(run.fraction)
        likelihood, _ = problem.likelihood_gradient(trace.state.theta, batch, mode)
        noise = silence
        if stage.noisy:
            noise = torch.randn(theta.shape, generator=run.rng, dtype=theta.dtype, device=theta.device)
        state = trace.state
        if dynamics.adapt is not None:
            state = dynamics.adapt(state, _posterior(problem, state.theta, likelihood, batch.size))
        state = step(state, likelihood, noise, theta.new_tensor(stage.rate))
        state, lost = _revived(state, dynamics.start)
        trace = advance(trace, state, info._replace(divergent=lost), run, schedule(run.fraction).share)
        run.save(trace)
    trace = trace if int(trace.kept) else keep(trace)
    run.finish(trace)
    return trace


def _step(problem: Problem, dynamics: Dynamics, batch_size: int) -> Callable[..., Any]:
    """The update with the prior's part of the gradient; compiled if gradients are."""
    kind = type(dynamics.start)

    def flat(likelihood: Tensor, noise: Tensor, rate: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        now = kind(*state)
        gradient = _posterior(problem, now.theta, likelihood, batch_size)
        return tuple(dynamics.update(now, gradient, noise, rate))

    fused = problem.fused(flat, mode_of(problem))
    return lambda state, likelihood, noise, rate: kind(*fused(likelihood, noise, rate, *state))


def _posterior(problem: Problem, theta: Tensor, likelihood: Tensor, batch_size: int) -> Tensor:
    scaled = torch.add(problem.prior.score(theta), likelihood, alpha=problem.num_examples / batch_size)
    return scaled if problem.temperature == 1.0 else scaled / problem.temperature


def _revived(state: Any, start: Any) -> tuple[Any, Tensor]:
    """Chains that are no longer finite go back to where they began; and which they were, (K,)."""
    lost = ~torch.isfinite(state.theta.sum(-1))
    if bool(lost.any()):
        state = type(state)(
            *(
                torch.where(lost.view(-1, *[1] * (now.dim() - 1)), then, now)
                for now, then in zip(state, start, strict=True)
            )
        )
    return state, lost
