"""How far is a predictive from a reference's? Agreement, total variation, W1 and Kullback–Leibler divergence.

Classification: agreement and mean total variation of class probabilities (Izmailov et al. 2021), and Σ q log(q/p).

Regression: the mean over test points of W1 between the predictive distributions of y, in the units that the network
models, standardised targets. Both distributions are mixtures of the draws' likelihoods and are represented by points
of equal probability: every draw gives some quantiles of its own, at levels that are shifted from draw to draw by the
golden ratio, so that draws that agree fill each other's gaps. Points drawn at random, as in the NeurIPS 2021
competition, would add a distance of order 1/√S even between equal distributions.

KL is that of the reference q to the predictive p, E_q log(q/p), in nats: what coding with p costs if q is true; it is
severe on overconfidence. For regression the expectation is over points of equal probability under q.
"""

import math
from typing import NamedTuple

import numpy as np
import torch

from bayesify.errors import DataError
from bayesify.metrics.fidelity import agreement, total_variation, wasserstein1
from bayesify.predictive import Predictive

NUM_POINTS = 8192
"""Points that represent a predictive distribution of y, at least."""
KL_POINTS = 256
"""Points of equal probability at which densities are compared; what lies beyond the outer 1/512 counts as they do."""
AT_ONCE = 1_000_000
"""Densities of draws at values held at a time."""
GOLDEN = (math.sqrt(5) - 1) / 2


class Distance(NamedTuple):
    """Means over test points; None where the task has no such measure."""

    agreement: float | None
    """Share of test points with the same most probable class; 1 is identical."""
    total_variation: float | None
    wasserstein1: float | None
    """In standard deviations of the training targets."""
    kl: float
    """E_q log(q/p) for the reference q, in nats."""

    @property
    def main(self) -> float:
        """The one that gaps are measured in: W1 for regression, total variation for classification."""
        return float(self.total_variation if self.wasserstein1 is None else self.wasserstein1)  # type: ignore[arg-type]


class Target:
    """A reference's predictive with what every comparison needs of it.

    Args:
        predictive: of B test points, in the network's units.
    """

    def __init__(self, predictive: Predictive) -> None:
        if predictive.kind not in ("classification", "regression"):
            raise DataError(
                f"distances are defined for classes and real numbers, not for a {predictive.kind} likelihood."
            )
        self.predictive = predictive
        if predictive.kind == "classification":
            return
        self._points = np.sort(points(predictive), axis=0)
        middle = ((np.arange(KL_POINTS) + 0.5) / KL_POINTS * len(self._points)).astype(int)
        self._at = torch.as_tensor(self._points[middle])
        self._log_density = _log_density(predictive, self._at)

    def distance(self, predictive: Predictive) -> Distance:
        """Of another predictive of the same test points, in the same units.

        Raises:
            DataError: another kind of task, or another number of test points.
        """
        own = self.predictive
        if (predictive.kind, predictive.batch_shape) != (own.kind, own.batch_shape):
            raise DataError(
                f"a {predictive.kind} predictive of {predictive.batch_shape[0]} points cannot be compared to a "
                f"reference of {own.kind} on {own.batch_shape[0]}: predict the reference's test inputs."
            )
        if own.kind == "classification":
            return _of_classes(predictive, own)
        kl = (self._log_density - _log_density(predictive, self._at)).mean()
        return Distance(None, None, float(wasserstein1(points(predictive), self._points).mean()), float(kl))


def points(predictive: Predictive, num_points: int = NUM_POINTS) -> np.ndarray:
    """About `num_points` points (n, B) of equal probability under the distribution of y.

    Where the likelihood is not Gaussian they are random draws, of a fixed seed.
    """
    mixture = _normals(predictive)
    if mixture is None:
        return np.asarray(predictive.sample((num_points,)).double().cpu()).reshape(num_points, -1)
    means, scales = mixture
    num_draws = len(means)
    each = -(-num_points // num_draws)
    shift = (0.5 + GOLDEN * torch.arange(num_draws, dtype=torch.float64)) % 1.0
    levels = (torch.arange(each, dtype=torch.float64)[:, None] + shift) / each  # (each, S)
    z = torch.special.ndtri(levels.clamp(1e-12, 1 - 1e-12)).to(means.device)
    return np.asarray((means + scales * z[..., None]).flatten(0, 1).cpu())


def _of_classes(predictive: Predictive, reference: Predictive) -> Distance:
    ours, log_ours = _probs(predictive)
    true, log_true = _probs(reference)
    kl = np.where(true > 0, true * (log_true - log_ours), 0.0).sum(-1).mean()
    return Distance(agreement(ours, true), float(total_variation(ours, true).mean()), None, float(kl))


def _probs(predictive: Predictive) -> tuple[np.ndarray, np.ndarray]:
    logits = predictive.logits.double().log_softmax(-1).cpu()
    return np.asarray(logits.exp()), np.asarray(logits)


def _normals(predictive: Predictive) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Means and scales (S, B) of the mixture, where it is one of normals."""
    mixture = predictive.normal_mixture()
    if mixture is None:
        return None
    means, scales = mixture
    if means.shape[-1] != 1:
        raise DataError(f"the distance is defined for one target, not for {means.shape[-1]}: compare them one by one.")
    return means[..., 0].double(), scales[..., 0].double()


def _log_density(predictive: Predictive, at: torch.Tensor) -> torch.Tensor:
    """Of y at the values (n, B), in (n, B); some rows of values at a time, because all draws at all would not fit."""
    mixture = _normals(predictive)
    if mixture is None:
        return torch.stack([predictive.log_prob(row.to(predictive.outputs)).double().cpu() for row in at])
    means, scales = mixture
    constant = -scales.log() - 0.5 * math.log(2 * math.pi) - math.log(len(means))
    rows = max(1, AT_ONCE // means.numel())
    parts = []
    for some in torch.split(at.to(means.device), rows):
        z = (some[:, None] - means) / scales
        parts.append(torch.logsumexp(constant - 0.5 * z.square(), dim=1).cpu())
    return torch.cat(parts)
