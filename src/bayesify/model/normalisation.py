"""Layers that scale; among them normalisation that does not mix examples, as independent examples ask of a network."""

import torch
from torch import Tensor, nn

EPSILON = 1e-6


class Scaling(nn.Module):
    """Base of layers of our own whose parameters multiply: their neutral value is 1, but for biases and thresholds."""


class FilterResponseNorm2d(Scaling):
    """Filter response normalisation with its thresholded linear unit (Singh & Krishnan, 2020, equations 1-4).

    Every channel of every example is divided by its root mean square over positions: unlike in batch normalisation,
    an example's output does not depend on its batch. `weight` is the scale, centred on 1 by the priors.
    """

    def __init__(self, num_channels: int) -> None:
        nn.Module.__init__(self)
        self.weight = nn.Parameter(torch.ones(num_channels))
        self.bias = nn.Parameter(torch.zeros(num_channels))
        self.threshold = nn.Parameter(torch.zeros(num_channels))

    def reset_parameters(self) -> None:
        """Scale 1, shift and threshold 0."""
        nn.init.ones_(self.weight)
        nn.init.zeros_(self.bias)
        nn.init.zeros_(self.threshold)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → the same shape."""
        square = x.square().mean((-2, -1), keepdim=True)
        weight, bias, threshold = (p[:, None, None] for p in (self.weight, self.bias, self.threshold))
        return torch.maximum(weight * x * torch.rsqrt(square + EPSILON) + bias, threshold)
