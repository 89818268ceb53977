"""Stochastic gradient Langevin dynamics (Welling & Teh, ICML 2011).

Every chain follows a noisy gradient ĝ of the log posterior, estimated from a batch,

    θ ← θ + ε s² ĝ + √(2ε) s ξ,      ξ ~ N(0, I),                                                              (1)

with the prior's scales s as a preconditioner (or RMSprop's, frozen: Li et al. 2016). On a Gaussian with precision A in
units of s, and gradient noise of covariance V, (1) is a linear recursion: its covariance Σ solves

    Σ = (I − εA) Σ (I − εA) + 2ε I + ε² V,      without noise Σ = (A (I − εA/2))⁻¹.                             (2)

In a direction of curvature λ the variance is (1 + εV/2λ)/(1 − ελ/2) times too large, with V ≈ λ (N/B − 1)/T: ε is
chosen so that this is 1 + `tolerance` for the largest λ. Chains need 1/ε steps to cross the prior's width.

Cost: one gradient of the batch per chain and step. Not here: step sizes that fall to 0 with draws weighted by them,
which would be exact in the limit and is too slow to be used; Metropolis corrections (split_hmc).
"""

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from bayesify.engine.stochastic import Dynamics, Geometry, Update
from bayesify.methods.base import Exactness, MethodInfo, Range
from bayesify.methods.stochastic import StochasticSampler


@dataclass(frozen=True)
class SGLD(StochasticSampler):
    """Langevin dynamics on minibatch gradients with a constant step size; `step_size` is ε."""

    info = MethodInfo(
        name="sgld",
        family="sgmcmc",
        exactness=Exactness.APPROXIMATE,
        reference="Welling & Teh, ICML 2011; Li et al., AAAI 2016",
        summary="noisy steps along minibatch gradients",
        bias="variances along narrow directions are too large by up to `tolerance`; slow, so chains stay near starts",
        search_space={"tolerance": Range(0.05, 1.0, log=True)},
    )

    def check_dynamics(self) -> None:
        """None of its own."""

    def dynamics(self, theta: Tensor, geometry: Geometry) -> tuple[Dynamics, dict[str, float]]:
        """Equation (1)."""
        epsilon = self.step_size or langevin_step(geometry, self.tolerance)
        return Dynamics(State(theta), langevin(geometry.scale, epsilon)), {"step_size": epsilon}


class State(NamedTuple):
    """What the next step needs."""

    theta: Tensor  # (K, P)


def langevin_step(geometry: Geometry, tolerance: float) -> float:
    """ε at which (2) gives the narrowest direction 1 + `tolerance` times its variance; ελ < 2 for any tolerance."""
    return 2 * tolerance / (geometry.curvature * (1 + geometry.noise + tolerance))


def langevin(scale: Tensor, epsilon: float) -> Update:
    """Equation (1) for scales (P,) or (K, P)."""

    def update(state: State, gradient: Tensor, noise: Tensor, rate: Tensor) -> State:
        step = epsilon * rate
        return State(state.theta + step * scale.square() * gradient + (2 * step).sqrt() * scale * noise)

    return update
