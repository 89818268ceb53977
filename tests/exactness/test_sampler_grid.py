"""Every sampler on two known targets, at temperatures 1 and 0.3, in both precisions, against the law it must have.

                  | correlated Gaussian, 20 dimensions, condition 100 | two modes, 4 dimensions
    hmc           | posterior                                         | posterior
    nuts          | posterior                                         | posterior
    chees_hmc     | posterior                                         | posterior
    split_hmc     | posterior                                         | posterior
    mclmc         | posterior                                         | posterior
    adjusted_mclmc| posterior                                         | posterior
    sghmc         | posterior: BAOAB is exact on Gaussians            | posterior, at short steps
    sgnht         | posterior                                         | posterior, at short steps
    smile         | posterior                                         | posterior, at short steps
    adaptive_sghmc| posterior, at short steps                         | posterior, at short steps
    sgld          | that of its steps                                 | that of its steps
    adam_sgld     | that of its steps and its colder drift            | that of its steps and its colder drift
    cyclical      | posterior, of sghmc at falling rates              | posterior, at short steps

Where it is not the posterior's, the law is worked out (`helpers/laws.py`) and so far from it that draws of one are told
from the other. All have all the data in a batch: what noise in gradients does is in `methods/test_stochastic_laws.py`.
Failure rate: 1e-5 per cell, over all features of a target together.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from laws import drifting_gaussian, langevin_gaussian, langevin_mixture
from targets import Target, chains_run, correlated_gaussian, excess, mixture

from bayesify.engine.convergence import effective_sample_size
from bayesify.methods import (
    HMC,
    MCLMC,
    NUTS,
    SGHMC,
    SGLD,
    SGNHT,
    SMILE,
    AdamSGLD,
    AdaptiveSGHMC,
    AdjustedMCLMC,
    ChEESHMC,
    Cyclical,
    Method,
    SplitHMC,
)
from bayesify.methods.sampler import Sampler
from bayesify.posterior.draws import Draws

FEW: dict[str, Any] = {"num_chains": 16, "num_draws": 200, "warm_start_epochs": 1}
MANY: dict[str, Any] = {"num_chains": 64, "num_draws": 50, "warm_start_epochs": 1, "burn_in": 0.2}
MINIMUM_EFFECTIVE = 80
"""Draws that are worth nothing would pass any test."""
LARGEST = 101.0
"""Curvature of the Gaussian at temperature 1, in units of the prior's scale."""
DRIFT, MEMORY = 4.0, 0.9
"""Of adam_sgld: it halves variances."""


def posterior(target: Target) -> Target:
    return target


class Cell(NamedTuple):
    """A sampler, how long it runs, and the law that it must have."""

    method: Sampler | Cyclical
    epochs: float
    law: Callable[[Target], Target] = posterior


def gaussian_cell(name: str, temperature: float) -> Cell:
    langevin, adam = 1.2 * temperature / LARGEST, 0.4 * temperature / LARGEST
    return {
        "hmc": Cell(HMC(**FEW), 4000),
        "nuts": Cell(NUTS(**FEW), 3000),
        "chees_hmc": Cell(ChEESHMC(**FEW), 3000),
        "split_hmc": Cell(SplitHMC(**FEW), 2000),
        "mclmc": Cell(MCLMC(**FEW), 3000),
        "adjusted_mclmc": Cell(AdjustedMCLMC(**FEW), 4000),
        "sghmc": Cell(SGHMC(**MANY), 600),
        "sgnht": Cell(SGNHT(**MANY), 600),
        "smile": Cell(SMILE(**MANY), 600),
        "adaptive_sghmc": Cell(AdaptiveSGHMC(**MANY, friction=0.02, step_size=0.08 * temperature**0.5), 2000),
        "sgld": Cell(SGLD(**MANY, step_size=langevin), 1200, lambda t: langevin_gaussian(t, langevin)),
        "adam_sgld": Cell(
            AdamSGLD(**MANY | {"burn_in": 0.5}, step_size=adam, drift=DRIFT, beta1=MEMORY),
            5000,
            lambda t: drifting_gaussian(t, adam, DRIFT, MEMORY),
        ),
        "cyclical": Cell(Cyclical(SGHMC(**MANY), num_cycles=1, exploration=0.0, peak=1.0), 1200),
    }[name]


def mixture_cell(name: str, temperature: float) -> Cell:
    step = 0.014 * temperature
    return {
        "hmc": Cell(HMC(**FEW, trajectory_length=2.0), 6000),
        "nuts": Cell(NUTS(**FEW), 4000),
        "chees_hmc": Cell(ChEESHMC(**FEW), 3000),
        "split_hmc": Cell(SplitHMC(**FEW, num_splits=2, trajectory_length=2.0), 4000),
        "mclmc": Cell(MCLMC(**FEW), 4000),
        "adjusted_mclmc": Cell(AdjustedMCLMC(**FEW), 6000),
        "sghmc": Cell(SGHMC(**MANY), 1200),
        "sgnht": Cell(SGNHT(**MANY), 1200),
        "smile": Cell(SMILE(**MANY), 1200),
        "adaptive_sghmc": Cell(AdaptiveSGHMC(**MANY), 1200),
        "sgld": Cell(SGLD(**MANY, step_size=step), 1200, lambda t: langevin_mixture(t, step)),
        "adam_sgld": Cell(
            AdamSGLD(**MANY | {"burn_in": 0.5}, step_size=0.5 * step, drift=DRIFT, beta1=0.0),
            5000,
            lambda t: langevin_mixture(t, 0.5 * step, DRIFT),
        ),
        "cyclical": Cell(Cyclical(SGHMC(**MANY), num_cycles=1, exploration=0.0, peak=1.0), 2400),
    }[name]


SAMPLERS = [
    "hmc",
    "nuts",
    "chees_hmc",
    "split_hmc",
    "mclmc",
    "adjusted_mclmc",
    "sghmc",
    "sgnht",
    "smile",
    "adaptive_sghmc",
    "sgld",
    "adam_sgld",
    "cyclical",
]


def demand(cell: Cell, target: Target) -> None:
    """The cell's draws have its law, are worth something, and are told from the posterior where that is another."""
    method: Method = cell.method
    sampler = cell.method.method if isinstance(cell.method, Cyclical) else cell.method
    assert isinstance(sampler, Sampler)
    run = chains_run(target.problem, sampler, cell.epochs)
    found = method.fit(target.problem, run)
    assert isinstance(found, Draws)
    draws = found.kept.theta.reshape(sampler.num_chains, -1, target.problem.num_parameters)
    law = cell.law(target)
    assert excess(draws, law) < 1
    assert effective_sample_size(law.features(draws.double()).numpy()).min() > MINIMUM_EFFECTIVE
    assert run.notes["divergences"] == 0
    assert run.notes["warnings"] == []
    if cell.law is not posterior:
        assert excess(draws, target) > 1


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("temperature", [1.0, 0.3])
@pytest.mark.parametrize("name", SAMPLERS)
def test_a_correlated_gaussian(name: str, temperature: float, dtype: torch.dtype) -> None:
    demand(gaussian_cell(name, temperature), correlated_gaussian(dtype, temperature))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("temperature", [1.0, 0.3])
@pytest.mark.parametrize("name", SAMPLERS)
def test_a_mixture(name: str, temperature: float, dtype: torch.dtype) -> None:
    # Adam's drift depends on the axes; only along them is its law known.
    target = mixture(dtype, temperature, oblique=name != "adam_sgld", rows=2 if name == "split_hmc" else 1)
    demand(mixture_cell(name, temperature), target)
