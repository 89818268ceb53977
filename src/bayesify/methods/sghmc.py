"""Stochastic gradient Hamiltonian Monte Carlo (Chen, Fox & Guestrin, ICML 2014).

Chains have a velocity v ~ N(0, I), friction γ and, with minibatch gradients ĝ, the step

    v ← v + h s ĝ(θ),    θ ← θ + ½ h s v,    v ← c v + √(1 − c²) ξ,    θ ← θ + ½ h s v,      c = exp(−γ h),       (1)

with the prior's scales s. This order of the paper's dynamics is BAOAB (Leimkuhler & Matthews 2013): with full
gradients the positions of a Gaussian have exactly the right law for any h √λ < 2. Friction and noise are those of the
whole step, so that nothing is lost as γ h grows. Gradient noise of variance V heats a direction by the factor
1 + h²V/(1 − c²): γ is chosen so that this is 1 + `tolerance` where the curvature λ is largest and V ≈ λ (N/B − 1)/T,
and h is made smaller where that would take more friction than a fifth of the velocity in each step. With all data in a
batch γ = 1/√T, which lets directions as wide as the prior oscillate without returning often, but at least one
hundredth of the velocity is lost in a step: energy that a too long step brings in must go somewhere.

Cost: one gradient of the batch per chain and step. Not here: an estimate of V taken off the noise (adaptive_sghmc),
thermostats (sgnht), Metropolis corrections (split_hmc).
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from bayesify.engine.stochastic import Dynamics, Geometry, Update
from bayesify.methods.base import Exactness, MethodInfo, Range, require_positive
from bayesify.methods.stochastic import StochasticSampler

STEP = 0.5
"""h √λ of the narrowest direction: a quarter of what is stable, since networks' curvature changes along the way."""
WEAKEST, STRONGEST = 0.02, 0.36
"""1 − c², at least and at most: c ≥ 0.8. With more friction chains would move no further for the same heat."""


@dataclass(frozen=True)
class SGHMC(StochasticSampler):
    """Hamiltonian dynamics with friction on minibatch gradients; `step_size` is h.

    Attributes:
        friction: γ; None follows from the tolerance.
    """

    friction: float | None = None

    info = MethodInfo(
        name="sghmc",
        family="sgmcmc",
        exactness=Exactness.APPROXIMATE,
        reference="Chen, Fox & Guestrin, ICML 2014; Leimkuhler & Matthews 2013",
        summary="Hamiltonian dynamics with friction on minibatch gradients",
        bias="gradient noise widens narrow directions by up to `tolerance`; chains may not have left their starts",
        search_space={"tolerance": Range(0.05, 1.0, log=True)},
    )

    def check_dynamics(self) -> None:
        """The friction."""
        require_positive(self, optional=("friction",))

    def dynamics(self, theta: Tensor, geometry: Geometry) -> tuple[Dynamics, dict[str, float]]:
        """Equation (1) from rest."""
        step = self.step_size or hamiltonian_step(geometry, self.tolerance)
        friction = self.friction or friction_for(geometry, step, self.tolerance)
        start = State(theta, torch.zeros_like(theta))
        return Dynamics(start, hamiltonian(geometry.scale, step, friction)), {"step_size": step, "friction": friction}


class State(NamedTuple):
    """What the next step needs."""

    theta: Tensor  # (K, P)
    velocity: Tensor  # (K, P), in units of s


def hamiltonian_step(geometry: Geometry, tolerance: float) -> float:
    """A length of step that is stable, and not too long for the gradient's noise."""
    longest = STEP if geometry.noise == 0 else min(STEP, math.sqrt(STRONGEST * tolerance / geometry.noise))
    return longest / math.sqrt(geometry.curvature)


def friction_for(geometry: Geometry, step_size: float, tolerance: float) -> float:
    """γ at which gradient noise heats the narrowest direction by `tolerance`; that of the prior where there is none."""
    slowest = float((geometry.scale / geometry.prior_scale).min()) / math.sqrt(geometry.temperature)
    lost = min(STRONGEST, max(WEAKEST, step_size**2 * geometry.noise * geometry.curvature / tolerance))
    return max(slowest, -math.log1p(-lost) / (2 * step_size))


def hamiltonian(scale: Tensor, step_size: float, friction: float) -> Update:
    """Equation (1) for scales (P,) or (K, P)."""

    def update(state: State, gradient: Tensor, noise: Tensor, rate: Tensor) -> State:
        h = step_size * rate.sqrt()
        keep = torch.exp(-friction * h)
        velocity = state.velocity + h * scale * gradient
        theta = state.theta + 0.5 * h * scale * velocity
        velocity = keep * velocity + (1 - keep.square()).sqrt() * noise
        return State(theta + 0.5 * h * scale * velocity, velocity)

    return update
