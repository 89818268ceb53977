"""`measure_fidelity`: how far each method of the field is from a reference, at equal gradient evaluations.

A method gets the same network, likelihood, prior and training rows as the reference. Nothing is held out for early
stopping, because a method that sees fewer rows approximates another posterior; temperature scaling, which is nothing
without held-out data, takes a tenth of the rows. The budget is that of `compare`, and multiples of it. The baselines
are the mode of the posterior and a deep ensemble, each given the whole budget.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import torch

from bayesify.arena.cell import COMPILED_BUDGET
from bayesify.arena.field import CONTROL, CONTROL_MEMBERS, FIELD, Entrant, default_epochs, entrants
from bayesify.arena.plan import digest
from bayesify.arena.store import Store
from bayesify.datasets.task import Task
from bayesify.engine.budget import Budget
from bayesify.engine.rng import seed_of
from bayesify.errors import BayesifyError, BudgetError
from bayesify.fitting import fit
from bayesify.methods.registry import get_method
from bayesify.reference.distance import Distance, Target
from bayesify.reference.gap import closed
from bayesify.reference.reference import Reference

FIDELITY_VERSION = 1
"""Goes up whenever the same cell would give another result."""
HELD_OUT = 0.1
"""Of the rows, for the methods that cannot do without."""
MODE = Entrant("map", "map", "baseline", "MAP")
ENSEMBLE = Entrant("deep_ensemble", f"deep_ensemble({CONTROL_MEMBERS}, epochs={{epochs}})", "baseline", "Deep ensemble")
SCALED = Entrant("deep_ensemble+temperature", CONTROL.spec, "method", CONTROL.title)

SAME_PRIOR = {
    "laplace": "laplace(prior_precision=fixed)",
    "laplace_last_layer": "subset(laplace(structure=full, prior_precision=fixed), last)",
    "multi_laplace": "multi(laplace(prior_precision=fixed), 5)",
}
"""By default Laplace fits the prior to the data: then it approximates another posterior than the reference's."""


@dataclass(frozen=True)
class FidelityCell:
    """One fit."""

    label: str
    title: str
    spec: str
    multiple: float
    seed: int
    budget: float
    """In gradient evaluations."""
    key: str


class Fitted(NamedTuple):
    """A finished cell, for displays."""

    cell: FidelityCell
    status: str
    seconds: float
    reason: str | None


class Watch(NamedTuple):
    """Whom to tell."""

    planned: Callable[[list[FidelityCell]], None]
    finished: Callable[[Fitted], None]


def fidelity_field(names: Sequence[str] | None) -> tuple[Entrant, ...]:
    """The baselines, then the methods named or the default field.

    Raises:
        MethodError: a name is unknown.
    """
    field = [one._replace(spec=SAME_PRIOR.get(one.label, one.spec)) for one in FIELD if one.role == "method"]
    known = {one.label: one for one in (MODE, ENSEMBLE, SCALED, *field)}
    if names is None:
        chosen = [SCALED, *field]
    else:
        chosen = [known[name] if name in known else entrants([name])[-1] for name in names]
    return tuple(dict.fromkeys((MODE, ENSEMBLE, *chosen)))


def fidelity_cells(
    reference: Reference,
    num_train: int,
    field: Sequence[Entrant],
    *,
    multiples: Sequence[float],
    seeds: int,
    epochs: float | None = None,
) -> list[FidelityCell]:
    """What is to be fitted, whole rounds of the field first.

    Raises:
        BudgetError: a budget or the number of seeds is not positive.
    """
    if seeds < 1 or not multiples or min(multiples) <= 0 or (epochs is not None and not epochs > 0):
        raise BudgetError(
            f"epochs={epochs}, multiples={list(multiples)}, seeds={seeds}: budgets and seeds must be positive."
        )
    epochs = default_epochs(num_train) if epochs is None else epochs
    cells = []
    for multiple in multiples:
        for seed in range(seeds):
            for one in field:
                spec, budget = one.spec.format(epochs=f"{epochs:g}"), multiple * CONTROL_MEMBERS * epochs * num_train
                made_of = [FIDELITY_VERSION, reference.key, reference.gradient_evaluations, spec, budget, seed]
                cells.append(
                    FidelityCell(one.label, one.title or one.label, spec, multiple, seed, budget, digest(made_of))
                )
    return cells


def measure_fidelity(
    task: Task,
    reference: Reference,
    methods: Sequence[str] | None = None,
    *,
    multiples: Sequence[float] = (1.0,),
    seeds: int = 3,
    epochs: float | None = None,
    watch: Watch | None = None,
) -> dict[str, Any]:
    """Fits what is not stored beside the reference yet, and sums up.

    Args:
        task: the data of the reference.
        reference: from `make_reference`.
        methods: labels of the default field or written forms; None is the whole field. The baselines always run.
        multiples: of the budget of `compare`.
        seeds: fits of every method at every budget.
        epochs: of one member of the ensemble: sets the budget; None sizes it to the data.
        watch: told of the progress.

    Returns:
        JSON-ready: the reference's own ceiling and one row per method and budget (see `summarise`).

    Raises:
        DataError, MethodError, BudgetError, SaveError: with what went wrong and what to do.
    """
    data = reference.setup.prepared(task)
    cells = fidelity_cells(
        reference, len(data.X_train), fidelity_field(methods), multiples=multiples, seeds=seeds, epochs=epochs
    )
    store = Store(reference.folder / "methods")
    store.prepare()
    waiting = [cell for cell in cells if not store.has(cell.key)]
    if watch is not None:
        watch.planned(waiting)
    target = Target(reference.predictive)
    for cell in waiting:
        done = _run(cell, task, reference, target, store)
        if watch is not None:
            watch.finished(done)
    found = [store.record(cell.key) for cell in cells]
    return summarise([record for record in found if record is not None], task, reference)


