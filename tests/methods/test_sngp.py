"""SNGP: bounded layers, features of a Gaussian process, and the exact posterior on those features."""

import math

import pytest
import torch
from small_problems import convolutional, critical_value, fitted, image_data, plain, problem_of, regression_data
from torch import Tensor, nn

import bayesify as bay
from bayesify.errors import MethodError, ModelError
from bayesify.likelihoods import Gaussian
from bayesify.methods.sngp import SNGP
from bayesify.model.network import Mode
from bayesify.model.random_features import RandomFeatures
from bayesify.model.spectral_norm import Bounded, bounded, largest_singular_value
from bayesify.model.transform import transformed
from bayesify.posterior import Linearised
from bayesify.priors import Normal


def matrix(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(7, 3), (3, 7), (1, 5), (40, 40)])
def test_the_largest_singular_value(shape: tuple[int, int]) -> None:
    for seed in range(5):
        weight = matrix(*shape, seed=seed)
        values = torch.linalg.svdvals(weight)
        missing = float((values[1] / values[0]) ** 64) if len(values) > 1 else 0.0
        found = float(largest_singular_value(weight))
        assert float(values[0]) * (1 - missing) * (1 - 1e-9) <= found <= float(values[0]) * (1 + 1e-9)


def test_its_gradient_is_that_of_the_norm() -> None:
    weight = torch.diag(torch.tensor([3.0, 1.0, 0.5], dtype=torch.float64)) @ torch.linalg.qr(matrix(3, 3)).Q
    one, other = weight.clone().requires_grad_(), weight.clone().requires_grad_()
    largest_singular_value(one).backward()
    torch.linalg.matrix_norm(other, 2).backward()
    torch.testing.assert_close(one.grad, other.grad)


def test_weights_within_the_bound_stay_and_others_reach_it() -> None:
    weight = matrix(4, 3)
    norm = float(torch.linalg.matrix_norm(weight, 2))
    torch.testing.assert_close(bounded(weight, 1.01 * norm), weight)
    assert float(torch.linalg.matrix_norm(bounded(weight, 0.5), 2)) == pytest.approx(0.5, rel=1e-6)
    torch.testing.assert_close(bounded(torch.zeros(3, 3), 1.0), torch.zeros(3, 3))  # and no division by zero


def test_every_layer_but_the_last_is_bounded() -> None:
    module = transformed(convolutional(), {"spectral_norm": 0.9})
    found = [type(layer).__name__ for layer in module]
    assert [isinstance(layer, Bounded) for layer in module] == [name == "Bounded" for name in found]
    assert found.count("Bounded") == 2
    assert isinstance(module[-1], nn.Linear)
    x = image_data()[0]
    kernel = module[0].layer
    expected = nn.functional.conv2d(x, bounded(kernel.weight, 0.9), kernel.bias)
    torch.testing.assert_close(module[0](x), expected)


def test_random_features_approach_the_gaussian_kernel() -> None:
    """E φ(h)·φ(h')/D = exp(−‖h − h'‖²/2ℓ²), within the Monte Carlo error of D features of variance at most 2."""
    layer, count = nn.Linear(5, 2).double(), 200_000
    features = RandomFeatures(layer, count, length_scale=1.3, seed=0)
    h = matrix(6, 5)
    phi = math.sqrt(2) * torch.cos(h @ features.directions.mT + features.phases)
    kernel = torch.exp(-0.5 * torch.cdist(h, h).square() / 1.3**2)
    error = (phi @ phi.mT / count - kernel).abs().max()
    assert float(error) < critical_value(21) * math.sqrt(2 / count)


def features_of(posterior: Linearised, inputs: Tensor) -> Tensor:
    network = posterior.model.network
    head = next(layer for layer in network.module.modules() if isinstance(layer, RandomFeatures))
    seen: list[Tensor] = []
    handle = head.output.register_forward_hook(lambda _, arguments, __: seen.append(arguments[0]))
    network(network.initial, {}, inputs, Mode.PREDICT)
    handle.remove()
    return seen[0].detach()


def test_regression_is_bayesian_linear_regression_on_the_features() -> None:
    x, y = (value.double() for value in regression_data())
    prior, noise = Normal(scale=0.2), 0.3
    posterior = bay.fit(
        plain().double(),
        (x, y),
        method=SNGP(num_features=40),
        likelihood=Gaussian(scale=noise),
        prior=prior,
        budget=bay.Budget(epochs=30),
        validation=None,
    )
    assert isinstance(posterior, Linearised)
    phi, tests = features_of(posterior, x), features_of(posterior, x[:5] + 0.3)
    covariance = torch.linalg.inv(phi.mT @ phi / noise**2 + torch.eye(40, dtype=torch.float64) / 0.2**2)
    expected = (tests @ covariance @ tests.mT).diagonal()
    torch.testing.assert_close(posterior.predict(x[:5] + 0.3).epistemic, expected, rtol=1e-4, atol=0)


def test_classes_have_the_papers_precision() -> None:
    x, values = regression_data()
    y = torch.bucketize(values, torch.tensor([-0.5, 0.5]))
    problem = problem_of(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).double(), (x.double(), y))
    posterior = fitted(problem, SNGP(num_features=20), 20)
    assert isinstance(posterior, Linearised)
    training = problem.data.inputs
    phi = features_of(posterior, training)
    beta = posterior.mean.reshape(3, 20)
    p = (phi @ beta.mT).softmax(-1)
    prior = problem.prior_family.bind(posterior.model.network.layout, 0, phi).precision()[0]
    tests = features_of(posterior, training[:4])
    draws = posterior.functions(training[:4], 20_000).outputs
    for c in range(3):
        weights = p[:, c] * (1 - p[:, c])
        covariance = torch.linalg.inv((phi * weights[:, None]).mT @ phi + prior * torch.eye(20, dtype=torch.float64))
        expected = (tests @ covariance @ tests.mT).diagonal()
        error = draws[:, :, c].var(0) / expected - 1
        assert float(error.abs().max()) < critical_value(12) * math.sqrt(2 / 20_000)


def test_uncertainty_grows_away_from_the_data() -> None:
    x, y = regression_data()
    posterior = fitted(problem_of(plain(), (x, y), likelihood=Gaussian(scale=0.1)), SNGP(num_features=256), 40)
    near, far = posterior.predict(x).epistemic.mean(), posterior.predict(8 * x).epistemic.mean()
    assert far > 3 * near


def test_a_pretrained_network_is_trained_further_with_a_new_head() -> None:
    module, data = plain(), regression_data()
    problem = problem_of(module, data, pretrained=True)
    posterior = fitted(problem, SNGP(num_features=16), 1.2)
    hidden = next(value for name, value in posterior.model.network.frozen().items() if name.endswith("layer.weight"))
    moved = float((hidden - module[0].weight.detach()).abs().max())
    assert 0 < moved < 0.1  # a few steps from where it came


def test_a_network_that_does_not_end_in_a_linear_layer_is_refused() -> None:
    with pytest.raises(ModelError, match=r"expects nn\.Linear there"):
        transformed(nn.Sequential(nn.Linear(4, 4), nn.PReLU()), {"spectral_norm": 1.0})
    with pytest.raises(MethodError, match="prior_precision"):
        SNGP(prior_precision="tuned")
