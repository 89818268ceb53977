import numpy as np
import pytest
import torch
from small_problems import problem_of
from torch import nn

import bayesify as bay
from bayesify.engine.rng import generator, seeded
from bayesify.errors import ModelError
from bayesify.model.network import Network
from bayesify.model.normalisation import FilterResponseNorm2d
from bayesify.model.problem import Batch
from bayesify.models import lenet, mlp, model_for, resnet20_frn


def count(module):
    return sum(p.numel() for p in module.parameters())


def made(name, shape, num_outputs):
    with seeded(0):
        return model_for(name, shape, num_outputs, 100)


def stripes(num_examples, side):
    """Images of one class have horizontal stripes, of the other vertical ones, in noise."""
    rng = generator("cpu", "stripes", side)
    labels = torch.arange(num_examples) % 2
    wave = torch.cos(torch.pi * torch.arange(side)).expand(side, side)
    images = 2 * torch.where(labels[:, None, None] == 0, wave, wave.T) + torch.randn(
        num_examples, side, side, generator=rng
    )
    return images[:, None], labels


def test_lenet_has_the_published_layers() -> None:
    # 5·5·6+6, 5·5·6·16+16, 400·120+120, 120·84+84, 84·10+10
    assert count(lenet((1, 28, 28), 10)) == 156 + 2416 + 48120 + 10164 + 850


@pytest.mark.parametrize("shape", [(1, 12, 12), (3, 32, 32), (1, 17, 30), (2, 13, 12)])
def test_lenet_fits_images_of_any_size(shape) -> None:
    assert lenet(shape, 7)(torch.zeros(2, *shape)).shape == (2, 7)


@pytest.mark.parametrize(
    ("shape", "parameters"), [((3, 32, 32), 273_754), ((1, 28, 28), 273_466), ((1, 5, 6), 273_466)]
)
def test_resnet20_has_twenty_layers_and_fits(shape, parameters) -> None:
    network = resnet20_frn(shape, 10)
    deep = [
        m for m in network.modules() if isinstance(m, (nn.Conv2d, nn.Linear)) and getattr(m, "kernel_size", 0) != (1, 1)
    ]
    assert len(deep) == 20
    assert count(network) == parameters
    assert network(torch.zeros(2, *shape)).shape == (2, 10)


def test_filter_response_norm_is_its_equations() -> None:
    layer = FilterResponseNorm2d(3).double()
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([1.0, -2.0, 0.5]))
        layer.bias.copy_(torch.tensor([0.3, 0.0, -1.0]))
        layer.threshold.copy_(torch.tensor([0.1, -9.0, 0.0]))
    x = torch.randn(4, 3, 5, 6, generator=generator("cpu", "x"), dtype=torch.float64)
    found = layer(x).detach().numpy()
    for example in range(4):
        for channel in range(3):
            values = x[example, channel].numpy()
            scaled = values / np.sqrt((values**2).mean() + 1e-6)
            w, b, t = (float(p.detach()[channel]) for p in (layer.weight, layer.bias, layer.threshold))
            np.testing.assert_allclose(found[example, channel], np.maximum(w * scaled + b, t), atol=1e-12)


def test_examples_do_not_depend_on_their_batch() -> None:
    network = made("resnet20_frn", (1, 8, 8), 3).double()
    x = torch.randn(5, 1, 8, 8, generator=generator("cpu", "x"), dtype=torch.float64)
    torch.testing.assert_close(network(x)[2:3], network(x[2:3]), rtol=0, atol=1e-12)


def test_priors_know_scales_from_thresholds() -> None:
    roles = {slot.name: slot.role for slot in Network(FilterResponseNorm2d(2)).layout.slots}
    assert roles == {"weight": "scale", "bias": "bias", "threshold": "bias"}


@pytest.mark.parametrize(("name", "side"), [("lenet", 12), ("resnet20_frn", 5)])
def test_networks_are_evaluated_together_as_one_by_one(name, side) -> None:
    x, y = stripes(8, side)
    found = []
    for way in ("eager", "looped"):
        problem = problem_of(made(name, (1, side, side), 2).double(), (x.double(), y), way=way)
        theta = problem.random(2, generator("cpu", "theta"))
        found.append(problem.gradient(theta, Batch(problem.data.select(torch.arange(8)), False)).gradient)
    torch.testing.assert_close(*found, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize(("name", "side", "epochs"), [("lenet", 12, 15), ("resnet20_frn", 5, 10)])
def test_a_small_fit_learns(name, side, epochs) -> None:
    x, y = stripes(128, side)
    posterior = bay.fit(
        made(name, (1, side, side), 2), (x, y), method=f"map(epochs={epochs})", progress=False, way="eager"
    )
    x_new, y_new = (part[64:] for part in stripes(256, side))
    assert bay.evaluate(posterior.predict(x_new), y_new)["accuracy"] > 0.9


def test_the_default_fits_tables_and_images() -> None:
    assert isinstance(made("default", (4,), 1)[0], nn.Linear)
    assert count(made("default", (1, 28, 28), 10)) == count(lenet((1, 28, 28), 10))
    assert count(made("default", (1, 8, 8), 10)) == count(mlp(64, 10))


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ModelError, match="Did you mean 'lenet'"):
        made("lenett", (1, 28, 28), 10)
    with pytest.raises(ModelError, match=r"lenet is for images.*shape \(13,\)"):
        made("lenet", (13,), 1)
    with pytest.raises(ModelError, match=r"12 × 12 or more and these are 8 × 8: use resnet20_frn"):
        made("lenet", (1, 8, 8), 10)
