"""A small Bayesian linear regression, y = Φ θ + noise, that tests of the evidence share."""

import torch
from torch import Tensor

N, P = 40, 4
NOISE = 0.6


def data() -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(8)
    design = torch.randn(N, P, generator=rng, dtype=torch.float64)
    weights = torch.tensor([1.0, -0.5, 0.0, 2.0], dtype=torch.float64)
    return design, design @ weights + 0.8 * torch.randn(N, generator=rng, dtype=torch.float64)


def mode() -> Tensor:
    design, targets = data()
    precision = design.mT @ design / NOISE**2 + torch.eye(P, dtype=torch.float64)
    return torch.linalg.solve(precision, design.mT @ targets / NOISE**2)
