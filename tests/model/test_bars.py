"""Bars: density, moments and distribution function against quadrature; draws against the distribution function."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from bayesify.errors import DataError, MethodError, ModelError
from bayesify.model.bars import Bars
from bayesify.predictive import Predictive

BARS = Bars((-1.0, -0.3, 0.1, 2.0), (0.5, 1.5))
LOGITS = torch.tensor([[0.3, -1.0, 2.0, 0.0, 1.0], [3.0, 0.0, 0.0, 0.0, -2.0]], dtype=torch.float64)
GRID = torch.linspace(-8, 22, 600_001, dtype=torch.float64)
STEP = float(GRID[1] - GRID[0])


def predictive() -> Predictive:
    return Predictive(BARS, LOGITS.unsqueeze(0), LOGITS.new_zeros(1, 0))


def density(row: int) -> Tensor:
    return BARS.distribution(LOGITS[row]).log_prob(GRID).exp()


@pytest.mark.parametrize("row", [0, 1])
def test_moments_and_mass_by_quadrature(row: int) -> None:
    p = density(row)
    assert float(p.sum()) * STEP == pytest.approx(1.0, abs=2e-4)
    mean = float((p * GRID).sum()) * STEP
    assert float(predictive().mean[row]) == pytest.approx(mean, abs=2e-4)
    assert float(predictive().variance[row]) == pytest.approx(float((p * (GRID - mean) ** 2).sum()) * STEP, abs=5e-4)


def test_bars_hold_the_mass_of_their_logits() -> None:
    edges = torch.tensor([-math.inf, *BARS.edges, math.inf], dtype=torch.float64)
    below = torch.stack([BARS.distribution(LOGITS).cdf(edge.expand(2)) for edge in edges], -1)
    torch.testing.assert_close(below.diff(dim=-1), LOGITS.softmax(-1))


def test_distribution_function_and_quantiles_by_quadrature() -> None:
    for value in (-2.0, -1.0, -0.5, 0.0, 1.7, 3.0):
        expected = [float(density(row)[value >= GRID].sum()) * STEP for row in (0, 1)]
        assert predictive().cdf(value).tolist() == pytest.approx(expected, abs=2e-4)
    for level in (0.01, 0.5, 0.99):
        assert predictive().cdf(predictive().quantile(level)).tolist() == pytest.approx([level, level], abs=1e-6)


def test_draws_follow_the_distribution_function() -> None:
    law = BARS.distribution(LOGITS)
    which = (torch.zeros(20_000, dtype=torch.long),)
    draws = law.draw(which, torch.Generator().manual_seed(0))
    levels = law.cdf(draws.unsqueeze(-1).expand(-1, 2))
    assert stats.kstest(levels[:, 0].numpy(), stats.uniform.cdf).pvalue > 1e-5
    assert stats.kstest(levels[:, 1].numpy(), stats.uniform.cdf).pvalue < 1e-5  # another row's law is found out


def test_log_prob_and_fisher() -> None:
    targets = torch.tensor([0.5, -3.0], dtype=torch.float64)
    logits = LOGITS.clone().requires_grad_()
    value = BARS.log_prob(logits, targets, LOGITS.new_zeros(0))
    torch.testing.assert_close(predictive().log_prob(targets), value.detach())
    scores = []
    for bar in range(5):  # one target in every bar: the expected outer product of scores over them is the Fisher
        target = torch.tensor([-1.5, -0.5, 0.0, 1.0, 2.5], dtype=torch.float64)[bar]
        (slope,) = torch.autograd.grad(BARS.log_prob(logits, target.expand(2), LOGITS.new_zeros(0)).sum(), logits)
        scores.append(slope)
    stacked = torch.stack(scores, 1)
    expected = torch.einsum("rb,rbi,rbj->rij", LOGITS.softmax(-1), stacked, stacked)
    torch.testing.assert_close(BARS.fisher(LOGITS, LOGITS.new_zeros(0)), expected)


def test_bars_of_targets_share_them_equally_and_fit_the_tails() -> None:
    targets = torch.from_numpy(np.random.default_rng(0).normal(size=100_000))
    bars = Bars.of(targets, 20)
    edges = [-math.inf, *bars.edges, math.inf]
    counts = [int(((targets > low) & (targets <= high)).sum()) for low, high in pairwise(edges)]
    assert max(counts) - min(counts) <= 2
    law = bars.distribution(torch.zeros(20, dtype=torch.float64))
    # Tails of a normal fall faster than those of its half beyond the edge, but mean square distances agree.
    low = bars.edges[0] - targets[targets < bars.edges[0]]
    assert bars.tails[0] == pytest.approx(float(low.square().mean().sqrt()))
    assert float(law.variance) == pytest.approx(1.0, abs=0.02)


def test_what_is_refused() -> None:
    with pytest.raises(MethodError, match="increasing"):
        Bars((0.0, 0.0), (1.0, 1.0))
    with pytest.raises(MethodError, match="tails"):
        Bars((0.0, 1.0), (0.0, 1.0))
    with pytest.raises(DataError, match="20 targets"):
        Bars.of(torch.zeros(10), 5)
    with pytest.raises(DataError, match="fewer bars"):
        Bars.of(torch.zeros(1000), 5)
    with pytest.raises(ModelError, match="5 bars"):
        BARS.check(torch.zeros(2, 4), torch.zeros(2))
    with pytest.raises(DataError, match="one target"):
        BARS.check(torch.zeros(2, 5), torch.zeros(2, 2))
