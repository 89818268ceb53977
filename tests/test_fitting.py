"""`fit`, `estimate` and `load` as users meet them: what they accept, what they refuse, and how they say it."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from contract_cases import METHODS, Cell, build, options, task_data
from safetensors.torch import load_file, save_file
from small_problems import plain, regression_data
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

import bayesify as bay
from bayesify.data import Data
from bayesify.engine import budget as budget_module
from bayesify.errors import BayesifyError, BudgetError, DataError, MethodError, ModelError, SaveError
from bayesify.posterior.base import Posterior

ROWS, COLUMNS = 40, 3
QUICK = bay.methods.MAP(batch_size=16)
BUDGET = bay.Budget(epochs=4)


def inputs() -> Tensor:
    return regression_data(ROWS, COLUMNS)[0]


def targets() -> Tensor:
    return regression_data(ROWS, COLUMNS)[1]


def labels() -> Tensor:
    return (targets() > 0).long()


def net(num_outputs: int = 1, num_inputs: int = COLUMNS) -> nn.Module:
    from bayesify.engine.rng import seeded

    with seeded(3):
        return nn.Linear(num_inputs, num_outputs)


def quick_fit(data: Any, module: nn.Module | None = None, **settings: Any) -> Posterior:
    settings = {"method": QUICK, "budget": BUDGET, "device": "cpu"} | settings
    return bay.fit(net() if module is None else module, data, **settings)


def same(one: Posterior, other: Posterior) -> bool:
    own, others = one.tensors(), other.tensors()
    return own.keys() == others.keys() and all(torch.equal(own[name], others[name]) for name in own)


# ---- data ------------------------------------------------------------------------------------------------------------


class Pairs(Dataset[Any]):
    def __len__(self) -> int:
        return ROWS

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return inputs()[index], targets()[index]


class Records(Pairs):
    def __getitem__(self, index: int) -> dict[str, Tensor]:  # type: ignore[override]
        return {"x": inputs()[index], "labels": targets()[index]}


class Named(nn.Module):
    """A module that takes its inputs by name and returns a record, as Hugging Face's do."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.layer = net()

    def forward(self, x: Tensor) -> Any:
        return type("Record", (), {"logits": self.layer(x)})


