"""Packed ensembles: networks of the stated widths, trained as the ensemble of them that one would build by hand."""

import pytest
import torch
from small_problems import convolutional, fitted, image_data, plain, problem_of, regression_data, seeded_module
from torch import nn

from bayesify.errors import MethodError, ModelError
from bayesify.methods import DeepEnsemble, PackedEnsemble
from bayesify.model.transform import transformed
from bayesify.models import mlp, resnet20_frn
from bayesify.posterior import Draws


def shapes(module: nn.Module) -> list[tuple[int, ...]]:
    return [tuple(parameter.shape) for parameter in module.parameters()]


def test_hidden_widths_shrink_inputs_and_outputs_stay() -> None:
    thin = transformed(mlp(7, 3, (20, 10)), {"thin": 0.3})
    assert shapes(thin) == shapes(mlp(7, 3, (6, 3)))
    module = convolutional()
    thin = transformed(module, {"thin": 0.5})
    assert [tuple(layer.weight.shape) for layer in (thin[0], thin[1], thin[3], thin[6])] == [
        (2, 1, 3, 3),
        (2,),
        (2, 2, 3, 3),
        (2, 8),
    ]
    assert thin(image_data()[0]).shape == module(image_data()[0]).shape


def test_all_members_together_have_the_stated_share_of_the_weights() -> None:
    wide = mlp(10, 1, (400, 400))
    thin = transformed(wide, {"thin": 2 / 4})
    hidden, whole = thin.state_dict(), wide.state_dict()
    middle = [name for name, value in whole.items() if value.shape == (400, 400)]
    assert len(middle) == 1
    assert 4 * hidden[middle[0]].numel() == (2**2 / 4) * whole[middle[0]].numel()


def test_residual_networks_can_be_thinned() -> None:
    module = seeded_module(lambda: resnet20_frn((1, 28, 28), 10))
    thin = transformed(module, {"thin": 0.25})
    assert sum(p.numel() for p in thin.parameters()) < 0.1 * sum(p.numel() for p in module.parameters())
    assert thin(torch.zeros(2, 1, 28, 28)).shape == (2, 10)


def test_it_is_the_ensemble_of_narrow_networks() -> None:
    data = regression_data()
    packed = fitted(problem_of(plain(), data), PackedEnsemble(num_members=4, alpha=2.0), 40)
    narrow = seeded_module(lambda: nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 1)))
    by_hand = fitted(problem_of(narrow, data), DeepEnsemble(num_members=4), 40)
    assert isinstance(packed, Draws)
    assert isinstance(by_hand, Draws)
    torch.testing.assert_close(packed.kept.theta, by_hand.kept.theta)


def test_frozen_layers_and_shared_weights_stay_so() -> None:
    module = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6), nn.Linear(6, 1))
    module[4].weight = module[2].weight
    module[0].requires_grad_(False)
    thin = transformed(module, {"thin": 1.0})
    assert thin[4].weight is thin[2].weight
    assert torch.equal(thin[0].weight, module[0].weight)
    assert not thin[0].weight.requires_grad


@pytest.mark.parametrize(
    ("module", "what"),
    [
        (nn.Sequential(nn.Conv2d(4, 4, 3, groups=2), nn.Flatten(), nn.Linear(64, 1)), "a grouped convolution"),
        (nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 1)), "Embedding of shape"),
        (nn.Sequential(nn.Linear(4, 6), nn.Linear(8, 1)), "8 inputs after one of 6"),
    ],
)
def test_what_cannot_be_thinned_is_said(module: nn.Module, what: str) -> None:
    with pytest.raises(ModelError, match=what):
        transformed(module, {"thin": 0.5})


def test_alpha_is_checked() -> None:
    with pytest.raises(MethodError, match="alpha must be positive, and at most num_members"):
        PackedEnsemble(num_members=2, alpha=3.0)
