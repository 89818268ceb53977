"""One module at any parameter vector: the user's own stays as it is, statistics belong to particles."""

from types import SimpleNamespace

import pytest
import torch
from small_problems import image_data, normalised, plain, problem_of, regression_data, seeded_module
from torch import Tensor, nn

from bayesify.errors import ModelError
from bayesify.model.network import Mode, Network
from bayesify.model.problem import Batch


def snapshot(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def unchanged(module: nn.Module, before: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def buffers_of(network: Network) -> dict[str, Tensor]:
    return {name: value[0] for name, value in network.buffers(1).items()}


@pytest.mark.parametrize("training", [True, False])
def test_the_users_module_is_untouched(training: bool) -> None:
    model = normalised().train(training)
    before, modes = snapshot(model), [m.training for m in model.modules()]
    norm = model[1]
    assert isinstance(norm, nn.BatchNorm1d)
    problem = problem_of(model, regression_data())
    theta = problem.random(2, torch.Generator().manual_seed(0))
    for mode in Mode:
        problem.gradient(theta, Batch(problem.data), mode)
    problem.buffers(theta)
    problem.outputs(theta, problem.data.inputs, problem.network.buffers(2))
    assert unchanged(model, before)
    assert [m.training for m in model.modules()] == modes
    assert norm.momentum == 0.1
    assert norm.num_batches_tracked is not None
    assert all(parameter.grad is None for parameter in model.parameters())


def test_outputs_are_the_modules() -> None:
    for model, (x, _) in ((normalised().eval(), regression_data()), (plain().eval(), regression_data())):
        network = Network(model)
        found = network(network.initial, buffers_of(network), x, Mode.PREDICT)
        torch.testing.assert_close(found, model(x))


def test_modes() -> None:
    """Training: dropout and batch statistics. Density: batch statistics alone. Prediction: neither."""
    x = regression_data()[0]
    network = Network(normalised())

    def once(mode: Mode, seed: int = 0) -> Tensor:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return network(network.initial, buffers_of(network), x, mode)

    assert not torch.equal(once(Mode.TRAIN, 0), once(Mode.TRAIN, 1))
    assert torch.equal(once(Mode.DENSITY, 0), once(Mode.DENSITY, 1))
    assert torch.equal(once(Mode.PREDICT, 0), once(Mode.PREDICT, 1))
    assert not torch.allclose(once(Mode.DENSITY), once(Mode.PREDICT))
    alone = network(network.initial, buffers_of(network), x[:1], Mode.PREDICT)
    torch.testing.assert_close(alone, once(Mode.PREDICT)[:1])


def test_statistics_equal_torchs_own_full_pass() -> None:
    """Momentum 1 and one forward pass over all rows in training mode is what the particle's statistics must be."""
    for model, data in (
        (seeded_module(lambda: nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 1))), regression_data()),
        (seeded_module(lambda: nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(48, 2))),
         image_data()),
    ):  # fmt: skip
        problem = problem_of(model, data)
        found = problem.buffers(problem.initial()[None])
        norm = model[1]
        assert isinstance(norm, nn.modules.batchnorm._BatchNorm)
        norm.momentum = 1.0
        model.train()(data[0])
        torch.testing.assert_close(found["1.running_mean"][0], norm.running_mean, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(found["1.running_var"][0], norm.running_var, rtol=1e-5, atol=1e-6)


def test_statistics_are_never_mixed_between_particles() -> None:
    problem = problem_of(normalised(), regression_data())
    theta = problem.random(3, torch.Generator().manual_seed(0))
    together = problem.buffers(theta)
    for k in range(3):
        alone = problem.buffers(theta[k : k + 1])
        for name, value in alone.items():
            torch.testing.assert_close(together[name][k], value[0])
    assert not torch.allclose(together["1.running_mean"][0], together["1.running_mean"][1])


def test_a_pretrained_model_keeps_its_statistics() -> None:
    model = normalised()
    norm = model[1]
    assert isinstance(norm, nn.BatchNorm1d)
    assert norm.running_mean is not None
    norm.running_mean.fill_(7.0)
    problem = problem_of(model, regression_data(), pretrained=True)
    assert problem.buffers(problem.initial()[None])["1.running_mean"].unique().tolist() == [7.0]
    assert problem.statistics_cost(1) == 0.0


def test_tied_weights_get_both_gradients() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = nn.Linear(4, 4, bias=False)
            self.decoder = nn.Linear(4, 4, bias=False)
            self.decoder.weight = self.encoder.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.decoder(torch.tanh(self.encoder(x))).sum(1)

    model = seeded_module(Tied)
    x, y = regression_data(20)
    problem = problem_of(model, (x, y), likelihood="gaussian", prior="flat")
    assert problem.num_parameters == 16 + 1
    found = problem.full_gradient(problem.initial()[None]).gradient[0, :16]
    loss = torch.distributions.Normal(model(x), 1.0 + 1e-4).log_prob(y).sum()
    (expected,) = torch.autograd.grad(loss, model.encoder.weight)  # type: ignore[union-attr, arg-type]
    torch.testing.assert_close(found, expected.flatten(), rtol=1e-4, atol=1e-3)


def test_frozen_parameters_stay() -> None:
    model = plain()
    model[0].requires_grad_(False)
    network = Network(model)
    assert network.layout.names == ("2.weight", "2.bias")
    x = regression_data(10)[0]
    zero = torch.zeros_like(network.initial)
    assert network(zero, {}, x, Mode.PREDICT).abs().max() == 0
    hidden = torch.relu(x @ model[0].weight.T + model[0].bias)  # type: ignore[operator, union-attr]
    ones = torch.ones_like(network.initial)
    torch.testing.assert_close(network(ones, {}, x, Mode.PREDICT)[:, 0], hidden.sum(1) + 1)
    assert set(network.frozen()) == {"0.weight", "0.bias"}


def test_a_part_can_be_frozen_at_given_values() -> None:
    network = Network(normalised())
    theta = network.initial + 1
    buffers = {name: value[0] + 2 for name, value in network.buffers(1).items()}
    part = network.restricted(theta, buffers, {"4.weight", "4.bias"})
    assert part.layout.names == ("4.weight", "4.bias")
    assert part.is_restricted
    x = regression_data(10)[0]
    torch.testing.assert_close(
        part(part.initial, buffers_of(part), x, Mode.PREDICT), network(theta, buffers, x, Mode.PREDICT)
    )
    assert network.layout.num_parameters > part.layout.num_parameters


def test_fresh_weights_come_from_the_layers_and_the_generator() -> None:
    model = seeded_module(lambda: nn.Sequential(nn.Linear(64, 50), nn.BatchNorm1d(50), nn.Linear(50, 1)))
    network = Network(model)
    state = torch.get_rng_state()
    draws = network.reinitialised(3, torch.Generator().manual_seed(5))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(draws, network.reinitialised(3, torch.Generator().manual_seed(5)))
    assert not torch.equal(draws[0], draws[1])
    named = network.layout.unflatten(draws)
    assert named["0.weight"].abs().max() <= 1 / 8  # PyTorch's bound for a Linear layer, 1/√fan-in
    assert named["0.weight"].std() == pytest.approx(1 / 8 / 3**0.5, rel=0.05)
    assert named["1.weight"].unique().tolist() == [1.0]
    assert torch.equal(network.initial, network.layout.flatten(dict(model.named_parameters())))


def test_parameters_outside_layers_are_initialised_too() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.matrix = nn.Parameter(torch.zeros(30, 4))
            self.shift = nn.Parameter(torch.full((1,), 5.0))

        def forward(self, x: Tensor) -> Tensor:
            return (x @ self.matrix.T).sum(1) + self.shift

    network = Network(Own())
    named = network.layout.unflatten(network.reinitialised(1, torch.Generator().manual_seed(0))[0])
    assert named["matrix"].std() == pytest.approx(0.5, rel=0.1)  # 1/√4
    assert named["shift"].item() == 5.0  # nobody knows how to initialise it: the user's value stays


@pytest.mark.parametrize("outputs", ["logits", "vector"])
def test_what_models_may_return(outputs: str) -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 1)

        def forward(self, x: Tensor) -> object:
            value = self.layer(x)
            return SimpleNamespace(logits=value) if outputs == "logits" else value[:, 0]

    network = Network(Model())
    assert network(network.initial, {}, torch.zeros(3, 4), Mode.PREDICT).shape == (3, 1)


def test_other_returns_are_refused() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 1)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return self.layer(x), x

    network = Network(Model())
    with pytest.raises(ModelError, match="returned a tuple"):
        network(network.initial, {}, torch.zeros(3, 4), Mode.PREDICT)


def test_inputs_by_name() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 1)

        def forward(self, features: Tensor, mask: Tensor) -> Tensor:
            return self.layer(features * mask)

    network = Network(Model())
    inputs = {"mask": torch.tensor([[1.0, 0.0, 1.0, 1.0]]), "features": torch.ones(1, 4)}
    expected = network.module.layer.weight[0, [0, 2, 3]].sum() + network.module.layer.bias  # type: ignore[union-attr, index, operator]
    torch.testing.assert_close(network(network.initial, {}, inputs, Mode.PREDICT)[0], expected)
