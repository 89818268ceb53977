"""`measure_testbed`: methods on every problem at equal gradient evaluations; one row per method, paired by problem.

Nothing is held out for early stopping, because the prior is the truth's own law and a method that sees fewer labels
approximates another posterior; temperature scaling, which is nothing without held-out data, takes a tenth. Laplace
keeps the prior. Posteriors that can be sampled at will predict with 1,000 draws, others with those they have: M is
reported, because few draws make a joint prediction look worse than its posterior is.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy import stats

from bayesify.arena.fidelity import HELD_OUT, SAME_PRIOR
from bayesify.arena.field import CONTROL_MEMBERS, Entrant, entrants
from bayesify.arena.plan import digest
from bayesify.arena.store import Store
from bayesify.arena.testbed.environment import Environment, Setting, environment, select
from bayesify.arena.testbed.score import ORDER, Divergence, divergence
from bayesify.engine.budget import Budget
from bayesify.engine.rng import seed_of
from bayesify.errors import BayesifyError, BudgetError
from bayesify.fitting import fit
from bayesify.methods.registry import get_method
from bayesify.model.likelihoods import Categorical
from bayesify.posterior.parts import is_fixed
from bayesify.predictive import Predictive

TESTBED_VERSION = 1
"""Goes up whenever the same cell would give another result."""
CONTROL = "deep_ensemble"
DEFAULT_METHODS = ("map", "mc_dropout", "mean_field_vi", "laplace", "prior_ensemble", "epinet", "sghmc", "hmc")
NUM_DRAWS = 1000
"""Of posteriors that can be sampled at will."""
TOTAL_EXAMPLES, FEWEST_EPOCHS, MOST_EPOCHS = 40_000, 40, 200
"""What one member of an ensemble of ten trains for by default; every method may spend what the ten do."""


@dataclass(frozen=True)
class ProblemCell:
    """One fit."""

    label: str
    title: str
    spec: str
    problem: str
    budget: float
    """In gradient evaluations."""
    key: str


class Fitted(NamedTuple):
    """A finished cell, for displays."""

    cell: ProblemCell
    status: str
    seconds: float
    reason: str | None


class Watch(NamedTuple):
    """Whom to tell."""

    planned: Callable[[list[ProblemCell]], None]
    finished: Callable[[Fitted], None]


def make_field(methods: Sequence[str] | None, control: str | None) -> tuple[Entrant, ...]:
    """The control, then the methods named or the default ones.

    Raises:
        MethodError: a name is unknown.
    """
    leader = CONTROL if control is None else control
    names = [leader, *(methods or DEFAULT_METHODS)]
    found = [_entrant(name) for name in names]
    return tuple(dict.fromkeys(found))


def _entrant(name: str) -> Entrant:
    if name == CONTROL:  # the arena's is temperature-scaled, and would set labels aside for that
        return Entrant(name, f"deep_ensemble({CONTROL_MEMBERS})", title="Deep ensemble")
    one = entrants([name])[-1]
    return Entrant(one.label, SAME_PRIOR.get(one.label, one.spec), title=one.title)


def make_cells(settings: Sequence[Setting], field: Sequence[Entrant], epochs: float | None = None) -> list[ProblemCell]:
    """What is to be fitted: whole problems first, so that what an interrupted run has is paired.

    Raises:
        BudgetError: the budget is not positive.
    """
    if epochs is not None and not epochs > 0:
        raise BudgetError(f"a budget of {epochs} epochs per ensemble member: it must be positive.")
    cells = []
    for setting in settings:
        for one in field:
            each = default_epochs(setting.num_train) if epochs is None else epochs
            budget = CONTROL_MEMBERS * each * setting.num_train
            spec = one.spec.format(epochs=f"{each:g}")
            key = digest([TESTBED_VERSION, setting.name, spec, budget])
            cells.append(ProblemCell(one.label, one.title or one.label, spec, setting.name, budget, key))
    return cells


def default_epochs(num_train: int) -> int:
    """Of one member of an ensemble of ten."""
    return max(FEWEST_EPOCHS, min(MOST_EPOCHS, round(TOTAL_EXAMPLES / num_train)))


def measure_testbed(
    methods: Sequence[str] | None = None,
    *,
    control: str | None = None,
    problems: list[str] | None = None,
    epochs: float | None = None,
    out: str | Path | None = None,
    watch: Watch | None = None,
) -> dict[str, Any]:
    """Fits what is not stored yet, and sums up.

    Args:
        methods: labels of the default field or written forms; None is a default choice.
        control: what all are compared to; None is a deep ensemble of ten.
        problems: names or patterns such as '2-*'; None is all 36.
        epochs: of one member of an ensemble of ten: sets the budget of all; None sizes it to the data.
        out: the results folder; the same call with the same folder continues.
        watch: told of the progress.

    Returns:
        JSON-ready, one row per method (see `summarise`).

    Raises:
        DataError, MethodError, BudgetError, SaveError: with what went wrong and what to do.
    """
    settings = select(problems)
    cells = make_cells(settings, make_field(methods, control), epochs)
    store = Store(Path("bayesify-results") / "testbed" if out is None else Path(out))
    store.prepare()
    waiting = [cell for cell in cells if not store.has(cell.key)]
    if watch is not None:
        watch.planned(waiting)
    by_name = {setting.name: setting for setting in settings}
    last: tuple[str, Environment] | None = None
    for cell in waiting:
        if last is None or last[0] != cell.problem:
            last = (cell.problem, environment(by_name[cell.problem]))
        done = _run(cell, last[1], store)
        if watch is not None:
            watch.finished(done)
    found = [store.record(cell.key) for cell in cells]
    return summarise([record for record in found if record is not None], settings) | {"folder": str(store.folder)}


def _run(cell: ProblemCell, env: Environment, store: Store) -> Fitted:
    torch.set_num_threads(1)
    started = time.perf_counter()
    record: dict[str, Any] = {**asdict(cell), "status": "done", "reason": None}
    try:
        record |= _fit_and_measure(cell, env)
    except BayesifyError as error:
        record |= {"status": "failed", "reason": str(error)}
    except (RuntimeError, ValueError, ArithmeticError, IndexError, TypeError) as error:
        # A third party's method may fail in any of these ways; the other cells must go on.
        record |= {"status": "failed", "reason": f"{type(error).__name__}: {error}"}
    record["seconds"] = time.perf_counter() - started
    store.write(cell.key, record, {})
    return Fitted(cell, record["status"], record["seconds"], record["reason"])


def _fit_and_measure(cell: ProblemCell, env: Environment) -> dict[str, Any]:
    posterior = fit(
        env.network,
        (env.inputs, env.labels),
        likelihood="categorical",
        prior=env.prior,
        method=cell.spec,
        budget=Budget(gradient_evaluations=cell.budget),
        validation=HELD_OUT if get_method(cell.spec).needs_validation else None,
        seed=seed_of("testbed", cell.problem) % 2**31,
        device="cpu",
        progress=False,
        way="traced",
    )
    predictive = posterior.predict(env.anchors, num_samples=None if is_fixed(posterior) else NUM_DRAWS)
    found = divergence(predictive, env.log_probs)
    if not np.isfinite(found).all():
        raise ArithmeticError("the divergence is not finite: the network's outputs are not")
    return {
        **found._asdict(),
        "draws": predictive.num_draws,
        "total": posterior.cost.total,
        "fit_seconds": posterior.cost.seconds,
        "warnings": list(posterior.diagnostics.warnings),
    }


def summarise(records: list[dict[str, Any]], settings: Sequence[Setting]) -> dict[str, Any]:
    """One row per method, the first the control.

    A row has the means of `marginal` and `dyadic` KL over the problems that are done, and their `..._ratio`s to the
    control: the geometric mean over the problems that both have done, with its 95% interval (Student's t of the paired
    log ratios; not adjusted for the number of methods), and `nearer`, the share of problems on which it is below one.
    `uniform` is what even chances for both classes would score.
    """
    labels = list(dict.fromkeys(record["label"] for record in records))
    done = {(record["label"], record["problem"]): record for record in records if record["status"] == "done"}
    control = {record["problem"]: record for (label, _), record in done.items() if label == labels[0]}
    return {
        "problems": [setting.name for setting in settings],
        "order": ORDER,
        "control": labels[0],
        "uniform": _uniform(settings),
        "rows": [_row(label, [r for r in records if r["label"] == label], control) for label in labels],
    }


def _row(label: str, records: list[dict[str, Any]], control: dict[str, dict[str, Any]]) -> dict[str, Any]:
    done = [record for record in records if record["status"] == "done"]
    row: dict[str, Any] = {
        "label": label,
        "title": records[0]["title"],
        "spec": records[0]["spec"],
        "problems": len(done),
        "failed": [record["reason"] for record in records if record["status"] != "done"],
    }
    if not done:
        return row
    for name in ("marginal", "dyadic", "fit_seconds"):
        row[name] = float(np.mean([record[name] for record in done]))
    row["draws"] = int(np.median([record["draws"] for record in done]))
    row["by_problem"] = {r["problem"]: {"marginal": r["marginal"], "dyadic": r["dyadic"]} for r in done}
    shared = [record for record in done if record["problem"] in control]
    for name in Divergence._fields:
        pairs = [(record[name], control[record["problem"]][name]) for record in shared]
        row[f"{name}_ratio"] = ratio(pairs) if pairs else None
    return row


def ratio(pairs: Sequence[tuple[float, float]], level: float = 0.95) -> dict[str, float | None]:
    """Geometric mean of the ratios of positive pairs, its interval, and the share of pairs whose first is smaller."""
    logs = np.log([one / other for one, other in pairs])
    estimate, nearer = float(logs.mean()), float((logs < 0).mean())
    if len(logs) < 2:
        return {"estimate": float(np.exp(estimate)), "low": None, "high": None, "nearer": nearer}
    reach = float(stats.t.ppf(0.5 + level / 2, len(logs) - 1) * logs.std(ddof=1) / len(logs) ** 0.5)
    low, high = np.exp([estimate - reach, estimate + reach]).tolist()
    return {"estimate": float(np.exp(estimate)), "low": low, "high": high, "nearer": nearer}


def _uniform(settings: Sequence[Setting]) -> dict[str, float]:
    found = []
    for setting in settings:
        env = environment(setting)
        even = torch.zeros(1, len(env.anchors), env.log_probs.shape[1], dtype=torch.float64)
        found.append(divergence(Predictive(Categorical(), even, torch.zeros(1, 0)), env.log_probs))
    return {name: float(np.mean([getattr(one, name) for one in found])) for name in Divergence._fields}
