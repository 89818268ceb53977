import pytest
import torch
from small_problems import normalised, plain, seeded_module
from torch import Tensor, nn

import bayesify as bay
from bayesify.engine.rng import generator
from bayesify.errors import MethodError, UnsupportedError
from bayesify.methods import swag as method
from bayesify.model.likelihoods import Gaussian

LIKELIHOOD = Gaussian(scale=0.3)


def walk(model: nn.Module, steps: int) -> list[Tensor]:
    """Weights along a random path, flat; the model is at the last ones."""
    rng = generator("cpu", "walk")
    path = []
    for _ in range(steps):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=rng))
        path.append(torch.cat([parameter.detach().flatten() for parameter in model.parameters()]))
        yield path[-1]


def test_swag_is_the_methods_gaussian() -> None:
    model, swag = plain(), bay.optim.SWAG(max_rank=4)
    path = []
    for theta in walk(model, 7):
        path.append(theta)
        swag.collect(model)
    state = method.init(path[0][None], 4)
    for theta in path:
        state = method.collect(state._replace(theta=theta[None]))
    taken = method.Snapshots(state.mean, state.squares, state.deviations, state.snapshots)
    expected = method.gaussian(taken, 2.0)
    posterior = swag.posterior(model, LIKELIHOOD, scale=2.0)
    assert torch.equal(posterior.mean, state.mean)
    torch.testing.assert_close(posterior.mean, torch.stack(path).mean(0))
    for name, value in expected.tensors().items():
        assert torch.equal(posterior.covariance.tensors()[name], value)


def test_swag_goes_on_from_its_state() -> None:
    model, one, other = plain(), bay.optim.SWAG(), bay.optim.SWAG()
    for step, _ in enumerate(walk(model, 8)):
        one.collect(model)
        if step == 3:
            other.load_state_dict(one.state_dict())
        if step > 3:
            other.collect(model)
    for name, value in one.posterior(model, LIKELIHOOD).tensors().items():
        assert torch.equal(other.posterior(model, LIKELIHOOD).tensors()[name], value)


def test_swag_needs_two_snapshots_and_no_batch_statistics() -> None:
    swag, model = bay.optim.SWAG(), normalised()
    swag.collect(model)
    with pytest.raises(MethodError, match="2 snapshots"):
        swag.posterior(model, LIKELIHOOD)
    swag.collect(model)
    with pytest.raises(UnsupportedError, match="statistics"):
        swag.posterior(model, LIKELIHOOD)
    with pytest.raises(MethodError, match="max_rank"):
        bay.optim.SWAG(max_rank=1)


def test_samples_are_the_weights_that_were_there() -> None:
    model = seeded_module(lambda: nn.Linear(3, 1))
    samples, x = bay.optim.Samples(), torch.randn(5, 3, generator=generator("cpu", 0))
    outputs = []
    for _ in walk(model, 4):
        samples.collect(model)
        outputs.append(model(x).detach())
    posterior = samples.posterior(model, LIKELIHOOD)
    assert len(samples) == 4
    torch.testing.assert_close(posterior.functions(x).outputs, torch.stack(outputs))
    again = bay.optim.Samples()
    again.load_state_dict(samples.state_dict())
    assert torch.equal(again.posterior(model, LIKELIHOOD).kept.theta, posterior.kept.theta)


def test_samples_keep_the_statistics_of_their_weights() -> None:
    model, samples = normalised(), bay.optim.Samples()
    x = torch.randn(20, 4, generator=generator("cpu", 0))
    outputs = []
    for _ in walk(model, 3):
        model.train()
        model(x)
        model.eval()
        samples.collect(model)
        outputs.append(model(x).detach())
    posterior = samples.posterior(model, LIKELIHOOD)
    torch.testing.assert_close(posterior.functions(x).outputs, torch.stack(outputs))


def test_no_samples_no_posterior() -> None:
    with pytest.raises(MethodError, match="no draws"):
        bay.optim.Samples().posterior(plain(), LIKELIHOOD)
