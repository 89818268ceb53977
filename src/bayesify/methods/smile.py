"""Stochastic microcanonical Langevin dynamics (Sommer et al., ICML 2026): mclmc on minibatch gradients.

A particle of unit speed moves through d parameters in units of their scales s, x = θ/s. With its direction u and the
batch's gradient u's turn is towards, s ĝ, one step of length ε is

    u ← kicked by s ĝ(θ) for a time ε, equation (2) of `engine.microcanonical`                                  (1)
    x ← x + ½ ε u,    u ← normalised [ u + ν z ],    x ← x + ½ ε u,      z ~ N(0, I),  ν² = (exp(2 ε/L) − 1)/d.  (2)

With exact gradients this is mclmc's dynamics as ε falls, and leaves the posterior as it is. In terms of h = ε/√(d − 1)
and γ = √(d − 1)/L it is also sghmc's step, of a velocity √d u whose length is fixed: what is right for any step there,
the law on Gaussians, is right here but for a relative h² λ̄/12 (λ̄ the mean curvature) and 1/d. It takes one gradient
where McLachlan's steps, which the paper uses, take two.

Gradient noise of covariance V turns directions too. Where it is the same in all of them, V = v I, directions are only
forgotten sooner, 1/L + ½ ε v/(d − 1) in the place of 1/L. Where it is not, velocities grow where noise is large, and
others must shrink, since the length is fixed: as h falls, the temperature of a direction of a Gaussian is

    Tᵢ = (γ + ½ h Vᵢ)/(γ + ½ h V̄),      V̄ the mean over directions.                                            (3)

h and γ are sghmc's, so that this is 1 + `tolerance` at most where V ≈ λ (N/B − 1)/T; directions that the data say
nothing of come out too narrow, by less than that. As for sgnht, but there is no thermostat that could swing, and no
step is longer than ε: chains cannot blow up.

Cost: one gradient of the batch per chain and step. Not here: the paper's step sizes from quantiles of energy changes,
with chains set back where these are large (here they follow from the curvature), and its scales from running variances
of the gradient (here `preconditioner`, frozen).
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from bayesify.engine.microcanonical import FORGOTTEN, kick, refreshed
from bayesify.engine.rng import generator
from bayesify.engine.stochastic import Dynamics, Geometry, Update
from bayesify.errors import MethodError
from bayesify.methods.base import Exactness, MethodInfo, Range, describe, require_positive
from bayesify.methods.sghmc import friction_for, hamiltonian_step
from bayesify.methods.stochastic import StochasticSampler


@dataclass(frozen=True)
class SMILE(StochasticSampler):
    """Microcanonical Langevin dynamics on minibatch gradients; `step_size` is ε.

    Attributes:
        length: L over which directions are forgotten, in units of the scales; None follows from the tolerance.
    """

    length: float | None = None

    info = MethodInfo(
        name="smile",
        family="sgmcmc",
        exactness=Exactness.APPROXIMATE,
        reference="Sommer et al., ICML 2026, arXiv 2602.06500",
        summary="constant-speed Langevin sampling on minibatch gradients",
        bias="the mean temperature is right; directions of noisier gradients are too wide and others too narrow, both "
        "by at most `tolerance`",
        search_space={"tolerance": Range(0.05, 1.0, log=True)},
    )

    def check_dynamics(self) -> None:
        """The length."""
        if self.length is not None:
            require_positive(self, "length")

    def dynamics(self, theta: Tensor, geometry: Geometry) -> tuple[Dynamics, dict[str, float]]:
        """Equations (1) and (2) from a random direction.

        Raises:
            MethodError: there is only one parameter, which has no direction to turn.
        """
        if theta.shape[1] < 2:
            raise MethodError(f"{describe(self)} turns directions, and one parameter has none: use sghmc.")
        unit = math.sqrt(theta.shape[1] - 1)
        step = self.step_size or unit * hamiltonian_step(geometry, self.tolerance)
        length = self.length or unit / friction_for(geometry, step / unit, self.tolerance)
        start = State(theta, anywhere(theta))
        return Dynamics(start, microcanonical(geometry.scale, step, length)), {"step_size": step, "length": length}


class State(NamedTuple):
    """What the next step needs."""

    theta: Tensor  # (K, P)
    direction: Tensor  # (K, P) unit vectors, in units of s


def anywhere(theta: Tensor) -> Tensor:
    """Random unit vectors (K, P), the same ones for every seed: they are forgotten in the burn-in."""
    noise = torch.randn(theta.shape, generator=generator("cpu", "smile"), dtype=theta.dtype)
    return torch.nn.functional.normalize(noise, dim=-1).to(theta.device)


def microcanonical(scale: Tensor, step_size: float, length: float) -> Update:
    """Equations (1) and (2) for scales (P,) or (K, P)."""

    def update(state: State, gradient: Tensor, noise: Tensor, rate: Tensor) -> State:
        step = (step_size * rate.sqrt()).expand(len(state.theta))
        half = 0.5 * step[:, None] * scale
        direction, _ = kick(state.direction, scale * gradient, step)
        theta = state.theta + half * direction
        amount = (torch.expm1((2 * step / length).clamp_max(FORGOTTEN)) / theta.shape[1]).sqrt()
        direction = refreshed(direction, noise, amount)
        return State(theta + half * direction, direction)

    return update
