"""Optimizers for one's own loop: the methods' steps, in torch's clothes."""

import copy
import math
from typing import Any

import pytest
import torch
from small_problems import NOISE, PRIOR_SCALE, critical_value, linear_problem, seeded_module
from torch import Tensor, nn

import bayesify as bay
from bayesify.engine.rng import generator
from bayesify.errors import MethodError, SaveError, UnsupportedError
from bayesify.methods import ivon, sghmc, sgld
from bayesify.model.network import Mode
from bayesify.model.problem import Batch, Problem

BUILD: dict[str, Any] = {
    "IVON": lambda params, size, **own: bay.optim.IVON(params, lr=0.1, num_data=size, **own),
    "SGLD": lambda params, size, **own: bay.optim.SGLD(params, lr=0.1, num_data=size, **own),
    "SGHMC": lambda params, size, **own: bay.optim.SGHMC(params, lr=0.1, num_data=size, **own),
}
every = pytest.mark.parametrize("name", BUILD)


def loss_of(model: nn.Module, problem: Problem, rows: Any = slice(None)) -> Tensor:
    """The mean negative log likelihood, but for a constant."""
    found = model(problem.data.inputs[rows])[:, 0] - problem.data.targets[rows].flatten()
    return 0.5 * found.square().mean() / NOISE**2


def model_of(problem: Problem) -> nn.Module:
    return copy.deepcopy(problem.network.module)


def weights(model: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def advance(optimizer: torch.optim.Optimizer, model: nn.Module, loss: Any) -> None:
    """One step as a user writes it."""
    if isinstance(optimizer, bay.optim.IVON):
        with optimizer.sampled_params(train=True):
            loss(model).backward()
    else:
        optimizer.zero_grad()
        loss(model).backward()
    optimizer.step()


def standard_noise(optimizer: Any, shape: torch.Size) -> Tensor:
    """What the optimizer will draw next."""
    rng = optimizer.rng.clone_state()
    return torch.randn(shape, generator=rng, dtype=torch.float64)


# ---- the same steps --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [1.0, 0.3])
def test_sgld_is_the_methods_step(temperature: float) -> None:
    problem = linear_problem(temperature)
    model = model_of(problem)
    optimizer = bay.optim.SGLD(
        model.parameters(), lr=1e-2, num_data=200, temperature=temperature, prior_precision=PRIOR_SCALE**-2
    )
    theta = weights(model)[None]
    gradient = problem.gradient(theta, Batch(problem.data), Mode.TRAIN).gradient
    one = torch.ones((), dtype=torch.float64)
    noise = standard_noise(optimizer, theta.shape)
    expected = sgld.langevin(one, 1e-2 * temperature / 200)(sgld.State(theta), gradient, noise, one).theta
    advance(optimizer, model, lambda m: loss_of(m, problem))
    torch.testing.assert_close(weights(model), expected[0], rtol=1e-12, atol=0)


@pytest.mark.parametrize("temperature", [1.0, 0.3])
def test_sghmc_is_the_methods_step(temperature: float) -> None:
    problem = linear_problem(temperature)
    model = model_of(problem)
    optimizer = bay.optim.SGHMC(
        model.parameters(),
        lr=1e-2,
        num_data=200,
        momentum=0.8,
        temperature=temperature,
        prior_precision=PRIOR_SCALE**-2,
    )
    theta = weights(model)[None]
    length = math.sqrt(1e-2 * temperature / 200)
    one = torch.ones((), dtype=torch.float64)
    move = sghmc.hamiltonian(one, length, -math.log(0.8) / length)
    state = sghmc.State(theta, torch.zeros_like(theta))
    for _ in range(3):
        gradient = problem.gradient(state.theta, Batch(problem.data), Mode.TRAIN).gradient
        state = move(state, gradient, standard_noise(optimizer, theta.shape), one)
        advance(optimizer, model, lambda m: loss_of(m, problem))
    torch.testing.assert_close(weights(model), state.theta[0], rtol=1e-12, atol=0)


@pytest.mark.parametrize("temperature", [1.0, 0.3])
@pytest.mark.parametrize("samples", [1, 3])
def test_ivon_is_the_methods_step(temperature: float, samples: int) -> None:
    problem = linear_problem(temperature)
    model = model_of(problem)
    own = {"beta1": 0.7, "beta2": 0.9, "clip_radius": 0.5}
    optimizer = bay.optim.IVON(
        model.parameters(),
        lr=0.1,
        num_data=200,
        temperature=temperature,
        prior_precision=PRIOR_SCALE**-2,
        hess_init=3.0,
        **own,
    )
    target = ivon.target_of(problem)
    state = ivon.init(weights(model), 3.0)
    rng = optimizer.rng.clone_state()
    for _ in range(3):
        noise = torch.stack([torch.randn(1, 4, generator=rng, dtype=torch.float64)[0] for _ in range(samples)])
        deviation = ivon.sample_deviation(state, target, noise)
        gradient = ivon.loss_gradient(problem, state.mean + deviation, Batch(problem.data), Mode.TRAIN)
        state = ivon.update(state, target, ivon.Rates(0.1, **own), ivon.averages(deviation, gradient))
        for _ in range(samples):
            with optimizer.sampled_params(train=True):
                loss_of(model, problem).backward()
        optimizer.step()
    torch.testing.assert_close(weights(model), state.mean, rtol=1e-10, atol=0)
    (found,) = optimizer.state.values()
    torch.testing.assert_close(found["hessian"].flatten(), state.hessian, rtol=1e-10, atol=0)


# ---- the right answers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [1.0, 0.3])
def test_ivon_reaches_its_fix_point(temperature: float) -> None:
    """One weight per model, many models side by side: their average tells the fix point from the noise of samples."""
    models, size, precision = 4000, 50, 3.0
    curvature = torch.tensor([[0.1], [1.0], [5.0]], dtype=torch.float64)
    theta = nn.Parameter(torch.zeros(3, models, dtype=torch.float64))
    own = {"temperature": temperature, "prior_precision": precision, "prior_mean": 0.7, "hess_init": 2.0}
    optimizer = bay.optim.IVON([theta], lr=0.1, num_data=size, beta2=0.99, num_samples=2, **own)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 1000)

    def closure() -> Tensor:
        loss = (0.5 * curvature * (theta - 2.0).square()).sum()
        loss.backward()
        return loss

    for _ in range(1000):
        optimizer.step(closure)
        schedule.step()
    total = size * curvature + precision
    hessian = optimizer.state[theta]["hessian"].mean(1, keepdim=True)
    torch.testing.assert_close(hessian, curvature, rtol=0.02, atol=0)
    mean = (size * curvature * 2.0 + precision * 0.7) / total
    torch.testing.assert_close(theta.detach().mean(1, keepdim=True), mean, rtol=0.02, atol=0)
    deviations = theta.detach().clone()
    with optimizer.sampled_params():
        deviations = theta.detach() - deviations
    found = deviations.var(1, keepdim=True) / (temperature / total) - 1
    assert float(found.abs().max()) < 0.02 + critical_value(3) * math.sqrt(2 / models)


