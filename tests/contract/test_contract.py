"""What every method promises, on every kind of network: see `contract_cases` for the cells and the exceptions."""

from pathlib import Path

import pytest
import torch
from contract_cases import (
    BATCH,
    EPOCHS,
    METHODS,
    NUM_CLASSES,
    Cell,
    build,
    cells,
    counted,
    exact,
    fitted,
    floats,
    num_training,
    options,
    task_data,
)
from torch import Tensor

import bayesify as bay
from bayesify.methods.registry import get_method, method_class, method_names
from bayesify.predictive import Predictive

LONG_EPOCHS = 120
FULL_STEPS = {"hmc": 1, "nuts": 1, "chees_hmc": 1, "split_hmc": 3, "mclmc": 2, "adjusted_mclmc": 2, "mile": 2}
"""Methods whose smallest step is of all data, and how many gradients of them it may take."""
EARLY_STOPPING = {"deep_ensemble", "packed_ensemble", "prior_ensemble", "mile"}
NUM_GRID = 4001
TAIL = 1e-7


def describing(predictive: Predictive) -> list[Tensor]:
    """What a predictive says about each example, one tensor (B, ...) each."""
    if predictive.kind == "classification":
        return [predictive.probs, predictive.epistemic, predictive.aleatoric]
    return [predictive.mean, predictive.stddev, *predictive.interval(0.9)]


def test_every_method_is_under_contract() -> None:
    built_in = {name for name in method_names() if method_class(name).__module__.startswith("bayesify.")}
    assert set(METHODS) == built_in
    assert all(get_method(form).info.name == name for name, form in METHODS.items())


# ---- randomness ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cell", cells("same_seed"))
def test_same_seed_same_result(cell: Cell) -> None:
    one, two = fitted(cell), fitted(cell, global_seed=2)
    assert one.random_state_kept
    assert two.random_state_kept
    own, others = one.posterior.tensors(), two.posterior.tensors()
    assert own.keys() == others.keys()
    assert all(torch.equal(own[name], others[name]) for name in own)
    x, y = one.data
    assert torch.equal(one.posterior.predict(x).log_prob(y), two.posterior.predict(x).log_prob(y))
    assert torch.equal(one.posterior.draw(3)(x), two.posterior.draw(3)(x))


@pytest.mark.parametrize("cell", cells("other_seed"))
def test_another_seed_gives_another_result(cell: Cell) -> None:
    # All start from random weights. Far more than rounding, by which the two ways of evaluation may differ.
    one, other = fitted(cell).posterior, counted(cell).posterior
    x, y = task_data(cell.task)
    assert (one.predict(x).log_prob(y) - other.predict(x).log_prob(y)).abs().max() > 1e-3


# ---- what is the user's ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cell", cells("untouched"))
def test_module_and_data_are_untouched(cell: Cell) -> None:
    done = fitted(cell)
    now, before = done.module, done.before
    assert str(now) == str(before)
    assert [m.training for m in now.modules()] == [m.training for m in before.modules()]
    assert [p.requires_grad for p in now.parameters()] == [p.requires_grad for p in before.parameters()]
    assert [p.grad for p in now.parameters()] == [None] * len(list(now.parameters()))
    state = before.state_dict()
    assert now.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[name]) for name, value in now.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in now.modules())
    assert all(torch.equal(own, given) for own, given in zip(done.data, task_data(cell.task), strict=True))


@pytest.mark.parametrize("cell", cells("float64"))
def test_float64_stays(cell: Cell) -> None:
    posterior = exact(cell)
    x, y = task_data(cell.task)
    predictive = posterior.predict(x)
    found = [*floats(posterior), *describing(predictive), predictive.log_prob(y), posterior.draw()(x)]
    assert {value.dtype for value in found} == {torch.float64}


# ---- the predictive --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cell", cells("predictive"))
def test_predictive_is_a_distribution(cell: Cell) -> None:
    posterior = exact(cell)
    x, y = task_data(cell.task)
    predictive = posterior.predict(x)
    log_prob = predictive.log_prob(y)
    assert log_prob.shape == (len(y),)
    assert torch.isfinite(log_prob).all()
    assert torch.isfinite(predictive.joint_log_prob(y))
    assert all(torch.isfinite(value).all() for value in describing(predictive))
    assert (predictive.epistemic >= 0).all()
    assert (predictive.aleatoric >= 0).all()
    if cell.task == "classification":
        assert predictive.probs.shape == (len(y), NUM_CLASSES)
        assert torch.allclose(predictive.probs.sum(1), torch.ones(len(y), dtype=torch.float64), atol=1e-12)
        return
    one = posterior.predict(x[:1])
    low, high = float(one.quantile(TAIL)), float(one.quantile(1 - TAIL))
    grid = torch.linspace(low, high, NUM_GRID, dtype=torch.float64)
    density = posterior.predict(x[:1].expand(NUM_GRID, -1)).log_prob(grid).exp()
    assert float(torch.trapezoid(density, grid)) == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("cell", cells("joint"))
