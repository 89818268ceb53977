"""Elliptical slices: the law of the chains, step by step, on targets whose moments are known."""

import math

import pytest
import torch
from small_problems import critical_value
from torch import Tensor

from bayesify.engine.elliptical import advance, start_slices

CHAINS, SIZE = 4000, 3
PRECISION = torch.tensor([0.0, 3.0, 400.0]).double()
"""Of the likelihood along each axis: useless, as good as the prior, and twenty times sharper."""
CENTRE = torch.tensor([0.0, 1.0, -0.5]).double()


def log_likelihood(theta: Tensor) -> Tensor:
    return -0.5 * (PRECISION * (theta.double() - CENTRE).square()).sum(-1)


def exact(num_chains: int, rng: torch.Generator) -> Tensor:
    """Draws of the posterior N(Λ c / (1 + Λ), 1 / (1 + Λ))."""
    noise = torch.randn(num_chains, SIZE, generator=rng, dtype=torch.float64)
    return PRECISION * CENTRE / (1 + PRECISION) + noise / (1 + PRECISION).sqrt()


def transition(theta: Tensor, rng: torch.Generator) -> tuple[Tensor, float]:
    """One whole transition of every chain, and how many angles they tried on average."""
    slices = start_slices(theta, log_likelihood, rng)
    result, waiting, tried = theta.clone(), torch.ones(len(theta), dtype=torch.bool), 0
    while bool(waiting.any()):
        tried += int(waiting.sum())
        slices, info = advance(slices, log_likelihood, rng)
        assert info.done is not None
        ended = waiting & info.done
        result[ended] = slices.theta[ended]
        waiting = waiting & ~info.done
    return result, tried / len(theta)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_posterior_stays_what_it_is(dtype: torch.dtype) -> None:
    """Chains start from exact draws; after 5 transitions first and second moments are still right; rate 1e-5."""
    rng = torch.Generator().manual_seed(0)
    theta = exact(CHAINS, rng).to(dtype)
    for _ in range(5):
        theta, _ = transition(theta, rng)
    assert theta.dtype == dtype
    white = (theta.double() - PRECISION * CENTRE / (1 + PRECISION)) * (1 + PRECISION).sqrt()
    z = torch.cat([white.mean(0), (white.square().mean(0) - 1) / math.sqrt(2)]) * math.sqrt(CHAINS)
    assert float(z.abs().max()) < critical_value(6)


def test_chains_come_from_afar() -> None:
    rng = torch.Generator().manual_seed(1)
    theta = torch.full((CHAINS, SIZE), 4.0, dtype=torch.float64)
    for _ in range(60):
        theta, tried = transition(theta, rng)
    white = (theta - PRECISION * CENTRE / (1 + PRECISION)) * (1 + PRECISION).sqrt()
    z = torch.cat([white.mean(0), (white.square().mean(0) - 1) / math.sqrt(2)]) * math.sqrt(CHAINS)
    assert float(z.abs().max()) < critical_value(6)
    assert 3 < tried < 12


def test_a_bracket_that_is_not_shrunk_around_the_point_would_be_seen() -> None:
    """The control: shrinking the wrong end leaves brackets that no longer hold the chain's own point."""
    rng = torch.Generator().manual_seed(2)
    slices = start_slices(exact(CHAINS, rng), log_likelihood, rng)
    for _ in range(40):
        assert bool(((slices.low <= 0) & (slices.high >= 0)).all())
        assert bool(((slices.low <= slices.angle) & (slices.angle <= slices.high)).all())
        assert bool((log_likelihood(slices.theta) > slices.height - 1e-12).all())
        slices, _ = advance(slices, log_likelihood, rng)


def test_impossible_points_are_never_accepted_and_can_be_left() -> None:
    def half(theta: Tensor) -> Tensor:
        return torch.where(theta[:, 0] > 0, 0.0, math.nan).double()

    rng = torch.Generator().manual_seed(3)
    theta = torch.randn(CHAINS, 2, generator=rng, dtype=torch.float64)
    slices = start_slices(theta, half, rng)
    for _ in range(60):
        slices, _ = advance(slices, half, rng)
    assert bool((slices.theta[:, 0] > 0).all())
    z = (slices.theta[:, 0].mean() - math.sqrt(2 / math.pi)) / math.sqrt((1 - 2 / math.pi) / CHAINS)
    assert abs(float(z)) < critical_value()