def test_ivon_draws_with_the_variance_it_states() -> None:
    model = seeded_module(lambda: nn.Linear(400, 10, bias=False))
    optimizer = bay.optim.IVON(model.parameters(), lr=0.1, num_data=50, hess_init=3.0, prior_precision=10.0)
    mean = weights(model)
    posterior = optimizer.posterior(model, "categorical")
    assert torch.allclose(posterior.covariance.variance(), torch.tensor(1 / (50 * (3.0 + 10.0 / 50))))
    with optimizer.sampled_params():
        drawn = weights(model) - mean
    relative = float(drawn.square().mean() / posterior.covariance.variance()[0]) - 1
    assert abs(relative) < critical_value() * math.sqrt(2 / 4000)


@pytest.mark.parametrize("temperature", [1.0, 0.3])
@pytest.mark.parametrize("kind", [bay.optim.SGLD, bay.optim.SGHMC])
def test_samplers_have_the_posterior_of_the_prior_and_the_data(kind: Any, temperature: float) -> None:
    """One weight per model, many models: independent chains. Precision is N c + p with c the loss's curvature."""
    chains, size, curvature, precision, steps = 20_000, 50, 0.4, 3.0, 200
    theta = nn.Parameter(torch.zeros(chains, dtype=torch.float64))
    own = {"temperature": temperature, "prior_precision": precision, "prior_mean": 0.7}
    optimizer = kind([theta], lr=0.5, num_data=size, **own)
    for _ in range(steps):
        optimizer.zero_grad()
        (0.5 * curvature * (theta - 2.0).square()).sum().backward()
        optimizer.step()
    total = size * curvature + precision
    step = 0.5 * total / size  # of SGD in units of the curvature
    variance = temperature / total / (1 - step / 2 if kind is bay.optim.SGLD else 1)  # SGLD's is that of its steps
    mean = (size * curvature * 2.0 + precision * 0.7) / total
    z = critical_value(4)
    assert abs(float(theta.detach().mean()) - mean) < z * math.sqrt(variance / chains)
    assert abs(float(theta.detach().var()) / variance - 1) < z * math.sqrt(2 / chains)
    assert step / 2 > 2 * z * math.sqrt(2 / chains) or kind is bay.optim.SGHMC  # the law tells them apart


# ---- in a loop -------------------------------------------------------------------------------------------------------


@every
def test_parameters_without_a_gradient_follow_the_prior(name: str) -> None:
    used, unused, frozen = (nn.Parameter(torch.full((2,), 3.0)) for _ in range(3))
    frozen.requires_grad_(False)
    size = 10
    optimizer = BUILD[name]([used, unused, frozen], size, prior_precision=float(size), temperature=1e-12)
    for _ in range(300):
        if name == "IVON":
            with optimizer.sampled_params(train=True):
                used.square().sum().backward()
        else:
            optimizer.zero_grad(set_to_none=True)
            used.square().sum().backward()
        optimizer.step()
    assert float(unused.detach().abs().max()) < 1e-3
    assert torch.equal(frozen, torch.full((2,), 3.0))


