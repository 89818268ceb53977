import math

import numpy as np
import pytest

from bayesify.engine.convergence import Array, convergence, effective_sample_size


def autoregressive(chains: int, length: int, correlation: float, seed: int) -> Array:
    """Stationary AR(1) chains with standard normal marginals, (K, S)."""
    rng = np.random.default_rng(seed)
    x = np.zeros((chains, length))
    x[:, 0] = rng.normal(size=chains)
    for t in range(1, length):
        x[:, t] = correlation * x[:, t - 1] + math.sqrt(1 - correlation**2) * rng.normal(size=chains)
    return x


@pytest.mark.parametrize("correlation", [-0.3, 0.0, 0.5, 0.9])
def test_ess_of_autoregressive_chains(correlation: float) -> None:
    # An AR(1) chain of length n is worth n (1 − ρ)/(1 + ρ) draws. Forty independent sets of chains: the mean estimate
    # of the correlation time has a standard error of a few per cent.
    draws = np.stack([autoregressive(4, 2000, correlation, seed) for seed in range(40)], axis=-1)
    found = effective_sample_size(draws)
    expected = 8000 * (1 - correlation) / (1 + correlation)
    inverse = 1 / found
    tolerance = 4.4 * inverse.std(ddof=1) / math.sqrt(40) + 0.02 / expected
    assert abs(inverse.mean() - 1 / expected) < tolerance
    assert tolerance < 0.2 / expected


# Computed with arviz 0.23.4, to the last digits as with 1.3.0: az.ess(x, method="bulk"), az.ess(x, method="tail"),
# az.rhat(x).
REFERENCE = [
    ((4, 250, 0.0, 1), 1041.7068875055318, 986.5609640807578, 1.0071815992059474),
    ((4, 250, 0.7, 2), 236.12685485767133, 399.45154972477786, 1.0291359981961767),
    ((4, 501, 0.9, 3), 104.62087929550961, 183.94378151771434, 1.0478755970675),
    ((2, 40, -0.4, 4), 152.24719895935547, 85.5437016736811, 0.9963649784796285),
]


@pytest.mark.parametrize(("arguments", "ess", "ess_tail", "r_hat"), REFERENCE)
def test_agrees_with_arviz(arguments: tuple[int, int, float, int], ess: float, ess_tail: float, r_hat: float) -> None:
    found = convergence(autoregressive(*arguments)[:, :, None])
    assert found.ess[0] == pytest.approx(ess, rel=1e-9)
    assert found.ess_tail[0] == pytest.approx(ess_tail, rel=1e-9)
    assert found.r_hat[0] == pytest.approx(r_hat, rel=1e-9)


def test_agrees_with_arviz_on_chains_that_disagree() -> None:
    spread = autoregressive(4, 250, 0.3, 5)
    spread[0] *= 4
    rounded = np.round(autoregressive(4, 100, 0.5, 6), 1)  # ties
    shifted = autoregressive(4, 250, 0.7, 2)
    shifted[0] += 1
    wide, tied, apart = (convergence(x[:, :, None]) for x in (spread, rounded, shifted))
    assert wide.r_hat[0] == pytest.approx(1.1854804587789658, rel=1e-9)
    assert wide.ess[0] == pytest.approx(456.86119285407307, rel=1e-9)
    assert wide.ess_tail[0] == pytest.approx(37.50709846438242, rel=1e-9)
    assert tied.r_hat[0] == pytest.approx(1.0087630892812527, rel=1e-9)
    assert tied.ess[0] == pytest.approx(152.42729502924706, rel=1e-9)
    assert tied.ess_tail[0] == pytest.approx(154.99784909994818, rel=1e-9)
    assert apart.r_hat[0] == pytest.approx(1.1641604463088568, rel=1e-9)
    assert apart.ess[0] == pytest.approx(17.551737842555912, rel=1e-9)  # correlations never cross zero here
    assert apart.ess_tail[0] == pytest.approx(131.8384059133812, rel=1e-9)


def test_a_drift_within_chains_is_seen() -> None:
    drifting = autoregressive(4, 400, 0.0, 7) + np.linspace(0, 3, 400)
    assert convergence(drifting[:, :, None]).r_hat[0] > 1.2


def test_rank_normalisation_ignores_monotone_transformations() -> None:
    x = autoregressive(4, 300, 0.5, 8)[:, :, None]
    assert convergence(x).ess[0] == pytest.approx(convergence(np.exp(3 * x)).ess[0], rel=1e-12)


def test_constant_and_stuck_chains() -> None:
    constant = convergence(np.ones((4, 10, 1)))
    assert math.isnan(constant.r_hat[0])
    assert math.isnan(constant.ess[0])
    stuck = convergence(np.arange(4.0)[:, None, None].repeat(10, axis=1))
    assert stuck.r_hat[0] == math.inf
    assert stuck.ess[0] <= 10


def test_shortest_chains() -> None:
    found = convergence(autoregressive(2, 4, 0.0, 9)[:, :, None])
    assert np.isfinite([*found.r_hat, *found.ess]).all()
