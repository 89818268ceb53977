"""Families whose entries depend on each other within blocks: what ARD and spatially correlated priors are made of.

Each knows the shape of its block and takes any number of blocks side by side; its log density has one entry per group.
"""

import math
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from bayesify.model.parameters import Slot
from bayesify.model.prior import Family


@dataclass(frozen=True)
class SharedScale(Family):
    """The weights of one input share a scale: a multivariate t of `df` degrees of freedom for each input.

    z | λ ~ N(0, λ² I), λ⁻² ~ Gamma(df/2, rate df/2), λ integrated out:
    p(z) ∝ (1 + |z|²/df)^(−(df + d)/2), d weights per input. Inputs are independent.

    Attributes:
        marginal: what one weight follows, a Student t of these degrees of freedom: it gives the scale.
        df: degrees of freedom.
        shape: of a block, outputs × inputs × kernel positions.
    """

    marginal: Family
    df: float
    shape: tuple[int, int, int]

    name = "ard"

    def scale_of(self, slot: Slot) -> float:  # noqa: D102
        return self.marginal.scale_of(slot)

    def standard_log_density(self, z: Tensor) -> Tensor:
        """(..., n) → (..., groups)."""
        df, size = self.df, self._size
        constant = math.lgamma((df + size) / 2) - math.lgamma(df / 2) - 0.5 * size * math.log(df * math.pi)
        length = self._blocks(z).square().sum((-3, -1))
        return (constant - (df + size) / 2 * torch.log1p(length / df)).flatten(-2)

    def standard_score(self, z: Tensor) -> Tensor:  # noqa: D102
        blocks = self._blocks(z)
        length = blocks.square().sum((-3, -1), keepdim=True)
        return (-(self.df + self._size) * blocks / (self.df + length)).flatten(-4)

    def standard_sample(self, shape: tuple[int, ...], rng: torch.Generator) -> Tensor:
        """Normals over the root of one scaled gamma draw per input."""
        normal = self._blocks(torch.randn(shape, generator=rng, device=rng.device, dtype=torch.float64))
        concentration = torch.full_like(normal[..., :1, :, :1], self.df / 2)
        gamma = torch._standard_gamma(concentration, generator=rng)
        return (normal * torch.sqrt(self.df / 2 / gamma)).flatten(-4)

    @property
    def _size(self) -> int:
        """Weights of one input."""
        outputs, _, positions = self.shape
        return outputs * positions

    def _blocks(self, z: Tensor) -> Tensor:
        """(..., n) → (..., blocks, outputs, inputs, positions)."""
        return z.reshape(*z.shape[:-1], -1, *self.shape)


@dataclass(frozen=True)
class KernelNormal(Family):
    """Each kernel of a convolution is Gaussian, with correlation exp(−distance/length_scale) between positions.

    Attributes:
        marginal: what one weight follows: it gives the scale.
        length_scale: in positions; correlations fall to 1/e over it.
        kernel: its shape.
    """

    marginal: Family
    length_scale: float
    kernel: tuple[int, ...]

    name = "correlated_normal"

    def __post_init__(self) -> None:
        _ = self._law  # while tensors have values: scores are traced, where they have none

    def scale_of(self, slot: Slot) -> float:  # noqa: D102
        return self.marginal.scale_of(slot)

    def standard_log_density(self, z: Tensor) -> Tensor:
        """(..., n) → (..., kernels)."""
        law, kernels = self._law, self._kernels(z)
        square = (kernels @ law.precision.to(z) * kernels).sum(-1)
        return -0.5 * square - law.half_log_determinant - 0.5 * kernels.shape[-1] * math.log(2 * math.pi)

    def standard_score(self, z: Tensor) -> Tensor:  # noqa: D102
        return -(self._kernels(z) @ self._law.precision.to(z)).flatten(-2)

    def standard_sample(self, shape: tuple[int, ...], rng: torch.Generator) -> Tensor:  # noqa: D102
        white = self._kernels(torch.randn(shape, generator=rng, device=rng.device, dtype=torch.float64))
        return (white @ self._law.root.to(white).mT).flatten(-2)

    @property
    def _law(self) -> "_Law":
        return _law(self.kernel, self.length_scale)

    def _kernels(self, z: Tensor) -> Tensor:
        """(..., n) → (..., kernels, positions)."""
        return z.reshape(*z.shape[:-1], -1, math.prod(self.kernel))


class _Law(NamedTuple):
    """A correlation matrix of kernel positions: its root, its inverse, half its log determinant."""

    root: Tensor
    precision: Tensor
    half_log_determinant: float


@cache
def _law(kernel: tuple[int, ...], length_scale: float) -> _Law:
    axes = [torch.arange(size, dtype=torch.float64) for size in kernel]
    places = torch.cartesian_prod(*axes).reshape(-1, len(kernel))
    distances = (places.unsqueeze(0) - places.unsqueeze(1)).square().sum(-1).sqrt()
    root = torch.linalg.cholesky(torch.exp(-distances / length_scale))
    return _Law(root, torch.cholesky_inverse(root), float(root.diagonal().log().sum()))
