"""Step sizes of Hamiltonian samplers, one per chain (Hoffman & Gelman, JMLR 2014).

Dual averaging (algorithm 5) moves log ε so that the mean acceptance becomes a target; a first guess (algorithm 4) comes
from doubling or halving ε until one step's acceptance crosses one half.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from bayesify.engine.hamiltonian import Kernel, Point, transition

MAXIMUM_DOUBLINGS = 20
GAMMA, T0, KAPPA = 0.05, 10.0, 0.75  # Hoffman & Gelman's


class Averaging(NamedTuple):
    """Dual averaging's state."""

    log_step: Tensor  # (K,) log ε being tried
    log_mean: Tensor  # (K,) log ε averaged, used afterwards
    error: Tensor  # (K,) running mean of target − acceptance
    anchor: Tensor  # (K,) where log ε is drawn to, μ
    updates: Tensor  # (K,)


def start_averaging(log_step: Tensor) -> Averaging:
    """Begins at, and is drawn to, log ε (K,)."""
    updates = torch.zeros_like(log_step, dtype=torch.int64)
    return Averaging(log_step, log_step.clone(), torch.zeros_like(log_step), log_step.clone(), updates)


def adapt(state: Averaging, acceptance: Tensor, target: float, done: Tensor | None = None) -> Averaging:
    """One step of dual averaging per chain, or only for those that are `done` (K,) with a transition."""
    updates = state.updates + 1
    m = updates.to(state.error)
    error = state.error + (target - acceptance - state.error) / (m + T0)
    log_step = state.anchor - m.sqrt() / GAMMA * error
    log_mean = torch.lerp(state.log_mean, log_step, m**-KAPPA)
    new = Averaging(log_step, log_mean, error, state.anchor, updates)
    if done is None:
        return new
    return Averaging(*(torch.where(done, after, before) for before, after in zip(state, new, strict=True)))


def search(kernel: Kernel, point: Point, log_step: Tensor, tries: int, rng: torch.Generator) -> Tensor:
    """Log ε (K,) at which one step's acceptance crosses ½, after at most `tries` gradients of every chain."""
    rising, settled = None, torch.zeros_like(log_step, dtype=torch.bool)
    for _ in range(min(tries, MAXIMUM_DOUBLINGS)):
        _, info = transition(kernel, point, log_step.exp(), 1, rng)
        good = info.acceptance > 0.5
        rising = good if rising is None else rising
        settled = settled | (good != rising)
        if bool(settled.all()):
            break
        moved = log_step + math.log(2.0) * torch.where(rising, 1.0, -1.0)
        log_step = torch.where(settled, log_step, moved)
    return log_step