@every
def test_state_dict_round_trip(name: str) -> None:
    problem = linear_problem()
    model = model_of(problem)
    optimizer = BUILD[name](model.parameters(), 200)
    for _ in range(5):
        advance(optimizer, model, lambda m: loss_of(m, problem))
    other = copy.deepcopy(model)
    again = BUILD[name](other.parameters(), 200, seed=99)
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for _ in range(5):
        advance(optimizer, model, lambda m: loss_of(m, problem))
        advance(again, other, lambda m: loss_of(m, problem))
    assert torch.equal(weights(model), weights(other))


@every
def test_states_of_others_are_refused(name: str) -> None:
    model = nn.Linear(2, 1)
    optimizer = BUILD[name](model.parameters(), 200)
    with pytest.raises(SaveError, match=name):
        optimizer.load_state_dict(torch.optim.Adam(model.parameters()).state_dict())


@every
def test_global_randomness_is_left_alone(name: str) -> None:
    problem = linear_problem()
    before = torch.get_rng_state()
    found = []
    for seed in (0, 0, 1):
        model = model_of(problem)
        optimizer = BUILD[name](model.parameters(), 200, seed=seed)
        for _ in range(3):
            advance(optimizer, model, lambda m: loss_of(m, problem))
        found.append(weights(model))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_ivon_outside_its_block_holds_the_mean() -> None:
    problem = linear_problem()
    model = model_of(problem)
    optimizer = bay.optim.IVON(model.parameters(), lr=0.1, num_data=200)
    mean = weights(model)
    with optimizer.sampled_params():
        assert not torch.equal(weights(model), mean)
    assert torch.equal(weights(model), mean)
    with pytest.raises(ZeroDivisionError), optimizer.sampled_params(train=True):
        raise ZeroDivisionError
    assert torch.equal(weights(model), mean)
    with pytest.raises(MethodError, match="sampled_params"):
        optimizer.step()
    with pytest.raises(MethodError, match="already open"), optimizer.sampled_params(), optimizer.sampled_params():
        pass


def test_ivon_drops_gradients_from_before_its_block() -> None:
    problem = linear_problem()
    found = []
    for stale in (False, True):
        model = model_of(problem)
        optimizer = bay.optim.IVON(model.parameters(), lr=0.1, num_data=200)
        if stale:
            (1e3 * loss_of(model, problem)).backward()
        advance(optimizer, model, lambda m: loss_of(m, problem))
        found.append(weights(model))
    assert torch.equal(*found)


def test_groups_have_settings_of_their_own() -> None:
    one, other = (nn.Parameter(torch.zeros(5000)) for _ in range(2))
    groups = [{"params": [one], "prior_precision": 4.0}, {"params": [other]}]
    optimizer = bay.optim.SGHMC(groups, lr=0.1, num_data=1, prior_precision=1.0)
    for _ in range(200):
        optimizer.step()
    assert float(one.detach().var()) == pytest.approx(0.25, rel=0.12)
    assert float(other.detach().var()) == pytest.approx(1.0, rel=0.12)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("IVON", {"hess_init": 0.0}),
        ("IVON", {"beta1": 1.0}),
        ("IVON", {"beta2": 1.0}),
        ("IVON", {"clip_radius": 0.0}),
        ("IVON", {"num_samples": 0}),
        ("SGLD", {"temperature": 0.0}),
        ("SGLD", {"prior_precision": -1.0}),
        ("SGHMC", {"momentum": 1.0}),
    ],
)
def test_bad_settings_are_refused(name: str, settings: dict[str, float]) -> None:
    with pytest.raises(MethodError, match=next(iter(settings))):
        BUILD[name]([nn.Parameter(torch.zeros(1))], 10, **settings)


def test_number_of_data_must_be_given() -> None:
    for kind in (bay.optim.IVON, bay.optim.SGLD, bay.optim.SGHMC):
        with pytest.raises(MethodError, match="num_data"):
            kind([nn.Parameter(torch.zeros(1))], lr=0.1, num_data=0)


def test_posterior_of_ivon_is_certain_of_what_it_did_not_train() -> None:
    model = seeded_module(lambda: nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)))
    optimizer = bay.optim.IVON(model[2].parameters(), lr=0.1, num_data=50, hess_init=2.0, prior_precision=50.0)
    posterior = optimizer.posterior(model, "categorical")
    spread = posterior.model.network.layout.unflatten(posterior.covariance.variance())
    assert bool((spread["0.weight"] == 0).all())
    assert torch.allclose(spread["2.weight"], torch.tensor(1 / (50 * (2.0 + 1.0))))
    assert posterior.predict(torch.zeros(5, 3)).probs.shape == (5, 2)
    with pytest.raises(UnsupportedError, match="parameters of its own"):
        optimizer.posterior(model, "gaussian")


def test_draws_are_seeded_by_name() -> None:
    rng = bay.optim.SGLD([nn.Parameter(torch.zeros(1))], lr=0.1, num_data=1, seed=3).rng
    assert torch.equal(rng.get_state(), generator("cpu", "SGLD", 3).get_state())
