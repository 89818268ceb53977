"""The flat parameter vector: order, tied and frozen parameters, roles and fan-in."""

import pytest
import torch
from small_problems import seeded_module
from torch import Tensor, nn

from bayesify.errors import ModelError
from bayesify.model.parameters import Layout


class Tied(nn.Module):
    """Embedding and output layer share one matrix, as in language models."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(6, 4)
        self.hidden = nn.Linear(4, 4)
        self.output = nn.Linear(4, 6, bias=False)
        self.output.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.output(torch.tanh(self.hidden(self.embedding(tokens)))).mean(1)


def slots(module: nn.Module) -> dict[str, tuple[str, int]]:
    return {slot.name: (slot.role, slot.fan_in) for slot in Layout.of(module).slots}


def test_flatten_and_unflatten_are_inverse() -> None:
    model = seeded_module(lambda: nn.Sequential(nn.Linear(3, 4), nn.Conv2d(2, 5, 3)))
    layout = Layout.of(model)
    named = dict(model.named_parameters())
    theta = layout.flatten(named)
    assert theta.shape == (layout.num_parameters,) == (sum(p.numel() for p in model.parameters()),)
    assert all(torch.equal(value, named[name]) for name, value in layout.unflatten(theta).items())
    many = torch.arange(2 * 3 * layout.num_parameters, dtype=torch.float32).reshape(2, 3, -1)
    unflat = layout.unflatten(many)
    assert unflat["1.weight"].shape == (2, 3, 5, 2, 3, 3)
    assert torch.equal(layout.flatten(unflat), many)
    for slot in layout.slots:
        assert torch.equal(unflat[slot.name][1, 2].flatten(), many[1, 2, slot.offset : slot.offset + slot.size])


def test_order_is_that_of_the_module() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    layout = Layout.of(model)
    assert layout.names == ("0.weight", "0.bias", "2.weight", "2.bias")
    assert layout.describe() == [["0.weight", [3, 2]], ["0.bias", [3]], ["2.weight", [1, 3]], ["2.bias", [1]]]


def test_tied_weights_are_one_parameter() -> None:
    layout = Layout.of(seeded_module(Tied))
    assert layout.names == ("embedding.weight", "hidden.weight", "hidden.bias")
    assert layout.num_parameters == 24 + 16 + 4


def test_frozen_parameters_do_not_count() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    model[0].requires_grad_(False)
    assert Layout.of(model).names == ("1.weight", "1.bias")
    with pytest.raises(ModelError, match="no trainable parameter"):
        Layout.of(model.requires_grad_(False))
    with pytest.raises(ModelError, match="no trainable parameter"):
        Layout.of(nn.ReLU())


def test_roles_and_fan_in() -> None:
    model = nn.ModuleDict(
        {
            "linear": nn.Linear(5, 3),
            "conv": nn.Conv2d(4, 6, (3, 2), groups=2),
            "up": nn.ConvTranspose2d(4, 6, 3, groups=2),
            "embedding": nn.Embedding(7, 3),
            "batch": nn.BatchNorm1d(3),
            "layer": nn.LayerNorm(3),
            "attention": nn.MultiheadAttention(4, 2),
        }
    )
    found = slots(model)
    assert found["linear.weight"] == ("weight", 5)
    assert found["linear.bias"] == ("bias", 1)
    assert found["conv.weight"] == ("weight", 2 * 3 * 2)
    assert found["up.weight"] == ("weight", 2 * 9)  # every output meets 4/2 channels and 9 offsets
    assert found["embedding.weight"] == ("embedding", 1)
    assert found["batch.weight"] == found["layer.weight"] == ("scale", 1)
    assert found["batch.bias"] == found["layer.bias"] == ("bias", 1)
    assert found["attention.in_proj_weight"] == ("weight", 4)
    assert found["attention.in_proj_bias"] == ("bias", 1)


def test_mixed_types_are_refused() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2).double())
    with pytest.raises(ModelError, match="float64"):
        Layout.of(model)
