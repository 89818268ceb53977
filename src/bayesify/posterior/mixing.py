"""Have chains of networks mixed? Measured on values of the function: weights can be permuted without changing it.

Parameters of chains that found the same function differ wherever units are exchanged or signs flipped, so their R-hat
says nothing; what the network predicts at given inputs is what chains must agree on.
"""

import math
from typing import Any, NamedTuple

import numpy as np
import torch

from bayesify.engine.budget import FORWARD_COST
from bayesify.engine.convergence import MINIMUM_DRAWS, convergence
from bayesify.engine.run import Run
from bayesify.model.problem import Problem
from bayesify.posterior.base import Particles

STATISTICS_SHARE = 0.1
"""At most this share of the budget goes to statistics of draws, where the network normalises by batch."""
TESTED_ROWS = 50
"""Convergence is measured at up to this many training inputs."""
TEST_SHARE = 0.015
"""At most this share of the budget, in forward passes, goes to that."""
UNMIXED = 1.1
"""R-hat from which one warns: 1.01 for parameters one wants to report, but functions of networks rarely reach it."""
FEW_EFFECTIVE = 25
"""Effective draws below which spread is hardly known: a standard deviation of n draws is uncertain by 1/√(2 n)."""
HOPELESS = 10.0
"""R-hat from which its size says nothing more."""
LOW_ACCEPTANCE = 0.4
"""Below this a chain mostly repeats itself; 0.6 to 0.9 is efficient."""


class Plan(NamedTuple):
    """What is kept, and what that will cost."""

    num_draws: int  # S, per chain
    num_rows: int  # inputs at which convergence is measured
    reserve: float  # gradient evaluations for statistics of draws and for that measurement


def make_plan(problem: Problem, run: Run, num_chains: int, num_draws: int) -> Plan:
    """As many draws and tested rows as the budget left in `run` affords."""
    num_rows = min(TESTED_ROWS, problem.num_examples)
    statistics = problem.statistics_cost(num_chains)
    if math.isfinite(run.remaining):
        num_draws = min(num_draws, int(run.remaining / (problem.num_examples * num_chains)))
        if statistics > 0:
            num_draws = min(num_draws, int(STATISTICS_SHARE * run.remaining / statistics))
        num_rows = min(num_rows, int(TEST_SHARE * run.remaining / (FORWARD_COST * max(1, num_draws) * num_chains)))
    num_draws, num_rows = max(1, num_draws), max(1, num_rows)
    return Plan(num_draws, num_rows, num_draws * (FORWARD_COST * num_chains * num_rows + statistics))


def mixing(problem: Problem, particles: Particles, num_chains: int, num_rows: int) -> dict[str, Any]:
    """R-hat and effective draws, the worst among function values and the likelihood's parameters; {} for few draws.

    Args:
        problem: the network and its training inputs.
        particles: (num_chains × S) draws, chain by chain.
        num_chains: K.
        num_rows: training inputs at which functions are evaluated.
    """
    if len(particles.theta) < MINIMUM_DRAWS * num_chains:
        return {}
    rows = torch.linspace(0, problem.num_examples - 1, num_rows, device=particles.theta.device).long()
    outputs = problem.outputs(particles.theta, problem.data.select(rows).inputs, particles.buffers)
    own = problem.model.split(particles.theta)[1]
    values = torch.cat([outputs.flatten(1), own], dim=1)
    found = convergence(values.reshape(num_chains, -1, values.shape[1]).double().cpu().numpy())
    by_row = found.r_hat[: outputs[0].numel()].reshape(num_rows, -1)
    moving = ~np.isnan(found.r_hat)
    return {
        "r_hat": float(found.r_hat[moving].max(initial=1.0)),
        "ess": float(found.ess[moving].min(initial=float(len(values)))),
        "ess_tail": float(found.ess_tail[moving].min(initial=float(len(values)))),
        "disagreeing": float((np.nan_to_num(by_row, nan=1.0) > UNMIXED).any(axis=1).mean()),
    }


def warnings(found: dict[str, Any], num_chains: int) -> list[str]:
    """What the numbers mean and what to do about them."""
    result = []
    if "r_hat" not in found:
        result.append(
            f"{found['draws_per_chain']} draws per chain are too few to tell whether the chains mixed: they describe "
            "the region around each start; raise the budget."
        )
    elif found["r_hat"] > UNMIXED:
        result.append(_disagreement(found, num_chains))
    elif found["ess"] < FEW_EFFECTIVE:
        result.append(
            f"the chains agree, but all their draws are worth only {found['ess']:.0f} independent ones where they are "
            f"worth least, and standard deviations uncertain by {(2 * found['ess']) ** -0.5:.0%}; raise the budget."
        )
    if found["divergences"]:
        result.append(
            f"{found['divergences']} steps diverged: parts of the posterior are narrower than the step size can "
            "follow and may be missing; raise target_acceptance or lower step_size."
        )
    if found["acceptance"] < LOW_ACCEPTANCE:
        result.append(
            f"only {found['acceptance']:.0%} of the trajectories were accepted: the step size is too large; raise the "
            "budget so that it can be tuned, or lower step_size."
        )
    return result


def _disagreement(found: dict[str, Any], num_chains: int) -> str:
    chains = "the chain's halves disagree" if num_chains == 1 else f"{num_chains} chains disagree"
    where = f" on {_percent(found['disagreeing'])} of the tested inputs" if found["disagreeing"] else " on the noise"
    size = f"up to {found['r_hat']:.2f}" if found["r_hat"] < HOPELESS else f"above {HOPELESS:g}"
    return (
        f"{chains}{where} (R-hat {size}, {found['ess']:.0f} effective draws): they have not mixed, and describe the "
        "region around each start. Raise the budget, or read them as an ensemble, which mile does by design."
    )


def _percent(share: float) -> str:
    return "all" if share == 1 else f"{share:.0%}"