def _run(cell: FidelityCell, task: Task, reference: Reference, target: Target, store: Store) -> Fitted:
    torch.set_num_threads(1)
    started = time.perf_counter()
    record: dict[str, Any] = {**asdict(cell), "status": "done", "reason": None}
    try:
        record |= _fit_and_measure(cell, task, reference, target)
    except BayesifyError as error:
        record |= {"status": "failed", "reason": str(error)}
    except (RuntimeError, ValueError, ArithmeticError, IndexError, TypeError) as error:
        # A third party's method may fail in any of these ways; the other cells must go on.
        record |= {"status": "failed", "reason": f"{type(error).__name__}: {error}"}
    record["seconds"] = time.perf_counter() - started
    store.write(cell.key, record, {})
    return Fitted(cell, record["status"], record["seconds"], record["reason"])


def _fit_and_measure(cell: FidelityCell, task: Task, reference: Reference, target: Target) -> dict[str, Any]:
    setup = reference.setup
    data = setup.prepared(task)
    likelihood, prior = setup.parts
    posterior = fit(
        setup.module(task, data.X_train.shape[1]),
        (data.X_train, data.y_train),
        likelihood=likelihood,
        prior=prior,
        method=cell.spec,
        budget=Budget(gradient_evaluations=cell.budget),
        validation=HELD_OUT if get_method(cell.spec).needs_validation else None,
        seed=seed_of("fidelity", cell.seed) % 2**31,
        device="cpu",
        progress=False,
        way="compiled" if cell.budget >= COMPILED_BUDGET else "auto",
    )
    predictive = posterior.predict(data.X_test)
    distance = target.distance(predictive)
    if not np.isfinite([value for value in distance if value is not None]).all():
        raise ArithmeticError("the distance is not finite: the network's outputs, or its densities, are not")
    return {
        "distance": distance._asdict(),
        "nll": -float(predictive.log_prob(data.y_test).double().mean()),
        "total": posterior.cost.total,
        "fit_seconds": posterior.cost.seconds - posterior.cost.compile_seconds,
        "warnings": list(posterior.diagnostics.warnings),
    }


def summarise(records: list[dict[str, Any]], task: Task, reference: Reference) -> dict[str, Any]:
    """One row per method and budget.

    A row has the means over seeds and the standard errors of the distances, what was spent, and `map_gap` and
    `ensemble_gap`: fraction, standard_error and, as `ceiling`, the fraction at which a method is as close to the
    reference as one half of its chains is to the other.
    """
    data = reference.setup.prepared(task)
    own = -float(reference.predictive.log_prob(data.y_test).double().mean())
    rows = []
    for label, multiple in dict.fromkeys((record["label"], record["multiple"]) for record in records):
        same = [record for record in records if record["multiple"] == multiple]
        rows.append(_row([record for record in same if record["label"] == label], same, reference))
    return {
        "task": task.name,
        "kind": task.kind,
        "reference": {
            "folder": str(reference.folder),
            "setup": reference.setup.as_dict(),
            "end": reference.end,
            "seconds": reference.seconds,
            "gradient_evaluations": reference.gradient_evaluations,
            "ceiling": reference.ceiling.as_dict(),
            "nll": own,
        },
        "main": "wasserstein1" if reference.ceiling.halves.total_variation is None else "total_variation",
        "rows": rows,
    }


def _row(own: list[dict[str, Any]], same: list[dict[str, Any]], reference: Reference) -> dict[str, Any]:
    done = [record for record in own if record["status"] == "done"]
    row: dict[str, Any] = {name: own[0][name] for name in ("label", "title", "spec", "multiple", "budget")}
    row |= {"seeds": len(done), "failed": [record["reason"] for record in own if record["status"] != "done"]}
    if not done:
        return row
    distances = [Distance(**record["distance"]) for record in done]
    for name in Distance._fields:
        values = [getattr(distance, name) for distance in distances]
        row[name] = None if None in values else {"mean": float(np.mean(values)), "standard_error": _error(values)}
    for name in ("nll", "total", "fit_seconds"):
        row[name] = float(np.mean([record[name] for record in done]))
    for name, baseline in (("map_gap", MODE.label), ("ensemble_gap", ENSEMBLE.label)):
        others = [
            Distance(**record["distance"]).main
            for record in same
            if record["label"] == baseline and record["status"] == "done"
        ]
        row[name] = _gap([distance.main for distance in distances], others, reference) if others else None
        if row["label"] == baseline and others:
            row[name]["standard_error"] = None  # of 0 by definition
    return row


def _gap(distances: list[float], baseline: list[float], reference: Reference) -> dict[str, float | None]:
    found = closed(distances, baseline)
    at_best = closed([reference.ceiling.halves.main], baseline)
    error = None if np.isnan(found.standard_error) else found.standard_error
    return {"fraction": found.fraction, "standard_error": error, "ceiling": at_best.fraction}


def _error(values: list[float]) -> float | None:
    return None if len(values) < 2 else float(np.std(values, ddof=1) / len(values) ** 0.5)
