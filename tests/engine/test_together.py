"""Several fits as one batch give what each gives by itself."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from small_problems import normalised, plain, regression_data
from torch import Tensor, nn

import bayesify as bay
from bayesify import fitting as fitting_module
from bayesify.engine import joint as joint_module
from bayesify.engine.run import Checkpoints
from bayesify.engine.together import together
from bayesify.errors import BudgetError, DataError
from bayesify.methods import HMC, MAP, SWAG, DeepEnsemble, Laplace, MCDropout
from bayesify.methods.base import Method
from bayesify.posterior import Posterior

SPLITS = [list(range(0, 90)), list(range(60, 150)), list(range(110, 200))]
METHODS: list[Method] = [
    DeepEnsemble(num_members=3, batch_size=16, patience=1, epochs=8),
    MAP(batch_size=16),
    SWAG(batch_size=16, num_snapshots=5),
    Laplace(batch_size=16),
]


def net() -> nn.Module:
    return plain().double()


def data() -> tuple[Tensor, Tensor]:
    x, y = regression_data()
    return x.double(), y.double()


def separately(model: nn.Module, splits: Any, **options: Any) -> list[Posterior]:
    x, y = data()
    return [bay.fit(model, (x[rows], y[rows]), seed=s, progress=False, **options) for s, rows in enumerate(splits)]


def as_one(model: nn.Module, splits: Any, **options: Any) -> list[Posterior]:
    return bay.fit_splits(model, data(), splits, progress=False, **options)


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many problems each batch of particles belongs to, appended for every training."""
    found: list[int] = []
    choose = joint_module.Joint.choose

    def watched(self: Any, live: list[Any], counts: list[int]) -> Any:
        found.append(len(live))
        return choose(self, live, counts)

    monkeypatch.setattr(joint_module.Joint, "choose", watched)
    return found


def assert_same(found: list[Posterior], expected: list[Posterior], tolerance: float = 1e-9) -> None:
    for own, other in zip(found, expected, strict=True):
        assert own.tensors().keys() == other.tensors().keys()
        for name, value in other.tensors().items():
            torch.testing.assert_close(own.tensors()[name], value, rtol=tolerance, atol=tolerance, msg=name)
        assert own.cost.gradient_evaluations == other.cost.gradient_evaluations
        assert own.cost.forward_evaluations == other.cost.forward_evaluations
        assert own.cost.flops == pytest.approx(other.cost.flops)
        assert own.diagnostics.values.keys() == other.diagnostics.values.keys()


@pytest.mark.parametrize("way", ["auto", "looped"])
@pytest.mark.parametrize("method", METHODS, ids=lambda one: one.info.name)
def test_splits_are_what_fits_are(method: Method, way: str, batches: list[int]) -> None:
    options = {"method": method, "budget": bay.Budget(epochs=20), "way": way}
    found = as_one(net(), SPLITS, **options)
    assert batches[0] == len(SPLITS)
    assert_same(found, separately(net(), SPLITS, **options))


def test_a_split_that_stops_leaves_the_batch(batches: list[int]) -> None:
    method = DeepEnsemble(num_members=2, batch_size=16, patience=1, learning_rate=0.05)
    options = {"method": method, "budget": bay.Budget(epochs=40), "way": "eager"}
    found = as_one(net(), SPLITS, **options)
    assert sorted(set(batches), reverse=True) == [3, 2, 1]
    spent = {posterior.cost.gradient_evaluations for posterior in found}
    assert len(spent) > 1
    assert_same(found, separately(net(), SPLITS, **options))


def test_splits_of_different_sizes(batches: list[int]) -> None:
    splits = [SPLITS[0], SPLITS[1][:70], SPLITS[2][:55]]
    options = {"method": DeepEnsemble(num_members=2, batch_size=16), "budget": bay.Budget(epochs=10)}
    found = as_one(net(), splits, **options)
    assert batches[0] == 3
    assert_same(found, separately(net(), splits, **options))


def test_a_batch_of_all_rows(batches: list[int]) -> None:
    options = {"method": MAP(batch_size=1000), "budget": bay.Budget(epochs=30), "validation": None}
    found = as_one(net(), SPLITS, **options)
    assert batches[0] == 3
    assert_same(found, separately(net(), SPLITS, **options))


def test_batch_normalisation(batches: list[int]) -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 1)).double()
    options = {"method": SWAG(batch_size=16, num_snapshots=4, num_samples=3), "budget": bay.Budget(epochs=20)}
    found = as_one(model, SPLITS, **options)
    assert batches[0] == 3
    assert_same(found, separately(model, SPLITS, **options), 1e-8)


@pytest.mark.parametrize(
    ("method", "model"),
    [
        (DeepEnsemble(num_members=2, batch_size=16), normalised()),
        (MCDropout(batch_size=16, num_samples=3), plain()),
        (HMC(num_chains=2, batch_size=16), plain()),
    ],
    ids=["dropout layer", "mc_dropout", "hmc"],
)
def test_what_draws_random_numbers_is_not_joined(method: Method, model: nn.Module) -> None:
    options = {"method": method, "budget": bay.Budget(epochs=30)}
    found = as_one(model.double(), SPLITS[:2], **options)
    assert_same(found, separately(model, SPLITS[:2], **options))


