"""Layers whose weight matrix cannot stretch its inputs by more than a bound (Miyato et al. 2018; Liu et al. 2020).

    W ← W · min(1, c / σ(W)),                                                                                   (1)

σ the largest singular value, of a convolution that of its kernel as an (out, in · height · width) matrix. σ comes from
repeated squaring of the smaller Gram matrix, without a state from step to step, so that particles stay functions of
their parameters alone; its gradient is that of uᵀ W v at fixed singular vectors.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bayesify.model.surgery import output_layer, replaced

SQUARINGS = 5
"""2⁵ = 32 power iterations: σ is low by (σ₂/σ₁)⁶⁴ of itself at most, 0.1% for a gap of 10%."""


class Bounded(nn.Module):
    """A Linear or Conv2d with (1)."""

    def __init__(self, layer: nn.Linear | nn.Conv2d, bound: float) -> None:
        nn.Module.__init__(self)
        self.layer, self.bound = layer, bound

    def forward(self, x: Tensor) -> Tensor:
        """What the layer gives with the bounded weight."""
        weight = bounded(self.layer.weight, self.bound)
        if isinstance(self.layer, nn.Linear):
            return F.linear(x, weight, self.layer.bias)
        outputs: Tensor = self.layer._conv_forward(x, weight, self.layer.bias)
        return outputs


def bounded(weight: Tensor, bound: float) -> Tensor:
    """(1), for a weight (out, ...)."""
    return weight * (bound / largest_singular_value(weight.flatten(1))).clamp_max(1.0)


def largest_singular_value(matrix: Tensor) -> Tensor:
    """σ(W) of (out, in), with the gradient u vᵀ."""
    fixed = matrix.detach()
    rows = fixed if fixed.shape[0] <= fixed.shape[1] else fixed.mT
    gram = rows @ rows.mT
    power = gram
    for _ in range(SQUARINGS):
        power = power / power.diagonal().sum().clamp_min(torch.finfo(power.dtype).tiny)
        power = power @ power
    # Any start does that is not orthogonal to the singular vector: the row of the largest diagonal entry is not.
    start = power.diagonal().argmax()
    short = _unit(power.index_select(0, start[None])[0])
    long = _unit(rows.mT @ short)
    left, right = (short, long) if fixed.shape[0] <= fixed.shape[1] else (long, short)
    sigma: Tensor = left @ matrix @ right
    return sigma.clamp_min(torch.finfo(matrix.dtype).tiny)


def with_spectral_norm(module: nn.Module, bound: float) -> nn.Module:
    """Every Linear and Conv2d but the output layer bounded; the module is changed."""
    output = output_layer(module)
    for name, layer in list(module.named_modules()):
        if name != output and isinstance(layer, (nn.Linear, nn.Conv2d)):
            module = replaced(module, name, Bounded(layer, bound))
    return module


def _unit(vector: Tensor) -> Tensor:
    return vector * vector.square().sum().clamp_min(torch.finfo(vector.dtype).tiny).rsqrt()
