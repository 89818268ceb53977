"""How far predictions are from a known truth, one and ten at a time (Osband et al., "The Neural Testbed", 2022).

    KL_τ = E[log p(y_1 … y_τ | x_1 … x_τ) − log q(y_1 … y_τ | x_1 … x_τ)],                                         (1)
    log q = log (1/M) Σ_m Π_t q_m(y_t | x_t)   for M draws of a posterior.                                         (2)

τ = 1 is the marginal. For the joint, τ = 10 inputs are drawn with replacement from two anchors (dyadic sampling) and
their labels from the truth, each anew. Labels of one anchor are exchangeable, so that (1) depends on how often each
anchor has label 1 alone: the expectation over labels is a sum over those counts, weighted by binomial probabilities,
with no sampling error. What is left of it is that of the anchors. (2) is biased for M draws of a larger posterior: the
KL is too high, by about the relative variance of the products over 2 M.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from bayesify.metrics.joint import dyadic_blocks
from bayesify.predictive import Predictive

ORDER = 10
"""τ."""
ELEMENTS = 2**24
"""Numbers that are held at once."""


class Divergence(NamedTuple):
    """In nats."""

    marginal: float
    dyadic: float


class Dyads(NamedTuple):
    """Pairs of anchors and how many of the τ inputs are the first."""

    first: Tensor  # (M,)
    second: Tensor  # (M,)
    repeats: Tensor  # (M,) of the first; the second comes τ − repeats times


def divergence(predictive: Predictive, log_probs: Tensor) -> Divergence:
    """(1) of a predictive of two classes at A anchors.

    Args:
        predictive: of the anchors.
        log_probs: of the truth (A, 2).
    """
    count = len(log_probs)
    truth = log_probs.double()
    labels = [torch.full((count,), label) for label in (0, 1)]
    marginal = torch.stack([predictive.log_prob(label).double() for label in labels], -1)
    draws = torch.stack([predictive.draw_log_prob(label).double() for label in labels], -1)  # (S, A, 2)
    dyads = make_dyads(count)
    return Divergence(
        float((truth.exp() * (truth - marginal)).sum(-1).mean()), float(dyadic(truth, draws, dyads).mean())
    )


def make_dyads(num_anchors: int, seed: int = 0) -> Dyads:
    """Every anchor in one pair, by the same draw for all methods."""
    blocks = torch.as_tensor(dyadic_blocks(num_anchors, np.random.default_rng(seed), ORDER))
    first, second = blocks.min(1).values, blocks.max(1).values
    # A block that never draws one of its anchors is ten times the other: which one is missing does not matter.
    return Dyads(first, second, (blocks == first[:, None]).sum(1))


def dyadic(truth: Tensor, draws: Tensor, dyads: Dyads) -> Tensor:
    """KL of every block (M,), exact in the labels.

    Args:
        truth: log probabilities (A, 2).
        draws: of every draw (S, A, 2).
        dyads: M blocks.
    """
    result = torch.zeros(len(dyads.first), dtype=truth.dtype)
    for repeats in torch.unique(dyads.repeats).tolist():
        rows = (dyads.repeats == repeats).nonzero()[:, 0]
        size = max(1, ELEMENTS // (len(draws) * (ORDER // 2 + 1) ** 2))
        for part in rows.split(size):
            result[part] = _blocks(truth, draws, dyads.first[part], dyads.second[part], repeats)
    return result


def _blocks(truth: Tensor, draws: Tensor, first: Tensor, second: Tensor, repeats: int) -> Tensor:
    """Blocks with the same numbers of repetitions: (M,)."""
    p = _counts(truth[first], repeats)[:, :, None] + _counts(truth[second], ORDER - repeats)[:, None, :]
    ways = _log_ways(repeats)[:, None] + _log_ways(ORDER - repeats)[None, :]
    q = _counts(draws[:, first], repeats)[..., :, None] + _counts(draws[:, second], ORDER - repeats)[..., None, :]
    log_q = q.logsumexp(0) - math.log(len(draws))
    value: Tensor = ((p + ways).exp() * (p - log_q)).sum((1, 2))
    return value


def _counts(log_probs: Tensor, repeats: int) -> Tensor:
    """Log probability (..., n + 1) of n labels of which 0, …, n are 1, in a given order, from (..., 2)."""
    ones = torch.arange(repeats + 1, dtype=log_probs.dtype)
    return log_probs[..., :1] * (repeats - ones) + log_probs[..., 1:] * ones


def _log_ways(repeats: int) -> Tensor:
    """Log of how many orders have 0, …, n ones."""
    return torch.tensor([math.log(math.comb(repeats, k)) for k in range(repeats + 1)], dtype=torch.float64)