FORMS: dict[str, Callable[[], Any]] = {
    "arrays": lambda: (inputs().numpy(), targets().numpy()),
    "float64 arrays": lambda: (inputs().numpy().astype(np.float64), targets().numpy().astype(np.float64)),
    "lists": lambda: (inputs().tolist(), targets().tolist()),
    "frames": lambda: (pd.DataFrame(inputs().numpy()), pd.Series(targets().numpy(), index=range(7, 7 + ROWS))),
    "data": lambda: Data(inputs(), targets()),
    "dataset": lambda: TensorDataset(inputs(), targets()),
    "own dataset": Pairs,
    "loader": lambda: DataLoader(TensorDataset(inputs(), targets()), batch_size=7),
    "target column": lambda: (inputs(), targets()[:, None]),
}
NAMED_FORMS: dict[str, Callable[[], Any]] = {
    "mapping": lambda: ({"x": inputs()}, targets()),
    "records": Records,
    "loader of records": lambda: DataLoader(Records(), batch_size=7),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_data_gives_the_same_result(form: str) -> None:
    assert same(quick_fit(FORMS[form]()), quick_fit((inputs(), targets())))


@pytest.mark.parametrize("form", NAMED_FORMS)
def test_inputs_by_name_give_the_same_result(form: str) -> None:
    assert same(quick_fit(NAMED_FORMS[form](), Named()), quick_fit((inputs(), targets())))


def test_validation_data_may_be_given() -> None:
    data = (inputs(), targets())
    given = quick_fit(data, validation=(inputs()[:12], targets()[:12]))
    assert given.cost.forward_evaluations % 12 == 0
    assert given.cost.forward_evaluations > 0
    assert quick_fit(data, validation=None).cost.forward_evaluations == 0
    assert same(quick_fit(data, validation=None), quick_fit(data, validation=0))
    assert not same(given, quick_fit(data, validation=0))


def test_a_pretrained_model_starts_where_it_is() -> None:
    module = net()
    spent = {"method": bay.methods.MAP(learning_rate=1e-12), "pretrained": True, "likelihood": "gaussian"}
    weights = quick_fit((inputs(), targets()), module, **spent).sample()
    assert torch.allclose(weights["weight"][0], module.weight, atol=1e-8)


# ---- errors of fit ---------------------------------------------------------------------------------------------------


def spoiled(value: float) -> Tensor:
    x = inputs()
    x[5, 1] = value
    return x


class Returns(nn.Module):
    """A module that returns what it is told."""

    def __init__(self, change: Callable[[Tensor], Any]) -> None:
        nn.Module.__init__(self)
        self.layer, self.change = net(), change

    def forward(self, x: Tensor) -> Any:
        return self.change(self.layer(x))


BAD_DATA: dict[str, tuple[Callable[[], Any], str]] = {
    "NaN inputs": (lambda: (spoiled(math.nan), targets()), "NaN or infinite values, the first in row 5"),
    "infinite inputs": (lambda: (spoiled(math.inf), targets()), "NaN or infinite values, the first in row 5"),
    "NaN targets": (lambda: (inputs(), targets() * math.nan), "the targets hold 40 NaN"),
    "no rows": (lambda: (inputs()[:0], targets()[:0]), "0 rows"),
    "an empty loader": (lambda: DataLoader(TensorDataset(inputs()[:0], targets()[:0])), "gave no batch"),
    "fewer targets": (lambda: (inputs(), targets()[:-1]), "X has 40 rows but y has 39"),
    "text": (lambda: (pd.DataFrame({"a": ["u"] * ROWS}), targets()), "not numbers"),
    "missing objects": (lambda: (np.full((ROWS, 3), None), targets()), "not numbers"),
    "inputs alone": (inputs, "cannot read data from a Tensor"),
    "nothing": (lambda: None, "cannot read data from a NoneType"),
    "records without labels": (lambda: DataLoader([{"x": inputs()[0]}]), "'labels'"),
}


@pytest.mark.parametrize("case", BAD_DATA)
def test_bad_data(case: str) -> None:
    make, message = BAD_DATA[case]
    with pytest.raises(DataError, match=message):
        quick_fit(make())


BAD_CALLS: dict[str, tuple[dict[str, Any], type[BayesifyError], str]] = {
    "misspelt method": ({"method": "swga"}, MethodError, "Did you mean 'swag'"),
    "misspelt part of a method": ({"method": "multi(lapalce, 2)"}, MethodError, "Did you mean 'laplace'"),
    "misspelt setting": ({"method": "map(batchsize=3)"}, MethodError, "Did you mean 'batch_size'"),
    "setting out of range": ({"method": "map(learning_rate=-1)"}, MethodError, "positive number"),
    "a class for a method": ({"method": bay.methods.MAP}, MethodError, "with parentheses"),
    "misspelt likelihood": ({"likelihood": "gausian"}, MethodError, "Did you mean 'gaussian'"),
    "misspelt prior": ({"prior": "norml"}, MethodError, "Did you mean 'normal'"),
    "unknown way": ({"way": "fast"}, MethodError, "Known: auto, compiled, eager, looped, traced"),
    "unknown device": ({"device": "gpu"}, MethodError, "use 'cpu'"),
    "a number for a budget": ({"budget": 5}, BudgetError, r"Budget\(epochs=50\)"),
    "too small a budget": ({"budget": bay.Budget(gradient_evaluations=3)}, BudgetError, "raise the budget"),
    "validation too large": ({"validation": 2.0}, DataError, "between 0 and 1"),
    "validation of another kind": ({"validation": "0.1"}, DataError, "cannot read data from a str"),
    "NaN in validation": ({"validation": (spoiled(math.nan), targets())}, DataError, "first in row 5"),
}


@pytest.mark.parametrize("case", BAD_CALLS)
def test_bad_calls(case: str) -> None:
    settings, error, message = BAD_CALLS[case]
    with pytest.raises(error, match=message) as caught:
        quick_fit((inputs(), targets()), **settings)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "amount",
    [{}, {"epochs": 0}, {"epochs": -1}, {"seconds": math.nan}, {"epochs": math.inf}, {"epochs": 1, "seconds": 1}],
)
def test_bad_budgets(amount: dict[str, float]) -> None:
    with pytest.raises(BudgetError, match="budget"):
        bay.Budget(**amount)


