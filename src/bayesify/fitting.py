"""`fit`: a user's module, data and method → a posterior."""

import hashlib
import resource
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from bayesify.data import MINIMUM_VALIDATION, Data, as_data
from bayesify.engine.budget import Budget, Meter
from bayesify.engine.denormals import denormals_flushed
from bayesify.engine.preflight import Estimate, check_memory, estimate_of
from bayesify.engine.rng import generator, seed_of, seeded
from bayesify.engine.run import Checkpoints, Progress, Run
from bayesify.engine.together import together
from bayesify.engine.vectorise import Way
from bayesify.errors import BudgetError, DataError, MethodError, suggest
from bayesify.methods.base import Method, describe
from bayesify.methods.registry import get_method
from bayesify.model.likelihoods import Gaussian, HeteroscedasticGaussian, Likelihood, StudentT, get_likelihood
from bayesify.model.network import Network
from bayesify.model.prior import Prior
from bayesify.model.priors import get_prior
from bayesify.model.problem import Problem, check_model
from bayesify.posterior.base import Diagnostics, Posterior, Record
from bayesify.progress import progress_bar

DEFAULT_BUDGET = Budget(epochs=100)
SMALL_DATA = 50
"""Below this many rows nothing is held out: training needs them all."""


def fit(
    model: nn.Module,
    data: Any,
    *,
    likelihood: str | Likelihood | None = None,
    method: str | Method = "deep_ensemble",
    prior: str | Prior | None = None,
    pretrained: bool = False,
    budget: Budget | None = None,
    validation: float | Any = 0.1,
    seed: int = 0,
    device: str = "auto",
    checkpoint: str | Path | None = None,
    progress: str | bool | Progress = "auto",
    way: str = "auto",
) -> Posterior:
    """Makes a network Bayesian.

    Args:
        model: any module that maps inputs to outputs (B, C); it is copied, never changed.
        data: (X, y) of arrays, tensors or DataFrames, a Dataset, a DataLoader, or dict batches with 'labels'.
        likelihood: a name or a Likelihood; None takes categorical for integer targets, gaussian for real ones.
        method: a name such as 'laplace', a written form such as 'multi(swag, 5)', or a Method.
        prior: a name or a Prior; None is Normal with fan-in scaling.
        pretrained: start from the model's current weights (post-hoc methods then fit at once).
        budget: what may be spent; None is 100 epochs per particle.
        validation: fraction of the data held out by methods that need it, or data to use instead.
        seed: of initialisation, data order and sampling. The global random state is neither used nor changed.
        device: 'auto', 'cpu', 'cuda', ...
        checkpoint: a folder; the same call continues from what it finds there.
        progress: 'auto' shows a bar on a terminal, True or False force it, or a function of the fraction done.
        way: how many networks are evaluated as one: 'auto', 'compiled', 'traced', 'eager' or 'looped'. 'auto'
            compiles long runs; 'compiled' is for many fits of the same shapes, which share the compile through a cache.

    Returns:
        A posterior.

    Raises:
        DataError, ModelError, MethodError, BudgetError, SaveError: with what went wrong and what to do.
    """
    chosen = get_method(method)
    budget = _budget(budget)
    problem = make_problem(
        model,
        data,
        likelihood=likelihood,
        prior=prior,
        pretrained=pretrained,
        validation=validation if chosen.uses_validation else None,
        seed=seed,
        device=device,
        way=way,
    )
    check_model(problem)
    check_memory(chosen.memory(problem), describe(chosen), problem.network.device)
    with progress_bar(progress, describe(chosen)) as report:
        run = Run(
            problem.meter,
            limit=budget.limit(problem.num_examples, chosen.num_particles),
            seconds=budget.seconds,
            seed=seed,
            device=problem.network.device,
            checkpoints=_checkpoints(checkpoint, problem, chosen, budget, seed),
            progress=report,
        )
        return fit_problem(problem, chosen, run)


