"""Methods against a reference: a method that samples the same posterior is nearer than the mode; nothing runs twice."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from bayesify.arena.fidelity import Fitted, Watch, fidelity_cells, fidelity_field, measure_fidelity
from bayesify.arena.field import FIELD
from bayesify.datasets import Task, make_task
from bayesify.engine.budget import Budget
from bayesify.errors import BudgetError, MethodError
from bayesify.model.likelihoods import Gaussian
from bayesify.model.priors import Normal
from bayesify.reference import Reference, Setup, make_reference

ROWS = 40
SAMPLER = "hmc(num_draws=100, warm_start_epochs=10, trajectory_length=0.6)"
EVIDENCE = "laplace(prior_precision=evidence)"
FULL = "laplace(structure=full, prior_precision=fixed)"


def table() -> Task:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.normal(size=(ROWS, 8)), columns=list("abcdefgh"))
    return make_task(frame.assign(y=frame["a"] + rng.normal(size=ROWS)), "y")


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    """Of a linear model with much prior and little data: much of the predictive is uncertainty of the weights."""
    sampler = "hmc(warm_start_epochs=20, trajectory_length=0.6)"
    setup = Setup((), Gaussian(1.0), Normal(scale=3.0), sampler, chains=4, draws=300)
    budget = Budget(gradient_evaluations=3000 * 36 * 4)
    return make_reference(table(), setup, budget=budget, folder=tmp_path_factory.mktemp("reference"))


@pytest.fixture(scope="module")
def found(reference: Reference) -> dict[str, Any]:
    return measure_fidelity(table(), reference, [FULL, SAMPLER, EVIDENCE], seeds=2, epochs=100)


def row(found: dict[str, Any], label: str) -> dict[str, Any]:
    return next(row for row in found["rows"] if row["label"] == label)


def test_baselines_come_first_and_have_gaps_of_their_own(found: dict[str, Any]) -> None:
    assert [row["label"] for row in found["rows"]][:2] == ["map", "deep_ensemble"]
    assert row(found, "map")["map_gap"]["fraction"] == 0.0
    assert row(found, "map")["map_gap"]["standard_error"] is None
    assert row(found, "map")["ensemble_gap"]["standard_error"] > 0
    assert row(found, "deep_ensemble")["ensemble_gap"]["fraction"] == 0.0


def test_the_exact_posterior_closes_the_gap(found: dict[str, Any]) -> None:
    # Of a linear model the full Laplace approximation is the posterior.
    gap = row(found, FULL)["map_gap"]
    assert gap["fraction"] > 0.6
    assert gap["standard_error"] < 0.2
    assert row(found, FULL)["kl"]["mean"] < row(found, "map")["kl"]["mean"]
    assert row(found, SAMPLER)["map_gap"]["fraction"] > 0.3
    # Laplace with its default, a prior fitted to the data, approximates another posterior: that shows.
    assert row(found, EVIDENCE)["map_gap"]["fraction"] < 0


def test_budgets_are_equal_and_kept(found: dict[str, Any]) -> None:
    assert {row["budget"] for row in found["rows"]} == {10 * 100 * 36.0}
    assert all(row["total"] <= 1.001 * row["budget"] for row in found["rows"])


def test_what_is_stored_is_not_fitted_again(reference: Reference, found: dict[str, Any]) -> None:
    waiting, done = [], []
    watch = Watch(waiting.extend, done.append)
    again = measure_fidelity(table(), reference, [FULL, SAMPLER, EVIDENCE], seeds=2, epochs=100, watch=watch)
    assert not waiting
    assert not done
    assert again == found
    assert json.loads(json.dumps(found)) == found


def test_failures_are_told_and_the_rest_goes_on(reference: Reference) -> None:
    done: list[Fitted] = []
    watch = Watch(lambda cells: None, done.append)
    found = measure_fidelity(table(), reference, ["hmc(num_chains=50)"], seeds=1, epochs=1, watch=watch)
    assert [fitted.status for fitted in done] == ["done", "done", "failed"]
    assert "50 chains" in row(found, "hmc(num_chains=50)")["failed"][0]
    assert row(found, "map")["map_gap"]["standard_error"] is None


def test_a_longer_reference_is_another_one(reference: Reference) -> None:
    first = fidelity_cells(reference, 36, fidelity_field([]), multiples=[1.0], seeds=1)
    shorter = Reference(reference.setup, reference.key, reference.stages[:-1], reference.draws, "budget", Path("."))
    assert first[0].key != fidelity_cells(shorter, 36, fidelity_field([]), multiples=[1.0], seeds=1)[0].key


def test_field() -> None:
    labels = [one.label for one in fidelity_field(None)]
    specs = [one.spec for one in fidelity_field(None) if "laplace" in one.spec]
    assert specs
    assert all("prior_precision=fixed" in spec for spec in specs)
    assert labels[:3] == ["map", "deep_ensemble", "deep_ensemble+temperature"]
    assert {one.label for one in FIELD if one.role == "method"} < set(labels)
    assert [one.label for one in fidelity_field(["swag", "map", "multi(swag, 3)"])][2:] == ["swag", "multi(swag, 3)"]
    with pytest.raises(MethodError, match="swag"):
        fidelity_field(["swga"])


@pytest.mark.parametrize("settings", [{"multiples": [0.0]}, {"seeds": 0}, {"epochs": -1.0}])
def test_budgets_are_checked(settings: dict[str, Any], reference: Reference) -> None:
    with pytest.raises(BudgetError, match="positive"):
        fidelity_cells(reference, 36, fidelity_field([]), **({"multiples": [1.0], "seeds": 1} | settings))
