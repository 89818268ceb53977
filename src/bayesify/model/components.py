"""Moments, distribution function and draws of what each draw of the posterior says about y, by tensor operations alone.

torch's own Student distribution selects its infinite moments by index, which no exported graph can hold, and lacks a
distribution function.
"""

import math

import torch
from torch import Tensor
from torch.distributions import Distribution, Normal, Poisson, StudentT

from bayesify.model.bars import BarDistribution


def mean_of(components: Distribution) -> Tensor:
    """(S, B, D); NaN where there is none."""
    if isinstance(components, StudentT):
        return torch.where(components.df > 1, components.loc, math.nan)
    mean: Tensor = components.mean
    return mean


def variance_of(components: Distribution) -> Tensor:
    """(S, B, D); infinite or NaN where there is none."""
    if not isinstance(components, StudentT):
        variance: Tensor = components.variance
        return variance
    df = components.df
    finite = components.scale.square() * df / (df - 2)
    return torch.where(df > 2, finite, torch.where(df > 1, math.inf, math.nan).to(finite))


def cdf_of(components: Distribution, value: Tensor) -> Tensor:
    """(S, B, D) distribution functions at value (B, D)."""
    if isinstance(components, Normal):
        below: Tensor = components.cdf(value)  # type: ignore[no-untyped-call]
        return below
    if isinstance(components, BarDistribution):
        return components.cdf(value)
    if isinstance(components, Poisson):
        below = torch.special.gammaincc(value.floor().clamp_min(0) + 1, components.rate)
        return torch.where(value >= 0, below, torch.zeros_like(below))
    assert isinstance(components, StudentT)
    from scipy.special import stdtr  # torch has no Student distribution function

    z = (value - components.loc) / components.scale
    result = stdtr(components.df.cpu().numpy(), z.detach().cpu().numpy())
    return torch.as_tensor(result, dtype=value.dtype, device=value.device)


def sample_of(components: Distribution, which: Tensor, rows: Tensor, rng: torch.Generator) -> Tensor:
    """One y (n, B, D) from component `which` (n, B) of every row."""
    if isinstance(components, Poisson):
        return torch.poisson(components.rate[which, rows], generator=rng)
    if isinstance(components, BarDistribution):
        return components.draw((which, rows), rng)
    noise_shape = (*which.shape, components.mean.shape[-1])
    noise = torch.randn(noise_shape, generator=rng, device=rng.device, dtype=components.mean.dtype)
    assert isinstance(components, (Normal, StudentT))
    if isinstance(components, StudentT):
        df = components.df[which, rows]
        gamma = torch._standard_gamma(df / 2, generator=rng)
        noise = noise * torch.sqrt(df / 2 / gamma)
    return components.loc[which, rows] + components.scale[which, rows] * noise


def entropy_of(log_probs: Tensor) -> Tensor:
    """Entropy in nats of class probabilities, (..., C) → (...)."""
    entropy: Tensor = -torch.special.xlogy(log_probs.exp(), log_probs.exp()).sum(-1)
    return entropy