def fit_splits(
    model: nn.Module,
    data: Any,
    splits: Sequence[Any],
    *,
    method: str | Method = "deep_ensemble",
    seed: int = 0,
    checkpoint: str | Path | None = None,
    progress: str | bool | Progress = "auto",
    **options: Any,
) -> list[Posterior]:
    """Fits the same model to several parts of one data set, such as the folds of a cross-validation, as one batch.

    Result s is that of `fit(model, rows s of data, seed=seed + s, ...)`, to rounding. Networks of the same shape and
    batch size are trained together, which is several times quicker where they are small; networks that draw random
    numbers in training (dropout) and samplers go one after the other. A split's `cost.seconds` is its share.

    Args:
        model: as in `fit`.
        data: as in `fit`.
        splits: for each, the rows it is fitted to: whole numbers, an array or a list.
        method: as in `fit`.
        seed: of the first split; the next has one more.
        checkpoint: a folder; every split gets one in it.
        progress: as in `fit`, of all splits together.
        options: likelihood, prior, pretrained, budget, validation, device and way as in `fit`.

    Returns:
        A posterior for every split.

    Raises:
        DataError, ModelError, MethodError, BudgetError, SaveError: as `fit`, for the first split that fails.
    """
    everything = as_data(data)
    chosen = get_method(method)
    parts = [everything.select(_split_rows(rows, everything.num_examples, s)) for s, rows in enumerate(splits)]
    done = [0.0] * len(parts)
    with progress_bar(progress, f"{describe(chosen)} on {len(parts)} splits") as report:

        def fit_one(s: int) -> Posterior:
            def note(fraction: float) -> None:
                done[s] = fraction
                if report is not None:
                    report(sum(done) / len(done))

            return fit(
                model,
                parts[s],
                method=chosen,
                seed=seed + s,
                checkpoint=None if checkpoint is None else Path(checkpoint) / f"split-{s}",
                progress=False if report is None else note,
                **options,
            )

        fits = [partial(fit_one, s) for s in range(len(parts))]
        return [ended.value() for ended in together(fits, lambda _, ended: ended.value())]


def _split_rows(rows: Any, num_examples: int, split: int) -> Tensor:
    """One split's rows, checked."""
    index = torch.as_tensor(rows)
    if index.dim() != 1 or index.is_floating_point() or index.dtype == torch.bool or len(index) == 0:
        raise DataError(
            f"split {split} is of shape {tuple(index.shape)} and type {index.dtype}: give the numbers of its rows, for "
            "example mask.nonzero()[0] of a mask."
        )
    low, high = int(index.min()), int(index.max())
    if low < 0 or high >= num_examples:
        raise DataError(
            f"split {split} names row {low if low < 0 else high} but the data have {num_examples}: rows are counted "
            "from 0."
        )
    return index.long()


def fit_problem(problem: Problem, method: Method, run: Run) -> Posterior:
    """Runs a method on a problem and signs the result.

    Raises:
        MethodError: training diverged to non-finite parameters.
    """
    with seeded(seed_of(run.seed, "fit")), denormals_flushed():
        posterior = method.fit(problem, run)
    if not all(bool(torch.isfinite(value).all()) for value in posterior.tensors().values()):
        raise MethodError(
            f"{describe(method)} diverged: its parameters are not finite; lower its learning rate or step size, or "
            "scale the inputs and targets to unit variance."
        )
    notes = dict(run.notes)
    if problem.meter.not_compiled is not None:
        notes["not_compiled"] = problem.meter.not_compiled
    warnings = tuple(notes.pop("warnings", ()))
    posterior.record = Record(
        method=describe(method),
        temperature=notes.pop("temperature", problem.temperature),
        seed=run.seed,
        cost=problem.meter.cost(_peak_memory(problem.network.device)),
        log_evidence=notes.pop("log_evidence", None),
        diagnostics=Diagnostics(notes, warnings),
    )
    return posterior


def make_problem(
    model: nn.Module,
    data: Any,
    *,
    likelihood: str | Likelihood | None = None,
    prior: str | Prior | None = None,
    pretrained: bool = False,
    validation: float | Any | None = None,
    seed: int = 0,
    device: str = "auto",
    way: str = "auto",
) -> Problem:
    """The probabilistic model behind `fit`, for those who want to work with it directly."""
    if not isinstance(model, nn.Module):
        raise MethodError(f"the model is a {type(model).__name__}, not a torch.nn.Module: pass the module itself.")
    everything = as_data(data)
    train, held_out = _split(everything, validation, seed)
    network = Network(model).to(_device(device))
    chosen = _likelihood(likelihood, everything.targets)
    return Problem(
        network,
        chosen,
        get_prior(prior),
        train,
        validation=held_out,
        way=_way(way),
        pretrained=pretrained,
        meter=Meter(),
    )


