"""The distance between draws from a method and a posterior that is known, each with its Monte Carlo error.

The standard errors of a sampler's draws, which depend on each other, come from the means of consecutive batches
(Flegal & Jones 2010): these hold whether chains are stored one after the other or interleaved. Moments of the
predictive have no such simple error; what S_eff perfect draws would give is simulated instead.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from bayesify.engine.rng import generator
from bayesify.exactness.known import KnownPosterior

MAX_BATCHES, BATCH_SIZE = 20, 10
"""Per run at most so many batches, of at least so many draws."""
MIN_BATCHED = 50
"""Fewer draws than this in a run are taken for independent: there is nothing to estimate their dependence from."""
FAILURE_RATE = 1e-5
"""Chance that a perfect method is judged inexact, over the about 60 comparisons of a whole check."""
NUM_COMPARISONS = 60
NUM_CONTROLS = 8
"""Simulated perfect predictives."""
KL_CONTROLS = 10.0
"""A perfect predictive's KL is about χ²_k/k times its mean with k ≥ 3 parameters: above 10 times in 3 of 10⁷ cases."""


class Measured(NamedTuple):
    """A value, what the Monte Carlo error of it may be (one standard error), and what is tolerated."""

    value: float
    error: float
    tolerance: float

    @property
    def is_zero(self) -> bool:
        """Whether the value is zero within its tolerance."""
        return abs(self.value) <= self.tolerance


class Moments(NamedTuple):
    """Distances of draws of θ; one entry per parameter, or per pair of parameters."""

    centre: list[Measured]
    """Posterior mean error in posterior standard deviations."""
    log_spread: list[Measured]
    """Log ratio of standard deviations: negative is over-confident."""
    correlation: list[Measured]
    """Error of each correlation coefficient."""
    effective_draws: float


class Distances(NamedTuple):
    """Distances of the predictive, averages over test points."""

    kl: Measured
    """KL(exact ‖ method) in nats per example."""
    total_variation: Measured
    joint: Measured
    """Error of the joint log density of all test targets, in nats."""


def moments(theta: Tensor, known: KnownPosterior, *, independent: bool, floor: float, num_runs: int = 1) -> Moments:
    """Compares draws with the known mean and covariance.

    Args:
        theta: (S, P), of one run after the other.
        known: what they should be draws from.
        independent: whether the draws are known to be independent.
        floor: what numerical error is tolerated anyway, in standard deviations.
        num_runs: how many runs the draws are of, equally many of each.
    """
    count = len(theta)
    batches = None if independent else _batches(count, num_runs)
    z = _critical(math.inf if batches is None else batches - 1)
    u = (theta - known.mean) / known.stddev  # in posterior standard deviations
    mean = u.mean(0)
    mean_error = _standard_error(u, batches)
    # About each run's own mean: the spread that one run gives, to which differences between runs must not add.
    by_run = u.reshape(num_runs, count // num_runs, -1)
    centred = (by_run - by_run.mean(1, keepdim=True)).flatten(0, 1)
    variance = centred.square().mean(0) * (count / max(1, count - num_runs))
    floored = variance.clamp_min(1e-12)
    spread_error = _standard_error(centred.square(), batches) / (2 * floored)
    # Draws of a posterior that is too wide or too narrow have errors of their own scale: judge by what is known.
    spread_error = spread_error.maximum(torch.full_like(spread_error, math.sqrt(0.5 / count)))
    mean_error = mean_error.maximum(torch.full_like(mean_error, 1e-12))
    effective = float((floored / mean_error.square()).min().clamp(1.0, float(count)))
    exact = known.covariance / known.stddev / known.stddev[:, None]
    found = (centred.mT @ centred / count) / torch.outer(floored.sqrt(), floored.sqrt())
    rows, columns = torch.triu_indices(len(mean), len(mean), offset=1)
    correlation_error = (1 - exact.square()) / math.sqrt(effective)

    def listed(values: Tensor, errors: Tensor) -> list[Measured]:
        pairs = zip(values.tolist(), errors.tolist(), strict=True)
        return [Measured(value, error, z * error + floor) for value, error in pairs]

    return Moments(
        listed(mean, mean_error),
        listed(0.5 * floored.log(), spread_error),
        listed((found - exact)[rows, columns], correlation_error[rows, columns]),
        effective,
    )


def distances(
    known: KnownPosterior, log_density: Tensor, joint: float, effective_draws: float, *, floor: float, seed: int
) -> Distances:
    """Compares a predictive with the exact one.

    Args:
        known: the posterior.
        log_density: the predictive's log p(y | x) on `known.support()`, (G, B).
        joint: its joint log density of the test targets.
        effective_draws: how many independent draws it is worth.
        floor: KL that is tolerated anyway, in nats.
        seed: of the simulated controls.
    """
    values, weights = known.support()
    exact = known.log_predictive(values)
    exact_joint = known.joint_log_density()
    rng = generator("cpu", seed, "controls")
    kls, variations, joints = [], [], []
    for _ in range(NUM_CONTROLS):
        theta = known.sample(max(1, round(effective_draws)), rng)
        control = torch.logsumexp(known.log_likelihood(theta, values), 0) - math.log(len(theta))
        kls.append(_kl(exact, control, weights))
        variations.append(_total_variation(exact, control, weights))
        each = known.log_likelihood(theta, known.test_targets[None])[:, 0].sum(-1)
        joints.append(float(torch.logsumexp(each, 0)) - math.log(len(theta)) - exact_joint)
    kl, variation = sum(kls) / NUM_CONTROLS, sum(variations) / NUM_CONTROLS
    joint_error = math.sqrt(sum(error**2 for error in joints) / NUM_CONTROLS)
    return Distances(
        Measured(_kl(exact, log_density, weights), kl, KL_CONTROLS * kl + floor),
        Measured(
            _total_variation(exact, log_density, weights),
            variation,
            math.sqrt(KL_CONTROLS) * variation + math.sqrt(floor),
        ),
        Measured(joint - exact_joint, joint_error, _critical(NUM_CONTROLS) * joint_error + math.sqrt(floor)),
    )


def _kl(exact: Tensor, other: Tensor, weights: Tensor) -> float:
    p = exact.exp()
    terms = torch.where(p > 0, p * (exact - other), torch.zeros_like(p))
    return float((weights * terms).sum(0).mean())


def _total_variation(exact: Tensor, other: Tensor, weights: Tensor) -> float:
    return float(0.5 * (weights * (exact.exp() - other.exp()).abs()).sum(0).mean())


def _batches(count: int, num_runs: int) -> int | None:
    each = count // num_runs
    return None if each < MIN_BATCHED else num_runs * min(MAX_BATCHES, each // BATCH_SIZE)


def _standard_error(values: Tensor, batches: int | None) -> Tensor:
    """Of the mean over the first dimension, (P,)."""
    count = len(values)
    if batches is None:
        return values.std(0, correction=min(1, count - 1)) / math.sqrt(count)
    size = count // batches
    means = values[count - size * batches :].reshape(batches, size, -1).mean(1)
    return means.std(0) / math.sqrt(batches)


def _critical(degrees: float) -> float:
    """How many standard errors a perfect method exceeds only at the failure rate, all comparisons together."""
    from scipy.special import ndtri, stdtrit

    level = 1 - 0.5 * FAILURE_RATE / NUM_COMPARISONS
    return float(ndtri(level) if math.isinf(degrees) else stdtrit(degrees, level))