def test_joint_density_of_one_example_is_its_density(cell: Cell) -> None:
    posterior = exact(cell)
    x, y = task_data(cell.task)
    for row in range(3):
        predictive = posterior.predict(x[row : row + 1])
        joint = predictive.joint_log_prob(y[row : row + 1])
        assert float(joint) == pytest.approx(float(predictive.log_prob(y[row : row + 1])), abs=1e-9)


@pytest.mark.parametrize("cell", cells("repeated"))
def test_the_joint_is_of_whole_functions(cell: Cell) -> None:
    """An example that comes twice has one value per draw: noise of every row's own would tell the two apart."""
    posterior = exact(cell)
    x, y = task_data(cell.task)
    rows = torch.tensor([0, 1, 0, 0, 1])
    together = posterior.predict(x[rows]).joint_log_prob(y[rows])
    block = posterior.predict(x).joint_log_prob(y, rows[None])[0]
    assert float(block) == pytest.approx(float(together), abs=1e-9)


@pytest.mark.parametrize("cell", cells("batches"))
def test_predictions_do_not_depend_on_the_batch(cell: Cell) -> None:
    posterior = exact(cell)
    x, _ = task_data(cell.task)
    whole = describing(posterior.predict(x))
    parts = [describing(posterior.predict(part)) for part in x.split([1, 2, 20, len(x) - 23])]
    for own, others in zip(whole, zip(*parts, strict=True), strict=True):
        assert torch.allclose(own, torch.cat(others), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("cell", cells("draws"))
def test_a_draw_is_one_function(cell: Cell) -> None:
    posterior = exact(cell)
    x, _ = task_data(cell.task)
    function = posterior.draw(seed=5)
    whole = function(x)
    assert whole.shape == (len(x), 1 if cell.task == "regression" else NUM_CLASSES)
    assert torch.equal(whole, function(x))
    assert torch.allclose(whole, torch.cat([function(part) for part in x.split([1, 2, 20, len(x) - 23])]), atol=1e-9)


# ---- keeping ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cell", cells("saved"))
def test_saved_and_loaded(cell: Cell, tmp_path: Path) -> None:
    posterior = exact(cell)
    posterior.save(tmp_path / "net.bayes")
    loaded = bay.load(tmp_path / "net.bayes", build(cell).double())
    x, y = task_data(cell.task)
    one, two = posterior.predict(x), loaded.predict(x)
    found = [*describing(one), one.log_prob(y), one.joint_log_prob(y), posterior.draw(2)(x)]
    again = [*describing(two), two.log_prob(y), two.joint_log_prob(y), loaded.draw(2)(x)]
    # Not to the last bit: a tensor may come back in another layout, for which torch has another kernel.
    assert all(torch.allclose(own, others, rtol=1e-11, atol=1e-11) for own, others in zip(found, again, strict=True))
    assert loaded.cost == posterior.cost
    assert loaded.diagnostics.warnings == posterior.diagnostics.warnings
    for name in ("method", "temperature", "seed", "log_evidence"):
        assert getattr(loaded.record, name) == getattr(posterior.record, name)


# ---- the bill --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cell", cells("budget"))
def test_the_budget_is_kept_and_used(cell: Cell) -> None:
    method = get_method(METHODS[cell.method])
    particles = method.num_particles
    limit = EPOCHS * num_training(cell) * particles
    cost = fitted(cell).posterior.cost
    # At budgets as small as this a single step is more than the 2 % that may be left: hence the next test.
    step = num_training(cell) * particles * FULL_STEPS.get(cell.method, 0) or BATCH * particles
    assert cost.total <= limit * (1 + 1e-6)
    assert cost.total >= 0.98 * limit - step or "unspent" in fitted(cell).posterior.diagnostics.values
    assert cost.flops > 0
    assert cost.seconds > 0


@pytest.mark.parametrize("network", ["mlp", "normalised"])
@pytest.mark.parametrize("method", METHODS)
def test_at_most_two_percent_are_left(method: str, network: str) -> None:
    cell = Cell(method, "regression", network)
    limit = LONG_EPOCHS * num_training(cell) * get_method(METHODS[method]).num_particles
    chosen = options(cell) | {"budget": bay.Budget(gradient_evaluations=limit)}
    posterior = bay.fit(build(cell), task_data(cell.task), **chosen)
    assert posterior.cost.total <= limit * (1 + 1e-6)
    explained = method in EARLY_STOPPING and "early stopping" in posterior.diagnostics.values.get("unspent", "")
    assert posterior.cost.total >= 0.98 * limit or explained