BAD_MODELS: dict[str, tuple[Callable[[], Any], Callable[[], Tensor], type[BayesifyError], str]] = {
    "no module": (lambda: "net", targets, MethodError, "not a torch.nn.Module"),
    "a class": (lambda: nn.Linear, targets, MethodError, "not a torch.nn.Module"),
    "other inputs": (lambda: net(1, 5), targets, ModelError, r"inputs of shape \(8, 3\)"),
    "nothing to train": (lambda: net().requires_grad_(False), targets, ModelError, "no trainable parameter"),
    "a tuple": (lambda: Returns(lambda f: (f, f)), targets, ModelError, "returned a tuple"),
    "fewer rows": (lambda: Returns(lambda f: f[:1]), targets, ModelError, r"of shape \(1, 1\) for 8 examples"),
    "NaN": (lambda: Returns(lambda f: f * math.nan), targets, ModelError, "NaN or infinite outputs"),
    "outputs of a classifier": (lambda: net(2), targets, ModelError, "needs 1"),
    "one output for two targets": (net, lambda: torch.stack([targets()] * 2, 1), ModelError, "needs 2"),
    "labels from 1": (lambda: net(2), lambda: labels() + 1, DataError, "from 1 to 2"),
    "one-hot labels": (lambda: net(2), lambda: nn.functional.one_hot(labels()), DataError, "one column"),
}


@pytest.mark.parametrize("case", BAD_MODELS)
def test_bad_models(case: str) -> None:
    model, y, error, message = BAD_MODELS[case]
    with pytest.raises(error, match=message):
        quick_fit((inputs(), y()), model())


@pytest.mark.parametrize("method", ["deep_ensemble(num_members=2)", "swag", "laplace", "temperature_scaled(map)"])
def test_bad_inputs_to_predict(method: str) -> None:
    posterior = quick_fit((inputs(), targets()), method=method, budget=bay.Budget(epochs=40), validation=0.3)
    for wrong, error, message in (
        (torch.zeros(5, COLUMNS + 1), ModelError, r"inputs of shape \(5, 4\)"),
        (spoiled(math.nan), DataError, "first in row 5"),
        (inputs()[:0], DataError, "0 rows"),
    ):
        with pytest.raises(error, match=message):
            posterior.predict(wrong)
        with pytest.raises(error, match=message):
            posterior.draw()(wrong)
    with pytest.raises(MethodError, match="at least one draw"):
        posterior.predict(inputs(), num_samples=0)


def test_divergence_is_an_error() -> None:
    with pytest.raises(MethodError, match="diverged"):
        quick_fit((inputs(), targets() * 1e30))


def test_too_much_memory_is_refused_with_numbers() -> None:
    wide = nn.Sequential(nn.Linear(COLUMNS, 2000), nn.ReLU(), nn.Linear(2000, 500), nn.ReLU(), nn.Linear(500, 1))
    with pytest.raises(MethodError, match=r"would need about [\d.]+ [GT]B"):
        quick_fit((inputs(), targets()), wide, method="laplace(structure=full)")


# ---- errors of save and load -----------------------------------------------------------------------------------------


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    quick_fit((inputs(), targets())).save(tmp_path / "net.bayes")
    return tmp_path / "net.bayes"


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.9, 0.9999])
def test_a_truncated_file(saved: Path, share: float) -> None:
    content = saved.read_bytes()
    saved.write_bytes(content[: int(share * len(content))])
    before = saved.read_bytes()
    with pytest.raises(SaveError, match="damaged or truncated"):
        bay.load(saved, net())
    assert saved.read_bytes() == before


def test_a_file_from_another_architecture(saved: Path) -> None:
    for module in (net(2), net(1, 5), nn.Sequential(net()), plain(COLUMNS)):
        with pytest.raises(SaveError, match="another architecture"):
            bay.load(saved, module)


