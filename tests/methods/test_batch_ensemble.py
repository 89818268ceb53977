"""Members are what the explicit weights W ∘ (r sᵀ) are, and every training example belongs to one of them."""

import math
from pathlib import Path

import pytest
import torch
from small_problems import (
    convolutional,
    critical_value,
    fitted,
    image_data,
    normalised,
    plain,
    problem_of,
    regression_data,
    seeded_module,
)
from torch import Tensor, nn

import bayesify as bay
from bayesify.engine.rng import seeded
from bayesify.errors import MethodError, ModelError
from bayesify.methods import BatchEnsemble
from bayesify.model.network import Mode
from bayesify.model.problem import Problem
from bayesify.model.transform import with_transform

SETTINGS = {"members": 3, "init_scale": 0.5}


def prepared(module: nn.Module, data: tuple[Tensor, Tensor]) -> Problem:
    return with_transform(problem_of(module, data), rank_one=SETTINGS)


def members_of(problem: Problem, theta: Tensor, x: Tensor) -> Tensor:
    """Outputs of all members, (3, B, C)."""
    numbers = dict.fromkeys(problem.network.indexed, torch.arange(3))
    return problem.model.outputs(theta.expand(3, -1), x, problem.network.buffers(3) | numbers)


def test_a_member_is_the_network_with_its_own_weights() -> None:
    x = regression_data()[0]
    problem = prepared(plain(), regression_data())
    theta = problem.random(1, torch.Generator().manual_seed(0))
    theta = theta + 0.1 * torch.arange(theta.shape[1]).sin()  # biases start at 0
    named = problem.network.layout.unflatten(theta[0, :-1])
    found = members_of(problem, theta, x)
    for k in range(3):
        explicit = plain()
        with torch.no_grad():
            for place in ("0", "2"):
                base, layer = f"base.{place}", explicit.get_submodule(place)
                factors = torch.outer(named[f"{base}.outer"][k], named[f"{base}.inner"][k])
                layer.weight.copy_(named[f"{base}.layer.weight"] * factors)
                layer.bias.copy_(named[f"{base}.bias"][k])
            torch.testing.assert_close(found[k], explicit(x))
    assert (found[0] - found[1]).abs().max() > 0.01


def test_a_member_of_a_convolution_is_the_one_with_its_own_filters() -> None:
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(5, 2, 6, 6, generator=rng)
    module = seeded_module(lambda: nn.Sequential(nn.Conv2d(2, 4, 3, groups=2), nn.Flatten(), nn.Linear(64, 2)))
    problem = prepared(module, (x, torch.zeros(5, dtype=torch.long)))
    theta = problem.random(1, rng)
    named = problem.network.layout.unflatten(theta[0])
    hidden = problem.network.module.base[0]
    for k in range(3):
        inner, outer = named["base.0.inner"][k], named["base.0.outer"][k]
        per_group = inner.reshape(2, 1, 1, 1, 1).expand(2, 2, 1, 1, 1).reshape(4, 1, 1, 1)
        weight = named["base.0.layer.weight"] * per_group * outer.reshape(4, 1, 1, 1)
        expected = nn.functional.conv2d(x, weight, groups=2)
        parameters = {name.removeprefix("base.0."): v for name, v in named.items() if name.startswith("base.0.")}
        found = torch.func.functional_call(hidden, parameters | {"member": torch.tensor(k)}, (x,))
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_factors_of_one_leave_the_network() -> None:
    for module, data in ((plain(), regression_data()), (convolutional(), image_data())):
        problem = prepared(module, data)
        found = members_of(problem, problem.initial()[None], data[0])
        for outputs in found:
            torch.testing.assert_close(outputs, module.eval()(data[0]))


def test_training_gives_every_example_one_member_for_all_layers() -> None:
    x = torch.ones(3000, 4)
    problem = prepared(plain(), regression_data())
    theta = problem.random(1, torch.Generator().manual_seed(0))
    possible = members_of(problem, theta, x[:1])[:, 0, 0]
    with seeded(0), torch.no_grad():
        found = problem.network(theta[0, :-1], {}, x, Mode.TRAIN)[:, 0]
    distance = (found[:, None] - possible).abs()
    assert distance.amin(1).max() < 1e-5  # mixtures of members would be nine other values
    counts = distance.argmin(1).bincount()
    z = (counts / 3000 - 1 / 3) / math.sqrt(2 / 9 / 3000)
    assert z.abs().max() < critical_value(3)


def test_examples_without_a_member_take_turns() -> None:
    x = regression_data()[0][:7]
    problem = prepared(plain(), regression_data())
    theta = problem.random(1, torch.Generator().manual_seed(0))
    members = members_of(problem, theta, x)
    found = problem.model.outputs(theta, x, problem.network.buffers(1))[0]
    torch.testing.assert_close(found, torch.stack([members[i % 3, i] for i in range(7)]))


def test_the_prior_draws_factors_to_one() -> None:
    problem = prepared(normalised(), regression_data())
    for slot in problem.network.layout.slots:
        loc = problem.prior.loc[slot.offset : slot.offset + slot.size]
        is_factor = slot.name.endswith((".inner", ".outer")) or slot.name == "base.1.weight"
        assert (loc == (1.0 if is_factor else 0.0)).all(), slot.name


def test_members_have_statistics_of_their_own_and_survive_saving(tmp_path: Path) -> None:
    x, y = regression_data()
    options = {"method": BatchEnsemble(num_members=3), "budget": bay.Budget(epochs=8), "progress": False}
    posterior = bay.fit(normalised(), (x, y), **options)
    means = posterior.kept.buffers["base.1.running_mean"]
    assert means.shape[0] == 3
    assert (means[0] - means[1]).abs().max() > 1e-3
    assert posterior.kept.theta.stride(0) == 0
    posterior.save(tmp_path / "net.bayes")
    loaded = bay.load(tmp_path / "net.bayes", normalised())
    torch.testing.assert_close(loaded.predict(x).outputs, posterior.predict(x).outputs)


def test_a_pretrained_network_gives_the_weights() -> None:
    posterior = fitted(problem_of(plain(), regression_data(), pretrained=True), BatchEnsemble(learning_rate=1e-9), 2)
    named = posterior.model.network.layout.unflatten(posterior.kept.theta[0, :-1])
    torch.testing.assert_close(named["base.0.layer.weight"], plain()[0].weight.detach())
    assert (named["base.0.inner"] - 1).abs().max() > 0.1


def test_networks_without_such_layers_are_refused() -> None:
    with pytest.raises(ModelError, match=r"found no nn\.Linear"):
        with_transform(problem_of(nn.Bilinear(4, 4, 1), regression_data()), rank_one=SETTINGS)


@pytest.mark.parametrize("settings", [{"num_members": 0}, {"init_scale": -1.0}])
def test_bad_settings_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(MethodError, match=next(iter(settings))):
        BatchEnsemble(**settings)
