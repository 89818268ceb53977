"""Estimates against the fits they are of: FLOPs as the counter finds them, memory as torch's profiler does."""

import gc
from collections.abc import Callable
from typing import Any

import pytest
import torch
from small_problems import image_data, regression_data
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

import bayesify as bay
from bayesify.engine import preflight
from bayesify.engine.rng import seeded
from bayesify.errors import MethodError

FACTOR = 2.0


def network(width: int, num_outputs: int) -> nn.Module:
    with seeded(0):
        return nn.Sequential(
            nn.Linear(4, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, num_outputs)
        )


def convolutional() -> nn.Module:
    with seeded(0):
        return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 2))


def classes(rows: int) -> tuple[Tensor, Tensor]:
    x, y = regression_data(rows)
    return x, (y > 0).long() + (y > 0.5).long()


CASES: dict[str, tuple[str, Callable[[], nn.Module], Any, int]] = {
    "map": ("map(batch_size=32)", lambda: network(50, 1), regression_data(600), 5),
    "ensemble": ("deep_ensemble(batch_size=100)", lambda: network(50, 1), regression_data(1000), 5),
    "dropout": ("mc_dropout", lambda: network(50, 3), classes(600), 10),
    "swag": ("swag", lambda: network(200, 1), regression_data(400), 20),
    "diagonal": ("laplace(structure=diag)", lambda: network(50, 1), regression_data(500), 20),
    "kronecker": ("laplace(structure=kron)", lambda: network(50, 3), classes(500), 20),
    "full": ("laplace(structure=full)", lambda: network(16, 1), regression_data(500), 20),
    "ivon": ("ivon", lambda: network(200, 1), regression_data(600), 5),
    "hmc": ("hmc(num_chains=4, num_draws=20)", lambda: network(50, 1), regression_data(300), 100),
    "modes": ("multi(swag, 3)", lambda: network(50, 1), regression_data(400), 20),
    "images": ("deep_ensemble(num_members=4, batch_size=16)", convolutional, image_data(200), 5),
}


def peak_bytes(function: Callable[[], Any]) -> tuple[int, Any]:
    """The peak of what torch allocated during a call and had not yet freed, and the call's result."""
    gc.collect()  # what was there before must not be freed meanwhile
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        result = function()
    assert seen.profiler is not None
    events = [event for event in seen.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak, result


@pytest.mark.parametrize("case", CASES)
def test_flops_and_memory_are_within_a_factor_of_two(case: str) -> None:
    method, make, data, epochs = CASES[case]
    budget = bay.Budget(epochs=epochs)
    expected = bay.estimate(make(), data, method=method, budget=budget)
    peak, posterior = peak_bytes(lambda: bay.fit(make(), data, method=method, budget=budget, progress=False))
    assert 1 / FACTOR <= expected.flops / posterior.cost.flops <= FACTOR
    assert 1 / FACTOR <= expected.memory_bytes / peak <= FACTOR
    assert expected.seconds > 0


def test_the_peak_is_found() -> None:
    def function() -> None:
        for _ in range(3):
            first = torch.ones(1000)
            second = torch.ones(2000)
            del first, second

    assert peak_bytes(function)[0] == 4 * 3000


def test_estimates_grow_with_the_budget_and_follow_a_time() -> None:
    data = regression_data(200)
    short, long = (bay.estimate(network(8, 1), data, method="map", budget=bay.Budget(epochs=n)) for n in (10, 40))
    assert long.flops == pytest.approx(4 * short.flops)
    assert long.gradient_evaluations == 4 * short.gradient_evaluations
    assert long.memory_bytes == short.memory_bytes
    timed = bay.estimate(network(8, 1), data, method="map", budget=bay.Budget(seconds=7.0))
    assert timed.seconds == 7.0
    assert 0 < timed.flops < float("inf")
    assert timed.flops / timed.gradient_evaluations == pytest.approx(short.flops / short.gradient_evaluations)


def test_estimating_changes_neither_the_model_nor_the_global_randomness() -> None:
    model = network(8, 1)
    before, state = [p.clone() for p in model.parameters()], torch.get_rng_state()
    bay.estimate(model, regression_data(100), method="hmc", budget=bay.Budget(epochs=50))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), before, strict=True))
    assert torch.equal(torch.get_rng_state(), state)


def test_what_cannot_fit_is_refused_with_a_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "available_memory", lambda _: 1e6)
    with pytest.raises(MethodError, match=r"laplace\(structure=full\) would need about .* MB .* 1 MB are free: use"):
        bay.fit(network(20, 1), regression_data(100), method="laplace(structure=full)", progress=False)
