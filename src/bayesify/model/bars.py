"""A density made of bars: a distribution over real targets as a classification of intervals.

Müller et al. (ICLR 2022, section 4.2): the outputs are logits of K intervals; inside an interval the density is
constant, and below the first and above the last edge it falls off as half of a normal.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution
from torch.nn import functional as F

from bayesify.errors import DataError, MethodError, ModelError
from bayesify.model.likelihoods import Likelihood

HALF_NORMAL_MEAN = math.sqrt(2 / math.pi)
"""Of |z|, z ~ N(0, 1)."""


class BarDistribution(Distribution):
    """K bars with given logits (..., K), between K − 1 increasing edges, with tails of the given scales."""

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012 - torch's own class attribute

    def __init__(self, logits: Tensor, edges: Tensor, tails: Tensor) -> None:
        self.log_probs, self.edges, self.tails = torch.log_softmax(logits, -1), edges, tails
        Distribution.__init__(self, logits.shape[:-1], validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density at `value`, broadcast against the batch."""
        value = value + torch.zeros_like(self.log_probs[..., 0])
        bar = torch.searchsorted(self.edges, value)
        log_mass = self.log_probs.expand(*value.shape, -1).gather(-1, bar.unsqueeze(-1)).squeeze(-1)
        return log_mass + self._log_shape(value, bar)

    def _log_shape(self, value: Tensor, bar: Tensor) -> Tensor:
        """Log density within a bar."""
        last = len(self.edges)
        inner = -self.edges.diff().log()
        flat = inner[(bar - 1).clamp(0, last - 2)]
        below = _log_half_normal(self.edges[0] - value, self.tails[0])
        above = _log_half_normal(value - self.edges[-1], self.tails[1])
        return torch.where(bar == 0, below, torch.where(bar == last, above, flat))

    def cdf(self, value: Tensor) -> Tensor:
        """P(y ≤ value)."""
        value = value.unsqueeze(-1)
        probs = self.log_probs.exp()
        inner = ((value - self.edges[:-1]) / self.edges.diff()).clamp(0, 1)
        low = torch.erfc((self.edges[0] - value).clamp_min(0) / (self.tails[0] * math.sqrt(2)))
        high = torch.erf((value - self.edges[-1]).clamp_min(0) / (self.tails[1] * math.sqrt(2)))
        return (probs * torch.cat([low, inner, high], -1)).sum(-1)

    def _moments(self) -> tuple[Tensor, Tensor]:
        """Mean and variance (K,) of every bar."""
        widths = self.edges.diff()
        centres = self.edges[:-1] + widths / 2
        low = self.edges[:1] - self.tails[:1] * HALF_NORMAL_MEAN
        high = self.edges[-1:] + self.tails[1:] * HALF_NORMAL_MEAN
        spread = self.tails.square() * (1 - HALF_NORMAL_MEAN**2)
        return torch.cat([low, centres, high]), torch.cat([spread[:1], widths.square() / 12, spread[1:]])

    @property
    def mean(self) -> Tensor:
        """Of the whole mixture of bars."""
        return (self.log_probs.exp() * self._moments()[0]).sum(-1)

    @property
    def variance(self) -> Tensor:
        """Within bars and between them."""
        means, variances = self._moments()
        between = (means - self.mean.unsqueeze(-1)).square()
        return (self.log_probs.exp() * (between + variances)).sum(-1)

    def draw(self, which: tuple[Tensor, ...], rng: torch.Generator) -> Tensor:
        """One y for every entry of the batch that an index picks."""
        probs = self.log_probs[which].exp()
        bar = torch.multinomial(probs.reshape(-1, probs.shape[-1]), 1, generator=rng).reshape(probs.shape[:-1])
        last = len(self.edges)
        place = torch.rand(bar.shape, generator=rng, device=rng.device, dtype=probs.dtype)
        inside = (bar - 1).clamp(0, last - 2)
        flat = self.edges[inside] + place * self.edges.diff()[inside]
        reach = torch.randn(bar.shape, generator=rng, device=rng.device, dtype=probs.dtype).abs()
        below, above = self.edges[0] - self.tails[0] * reach, self.edges[-1] + self.tails[1] * reach
        return torch.where(bar == 0, below, torch.where(bar == last, above, flat))


