"""The currency: what a budget allows, and that the meter counts what really happens."""

from typing import Any

import pytest
import torch
from small_problems import normalised, plain, regression_data
from torch import Tensor, nn

import bayesify as bay
from bayesify.engine.budget import FORWARD_COST, Budget, Cost, Meter
from bayesify.engine.preflight import check_memory
from bayesify.engine.rng import generator, seed_of, seeded
from bayesify.errors import BudgetError, MethodError


@pytest.mark.parametrize(
    ("budget", "limit"),
    [
        (Budget(gradient_evaluations=1000), 1000.0),
        (Budget(epochs=2.5), 2.5 * 40 * 3),
        (Budget(seconds=1.0), float("inf")),
    ],
)
def test_limits(budget: Budget, limit: float) -> None:
    assert budget.limit(40, 3) == limit


@pytest.mark.parametrize("arguments", [{}, {"epochs": 1, "seconds": 1}, {"gradient_evaluations": 1, "epochs": 1}])
def test_exactly_one_is_given(arguments: dict[str, float]) -> None:
    with pytest.raises(BudgetError, match="exactly one of"):
        Budget(**arguments)


@pytest.mark.parametrize("value", [0, -1, float("nan")])
@pytest.mark.parametrize("name", ["epochs", "seconds", "gradient_evaluations"])
def test_budgets_are_positive(name: str, value: float) -> None:
    with pytest.raises(BudgetError, match="must be positive"):
        Budget(**{name: value})


def test_forward_passes_count_a_third() -> None:
    meter = Meter()
    meter.gradient(10, 5.0)
    meter.forward(9, 1.0)
    assert meter.total == pytest.approx(10 + 9 * FORWARD_COST) == pytest.approx(13)
    cost = meter.cost()
    assert (cost.gradient_evaluations, cost.forward_evaluations, cost.flops) == (10, 9, 6.0)
    assert cost.total == meter.total
    assert cost.as_dict()["gradient_evaluations"] == 10
    assert Cost().total == 0


def test_snapshots_restore_counts() -> None:
    meter = Meter()
    meter.gradient(10, 5.0)
    snapshot = meter.snapshot()
    meter.gradient(10)
    meter.restore(snapshot)
    assert meter.gradient_evaluations == 10
    assert meter.flops == 5.0
    assert meter.seconds >= snapshot["seconds"]


class Counted(nn.Module):
    """Counts the examples of every call, with and without gradient; only right when nothing is vectorised."""

    seen: dict[str, int] = {"gradient": 0, "forward": 0}  # noqa: RUF012 - shared with the copies

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        Counted.seen["gradient" if torch.is_grad_enabled() else "forward"] += len(x)
        return self.inner(x)


@pytest.mark.parametrize("build", [plain, normalised])
@pytest.mark.parametrize("method", ["map", "deep_ensemble(3)", "temperature_scaled(deep_ensemble(2))"])
def test_the_meter_is_what_a_counter_counts(build: Any, method: str) -> None:
    Counted.seen.update(gradient=0, forward=0)
    posterior = bay.fit(
        Counted(build()), regression_data(), method=method, budget=Budget(epochs=4), way="looped", progress=False
    )
    checked_rows = 8  # check_model looks at these before anything is metered
    assert posterior.cost.gradient_evaluations == Counted.seen["gradient"]
    assert posterior.cost.forward_evaluations == Counted.seen["forward"] - checked_rows


def test_memory_is_checked() -> None:
    check_memory(1.0, "map", torch.device("cpu"))
    with pytest.raises(MethodError, match=r"map would need about .* of memory but .* are free"):
        check_memory(1e18, "map", torch.device("cpu"))


def test_streams_have_names() -> None:
    assert seed_of(0, "a") == seed_of(0, "a") != seed_of(0, "b")
    assert 0 <= seed_of("anything") < 2**63
    first, again, other = (torch.rand(2, generator=generator("cpu", 0, name)) for name in ("a", "a", "b"))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_the_global_stream_is_given_back() -> None:
    state = torch.get_rng_state()
    with seeded(1):
        inside = torch.rand(1)  # noqa: F841 - it is the draw that counts
    assert torch.equal(torch.get_rng_state(), state)
    with pytest.raises(ValueError, match="out"), seeded(2):
        raise ValueError("out")
    assert torch.equal(torch.get_rng_state(), state)
