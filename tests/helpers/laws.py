"""What discretised samplers sample instead of the posterior, on the targets whose posteriors are known."""

import math

import torch
from targets import MIXTURE_PRIOR, Target, gaussian_under, mixture_score, mixture_under, precision_of
from torch import Tensor

LAG_ROUNDS = 200
"""Of fixed points: each halves the distance at least."""


def langevin_gaussian(target: Target, epsilon: float) -> Target:
    """Steps with exact gradients: covariance (A (I − εA/2))⁻¹."""
    precision = precision_of(target.problem)
    eye = torch.eye(len(precision), dtype=torch.float64)
    return gaussian_under(target.problem, torch.linalg.inv(precision @ (eye - 0.5 * epsilon * precision)))


def drifting_gaussian(target: Target, epsilon: float, drift: float, beta: float) -> Target:
    """Langevin steps with Adam's drift, where w has settled: w = E u², D = a w^(−½), u = −A z, m' = β m + (1 − β) u.

    z ← z + ε u + ε D m' + √(2ε) ξ. In float64 both dtypes are the same.
    """
    precision = precision_of(target.problem)
    size = len(precision)
    eye, squares = torch.eye(size, dtype=torch.float64), precision.diagonal()
    for _ in range(LAG_ROUNDS):
        pull = drift * torch.diag(squares.rsqrt())
        top = torch.cat([eye - epsilon * (eye + (1 - beta) * pull) @ precision, epsilon * beta * pull], 1)
        bottom = torch.cat([-(1 - beta) * precision, beta * eye], 1)
        noise = torch.block_diag(2 * epsilon * eye, 0 * eye)
        covariance = stationary(torch.cat([top, bottom]), noise)[:size, :size]
        squares = 0.5 * squares + 0.5 * (precision @ covariance @ precision).diagonal()
    return gaussian_under(target.problem, covariance)


def stationary(transition: Tensor, injected: Tensor) -> Tensor:
    """The covariance Σ = F Σ Fᵀ + Q, by doubling the number of steps."""
    covariance = injected
    for _ in range(40):
        covariance = covariance + transition @ covariance @ transition.T
        transition = transition @ transition
    return covariance


def langevin_mixture(target: Target, epsilon: float, drift: float = 0.0) -> Target:
    """Langevin steps along the mixture's direction and across it; with a drift, on a mixture that is not oblique.

    The step is ε in units of the prior's scale s, z ← z + ε s² (1 + a/√w) g + √(2ε) s ξ with w = s² E g²: a chain in
    one dimension, whose transition matrix on a grid has the law as its eigenvector.
    """
    temperature, square = target.problem.temperature, MIXTURE_PRIOR**2
    step, curvature = epsilon * square, (1 + 1 / square) / temperature
    reach = 4 + 5 * math.sqrt(temperature)
    grid = torch.linspace(-reach, reach, 801, dtype=torch.float64)
    score = mixture_score(grid, temperature)
    slope, pull, across = 1.0, 1.0, 1 / curvature
    for _ in range(20 if drift else 1):
        away = grid - (grid + step * pull * score)[:, None]
        weight = invariant((-away.square() / (4 * step)).exp())
        across = 2 * step / (1 - (1 - step * slope * curvature) ** 2)
        pull = 1 + drift / math.sqrt(square * float((weight * score.square()).sum()))
        slope = 1 + drift / math.sqrt(square * curvature**2 * across)
    return mixture_under(target.problem, grid, weight, across, oblique=drift == 0)


def invariant(kernel: Tensor) -> Tensor:
    """The law that a transition matrix (from, to), its rows not normalised, leaves as it is."""
    moves = kernel / kernel.sum(1, keepdim=True)
    system = moves.T - torch.eye(len(moves), dtype=moves.dtype)
    system[-1] = 1.0
    return torch.linalg.solve(system, torch.eye(len(moves), dtype=moves.dtype)[-1])
