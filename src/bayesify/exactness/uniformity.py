"""Are L numbers uniform on (0, 1)? Three exact tests that know what they look for, and what a deviation amounts to.

Simulation-based calibration gives one number per simulation: the randomised rank u = (r + V) / (M + 1) of the truth
among M posterior draws, V ~ U(0, 1), which is exactly uniform when truth and draws are exchangeable, whatever M is.
With z = Φ⁻¹(u) the tests are

* location: √L mean(z) ~ N(0, 1), which sees bias;
* spread: Σ (z − mean(z))² ~ χ²_(L − 1), which sees over- and under-confidence (U and hump shapes);
* shape: the empirical distribution function at K points stays within simultaneous bands (Säilynoja, Bürkner & Vehtari
  2022), which sees everything else. The chance to leave them is computed exactly, by the law of the counts from one
  point to the next, not simulated.

All three p-values are exact, so three of them for each of Q quantities, by Bonferroni, alarm no more often than stated
however the quantities depend on each other.

The size of a deviation is that of the Gaussian truth N(μ, τ²), relative to draws from N(0, 1), whose ranks are most
probable: draws whose standard deviations are 1/τ of what they should be, and centres off by μ of them.
"""

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]

BAND_POINTS = 20
"""Where the distribution function is looked at."""
NUM_TESTS = 3
NODES, REACH = 241, 6.0
"""Of the truth's integral: steps of a twentieth of its standard deviation."""
LARGEST_RATIO = 20.0
"""Standard deviations further off than this cannot be told from none at all."""


class Uniformity(NamedTuple):
    """Exact p-values of one quantity."""

    location: float
    spread: float
    shape: float

    @property
    def p_value(self) -> float:
        """Of the three together."""
        return min(1.0, NUM_TESTS * min(self))


class Size(NamedTuple):
    """How far draws are from where the truth is."""

    log_spread: float
    """Log ratio of their standard deviations to what they should be: negative is over-confident."""
    centre: float
    """How far they lie too high, in standard deviations of the draws."""


def randomised(ranks: Counts, draws: Counts, rng: np.random.Generator) -> Array:
    """Ranks 0 … M among M draws as numbers in (0, 1), (L,) each."""
    return (ranks + rng.uniform(size=len(ranks))) / (draws + 1)


def uniformity(u: Array) -> Uniformity:
    """Tests L numbers in (0, 1)."""
    from scipy.special import chdtr, chdtrc, ndtr, ndtri

    z = ndtri(np.clip(u, 1e-15, 1 - 1e-15))
    total, degrees = float(((z - z.mean()) ** 2).sum()), len(z) - 1
    location = 2 * float(ndtr(-abs(z.mean()) * math.sqrt(len(z))))
    spread = 2 * float(min(chdtr(degrees, total), chdtrc(degrees, total)))
    return Uniformity(location, min(1.0, spread), _shape_p_value(u))


def _shape_p_value(u: Array) -> float:
    points = np.arange(1, BAND_POINTS) / BAND_POINTS
    counts = (u[None, :] <= points[:, None]).sum(1)
    observed = _pointwise(len(u), points)[np.arange(len(points)), counts].min()
    return _leaves(len(u), float(observed))


def _pointwise(size: int, points: Array) -> Array:
    """Two-sided binomial p-values of every count 0 … L at every point, (K, L + 1)."""
    from scipy.stats import binom

    counts = np.arange(size + 1)
    below = binom.cdf(counts, size, points[:, None])
    above = binom.sf(counts - 1, size, points[:, None])
    result: Array = np.minimum(1.0, 2 * np.minimum(below, above))
    return result


def _leaves(size: int, level: float) -> float:
    """Chance that any pointwise p-value of uniform numbers is at most `level`: forward over the counts."""
    from scipy.stats import binom

    points = np.arange(1, BAND_POINTS) / BAND_POINTS
    inside = _pointwise(size, points) > level * (1 + 1e-9)
    reached, chance, before = np.array([0]), np.ones(1), 0.0
    for point, allowed in zip(points, inside, strict=True):
        counts = np.flatnonzero(allowed)
        more = counts[None, :] - reached[:, None]
        step = binom.pmf(more, size - reached[:, None], (point - before) / (1 - before))
        reached, chance, before = counts, chance @ step, point
    return min(1.0, max(0.0, 1.0 - float(chance.sum())))


def size_of(ranks: Counts, draws: Counts) -> Size:
    """The most probable Gaussian deviation behind ranks among draws, (L,) each."""
    from scipy.optimize import minimize
    from scipy.special import log_ndtr, logsumexp

    nodes = np.linspace(-REACH, REACH, NODES)
    weights = -0.5 * nodes**2 - logsumexp(-0.5 * nodes**2)
    pairs, times = np.unique(np.stack([ranks, draws - ranks]), axis=1, return_counts=True)

    def loss(parameters: Array) -> float:
        truth = parameters[0] + math.exp(parameters[1]) * nodes
        each = np.outer(pairs[0], log_ndtr(truth)) + np.outer(pairs[1], log_ndtr(-truth)) + weights
        return -float(times @ logsumexp(each, axis=1)) / len(ranks)

    reach = math.log(LARGEST_RATIO)
    found = minimize(loss, np.zeros(2), method="L-BFGS-B", bounds=[(-LARGEST_RATIO, LARGEST_RATIO), (-reach, reach)])
    return Size(-float(found.x[1]), -float(found.x[0]))


def visible_log_spread(num_simulations: int, rate: float) -> float:
    """The log error of standard deviations that L simulations find in half of all cases at false-alarm rate `rate`."""
    from scipy.special import ndtri

    return -float(ndtri(rate / 2)) / math.sqrt(2 * num_simulations)