def estimate(
    model: nn.Module,
    data: Any,
    *,
    method: str | Method,
    budget: Budget | None = None,
    validation: float | Any = 0.1,
    **options: Any,
) -> Estimate:
    """What `fit` would cost, without fitting: gradient evaluations, FLOPs, memory, seconds, from a few real steps.

    Args:
        model: as in `fit`.
        data: as in `fit`.
        method: as in `fit`.
        budget: as in `fit`.
        validation: as in `fit`.
        options: likelihood, prior, pretrained, device and way as in `fit`.
    """
    chosen = get_method(method)
    held_out = validation if chosen.uses_validation else None
    problem = make_problem(model, data, validation=held_out, **options)
    check_model(problem)
    budget = _budget(budget)
    particles, size = chosen.num_particles, problem.num_examples
    if budget.seconds is None:
        stages = chosen.stages(problem, budget.limit(size, particles))
        return estimate_of(problem, stages, chosen.memory(problem))
    # What a time affords follows from the time that some work takes.
    stages = chosen.stages(problem, DEFAULT_BUDGET.limit(size, particles))
    usual = estimate_of(problem, stages, chosen.memory(problem))
    share = budget.seconds / usual.seconds
    return usual._replace(
        gradient_evaluations=share * usual.gradient_evaluations, flops=share * usual.flops, seconds=budget.seconds
    )


def _budget(budget: Budget | None) -> Budget:
    if budget is None:
        return DEFAULT_BUDGET
    if not isinstance(budget, Budget):
        raise BudgetError(f"budget={budget!r} is not a Budget: write for example bayesify.Budget(epochs=50).")
    return budget


def _way(way: str) -> Way:
    if way not in set(Way):
        raise MethodError(f"way={way!r} is not a way to evaluate networks. {suggest(str(way), Way)}")
    return Way(way)


def _device(device: str) -> torch.device:
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        place = torch.device(device)
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise MethodError(
            f"device={device!r} cannot be used here ({_first_line(error)}): use 'cpu', or 'auto' to take what there is."
        ) from error
    return place


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")


def _likelihood(likelihood: str | Likelihood | None, targets: Tensor) -> Likelihood:
    if isinstance(likelihood, Likelihood):
        return likelihood
    if likelihood is None:
        likelihood = "gaussian" if targets.is_floating_point() else "categorical"
    chosen = get_likelihood(likelihood)
    if chosen.kind == "classification" and targets.numel() != len(targets):
        raise DataError(
            f"class labels must be one column, got targets of shape {tuple(targets.shape)}: give the class numbers, "
            "for example targets.argmax(1) of one-hot columns."
        )
    if targets.dim() == 2 and isinstance(chosen, (Gaussian, HeteroscedasticGaussian, StudentT)):
        return type(chosen)(num_targets=targets.shape[1])
    return chosen


class _Parts(NamedTuple):
    train: Data
    held_out: Data | None


def _split(data: Data, validation: Any, seed: int) -> _Parts:
    if validation is None or (isinstance(validation, (int, float)) and validation == 0):
        return _Parts(data, None)
    if not isinstance(validation, (int, float)):
        return _Parts(data, as_data(validation))
    if not 0 < validation < 1:
        raise DataError(f"validation={validation}: a fraction must lie between 0 and 1 (0 or None holds nothing out).")
    if data.num_examples < SMALL_DATA:
        return _Parts(data, None)
    count = max(round(validation * data.num_examples), MINIMUM_VALIDATION)
    order = torch.randperm(data.num_examples, generator=generator("cpu", seed, "validation"))
    return _Parts(data.select(order[count:]), data.select(order[:count]))


def _checkpoints(
    folder: str | Path | None, problem: Problem, method: Method, budget: Budget, seed: int
) -> Checkpoints | None:
    if folder is None:
        return None
    digest = hashlib.blake2b(digest_size=16)
    # Everything that the result follows from; the ways of evaluation differ by rounding.
    settings = [describe(method), budget, seed, problem.pretrained, str(problem.way)]
    model = [repr(problem.likelihood), repr(problem.prior_family), problem.network.layout.describe()]
    digest.update(repr([settings, model]).encode())
    data = [problem.data] if problem.validation is None else [problem.data, problem.validation]
    for tensor in (problem.network.initial, *pytree.tree_leaves(data)):
        digest.update(repr((tensor.dtype, tuple(tensor.shape))).encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return Checkpoints(Path(folder), digest.hexdigest())


def _peak_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