def _log_half_normal(distance: Tensor, scale: Tensor) -> Tensor:
    return -0.5 * (distance / scale).square() - scale.log() + math.log(HALF_NORMAL_MEAN)


@dataclass(frozen=True)
class Bars(Likelihood):
    """K = number of edges + 1 outputs are the logits of bars.

    Attributes:
        edges: increasing; at least 2.
        tails: standard deviations of the normals whose halves lie below the first and above the last edge.
    """

    edges: tuple[float, ...]
    tails: tuple[float, float]

    name = "bars"
    kind = "regression"

    def __post_init__(self) -> None:
        increasing = all(low < high for low, high in zip(self.edges, self.edges[1:], strict=False))
        if len(self.edges) < 2 or not increasing or not all(map(math.isfinite, self.edges)):
            raise MethodError(
                f"Bars(edges={self.edges}): the edges of bars are at least 2 finite, increasing numbers; take distinct "
                "quantiles of the targets."
            )
        if not all(0 < tail < math.inf for tail in self.tails):
            raise MethodError(f"Bars(tails={self.tails}): the scales of both tails must be positive and finite.")

    @staticmethod
    def of(targets: Tensor, num_bars: int) -> "Bars":
        """Bars that share many targets (N,) equally; the tails fit those beyond the outermost edges.

        Raises:
            DataError: too few targets, or too few different ones, for so many bars.
        """
        targets = targets.flatten().double()
        if num_bars < 3 or len(targets) < 20 * num_bars:
            raise DataError(
                f"{num_bars} bars from {len(targets)} targets: bars need at least 3 of them and 20 targets for each."
            )
        ordered = targets.sort().values
        edges = ordered[[len(ordered) * k // num_bars for k in range(1, num_bars)]]
        if not bool((edges.diff() > 0).all()):
            raise DataError(f"the targets repeat so often that {num_bars} bars would be empty: ask for fewer bars.")
        low, high = edges[0] - ordered, ordered - edges[-1]
        tails = [float(beyond[beyond > 0].square().mean().sqrt()) for beyond in (low, high)]
        return Bars(tuple(edges.tolist()), (tails[0], tails[1]))

    def distribution(self, logits: Tensor) -> BarDistribution:
        """The density of logits (..., K)."""
        edges = torch.tensor(self.edges, dtype=logits.dtype, device=logits.device)
        return BarDistribution(logits, edges, torch.tensor(self.tails, dtype=logits.dtype, device=logits.device))

    def log_prob(self, outputs: Tensor, targets: Tensor, parameters: Tensor) -> Tensor:  # noqa: D102
        del parameters
        return self.distribution(outputs).log_prob(targets.reshape(outputs.shape[:-1]))

    def components(self, outputs: Tensor, parameters: Tensor) -> Distribution:  # noqa: D102
        del parameters
        return self.distribution(outputs.unsqueeze(-2))

    def fisher(self, outputs: Tensor, parameters: Tensor) -> Tensor:
        """diag(p) − p pᵀ: within a bar the density does not depend on the logits."""
        del parameters
        p = F.softmax(outputs, -1)
        return torch.diag_embed(p) - p.unsqueeze(-1) * p.unsqueeze(-2)

    def check(self, outputs: Tensor, targets: Tensor) -> None:  # noqa: D102
        if outputs.shape[-1] != len(self.edges) + 1:
            raise ModelError(
                f"the model gives {outputs.shape[-1]} outputs but {len(self.edges)} edges make "
                f"{len(self.edges) + 1} bars: change the last layer."
            )
        if targets.dim() > 1 and targets.shape[-1] != 1:
            raise DataError(f"bars describe one target per example, not {targets.shape[-1]}: model them one by one.")
