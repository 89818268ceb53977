"""How much split means vary beyond test noise, learnt from the whole field of methods.

Five splits give each method's S² four degrees of freedom. A t test with four of them, at level 0.05 / 12, needs an
effect of 7.4 standard errors to be found with 80% power, where 3.7 would do if the variance were known. All methods of
a field are trained on the same splits, and each one's ratio F = S² / T (variance of split means over the part that
test examples explain) estimates the same kind of quantity. So F is moderated as in Smyth (2004, equation 3 and
section 6.2): the true ratios are taken to be s² d₀ / χ²(d₀) distributed, d₀ comes from the dispersion of log F over
the field, and

    F̃_m = (d₀ s²_m + d F_m) / (d₀ + d)      with d₀ + d degrees of freedom.                          (1)

Four departures from Smyth, all towards caution:

- s²_m is the mean of the *other* methods' F, so that a method is never its own witness;
- all differences share the control, so the F are correlated, and d₀ is capped at the degrees of freedom of a mean of
  M − 1 variances whose replicate means have squared correlation ρ² (estimated, at least 1/4);
- F̃_m is never below F_m: the field may lend degrees of freedom, never excuse variation that was seen;
- a method whose F lies above the upper quartile of F(d, d₀-cap) relative to the field is left to itself: its own F
  and d degrees of freedom.

Simulation (`benchmarks/statistics_calibration.py`) shows that the familywise rate holds for homogeneous fields, for
one method far more variable than the rest, for half of them, for a wide spread, and for a control that causes nearly
all of the variation.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import special

from bayesify.arena.statistics.variation import Array, Variation

LEAST_SHARED = 0.25  # ρ² of two differences to one control whose variance equals each method's
OUTLIER_QUANTILE = 0.75
SMALLEST_RATIO = 1e-3  # keeps log F finite when all replicates agree exactly


class Spread(NamedTuple):
    """The variance S² of replicate means that inference works with.

    Attributes:
        variance: S², moderated by the field where there is one.
        degrees: its degrees of freedom; 0 where there is one replicate only.
    """

    variance: float
    degrees: float


def own_spread(variation: Variation) -> Spread:
    """S² of one method by itself."""
    return Spread(variation.replicate_variance, float(variation.degrees))


def moderate(field: Sequence[Variation]) -> list[Spread]:
    """Moderate each method's S² by those of the others (equation 1).

    Only methods with the same number of replicates, and with test noise to compare with, inform each other.

    Args:
        field: one entry per method, all against the same control.

    Returns:
        One spread per method, in order.
    """
    spreads = [own_spread(one) for one in field]
    for count in {one.num_replicates for one in field if one.num_replicates > 1}:
        peers = [
            place
            for place, one in enumerate(field)
            if one.num_replicates == count and one.explained_variance > 0 and one.replicate_variance > 0
        ]
        if len(peers) > 1:
            for place, spread in zip(peers, _moderate_peers([field[p] for p in peers]), strict=True):
                spreads[place] = spread
    return spreads


def _moderate_peers(peers: list[Variation]) -> list[Spread]:
    count, degrees = len(peers), float(peers[0].degrees)
    explained = np.array([one.explained_variance for one in peers])
    ratio = np.array([one.replicate_variance for one in peers]) / explained  # F, (M,)
    others = (ratio.sum() - ratio) / (count - 1)
    cap = degrees * (count - 1) / (1 + (count - 2) * _shared_correlation(peers))
    prior = min(cap, _prior_degrees(ratio, degrees))
    moderated = np.maximum(ratio, (prior * others + degrees * ratio) / (prior + degrees))
    # The F quantile by the inverse of the incomplete beta function: scipy.stats is slow to import.
    outlier = ratio > others * special.fdtri(degrees, cap, OUTLIER_QUANTILE)
    variance = np.where(outlier, ratio, moderated) * explained
    freedom = np.where(outlier, degrees, prior + degrees)
    return [Spread(float(v), float(f)) for v, f in zip(variance, freedom, strict=True)]


def _prior_degrees(ratio: Array, degrees: float) -> float:
    """d₀ from the dispersion of log F beyond what d degrees of freedom explain (Smyth, 2004, section 6.2)."""
    logs = np.log(np.maximum(ratio, SMALLEST_RATIO))
    excess = float(logs.var(ddof=1)) - float(special.polygamma(1, degrees / 2))
    return 2.0 * _inverse_trigamma(excess) if excess > 1e-3 else np.inf


def _inverse_trigamma(value: float) -> float:
    """Newton's iteration of Smyth (2004), appendix: convex, so it converges from its starting point."""
    y = 0.5 + 1.0 / value
    for _ in range(50):
        trigamma = float(special.polygamma(1, y))
        step = trigamma * (1.0 - trigamma / value) / float(special.polygamma(2, y))
        y += step
        if abs(step) < 1e-8 * y:
            break
    return y


def _shared_correlation(peers: list[Variation]) -> float:
    """Mean squared correlation of replicate means over pairs of methods, less its bias at d degrees of freedom."""
    degrees = peers[0].degrees
    if degrees < 2:
        return LEAST_SHARED  # two points always correlate perfectly
    deviations = np.stack([one.means - one.means.mean() for one in peers])  # (M, R)
    norms = np.linalg.norm(deviations, axis=1, keepdims=True)
    units = deviations / np.where(norms > 0, norms, 1.0)
    count = len(peers)
    squared = (float(np.sum((units @ units.T) ** 2)) - count) / (count * (count - 1))
    return float(np.clip((squared - 1 / degrees) / (1 - 1 / degrees), LEAST_SHARED, 1.0))