def test_a_foreign_file(tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("a,b\n1,2\n" * 10)
    torch.save({"weight": torch.ones(3)}, tmp_path / "torch")
    save_file({"weight": torch.ones(3)}, tmp_path / "tensors")
    save_file({"weight": torch.ones(3)}, tmp_path / "other", {"bayesify": "not JSON"})
    for name in ("text", "torch", "tensors", "other"):
        with pytest.raises(SaveError, match=r"damaged|not saved by bayesify"):
            bay.load(tmp_path / name, net())
    with pytest.raises(SaveError, match="there is no file"):
        bay.load(tmp_path / "missing", net())


def test_a_file_of_a_newer_version(saved: Path) -> None:
    from safetensors import safe_open

    with safe_open(saved, framework="pt") as file:
        header = json.loads(file.metadata()["bayesify"])
    save_file(load_file(saved), saved, {"bayesify": json.dumps(header | {"format": 99})})
    with pytest.raises(SaveError, match="upgrade"):
        bay.load(saved, net())


def test_saving_in_vain_keeps_what_is_there(saved: Path, tmp_path: Path) -> None:
    posterior = quick_fit((inputs(), targets()))
    with pytest.raises(SaveError, match="cannot write"):
        posterior.save(tmp_path / "nowhere" / "net.bayes")
    posterior.save(saved)
    assert [path.name for path in tmp_path.iterdir()] == ["net.bayes"]


# ---- what it costs ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["map(batch_size=16)", "deep_ensemble(num_members=3, batch_size=16)", "swag"])
def test_estimates_come_true(method: str) -> None:
    data, budget = regression_data(200), bay.Budget(epochs=20)
    expected = bay.estimate(plain(), data, method=method, budget=budget, validation=0)
    spent = bay.fit(plain(), data, method=method, budget=budget, validation=0, progress=False).cost
    assert expected.num_parameters == 4 * 8 + 8 + 8 + 1 + 1  # and the noise
    assert spent.total == pytest.approx(expected.gradient_evaluations, rel=0.02)
    assert spent.flops == pytest.approx(expected.flops, rel=0.35)  # no gradient is taken in the first layer's inputs
    assert 0 < expected.memory_bytes < 1e6


class Clock:
    """A clock that moves whenever it is read, so that a budget of seconds ends at the same step on every machine."""

    def __init__(self, step: float) -> None:
        self.now, self.step = 0.0, step

    def perf_counter(self) -> float:
        self.now += self.step
        return self.now


@pytest.mark.parametrize("network", ["mlp", "normalised"])
@pytest.mark.parametrize("method", METHODS)
def test_budgets_of_seconds_end(method: str, network: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cell = Cell(method, "regression", network)
    seconds = 10.0
    monkeypatch.setattr(budget_module, "time", Clock(seconds / 300))
    chosen = options(cell) | {"budget": bay.Budget(seconds=seconds)}
    posterior = bay.fit(build(cell), task_data(cell.task), **chosen)
    assert seconds * 0.5 < posterior.cost.seconds < seconds * 1.2
    assert posterior.cost.gradient_evaluations > 0
    assert torch.isfinite(posterior.predict(task_data(cell.task)[0]).log_prob(task_data(cell.task)[1])).all()


def test_progress_rises_to_one() -> None:
    seen: list[float] = []
    quick_fit((inputs(), targets()), progress=seen.append)
    assert seen == sorted(seen)
    assert seen[0] > 0
    assert seen[-1] == pytest.approx(1, abs=0.2)


@pytest.mark.parametrize("method", ["map(batch_size=16)", "deep_ensemble(num_members=2, batch_size=16)"])
@pytest.mark.parametrize("network", ["mlp", "tied"])
def test_all_ways_give_the_same_result(method: str, network: str) -> None:
    cell = Cell("map", "classification", network)
    x, _ = task_data(cell.task)
    found = []
    for way in ("traced", "eager", "looped", "auto"):
        chosen = options(cell) | {"method": method, "way": way}
        found.append(bay.fit(build(cell).double(), task_data(cell.task), **chosen).predict(x).logits)
    for other in found[1:]:
        assert torch.allclose(found[0], other, rtol=1e-9, atol=1e-9)
