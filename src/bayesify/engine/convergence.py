"""Have the chains mixed, and how many independent draws are they worth (Vehtari et al., Bayesian Analysis 2021).

Both diagnostics split every chain in two, so that a drift within a chain shows, and replace values by normal scores of
their ranks, so that heavy tails cannot hide it. They take K chains of S draws of D quantities, (K, S, D).
"""

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

MINIMUM_DRAWS = 4
"""Per chain: half a chain needs two draws to have a variance."""


class Convergence(NamedTuple):
    """One number each per quantity, (D,)."""

    r_hat: Array
    """1 when chains agree; above about 1.01 they disagree in location or spread."""
    ess: Array
    """How many independent draws would estimate the mean as well."""
    ess_tail: Array
    """The same for the 5% and 95% quantiles, the worse of both."""


def convergence(draws: Array) -> Convergence:
    """Rank-normalised split R-hat, bulk and tail effective sample sizes.

    Args:
        draws: (K, S, D) with S ≥ 4.

    Returns:
        NaN for quantities that never change.
    """
    draws = np.asarray(draws, dtype=np.float64)
    halves = _split(draws)
    folded = np.abs(halves - np.median(halves, axis=(0, 1)))
    scores = _normal_scores(halves)
    r_hat = np.maximum(_r_hat(scores), _r_hat(_normal_scores(folded)))
    return Convergence(r_hat, _ess(scores), _tail_ess(draws))


def effective_sample_size(draws: Array) -> Array:
    """Effective sample size (D,) of the means of (K, S, D) as they are, for their Monte Carlo errors."""
    return _ess(_split(np.asarray(draws, dtype=np.float64)))


def autocorrelation(draws: Array) -> Array:
    """Of each chain of (K, S) by lag, (K, S): noise at lags not small beside S; 0 for one that stands still."""
    covariance = _autocovariance(np.asarray(draws, dtype=np.float64)[:, :, None])[:, :, 0].T
    still = covariance[:, :1] <= 0
    result: Array = np.where(still, 0.0, covariance / np.where(still, 1.0, covariance[:, :1]))
    return result


def rank_histogram(draws: Array, bins: int) -> npt.NDArray[np.int64]:
    """How many draws of each chain of (K, S) fall into each of equal bins of the ranks of all draws, (K, bins).

    Chains that agree have flat histograms; one that stays low fills the first bins (Vehtari et al. 2021).
    """
    from scipy.stats import rankdata

    ranks = rankdata(draws.reshape(-1)).reshape(draws.shape)
    places = np.minimum((bins * (ranks - 0.5) / draws.size).astype(np.int64), bins - 1)
    return np.stack([np.bincount(own, minlength=bins) for own in places])


def _split(draws: Array) -> Array:
    half = draws.shape[1] // 2  # the middle draw of an odd number is left out
    return np.concatenate([draws[:, :half], draws[:, -half:]])


def _normal_scores(draws: Array) -> Array:
    from scipy.special import ndtri
    from scipy.stats import rankdata

    chains, length, quantities = draws.shape
    ranks = rankdata(draws.reshape(-1, quantities), axis=0)
    scores: Array = ndtri((ranks - 3 / 8) / (chains * length + 1 / 4))  # Blom's offsets
    return scores.reshape(draws.shape)


def _r_hat(draws: Array) -> Array:
    length = draws.shape[1]
    within = draws.var(axis=1, ddof=1).mean(axis=0)
    between = length * draws.mean(axis=1).var(axis=0, ddof=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        result: Array = np.sqrt((between / within + length - 1) / length)
    return result


def _ess(draws: Array) -> Array:
    chains, length, _ = draws.shape
    covariance = _autocovariance(draws).mean(axis=1)  # (S, D), divided by S
    within = covariance[0] * length / (length - 1)
    total = covariance[0] + draws.mean(axis=1).var(axis=0, ddof=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        correlation = 1 - (within - covariance) / total
    correlation[0] = 1.0
    return np.array([chains * length / _correlation_time(rho, chains * length) for rho in correlation.T])


def _tail_ess(draws: Array) -> Array:
    """Of the indicators of the outer twentieths; NaN only where neither ever changes."""
    bounds = np.quantile(draws, (0.05, 0.95), axis=(0, 1))
    tails = np.stack([_ess(_split((draws <= bound).astype(np.float64))) for bound in bounds])
    both = np.isnan(tails).all(axis=0)
    result: Array = np.where(both, np.nan, np.fmin(tails[0], tails[1]))
    return result


def _autocovariance(draws: Array) -> Array:
    """(S, K, D): lag by chain by quantity, by fast Fourier transform."""
    length = draws.shape[1]
    centred = draws - draws.mean(axis=1, keepdims=True)
    spectrum = np.fft.rfft(centred, n=2 * length, axis=1)
    covariance = np.fft.irfft(np.abs(spectrum) ** 2, n=2 * length, axis=1)[:, :length] / length
    return np.moveaxis(covariance, 1, 0)


def _correlation_time(rho: Array, num_draws: int) -> float:
    """Geyer's initial monotone sequence: pair sums are positive and fall, so noise beyond is cut off."""
    if not np.isfinite(rho).all():
        return float("nan")
    # As Stan and ArviZ do, the last lags are left out: they are sums of a few products. Of the last pair that is looked
    # at, the negative one if there is any, only the even lag counts.
    count = max(1, (len(rho) - 1) // 2)
    pairs = rho[0 : 2 * count : 2] + rho[1 : 2 * count : 2]
    negative = np.flatnonzero(pairs < 0)
    stop = negative[0] if len(negative) else count - 1
    monotone = np.minimum.accumulate(pairs[:stop])
    last = max(float(rho[2 * stop]), 0.0)
    time = -1 + 2 * float(monotone.sum()) + last
    return max(time, 1 / math.log10(num_draws))  # at most num_draws × log10(num_draws), for antithetic chains
