"""The bill against a module that counts how often it is used: exactly equal, for every method on every network.

The meter's gradient evaluations are backward passes of one example: C vector–Jacobian products through one forward
pass are C of them. Its forward evaluations are forward passes that none of these goes back through. So

    backward = gradient evaluations,      forward = forward evaluations + gradient evaluations − shared,

where C backward passes through one forward pass share C − 1.
"""

import pytest
import torch
from contract_cases import (
    EPOCHS,
    METHODS,
    NUM_CLASSES,
    PREFLIGHT_ROWS,
    Cell,
    Count,
    Counted,
    Counting,
    build,
    cells,
    counted,
    num_training,
    task_data,
)
from torch import nn
from torch.func import vjp

import bayesify as bay
from bayesify.methods.map import MAP
from bayesify.methods.registry import get_method

CURVATURE = {"laplace", "subset", "tempered"}
"""Methods of the contract that take several products through one forward pass: for H one per output (classes: one
less), and a gradient."""

BESIDE = {"epinet"}
"""Methods that train something beside a pretrained network, which sees no backward pass; they are charged for one."""

VARIANTS = {
    "laplace(structure=diag, batch_size=16)": True,
    "laplace(structure=full, batch_size=16)": True,
    "laplace(linearised=False, batch_size=16)": True,
    "deep_ensemble(num_members=2, batch_size=16, epochs=5)": False,
    "temperature_scaled(deep_ensemble(num_members=2, batch_size=16))": False,
    "multi(swag(num_snapshots=8, max_rank=4, num_samples=4, batch_size=16), 2)": False,
    "subset(swag(num_snapshots=4, batch_size=16), last, batch_size=16)": False,
    "temperature_scaled(mc_dropout(num_samples=8, batch_size=16))": False,
    "mc_dropout(everywhere=True, repeats=3, num_samples=8, batch_size=16)": False,
    "temperature_scaled(prior_ensemble(num_members=2, batch_size=16))": False,
    "temperature_scaled(swag(num_snapshots=8, max_rank=4, num_samples=4, batch_size=16))": False,
}
"""Other forms that count differently inside, and whether they take several products."""


def shared(task: str, num_examples: int) -> int:
    """Forward passes that the curvature spares: one serves an example's products, C or C − 1, and its gradient."""
    return num_examples * (1 if task == "regression" else NUM_CLASSES - 1)


def agrees(found: Counting, spared: int) -> None:
    cost = found.posterior.cost
    assert found.backward == cost.gradient_evaluations
    assert found.forward - PREFLIGHT_ROWS == cost.forward_evaluations + cost.gradient_evaluations - spared


@pytest.mark.parametrize("cell", cells("meter"))
def test_the_meter_equals_the_count(cell: Cell) -> None:
    agrees(counted(cell), shared(cell.task, num_training(cell)) if cell.method in CURVATURE else 0)


@pytest.mark.parametrize("network", ["mlp", "normalised"])
@pytest.mark.parametrize("task", ["regression", "classification"])
@pytest.mark.parametrize("method", VARIANTS)
def test_the_meter_equals_the_count_in_other_forms(method: str, task: str, network: str) -> None:
    cell = Cell("map" if get_method(method).uses_validation else "swag", task, network)
    agrees(counted(cell, method), shared(task, num_training(cell)) if VARIANTS[method] else 0)


@pytest.mark.parametrize("task", ["regression", "classification"])
@pytest.mark.parametrize("method", METHODS)
def test_the_meter_equals_the_count_for_pretrained_models(method: str, task: str) -> None:
    cell = Cell(method, task, "mlp")
    found = counted(cell, pretrained=True)
    if method in BESIDE:
        assert found.backward == 0
        found = found._replace(backward=found.posterior.cost.gradient_evaluations)
    agrees(found, shared(task, num_training(cell)) if method in CURVATURE else 0)


# ---- the counter itself ----------------------------------------------------------------------------------------------


def test_the_counter_counts() -> None:
    count = Count()
    module = Counted(nn.Linear(3, 2), count)
    module(torch.ones(5, 3))
    assert (count.forward, count.backward) == (5, 0)
    module(torch.ones(4, 3)).sum().backward()
    assert (count.forward, count.backward) == (9, 4)
    _outputs, pull = vjp(lambda x: module(x), torch.ones(1, 3))
    for row in torch.eye(2):
        pull(row[None])
    assert (count.forward, count.backward) == (10, 6)


def test_a_method_that_does_not_pay_is_found() -> None:
    cell = Cell("map", "regression", "mlp")
    count = Count()
    module = Counted(build(cell), count)
    posterior = bay.fit(module, task_data(cell.task), method=MAP(), budget=bay.Budget(epochs=EPOCHS), way="looped")
    agrees(Counting(posterior, count.forward, count.backward), 0)
    posterior.predict(task_data(cell.task)[0])  # forward passes that nobody charged
    with pytest.raises(AssertionError):
        agrees(Counting(posterior, count.forward, count.backward), 0)
