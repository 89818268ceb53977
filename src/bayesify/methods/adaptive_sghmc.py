"""Scale-adapted stochastic gradient Hamiltonian Monte Carlo (Springenberg et al., NIPS 2016): BOHAMIANN's sampler.

With u = s ĝ, the batch's gradient in units of the prior's scales, running averages of u and u² with a memory τ of their
own are kept for each parameter during the burn-in,

    τ ← τ + 1 − τ g²/w,    g ← g + (u − g)/τ,    w ← max(w + (u² − w)/τ, 1/T)                                   (1)

(1/T is the prior's part of the curvature, below which no gradient's mean square under the posterior can be: without
it steps grow without bound where training has ended and gradients vanish) and w^(−½) then preconditions the
velocity's equation,

    v ← (1 − α) v + ε² w^(−½) u + √(2αε² w^(−½) − rε⁴) ξ,    θ ← θ + s v,      ξ ~ N(0, I).                       (2)

The term −rε⁴ takes off what the gradient's noise adds by itself: a share r of w is noise. The paper has r = 1. Along
the chain the gradient itself has the variance λ, and its noise λ (N/B − 1)/T, so r = n/(1 + n) with n = (N/B − 1)/T,
which is 0 for full gradients. Where nothing would be left, no noise is injected. For constant w and gradient noise of
covariance V, (2) is a linear recursion on Gaussians, whose stationary law the tests demand. ε is chosen so that
gradient noise would heat the narrowest direction by `tolerance` at most if nothing were taken off.

Cost: one gradient of the batch per chain and step. Not here: adaptation after the burn-in, which would change the law.
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from bayesify.engine.stochastic import FLAT, Adapt, Dynamics, Geometry, Update
from bayesify.methods.base import Exactness, MethodInfo, Range, require
from bayesify.methods.sghmc import STEP
from bayesify.methods.stochastic import StochasticSampler

START_MEMORY = 100.0
"""τ at the start, where w is known from as many gradients."""


@dataclass(frozen=True)
class AdaptiveSGHMC(StochasticSampler):
    """Hamiltonian dynamics on minibatch gradients with scales and noise learned in the burn-in; `step_size` is ε.

    Attributes:
        friction: α, the share of the velocity lost in a step.
        preconditioner: 'rmsprop', of which this is a form.
    """

    preconditioner: str = "rmsprop"
    friction: float = 0.05

    info = MethodInfo(
        name="adaptive_sghmc",
        family="sgmcmc",
        exactness=Exactness.APPROXIMATE,
        reference="Springenberg et al., NIPS 2016",
        summary="Hamiltonian dynamics on minibatch gradients that learns parameters' scales in the burn-in",
        bias="gradient noise is taken off as if parameters were unrelated, so narrow directions come out too wide",
        search_space={"tolerance": Range(0.05, 1.0, log=True), "friction": Range(0.01, 0.2, log=True)},
    )

    def check_dynamics(self) -> None:
        """The friction."""
        require(0 < self.friction < 1, self, "friction", "between 0 and 1")
        require(self.preconditioner == "rmsprop", self, "preconditioner", "'rmsprop'")

    def dynamics(self, theta: Tensor, geometry: Geometry) -> tuple[Dynamics, dict[str, float]]:
        """Equations (1) and (2) from rest."""
        allowed = STEP**2
        if geometry.noise > 0:
            allowed = min(allowed, 2 * self.friction * self.tolerance / geometry.noise)
        epsilon = self.step_size or math.sqrt(allowed / geometry.curvature)
        prior = geometry.prior_scale
        squares = ((prior / geometry.scale) ** 4).expand_as(theta).clone()
        zeros = torch.zeros_like(theta)
        start = State(theta, zeros, zeros.clone(), squares, torch.full_like(theta, START_MEMORY))
        share = geometry.noise / (1 + geometry.noise)
        update = scale_adapted(prior, epsilon, self.friction, share)
        adapt = adapting(prior, 1 / geometry.temperature)
        return Dynamics(start, update, adapt, partial(adapted, prior)), {"step_size": epsilon}


class State(NamedTuple):
    """What the next step needs."""

    theta: Tensor  # (K, P)
    velocity: Tensor  # (K, P), in units of s
    mean: Tensor  # (K, P) g
    squares: Tensor  # (K, P) w
    memory: Tensor  # (K, P) τ


def adapted(scale: Tensor, state: State) -> Tensor:
    """The scales s w^(−¼) that (2) moves by, (K, P)."""
    return scale * state.squares.clamp_min(FLAT) ** -0.25


def adapting(scale: Tensor, floor: float) -> Adapt:
    """Equation (1) for scales (P,) and 1/T."""

    def adapt(state: State, gradient: Tensor) -> State:
        gradient = scale * gradient
        memory = state.memory + 1 - state.memory * state.mean.square() / state.squares.clamp_min(FLAT)
        memory = memory.clamp_min(1.0)
        mean = state.mean + (gradient - state.mean) / memory
        squares = state.squares + (gradient.square() - state.squares) / memory
        return state._replace(mean=mean, squares=squares.clamp_min(floor), memory=memory)

    return adapt


def scale_adapted(scale: Tensor, epsilon: float, friction: float, noise_share: float) -> Update:
    """Equation (2) for scales (P,) and r."""

    def update(state: State, gradient: Tensor, noise: Tensor, rate: Tensor) -> State:
        square = epsilon**2 * rate
        inverse = state.squares.clamp_min(FLAT).rsqrt()
        injected = (2 * friction * square * inverse - noise_share * square.square()).clamp_min(0).sqrt()
        velocity = (1 - friction) * state.velocity + square * inverse * scale * gradient + injected * noise
        return state._replace(theta=state.theta + scale * velocity, velocity=velocity)

    return update
