"""K Markov chains side by side: draws are kept evenly over the budget, and memory does not grow with the steps."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bayesify.engine.run import Run


class Info(NamedTuple):
    """What one step did, (K,) each."""

    acceptance: Tensor
    """Probability; 0 where the energy is not finite, 1 for samplers that accept everything."""
    energy_error: Tensor
    """ΔH; 0 for samplers that do not compute it."""
    divergent: Tensor
    done: Tensor | None = None
    """Whose transition ended with this step; None where it is everybody's with every step."""


Step = Callable[[Any, Run], tuple[Any, Info]]
"""A kernel: the chains' state, a NamedTuple of tensors with a `theta` (K, P), and the run whose generator is used."""


class Trace(NamedTuple):
    """The chains and what they left behind."""

    state: Any
    draws: Tensor  # (K, S, P), filled as far as `kept`
    kept: Tensor  # (), or (K,) while chains go their own pace
    steps: Tensor  # (), or (K,)
    acceptance: Tensor  # (K,) sum over steps
    squared_error: Tensor  # (K,) sum over steps that did not diverge
    divergences: Tensor  # (K,)

    @property
    def theta(self) -> Tensor:
        """The kept draws, chain by chain, (K kept, P)."""
        return self.draws[:, : int(self.kept)].flatten(0, 1)

    def summary(self) -> dict[str, Any]:
        """How the steps went, for the diagnostics."""
        count = max(1, int(self.steps.expand_as(self.acceptance).sum()))
        return {
            "acceptance": float(self.acceptance.sum()) / count,
            "divergences": int(self.divergences.sum()),
            "energy_error": float(self.squared_error.sum() / count) ** 0.5,
            "steps_per_chain": int(self.steps.min()),
            "draws_per_chain": int(self.kept),
        }


def start_trace(state: Any, num_draws: int) -> Trace:
    """An empty buffer for `num_draws` draws of each chain."""
    chains, size = state.theta.shape
    draws = state.theta.new_zeros(chains, num_draws, size)
    none = torch.zeros((), dtype=torch.int64, device=draws.device)
    zeros = torch.zeros(chains, dtype=torch.float64, device=draws.device)
    return Trace(state, draws, none, none.clone(), zeros, zeros.clone(), zeros.clone())


def keep(trace: Trace) -> Trace:
    """Adds the chains' positions to the draws."""
    trace.draws[:, int(trace.kept)] = trace.state.theta  # in place: a copy of the buffer per draw would be quadratic
    return trace._replace(kept=trace.kept + 1)


def advance(trace: Trace, state: Any, info: Info, run: Run, share: float | None = None) -> Trace:
    """Counts a step and keeps a draw where one is due: `share` of them by now, or as much as is over of the run."""
    error = torch.where(info.divergent, 0.0, info.energy_error)
    trace = trace._replace(
        state=state,
        steps=trace.steps + 1,
        acceptance=trace.acceptance + info.acceptance,
        squared_error=trace.squared_error + error.double().square(),
        divergences=trace.divergences + info.divergent,
    )
    # By the share of the budget, not by count: how long a step takes is not known beforehand.
    share = run.fraction if share is None else share
    due = share * trace.draws.shape[1] >= int(trace.kept) + 0.5
    return keep(trace) if due else trace


def sample(step: Step, run: Run, state: Any, num_draws: int, cost: float) -> Trace:
    """Steps as long as the run affords one of `cost` gradient evaluations; at least one draw is kept."""
    trace = run.restore(start_trace(state, num_draws))
    if run.finished:
        return trace
    while run.affords(cost):
        state, info = step(trace.state, run)
        trace = advance(trace, state, info, run)
        run.save(trace)
        run.show_progress()
    trace = trace if int(trace.kept) else keep(trace)
    run.finish(trace)
    return trace


class Uneven(NamedTuple):
    """Chains whose transitions take different numbers of steps."""

    trace: Trace  # with room for twice the draws
    every: Tensor  # (K,) transitions from one kept draw to the next


def sample_uneven(step: Step, run: Run, state: Any, num_draws: int, cost: float) -> Trace:
    """As `sample`, for a step after which only some chains are done with a transition.

    Draws are kept by each chain's own count. At given times one would find chains in the middle of long transitions
    more often than their number justifies, and what is kept next would be their ends. How many transitions there will
    be is not known beforehand: whenever a chain's room is full, every other draw is dropped.
    """
    trace = start_trace(state, 2 * num_draws)
    each = torch.zeros_like(trace.divergences, dtype=torch.int64)
    chains = run.restore(Uneven(trace._replace(kept=each, steps=each.clone()), torch.ones_like(each)))
    if not run.finished:
        while run.affords(cost):
            state, info = step(chains.trace.state, run)
            chains = advance_uneven(chains._replace(trace=chains.trace._replace(state=state)), info)
            run.save(chains)
            run.show_progress()
        run.finish(chains)
    return _level(chains.trace, num_draws)


def advance_uneven(chains: Uneven, info: Info) -> Uneven:
    """Counts the transitions that are done and keeps each chain's draw where one is due."""
    assert info.done is not None
    if not bool(info.done.any()):
        return chains
    trace, every = chains
    kept, steps = trace.kept, trace.steps + info.done
    rows = (info.done & (steps % every == 0)).nonzero().squeeze(1)
    trace.draws[rows, kept[rows]] = trace.state.theta[rows]
    kept = kept.index_add(0, rows, torch.ones_like(rows))
    room = trace.draws.shape[1]
    full = kept == room
    for row in full.nonzero().squeeze(1).tolist():
        trace.draws[row, : room // 2] = trace.draws[row, 1::2].clone()
    error = torch.where(info.divergent, 0.0, info.energy_error)
    trace = trace._replace(
        kept=torch.where(full, room // 2, kept),
        steps=steps,
        acceptance=trace.acceptance + torch.where(info.done, info.acceptance, 0.0),
        squared_error=trace.squared_error + torch.where(info.done, error, 0.0).double().square(),
        divergences=trace.divergences + (info.done & info.divergent),
    )
    return Uneven(trace, torch.where(full, 2 * every, every))


def _level(trace: Trace, num_draws: int) -> Trace:
    """As many draws of each chain as all have and were asked for, evenly over its own; the state if one has none."""
    number = min(num_draws, int(trace.kept.min()))
    if number == 0:
        return trace._replace(draws=trace.state.theta[:, None], kept=torch.ones_like(trace.kept[0]))
    chosen = (torch.arange(1, number + 1, device=trace.kept.device) * trace.kept[:, None]) // number - 1
    draws = trace.draws.take_along_dim(chosen[:, :, None], dim=1)
    return trace._replace(draws=draws, kept=torch.full_like(trace.kept[0], number))
