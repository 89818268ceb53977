"""Elliptical slice sampling of K chains (Murray, Adams & MacKay, AISTATS 2010).

The target is N(u; 0, I) L(u). A transition draws ν ~ N(0, I) and a height h = L(u) · Uniform(0, 1), and looks on the
ellipse

    u' = u cos φ + ν sin φ                                                                                       (1)

for a point with L(u') > h: φ uniform on a bracket of 2π around 0, which shrinks to the rejected φ until one is found.
There is nothing to tune and nothing is rejected in the end. `advance` is one evaluation of L for every chain; a chain
whose point is accepted begins its next transition at once, so that none waits for another's longer search.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from bayesify.engine.chains import Info


class Slices(NamedTuple):
    """Where each chain is, and the search it is in."""

    theta: Tensor  # (K, R) the point, u
    ellipse: Tensor  # (K, R) ν
    height: Tensor  # (K,) log h, float64
    low: Tensor  # (K,) the bracket of φ
    high: Tensor  # (K,)
    angle: Tensor  # (K,) φ that is tried next


LogLikelihood = Callable[[Tensor], Tensor]
"""(K, R) → log L (K,)."""


def start_slices(theta: Tensor, log_likelihood: LogLikelihood, rng: torch.Generator) -> Slices:
    """A first search from theta (K, R)."""
    return _begun(theta, _finite(log_likelihood(theta)), rng)


def advance(slices: Slices, log_likelihood: LogLikelihood, rng: torch.Generator) -> tuple[Slices, Info]:
    """Tries one angle of every chain."""
    cosine, sine = slices.angle.cos()[:, None], slices.angle.sin()[:, None]
    proposal = slices.theta * cosine.to(slices.theta) + slices.ellipse * sine.to(slices.theta)  # (1)
    value = _finite(log_likelihood(proposal))
    # From a point that is impossible, where a search would close in on the point itself, anywhere is better.
    accepted = (value > slices.height) | torch.isneginf(slices.height)
    below = slices.angle < 0
    low = torch.where(below, slices.angle, slices.low)
    high = torch.where(below, slices.high, slices.angle)
    shrunk = slices._replace(low=low, high=high, angle=low + (high - low) * _uniform(value, rng))
    begun = _begun(proposal, value, rng)
    chosen = [
        torch.where(accepted[:, None] if new.dim() == 2 else accepted, new, old)
        for new, old in zip(begun, shrunk, strict=True)
    ]
    nothing = torch.zeros_like(value)
    return Slices(*chosen), Info(accepted.double(), nothing, torch.zeros_like(accepted), accepted)


def _begun(theta: Tensor, value: Tensor, rng: torch.Generator) -> Slices:
    ellipse = torch.randn(theta.shape, generator=rng, dtype=theta.dtype, device=theta.device)
    height = value + _uniform(value, rng).log()
    high = 2 * math.pi * _uniform(value, rng)
    return Slices(theta, ellipse, height, high - 2 * math.pi, high, high)


def _uniform(like: Tensor, rng: torch.Generator) -> Tensor:
    """On (0, 1]: the logarithm is finite."""
    return 1 - torch.rand(like.shape, generator=rng, dtype=torch.float64, device=like.device)


def _finite(value: Tensor) -> Tensor:
    """NaN and +∞ count as impossible."""
    return torch.nan_to_num(value.double(), nan=-math.inf, posinf=-math.inf, neginf=-math.inf)
