"""Simulation-based calibration (Cook, Gelman & Rubin 2006; Talts et al. 2018; Modrák et al. 2023).

If weights θ are drawn from the prior and data from the network with these weights, θ is itself a draw from the
posterior of these data: among M draws of an exact method the rank of anything one can compute of θ is uniform. This
holds on average over the prior whatever the network is, so that no posterior has to be known; and as every rank counts
once, what a hundred simulations cannot see is small (the result says how small).

Draws of Markov chains depend on each other; they are thinned to as many as they are worth. A chain that has not mixed
is no fault of the check's: its ranks are counted like any others, and the result says how often that was so.
"""

import math
import time
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from bayesify.engine.budget import Budget
from bayesify.engine.convergence import MINIMUM_DRAWS, convergence
from bayesify.engine.rng import seed_of
from bayesify.engine.run import Run
from bayesify.exactness.calibration import Calibration, Quantity
from bayesify.exactness.simulation import Simulator, small_network
from bayesify.exactness.uniformity import randomised, size_of, uniformity
from bayesify.fitting import fit_problem
from bayesify.methods.base import Method
from bayesify.methods.registry import get_method
from bayesify.posterior.base import Posterior
from bayesify.posterior.chains import chain_lengths
from bayesify.posterior.mixing import UNMIXED
from bayesify.posterior.parts import is_fixed

QUICK, FULL = 100, 400
"""Simulations of a quick check and of a thorough one."""
MOST_DRAWS = 99
"""Draws that a truth is ranked among, at most."""
SBC_BUDGET = Budget(epochs=2000)


class _Ranked(NamedTuple):
    """The quantities of draws that are taken for independent."""

    values: Tensor  # (M, Q)
    mixed: bool


def calibrate(
    method: str | Method,
    simulations: int = QUICK,
    seed: int = 0,
    budget: Budget | None = None,
    simulator: Simulator | None = None,
) -> Calibration:
    """Ranks truths among a method's draws.

    Args:
        method: a name, a written form, or a Method.
        simulations: L.
        seed: of everything; the truths and data depend on nothing else.
        budget: of each fit; None is 2,000 epochs per particle.
        simulator: None is a small tanh network.

    Raises:
        BayesifyError: the method cannot be fitted.
    """
    chosen, model, given = get_method(method), simulator or small_network(), budget or SBC_BUDGET
    started = time.perf_counter()
    ranks, counts, unmixed, temperature = [], [], 0, 1.0
    for number in range(simulations):
        # Of such data the posterior is not conditioned on those held out: truth and draws stay exchangeable.
        simulated = model.simulate(seed, number, validation=chosen.needs_validation)
        problem = simulated.problem
        limit = given.limit(problem.num_examples, chosen.num_particles)
        run = Run(problem.meter, limit=limit, seconds=given.seconds, seed=seed_of(seed, "fit", number))
        posterior = fit_problem(problem, chosen, run)
        values, mixed = _draws(posterior, model.measure(problem, _outputs(posterior, model.at)))
        ranks.append((values < simulated.truth).sum(0).numpy())
        counts.append(len(values))
        unmixed += not mixed
        temperature = posterior.record.temperature
    return Calibration(
        problem=model.name,
        simulations=simulations,
        quantities=_quantities(model.quantities, np.stack(ranks), np.array(counts), seed),
        draws=float(np.median(counts)),
        unmixed=unmixed,
        temperature=temperature,
        seconds=time.perf_counter() - started,
    )


def _quantities(names: tuple[str, ...], ranks: np.ndarray, counts: np.ndarray, seed: int) -> tuple[Quantity, ...]:
    rng = np.random.default_rng(seed_of(seed, "ranks"))
    found = []
    for name, own in zip(names, ranks.T, strict=True):
        u = randomised(own, counts, rng)
        found.append(Quantity(name, tuple(u.tolist()), uniformity(u), size_of(own, counts)))
    return tuple(found)


def _outputs(posterior: Posterior, at: Tensor) -> Tensor:
    return posterior.functions(at, None if is_fixed(posterior) else MOST_DRAWS).outputs


def _draws(posterior: Posterior, values: Tensor) -> _Ranked:
    """Draws that are taken for independent, of quantities (S, Q)."""
    lengths = chain_lengths(posterior)
    if len(values) == 1:
        return _Ranked(values.expand(MOST_DRAWS, -1), True)  # a point: as many draws as one likes, all the same
    if not lengths or min(lengths) < MINIMUM_DRAWS:
        return _Ranked(_evenly(values, MOST_DRAWS), True)
    chains = torch.stack([part[-min(lengths) :] for part in torch.split(values, list(lengths))])
    found = convergence(chains.numpy())
    worth = np.nanmin(np.stack([found.ess, found.ess_tail]), initial=float(len(values)))
    each = max(1, math.floor(min(worth, MOST_DRAWS) / len(chains)))
    thinned = torch.cat([_evenly(chain, each) for chain in chains])
    return _Ranked(thinned, not bool((np.nan_to_num(found.r_hat, nan=1.0) > UNMIXED).any()))


def _evenly(values: Tensor, count: int) -> Tensor:
    if len(values) <= count:
        return values
    return values[torch.linspace(0, len(values) - 1, count).round().long()]
