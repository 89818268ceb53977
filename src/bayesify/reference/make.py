"""`make_reference`: chains run in growing stages until their halves stop approaching each other or the budget ends.

A stage starts where the one before ended, tunes its sampler anew and replaces the draws of the one before, which thus
become burn-in; stages double, so what is thrown away is about as much as what is kept. A stage is a function of its
start, its number and its length alone: one that was interrupted continues from its checkpoint and ends with the same
digits.
"""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import torch
from filelock import FileLock, Timeout
from torch import Tensor

from bayesify.datasets.prepare import Prepared
from bayesify.datasets.task import Task
from bayesify.engine.budget import Budget
from bayesify.engine.convergence import MINIMUM_DRAWS
from bayesify.engine.denormals import denormals_flushed
from bayesify.engine.rng import seed_of, seeded
from bayesify.engine.run import CHECKPOINT_SECONDS, Checkpoints, Progress, Run
from bayesify.errors import BudgetError, SaveError
from bayesify.fitting import make_problem
from bayesify.model.problem import Problem
from bayesify.posterior.mixing import Plan
from bayesify.reference.ceiling import Draws, measure
from bayesify.reference.reference import (
    DEFAULT_NETWORK,
    Kept,
    Reference,
    Setup,
    Stage,
    default_folder,
    key_of,
    parsed_setup,
    read,
    read_arrays,
    write,
    write_arrays,
)

DEFAULT_BUDGET = Budget(seconds=600)
GROWTH, LEAST_GROWTH = 2.0, 1.5
"""Stages double; a last one for which the budget is a little short may be this much longer than the one before."""
FIRST_SHARE = 1 / 15
"""Of the budget: stages of 1, 2, 4 and 8 fifteenths then use all of it."""
FIRST_SWEEPS = (2000, 8000)
"""Gradients of all data per chain in the first stages where the budget is time: one to train the starts of the chains,
one that shows how quick this machine is."""
COMPILED_SWEEPS = 5000
"""From so many on a stage is compiled: later stages, other seeds and other samplers share the compile."""
MIXED_R_HAT, MIXED_ESS = 1.01, 1000.0
"""Chains whose functions agree as well as this at every test input are good enough (Vehtari et al. 2021: 400 draws)."""
IMPROVEMENT = 0.9
"""A stage that leaves the halves further apart than this times the distance before has not improved them. Twice the
draws of chains that mix leave them at 0.71."""
STALLED, STALLED_DRAWS = 2, 100
"""So many stages in a row without improvement end it, among stages with enough draws per chain to tell."""

Watch = Callable[[Stage], None]
"""Told of every finished stage."""


def make_reference(
    task: Task,
    setup: Setup | None = None,
    *,
    budget: Budget | None = None,
    folder: str | Path | None = None,
    progress: Progress | None = None,
    watch: Watch | None = None,
) -> Reference:
    """Makes a reference, continues one, or reads one that has had this budget already.

    Args:
        task: the data.
        setup: whose posterior and which sampler; None is the default network, prior and sampler with the likelihood
            that fits the target.
        budget: in all, what earlier calls spent included; None is ten minutes of sampling.
        folder: where to keep it; None is the cache.
        progress: told the fraction of the stage that runs.
        watch: told of every finished stage.

    Raises:
        DataError, MethodError, ModelError, BudgetError, SaveError: with what went wrong and what to do.
    """
    setup = setup or parsed_setup(task, "-".join(map(str, DEFAULT_NETWORK)), None, None)
    data = setup.prepared(task)
    key = key_of(setup, data)
    place = Path(folder) if folder is not None else default_folder(task, setup, key)
    _prepare(place)
    with _alone(place), _one_thread():
        work = _Work(task, setup, data, key, place, progress)
        kept = read(place, key)
        limit = kept.next_limit
        while True:
            end = why_ended(kept.stages)
            if limit is None and end is None:
                limit = next_limit(kept.stages, _evaluations(work, kept.stages, budget or DEFAULT_BUDGET), work.minimum)
            if limit is None:
                break
            kept = _stage(work, kept, limit)
            limit = None
            if watch is not None:
                watch(kept.stages[-1])
    if kept.arrays is None:
        raise BudgetError(
            f"a reference of {len(data.X_train)} rows with {setup.chains} chains needs at least {work.minimum:.0f} "
            "gradient evaluations: raise the budget, or lower the number of chains."
        )
    return Reference(setup, key, kept.stages, read_arrays(place / kept.arrays)[0], end or "budget", place)


def next_limit(stages: tuple[Stage, ...], budget: float, minimum: float) -> float | None:
    """Gradient evaluations of the next stage, or None where the budget affords none that is worth it.

    Twice the last, or all that is left where that would not do for one more.
    """
    left = budget - sum(stage.gradient_evaluations for stage in stages)
    last = stages[-1].gradient_evaluations if stages else 0.0
    if left * (1 + 1e-6) < max(LEAST_GROWTH * last, minimum):
        return None
    wanted = max(GROWTH * last, minimum, FIRST_SHARE * left)
    return left if left < (1 + LEAST_GROWTH) * wanted else wanted


