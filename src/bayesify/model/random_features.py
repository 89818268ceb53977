"""A Gaussian process in place of the last layer, by random Fourier features (Rahimi & Recht 2007; Liu et al. 2020).

    φ(h) = √2 cos(W h / ℓ + b),      W ~ N(0, 1), b ~ U(0, 2π), both fixed,      f(h) = β φ(h).                 (1)

With β ~ N(0, s²/D) on D features, the covariance of f tends to s² exp(−‖h − h'‖²/2ℓ²): fan-in scaled priors of β are
Gaussian processes of unit scale, whatever D.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from bayesify.engine.rng import seeded
from bayesify.model.surgery import output_layer, replaced


class RandomFeatures(nn.Module):
    """(1); `output` holds β."""

    directions: Tensor
    phases: Tensor

    def __init__(self, replaced_layer: nn.Linear, num_features: int, length_scale: float, seed: int) -> None:
        nn.Module.__init__(self)
        like = replaced_layer.weight
        rng = torch.Generator().manual_seed(seed)
        directions = torch.randn(num_features, replaced_layer.in_features, generator=rng)
        phases = 2 * math.pi * torch.rand(num_features, generator=rng)
        with seeded(seed):
            self.output = nn.Linear(num_features, replaced_layer.out_features, bias=False).to(like)
        self.register_buffer("directions", (directions / length_scale).to(like))
        self.register_buffer("phases", phases.to(like))

    def forward(self, hidden: Tensor) -> Tensor:
        """(B, ..., F) → (B, ..., C)."""
        features = torch.cos(hidden @ self.directions.mT + self.phases)
        outputs: Tensor = self.output(math.sqrt(2) * features)
        return outputs


def with_random_features(module: nn.Module, settings: Mapping[str, Any]) -> nn.Module:
    """The output layer replaced; the module is changed.

    Args:
        module: whose last Linear gives its outputs.
        settings: num_features D; length_scale ℓ in units of √(inputs of the layer); seed of W and b.
    """
    name = output_layer(module)
    layer = module.get_submodule(name)
    assert isinstance(layer, nn.Linear)
    length_scale = settings["length_scale"] * math.sqrt(layer.in_features)
    return replaced(module, name, RandomFeatures(layer, settings["num_features"], length_scale, settings["seed"]))
