"""References: against an exact posterior, stage by stage, interrupted and continued."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from small_problems import critical_value

from bayesify.datasets import Task, make_task
from bayesify.engine.budget import Budget
from bayesify.engine.convergence import effective_sample_size
from bayesify.errors import BudgetError, DataError, MethodError, ModelError, SaveError
from bayesify.exactness.conjugate import LinearRegression
from bayesify.model.likelihoods import Gaussian
from bayesify.model.priors import Normal
from bayesify.reference import Reference, Setup, make, make_reference
from bayesify.reference.ceiling import Ceiling, Draws, halvings, measure
from bayesify.reference.distance import Distance
from bayesify.reference.make import next_limit
from bayesify.reference.reference import Stage

ROWS = 80
LINEAR = Setup((), Gaussian(0.7), Normal(scale=1.0), "hmc(warm_start_epochs=20)", chains=4, draws=100)
SMALL = Setup((4,), "gaussian", method="hmc(trajectory_length=0.2, warm_start_epochs=20)", chains=4, draws=20)


def table(classes: bool = False) -> Task:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(ROWS, 2))
    y = 0.8 * x[:, 0] - 0.5 * x[:, 1] + 0.7 * rng.normal(size=ROWS)
    frame = pd.DataFrame({"a": x[:, 0], "b": x[:, 1], "y": np.where(y > 0, "yes", "no") if classes else y})
    return make_task(frame, "y")


def sweeps(count: float, chains: int = 4) -> Budget:
    """Gradients of all 72 training rows for every chain."""
    return Budget(gradient_evaluations=count * 72 * chains)


def exact(noise: float = 0.7) -> LinearRegression:
    data = [torch.as_tensor(part).double() for part in LINEAR.prepared(table())[:4]]
    return LinearRegression(*data, noise=noise)


@pytest.fixture(scope="module")
def linear(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    return make_reference(table(), LINEAR, budget=sweeps(3000), folder=tmp_path_factory.mktemp("linear"))


def test_a_linear_model_has_its_exact_posterior(linear: Reference) -> None:
    known = exact()
    mean, variance = known.predictive(known.test_inputs)
    functions = linear.draws.outputs.double().squeeze(-1).numpy()  # (K, S, B)
    deviation = functions - mean.numpy()
    function_variance = variance.numpy() - 0.7**2
    for moment, truth in ((deviation, 0.0), (deviation**2, function_variance)):
        flat = moment.reshape(-1, moment.shape[-1])
        error = flat.std(0) / np.sqrt(effective_sample_size(moment))
        assert np.all(np.abs(flat.mean(0) - truth) < critical_value(2 * flat.shape[1]) * error)
    # The same measure tells another posterior apart.
    wrong = exact(noise=2.0)
    flat = (functions - wrong.predictive(wrong.test_inputs).mean.numpy()).reshape(-1, functions.shape[-1])
    error = flat.std(0) / np.sqrt(effective_sample_size(functions))
    assert np.any(np.abs(flat.mean(0)) > critical_value(2 * flat.shape[1]) * error)


def test_it_knows_how_well_it_is_known(linear: Reference) -> None:
    assert linear.ceiling.r_hat[-1] < 1.1
    assert linear.ceiling.halves.wasserstein1 < 0.03
    assert linear.ceiling.num_draws == linear.predictive.num_draws
    assert [stage.number for stage in linear.stages] == list(range(len(linear.stages)))
    assert json.dumps(linear.as_dict())


def test_stages_double_and_use_the_budget(linear: Reference) -> None:
    spent = [stage.gradient_evaluations for stage in linear.stages]
    assert all(after > 1.4 * before for before, after in pairwise(spent))
    assert sum(spent) <= 3000 * 72 * 4 * 1.001


def numbers(folder: Path) -> tuple[bytes, Any]:
    found = json.loads((folder / "reference.json").read_text())
    for stage in found["stages"]:
        del stage["seconds"]
    return (folder / found["arrays"]).read_bytes(), found


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_reference(table(), SMALL, budget=sweeps(700), folder=tmp_path_factory.mktemp("whole")).folder


@pytest.mark.parametrize("when", [3, 40, 130])
def test_interrupted_it_ends_the_same(
    when: int, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(make, "CHECKPOINT_SECONDS", 0.2)
    calls = 0

    def stop_once(fraction: float) -> None:
        nonlocal calls
        calls += 1
        if calls == when:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_reference(table(), SMALL, budget=sweeps(700), folder=tmp_path / "cut", progress=stop_once)
    make_reference(table(), SMALL, budget=sweeps(700), folder=tmp_path / "cut")
    assert numbers(tmp_path / "cut") == numbers(undisturbed)
    names = {path.name for path in (tmp_path / "cut").iterdir()} - {".lock"}
    assert names == {"reference.json", json.loads((tmp_path / "cut" / "reference.json").read_text())["arrays"]}


def test_it_is_read_back_and_continued(tmp_path: Path) -> None:
    task, seen = table(classes=True), []
    setup = Setup((4,), "categorical", method=SMALL.method, chains=4, draws=20)
    first = make_reference(task, setup, budget=sweeps(700), folder=tmp_path)
    again = make_reference(task, setup, budget=sweeps(700), folder=tmp_path, watch=seen.append)
    assert not seen
    assert torch.equal(first.draws.outputs, again.draws.outputs)
    assert first.as_dict() == again.as_dict()
    more = make_reference(task, setup, budget=sweeps(2000), folder=tmp_path, watch=seen.append)
    assert len(more.stages) == len(first.stages) + len(seen) > len(first.stages)
    assert 0 <= more.ceiling.halves.total_variation < 0.5
    assert more.predictive.probs.shape == (8, 2)


def test_others_folders_are_left_alone(tmp_path: Path) -> None:
    make_reference(table(), SMALL, budget=sweeps(700), folder=tmp_path)
    other = Setup((5,), "gaussian", method=SMALL.method, chains=4, draws=20)
    with pytest.raises(SaveError, match="other data or settings"):
        make_reference(table(), other, budget=sweeps(700), folder=tmp_path)
    (tmp_path / "reference.json").write_text("{")
    with pytest.raises(SaveError, match="damaged"):
        make_reference(table(), SMALL, budget=sweeps(700), folder=tmp_path)


def stage(evaluations: float, distance: float, r_hat: float = 2.0, draws: int = 250) -> Stage:
    ceiling = Ceiling(Distance(None, None, distance, 0.0), distance, (r_hat,) * 3, (2000.0, 1500.0), 1000)
    return Stage(0, evaluations, 1.0, {"draws_per_chain": draws}, ceiling)


def test_limits() -> None:
    assert next_limit((), 150.0, 1.0) == pytest.approx(10.0)
    made = ()
    while (limit := next_limit(made, 150.0, 1.0)) is not None:
        made = (*made, stage(limit, 1.0))
    spent = [one.gradient_evaluations for one in made]
    assert spent == pytest.approx([10, 20, 40, 80])
    assert next_limit((), 2.0, 3.0) is None
    assert next_limit((stage(10.0, 1.0),), 24.0, 1.0) is None
    assert next_limit((stage(10.0, 1.0),), 28.0, 1.0) == pytest.approx(18.0)


@pytest.mark.parametrize(
    ("stages", "end"),
    [
        ([stage(1, 1.0), stage(2, 0.95), stage(4, 0.9)], "stalled"),
        ([stage(1, 1.0), stage(2, 0.95), stage(4, 0.7)], None),
        ([stage(1, 1.0), stage(2, 0.95)], None),
        ([stage(1, 1.0, draws=20), stage(2, 0.95, draws=20), stage(4, 0.9, draws=20)], None),
        ([stage(1, 1.0, r_hat=1.005)], "mixed"),
    ],
)
def test_ends(stages: list[Stage], end: str | None) -> None:
    assert make.why_ended(tuple(stages)) == end


def test_halves() -> None:
    assert halvings(4) == [([0, 1], [2, 3]), ([0, 2], [1, 3]), ([0, 3], [1, 2])]
    for chains in (5, 8, 12):
        for first, second in halvings(chains):
            assert len(first) == len(second) == chains // 2
            assert not set(first) & set(second)
    assert len(halvings(8)) == 8


def test_modes_that_no_chain_leaves_show() -> None:
    """Halves of every chain agree here; halves of the chains do not."""
    rng = torch.Generator().manual_seed(0)
    outputs = 0.01 * torch.randn(4, 100, 3, 1, generator=rng)
    one = measure(Draws(outputs, torch.zeros(4, 100, 0)), Gaussian(0.1))
    two = measure(
        Draws(outputs + torch.tensor([0.0, 0.0, 0.0, 1.0])[:, None, None, None], torch.zeros(4, 100, 0)), Gaussian(0.1)
    )
    assert one.r_hat[-1] < 1.05 < two.r_hat[0]
    assert one.halves.wasserstein1 < 0.01 < 0.3 < two.halves.wasserstein1


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"network": (0,)}, ModelError, "positive integers"),
        ({"chains": 3}, MethodError, "4 or more"),
        ({"draws": 1}, MethodError, "8 or more"),
        ({"method": "swag"}, MethodError, "does not sample"),
        ({"prior": "nrmal"}, MethodError, "normal"),
        ({"likelihood": "poisson"}, MethodError, "poisson"),
    ],
)
def test_settings_are_checked(settings: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        Setup(**settings)


def test_budgets_and_splits_are_checked(tmp_path: Path) -> None:
    with pytest.raises(BudgetError, match="at least"):
        make_reference(table(), SMALL, budget=sweeps(5), folder=tmp_path)
    with pytest.raises(DataError, match="does not fit"):
        make_reference(table(classes=True), SMALL, budget=sweeps(700), folder=tmp_path)