def why_ended(stages: tuple[Stage, ...]) -> str | None:
    """Why no more is needed, if so: 'mixed' or 'stalled'."""
    if not stages:
        return None
    found = stages[-1].ceiling
    if found.r_hat[-1] <= MIXED_R_HAT and found.ess[-1] >= MIXED_ESS:
        return "mixed"
    telling = [stage for stage in stages if stage.steps["draws_per_chain"] >= STALLED_DRAWS]
    distances = [stage.ceiling.halves.main for stage in telling[-STALLED - 1 :]]
    gains = [after > IMPROVEMENT * before for before, after in pairwise(distances)]
    return "stalled" if len(gains) == STALLED and all(gains) else None


class _Work(NamedTuple):
    """What all stages share."""

    task: Task
    setup: Setup
    data: Prepared
    key: str
    folder: Path
    progress: Progress | None

    @property
    def sweep(self) -> float:
        """Gradient evaluations of one gradient of all chains."""
        return float(len(self.data.X_train) * self.setup.chains)

    @property
    def minimum(self) -> float:
        """Of a stage: every chain needs more draws than can be told apart."""
        return 40.0 * MINIMUM_DRAWS * self.sweep

    def problem(self, limit: float) -> Problem:
        """A fresh one for every stage: whether networks are compiled depends on the stage alone."""
        likelihood, prior = self.setup.parts
        return make_problem(
            self.setup.module(self.task, self.data.X_train.shape[1]),
            (self.data.X_train, self.data.y_train),
            likelihood=likelihood,
            prior=prior,
            device="cpu",
            way="compiled" if limit >= COMPILED_SWEEPS * self.sweep else "auto",
        )


def _evaluations(work: _Work, stages: tuple[Stage, ...], budget: Budget) -> float:
    """The budget in gradient evaluations; of a time, at the rate of the last stage."""
    if budget.seconds is None:
        return budget.limit(len(work.data.X_train), work.setup.chains)
    spent = sum(stage.gradient_evaluations for stage in stages)
    left = max(0.0, budget.seconds - sum(stage.seconds for stage in stages))
    if len(stages) < len(FIRST_SWEEPS):
        return spent + FIRST_SWEEPS[len(stages)] * work.sweep * (left > 0)
    return spent + left * stages[-1].gradient_evaluations / stages[-1].seconds


def _stage(work: _Work, kept: Kept, limit: float) -> Kept:
    """Runs the next stage, or the rest of it, and stores it."""
    number = len(kept.stages)
    write(work.folder, work.key, work.setup, kept._replace(next_limit=limit))
    theta = None if kept.arrays is None else read_arrays(work.folder / kept.arrays)[1]
    checkpoints = work.folder / f"checkpoint-{number}"
    sampled = _sample(work, theta, number, limit, checkpoints)
    arrays = f"stage-{number}.safetensors"
    write_arrays(work.folder / arrays, sampled.draws, sampled.theta)
    ceiling = measure(sampled.draws, work.setup.parts[0])
    stage = Stage(number, sampled.evaluations, sampled.seconds, sampled.steps, ceiling)
    kept = Kept((*kept.stages, stage), None, arrays)
    write(work.folder, work.key, work.setup, kept)
    shutil.rmtree(checkpoints, ignore_errors=True)
    return kept


class _Sampled(NamedTuple):
    draws: Draws
    theta: Tensor  # (K, P), where the chains ended
    evaluations: float
    seconds: float
    steps: dict[str, Any]


def _sample(work: _Work, theta: Tensor | None, number: int, limit: float, folder: Path) -> _Sampled:
    problem, sampler = work.problem(limit), work.setup.sampler
    run = Run(
        problem.meter,
        limit=limit,
        seed=work.setup.seed,
        checkpoints=Checkpoints(folder, f"{work.key} {number} {limit!r}", CHECKPOINT_SECONDS),
        progress=work.progress,
        name=f"stage-{number}",
    )
    with seeded(seed_of(work.setup.seed, number)), denormals_flushed():
        theta = sampler.warm_start(problem, run) if theta is None else theta
        trace, notes = sampler.sample(problem, run, theta, Plan(work.setup.draws, 1, 0.0))
    kept = int(trace.kept)
    if kept < MINIMUM_DRAWS:
        raise BudgetError(
            f"{limit:.0f} gradient evaluations give {kept} draws per chain, too few to compare them: raise the budget."
        )
    evaluations, seconds = problem.meter.total, problem.meter.seconds - problem.meter.compile_seconds
    chains, flat = work.setup.chains, trace.theta
    inputs = torch.as_tensor(work.data.X_test).to(problem.network.dtype)
    outputs = problem.outputs(flat, inputs, problem.buffers(flat))
    own = problem.model.split(flat)[1]
    draws = Draws(*(part.reshape(chains, kept, *part.shape[1:]) for part in (outputs, own)))
    return _Sampled(draws, trace.state.theta, evaluations, seconds, trace.summary() | notes)


def _prepare(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SaveError(f"cannot write to {folder} ({error.strerror}): choose another folder with --out.") from error


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise SaveError(f"another process is making the reference in {folder}: wait for it, then repeat.") from None
    except OSError as error:
        raise SaveError(f"cannot write to {folder} ({error.strerror}): choose another folder with --out.") from error
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _one_thread() -> Iterator[None]:
    """Small networks are no quicker on more, and the number of threads changes digits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
