"""What is kept of Markov chains: a few function values of every kept draw, and what a report shows of them.

Only functions are looked at: weights of chains that found the same function differ wherever hidden units are exchanged.
"""

from typing import Any

import numpy as np
import torch

from bayesify.arena.store import Arrays
from bayesify.engine.convergence import MINIMUM_DRAWS, autocorrelation, convergence, rank_histogram
from bayesify.posterior.base import Posterior
from bayesify.posterior.chains import chain_lengths, chain_values
from bayesify.predictive import Predictive

TEST_INPUTS = 8
"""Test inputs, spread evenly over the test set, whose values are kept."""
KEPT_CHAINS, KEPT_DRAWS = 8, 250
"""At most; the newest draws and the first chains."""
SHOWN_LAGS = 40
RANK_BINS = 20


def chain_series(posterior: Posterior, inputs: np.ndarray) -> Arrays:
    """Values (K, S, R) of the kept draws at R test inputs, and which rows those are; {} for draws not of chains.

    For classes the probability of the one that is most probable on the whole; else the first output, in the network's
    units.
    """
    if not chain_lengths(posterior):
        return {}
    rows = np.unique(np.linspace(0, len(inputs) - 1, TEST_INPUTS).round().astype(np.int64))
    outputs, own = (part[:KEPT_CHAINS, -KEPT_DRAWS:] for part in chain_values(posterior, inputs[rows]))
    draws = Predictive(posterior.model.likelihood, outputs.flatten(0, 1), own.flatten(0, 1))
    values = _quantity(draws).reshape(*outputs.shape[:2], -1)
    return {"chains": np.asarray(values.float().cpu()), "chain_rows": rows}


def _quantity(draws: Predictive) -> torch.Tensor:
    """(S, B)."""
    if draws.kind != "classification":
        return draws.outputs[..., 0]
    return draws.draw_log_prob(draws.probs.argmax(-1)).exp()


def chain_summary(arrays: Arrays) -> dict[str, Any] | None:
    """Trace, rank histogram and autocorrelation of the stored test input at which chains agree least.

    Returns:
        None where nothing, or too little, was stored.
    """
    if "chains" not in arrays or arrays["chains"].shape[1] < MINIMUM_DRAWS:
        return None
    values = arrays["chains"].astype(np.float64)
    found = convergence(values)
    if np.isnan(found.r_hat).all():
        return None
    worst = int(np.nanargmax(found.r_hat))
    series = values[..., worst]
    return {
        "row": int(arrays["rows"][arrays["chain_rows"][worst]]),
        "tested": values.shape[2],
        "r_hat": float(found.r_hat[worst]),
        "ess": float(found.ess[worst]),
        "trace": [[float(f"{value:.5g}") for value in chain] for chain in series],
        "ranks": rank_histogram(series, RANK_BINS).tolist(),
        "autocorrelation": autocorrelation(series)[:, : SHOWN_LAGS + 1].round(4).tolist(),
    }
