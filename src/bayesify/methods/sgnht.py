"""Stochastic gradient Nosé–Hoover thermostat (Ding et al., NIPS 2014).

As sghmc, but the friction ξ is a variable that grows while velocities are too fast, so that noise of unknown size in
the gradient is taken up by friction. In the symmetric order of Leimkuhler & Shang (SIAM J. Sci. Comput. 2016), BADODAB:

    v ← v + h s ĝ(θ)                                                                                             (1)
    θ ← θ + ½ h s v                                                                                              (2)
    ξ ← ξ + ½ h (|v|²/P − 1)/μ                                                                                   (3)
    v ← e^(−ξh) v + √(A (1 − e^(−2ξh))/ξ) η,      η ~ N(0, I)                                                    (4)

then (3), then (2). A is the noise injected. In the long run the mean of |v|²/P is exactly 1. If the gradient's noise is
the same in all directions, in units of s, so is every direction's temperature; if not, as for networks, only their mean
is right: noisy directions are too wide, the others too narrow.

Cost: one gradient of the batch per chain and step. Not here: a thermostat for each parameter.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from bayesify.engine.stochastic import Dynamics, Geometry, Update
from bayesify.methods.base import Exactness, MethodInfo, Range, require_positive
from bayesify.methods.sghmc import friction_for, hamiltonian_step
from bayesify.methods.stochastic import StochasticSampler

FEWEST_STEPS = 10.0
"""μ is 1/A², as slow as the velocities, unless the thermostat would then move in fewer steps than this."""
SMALLEST_FRICTION = 1e-6
"""Of A: below it in absolute value ξ counts as this in (4), where 0/0 would stand."""


@dataclass(frozen=True)
class SGNHT(StochasticSampler):
    """Hamiltonian dynamics on minibatch gradients with a thermostat; `step_size` is h.

    Attributes:
        friction: A, the noise injected, and the friction at the start; None follows from the tolerance.
    """

    friction: float | None = None

    info = MethodInfo(
        name="sgnht",
        family="sgmcmc",
        exactness=Exactness.APPROXIMATE,
        reference="Ding et al., NIPS 2014; Leimkuhler & Shang 2016",
        summary="Hamiltonian dynamics on minibatch gradients with a thermostat",
        bias="the mean temperature is right, but directions with noisier gradients are too wide and others too narrow",
        search_space={"tolerance": Range(0.05, 1.0, log=True)},
    )

    def check_dynamics(self) -> None:
        """The friction."""
        require_positive(self, optional=("friction",))

    def dynamics(self, theta: Tensor, geometry: Geometry) -> tuple[Dynamics, dict[str, float]]:
        """Equations (1) to (4) from rest."""
        step = self.step_size or hamiltonian_step(geometry, self.tolerance)
        friction = self.friction or friction_for(geometry, step, self.tolerance)
        start = State(theta, torch.zeros_like(theta), torch.full_like(theta[:, :1], friction))
        mass = max(1 / friction**2, FEWEST_STEPS * step / friction)
        update = thermostat(geometry.scale, step, friction, mass)
        return Dynamics(start, update), {"step_size": step, "friction": friction}


class State(NamedTuple):
    """What the next step needs."""

    theta: Tensor  # (K, P)
    velocity: Tensor  # (K, P), in units of s
    friction: Tensor  # (K, 1) ξ


def thermostat(scale: Tensor, step_size: float, injected: float, thermal_mass: float) -> Update:
    """Equations (1) to (4) for scales (P,) or (K, P)."""
    least = SMALLEST_FRICTION * injected

    def heated(friction: Tensor, velocity: Tensor, h: Tensor) -> Tensor:
        return friction + 0.5 * h * (velocity.square().mean(-1, keepdim=True) - 1) / thermal_mass  # (3)

    def update(state: State, gradient: Tensor, noise: Tensor, rate: Tensor) -> State:
        h = step_size * rate.sqrt()
        velocity = state.velocity + h * scale * gradient  # (1)
        theta = state.theta + 0.5 * h * scale * velocity  # (2)
        friction = heated(state.friction, velocity, h)
        positive = torch.where(friction.abs() < least, least, friction)
        spread = (-injected * torch.expm1(-2 * positive * h) / positive).sqrt()
        velocity = torch.exp(-friction * h) * velocity + spread * noise  # (4)
        friction = heated(friction, velocity, h)
        return State(theta + 0.5 * h * scale * velocity, velocity, friction)

    return update
