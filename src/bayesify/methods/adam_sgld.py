"""Langevin dynamics with Adam's drift added, aSGLD (Kim, Song & Liang, arXiv 2009.09535).

With u = s ĝ, the batch's gradient in units of the parameters' scales,

    m ← β₁ m + (1 − β₁) u,    w ← β₂ w + (1 − β₂) u²                                                            (1)
    θ ← θ + ε s (u + a m/√(w + 10⁻⁸)) + √(2ε) s ξ,      ξ ~ N(0, I).                                            (2)

What it targets: as ε falls, m follows the mean gradient ū and w follows ū² + V, V the gradient noise's variance, so the
drift is ū (1 + a/√(ū² + V)): stronger than the posterior's where gradients are small. On a Gaussian with V ≫ ū² a
direction of curvature λ gets the variance 1/λ(1 + a/√V): it is as if its temperature were 1/(1 + a/√V). Narrow
directions, where V ≈ λ (N/B − 1)/T is large, keep nearly their variance; those that the data leave to the prior become
narrower than the posterior (up to half for a = 1). Exact only for a = 0, which is sgld.

Cost: one gradient of the batch per chain and step. Not here: a correction of that bias.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from bayesify.engine.stochastic import Dynamics, Geometry, Update
from bayesify.methods.base import Exactness, MethodInfo, Range, require
from bayesify.methods.sgld import langevin_step
from bayesify.methods.stochastic import StochasticSampler

EPSILON = 1e-8
"""Keeps (2) finite where there is no gradient at all."""


@dataclass(frozen=True)
class AdamSGLD(StochasticSampler):
    """Langevin dynamics on minibatch gradients, helped along by Adam's direction; `step_size` is ε.

    Attributes:
        drift: a, the weight of Adam's direction; 0 is sgld.
        beta1: β₁, the memory of the gradient.
        beta2: β₂, the memory of its square.
    """

    drift: float = 1.0
    beta1: float = 0.9
    beta2: float = 0.999

    info = MethodInfo(
        name="adam_sgld",
        family="sgmcmc",
        exactness=Exactness.APPROXIMATE,
        reference="Kim, Song & Liang, arXiv 2009.09535",
        summary="Langevin dynamics on minibatch gradients with Adam's drift added",
        bias="colder than the posterior where gradients are small, by up to 1 + drift/(gradient noise); else as sgld",
        search_space={"tolerance": Range(0.05, 1.0, log=True), "drift": Range(0.1, 100.0, log=True)},
    )

    def check_dynamics(self) -> None:
        """The drift and the memories."""
        require(self.drift >= 0, self, "drift", "0 or more")
        for field in ("beta1", "beta2"):
            require(0 <= getattr(self, field) < 1, self, field, "at least 0 and below 1")

    def dynamics(self, theta: Tensor, geometry: Geometry) -> tuple[Dynamics, dict[str, float]]:
        """Equations (1) and (2)."""
        epsilon = self.step_size or langevin_step(geometry, self.tolerance)
        start = State(theta, torch.zeros_like(theta), torch.zeros_like(theta))
        update = drifting(geometry.scale, epsilon, self.drift, (self.beta1, self.beta2))
        return Dynamics(start, update), {"step_size": epsilon}


class State(NamedTuple):
    """What the next step needs."""

    theta: Tensor  # (K, P)
    first: Tensor  # (K, P) m
    second: Tensor  # (K, P) w


def drifting(scale: Tensor, epsilon: float, drift: float, betas: tuple[float, float]) -> Update:
    """Equations (1) and (2) for scales (P,) or (K, P)."""

    def update(state: State, gradient: Tensor, noise: Tensor, rate: Tensor) -> State:
        step = epsilon * rate
        gradient = scale * gradient
        first = torch.lerp(gradient, state.first, betas[0])
        second = torch.lerp(gradient.square(), state.second, betas[1])
        moved = gradient + drift * first * (second + EPSILON).rsqrt()
        return State(state.theta + step * scale * moved + (2 * step).sqrt() * scale * noise, first, second)

    return update