def test_a_pretrained_model_is_joined_with_its_own_statistics(batches: list[int]) -> None:
    model = normalised().double()
    options = {
        "method": DeepEnsemble(num_members=2, batch_size=16),
        "budget": bay.Budget(epochs=10),
        "pretrained": True,
    }
    found = as_one(model, SPLITS, **options)
    assert batches[0] == 3  # dropout is off
    assert_same(found, separately(model, SPLITS, **options))


def test_a_killed_fit_goes_on(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitting_module, "Checkpoints", lambda folder, mark: Checkpoints(folder, mark, seconds=0.0))
    options = {"method": DeepEnsemble(num_members=2, batch_size=16), "budget": bay.Budget(epochs=10)}

    def killed(fraction: float) -> None:
        if fraction > 0.5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bay.fit_splits(net(), data(), SPLITS, checkpoint=tmp_path, **options, progress=killed)
    started: list[float] = []
    found = bay.fit_splits(net(), data(), SPLITS, checkpoint=tmp_path, progress=started.append, **options)
    assert started[2] > 0.4  # each of the three has said where it goes on
    assert_same(found, separately(net(), SPLITS, **options))


def test_the_global_random_state_is_left_alone() -> None:
    before = torch.get_rng_state()
    as_one(normalised(), SPLITS[:2], method=DeepEnsemble(num_members=2), budget=bay.Budget(epochs=2))
    assert torch.equal(before, torch.get_rng_state())


def test_time_is_shared() -> None:
    found = as_one(net(), SPLITS, method=MAP(batch_size=16), budget=bay.Budget(seconds=0.3))
    seconds = [posterior.cost.seconds for posterior in found]
    assert all(one == pytest.approx(0.3, abs=0.2) for one in seconds)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([0, 200], "names row 200 but the data have 200"),
        ([-1, 3], "names row -1"),
        ([[0, 1]], r"shape \(1, 2\)"),
        ([], r"shape \(0,\)"),
        ([True, False], "of its rows, for example mask"),
    ],
)
def test_rows_that_are_none(rows: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        as_one(net(), [SPLITS[0], rows], method=MAP())


def test_the_first_failure_ends_all() -> None:
    with pytest.raises(BudgetError, match="one step of 10 particles"):
        as_one(net(), SPLITS, budget=bay.Budget(gradient_evaluations=50))


# ---- functions side by side ------------------------------------------------------------------------------------------


def fitting(s: int, model: nn.Module | None = None, **options: Any) -> Callable[[], Posterior]:
    x, y = data()
    settings = {"method": MAP(batch_size=16), "budget": bay.Budget(epochs=5), "progress": False} | options
    return lambda: bay.fit(model or net(), (x[SPLITS[s]], y[SPLITS[s]]), seed=s, **settings)


def test_a_failure_leaves_the_others_alone() -> None:
    found = together([fitting(0), fitting(1, budget=bay.Budget(gradient_evaluations=1)), fitting(2)])
    assert isinstance(found[1].error, BudgetError)
    assert_same([found[0].value(), found[2].value()], [fitting(0)(), fitting(2)()])


def test_an_error_in_the_joint_training_is_everyones(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> Tensor:
        raise RuntimeError("no memory")

    monkeypatch.setattr(joint_module.Joint, "likelihood_gradient", fails)
    assert [str(ended.error) for ended in together([fitting(0), fitting(1)])] == ["no memory"] * 2


class Scaled(nn.Module):
    def __init__(self, scale: float) -> None:
        nn.Module.__init__(self)
        self.scale = scale
        self.layer = plain().double()

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * self.layer(x)


def frozen(bias: float) -> nn.Module:
    model = net()
    nn.init.constant_(model[0].bias, bias).requires_grad_(False)  # type: ignore[index]
    return model


@pytest.mark.parametrize(
    ("changed", "joined"),
    [
        ([{}, {}], True),
        ([{"model": Scaled(2.0)}, {"model": Scaled(2.0)}], True),
        ([{"model": Scaled(1.0)}, {"model": Scaled(2.0)}], False),
        ([{"model": frozen(1.0)}, {"model": frozen(1.0)}], True),
        ([{"model": frozen(0.0)}, {"model": frozen(1.0)}], False),
        ([{}, {"prior": "laplace"}], False),
        ([{}, {"likelihood": "student_t"}], False),
        ([{}, {"method": MAP(batch_size=17)}], False),
        ([{}, {"method": MAP(batch_size=16, learning_rate=0.05)}], True),
        ([{}, {"pretrained": True}], False),
    ],
)
def test_only_what_computes_the_same_is_joined(changed: list[Any], joined: bool, batches: list[int]) -> None:
    functions = [fitting(s, **options) for s, options in enumerate(changed)]
    found = [ended.value() for ended in together(functions)]
    assert (max(batches) == 2) == joined
    assert_same(found, [function() for function in functions])


def test_random_streams_do_not_mix() -> None:
    def drawing() -> list[float]:
        fitting(0)()
        return [float(torch.rand(())) for _ in range(2)]

    with torch.random.fork_rng():
        torch.manual_seed(0)
        expected = drawing()
        torch.manual_seed(0)
        found = together([drawing, drawing])
    assert [ended.value() for ended in found] == [expected, expected]


def test_ends_are_told_in_order() -> None:
    told: list[int] = []
    together([fitting(s) for s in range(3)], lambda number, _: told.append(number))
    assert told == [0, 1, 2]
