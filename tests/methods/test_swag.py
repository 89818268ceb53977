import copy
import itertools
import math

import pytest
import torch
from small_problems import convolutional as convolutional_net
from small_problems import critical_value, fitted, image_data, normalised, plain, problem_of, regression_data
from torch import Tensor, nn

from bayesify.engine.budget import Meter
from bayesify.engine.run import Run
from bayesify.errors import BudgetError, MethodError
from bayesify.likelihoods import Gaussian
from bayesify.methods import SWAG
from bayesify.methods.swag import State, collect, gaussian, init, keep_best
from bayesify.posterior.draws import Draws
from bayesify.posterior.gaussian import Gaussian as GaussianPosterior
from bayesify.priors import Normal


def path_of(snapshots: Tensor, max_rank: int) -> State:
    """The state after collecting each row."""
    state = init(torch.full_like(snapshots[:1], 7.0), max_rank)  # the starting point must not count
    for theta in snapshots:
        state = collect(state._replace(theta=theta[None]))
    return state


def random_path(length: int, size: int) -> Tensor:
    rng = torch.Generator().manual_seed(0)
    return torch.randn(length, size, generator=rng, dtype=torch.float64).cumsum(0)


@pytest.mark.parametrize("length", [2, 5, 20, 100])
def test_constant_path_has_exactly_these_weights_and_no_variance(length: int) -> None:
    weights = torch.tensor([1.0, 0.1, -3.7e5, 1e-8])
    state = path_of(weights.repeat(length, 1), max_rank=6)
    covariance = gaussian(state, 1.0)
    assert torch.equal(state.mean, weights)
    assert torch.equal(covariance.diagonal, torch.zeros(4))
    assert torch.equal(covariance.factors, torch.zeros(4, min(length, 6)))


@pytest.mark.parametrize(("length", "max_rank"), [(2, 4), (4, 4), (11, 4)])
def test_moments_are_those_of_the_paper(length: int, max_rank: int) -> None:
    snapshots = random_path(length, 6)
    state = path_of(snapshots, max_rank)
    running_means = torch.stack([snapshots[: i + 1].mean(0) for i in range(length)])
    deviations = (snapshots - running_means)[-max_rank:]
    diagonal = snapshots.square().mean(0) - snapshots.mean(0).square()
    expected = 0.5 * (diagonal.diag() + deviations.T @ deviations / (len(deviations) - 1))
    covariance = gaussian(state, 1.0)
    torch.testing.assert_close(state.mean, snapshots.mean(0))
    torch.testing.assert_close(covariance.diagonal.diag() + covariance.factors @ covariance.factors.T, expected)


def test_small_variances_about_large_means_survive_float32() -> None:
    rng = torch.Generator().manual_seed(0)
    snapshots = 100 + 1e-2 * torch.randn(50, 200, generator=rng)
    naive = snapshots.square().mean(0) - snapshots.mean(0).square()
    assert (naive <= 0).any()  # the control: the difference of moments loses it all
    variance = 2 * gaussian(path_of(snapshots, 10), 1.0).diagonal
    torch.testing.assert_close(variance, snapshots.double().var(0, unbiased=False).float(), rtol=1e-2, atol=0)


def test_draws_have_the_stated_covariance_across_tensors() -> None:
    # A path along one direction: weights of different layers move together.
    direction = torch.tensor([1.0, -2.0, 0.5, 1.5, -1.0, 2.0], dtype=torch.float64)
    snapshots = random_path(30, 1) * direction + 0.1 * random_path(30, 6)
    covariance = gaussian(path_of(snapshots, 8), 1.0)
    stated = covariance.diagonal.diag() + covariance.factors @ covariance.factors.T
    count = 40_000
    draws = covariance.sample(count, torch.Generator().manual_seed(1))
    sampled = draws.T @ draws / count  # the mean is known to be 0
    error = ((stated.diag()[:, None] * stated.diag() + stated.square()) / count).sqrt()
    assert bool(((sampled - stated).abs() < critical_value(21) * error).all())
    # The control: noise drawn tensor by tensor has no covariance between the first and the last weight.
    assert stated[0, -1].abs() > 2 * critical_value(21) * error[0, -1]


def test_the_first_snapshots_that_validate_best_are_kept() -> None:
    snapshots = random_path(9, 6)
    state = init(snapshots[:1], max_rank=4)
    for theta, loss in zip(snapshots, [5.0, 3.0, 2.0, 2.5, 2.0, 2.1, 7.0, math.nan, 9.0], strict=True):
        state = keep_best(collect(state._replace(theta=theta[None])), torch.tensor(loss))
    expected = path_of(snapshots[:5], max_rank=4)  # of two equal losses the one with more snapshots
    for name, value in state.best._asdict().items():
        torch.testing.assert_close(value, getattr(expected, name))


def test_a_path_that_overfits_is_cut() -> None:
    rng = torch.Generator().manual_seed(0)
    x, noise = torch.randn(200, 4, generator=rng), torch.randn(200, 1, generator=rng)
    y = x[:, :1] + 2 * noise
    overfit = problem_of(plain(), (x[:30], y[:30]), validation=(x[30:], y[30:]), likelihood=Gaussian(scale=0.5))
    assert fitted(overfit, SWAG(swag_learning_rate=1e-2, map_share=0.1), 800).diagnostics.values["num_snapshots"] < 40
    whole = problem_of(plain(), (x[:30], y[:30]), likelihood=Gaussian(scale=0.5))
    assert fitted(whole, SWAG(swag_learning_rate=1e-2, map_share=0.1), 800).diagnostics.values["num_snapshots"] == 40


def test_scale_and_temperature_multiply_the_covariance() -> None:
    data = regression_data()
    base = fitted(problem_of(plain(), data), SWAG(), 8)
    for method, temperature in [(SWAG(scale=0.25), 1.0), (SWAG(), 0.25)]:
        problem = problem_of(plain(), data).with_changes(temperature=temperature)
        posterior = fitted(problem, method, 8)
        torch.testing.assert_close(posterior.mean, base.mean)
        torch.testing.assert_close(posterior.covariance.variance(), 0.25 * base.covariance.variance())


@pytest.mark.parametrize("batch_size", [10, 60])
def test_mean_on_a_quadratic_is_the_conjugate_mean(batch_size: int) -> None:
    rng = torch.Generator().manual_seed(3)
    x = torch.randn(60, 3, generator=rng, dtype=torch.float64)
    y = x @ torch.tensor([1.0, -0.5, 0.2], dtype=torch.float64) + 0.3
    y = y + 0.5 * torch.randn(60, generator=rng, dtype=torch.float64)
    design = torch.cat([x, torch.ones(60, 1, dtype=torch.float64)], 1)
    precision = design.T @ design / 0.25 + torch.eye(4, dtype=torch.float64)
    mean = torch.linalg.solve(precision, design.T @ y / 0.25)
    problem = problem_of(nn.Linear(3, 1).double(), (x, y), likelihood=Gaussian(scale=0.5), prior=Normal(scale=1.0))
    method = SWAG(batch_size=batch_size, map_share=0.5, num_snapshots=200)
    posterior = fitted(problem, method, 3000 if batch_size == 60 else 150)
    assert isinstance(posterior, GaussianPosterior)
    # Adam at a constant rate wanders by about its rate about the mode; the average of 200 stays well within it.
    assert (posterior.mean - mean).abs().max() < method.swag_learning_rate
    assert posterior.mean.dtype == torch.float64


def test_statistics_belong_to_the_draw() -> None:
    data = regression_data()
    problem = problem_of(normalised(), data)
    posterior = fitted(problem, SWAG(num_samples=5, swag_learning_rate=2e-2), 12)
    assert isinstance(posterior, Draws)
    theta, buffers = posterior.kept
    assert theta.shape == (5, problem.num_parameters)
    means = buffers["1.running_mean"]
    assert all(not torch.equal(means[0], means[s]) for s in range(1, 5))
    for s in range(5):
        module = copy.deepcopy(normalised()).train()
        named = problem.network.layout.unflatten(problem.model.split(theta[s])[0])
        module.load_state_dict(named, strict=False)
        hidden = module[0](data[0])
        torch.testing.assert_close(means[s], hidden.mean(0))
        torch.testing.assert_close(buffers["1.running_var"][s], hidden.var(0))
        module[1].running_mean.copy_(hidden.mean(0).detach())
        module[1].running_var.copy_(hidden.var(0).detach())
        outputs = posterior.predict(data[0]).outputs[s]
        torch.testing.assert_close(outputs, module.eval()(data[0]).detach(), rtol=1e-4, atol=1e-5)


def test_pretrained_statistics_are_kept() -> None:
    module = normalised()
    module[1].running_mean.fill_(0.3)
    posterior = fitted(problem_of(module, regression_data(), pretrained=True), SWAG(), 4)
    assert isinstance(posterior, GaussianPosterior)
    assert torch.equal(posterior.buffers["1.running_mean"][0], torch.full((8,), 0.3))


def test_pretrained_starts_at_the_given_weights() -> None:
    module = plain()
    problem = problem_of(module, regression_data(), pretrained=True, likelihood=Gaussian(scale=1.0))
    # A rate too small to move a float32 leaves a constant path at the given weights.
    posterior = fitted(problem, SWAG(swag_learning_rate=1e-30), 4)
    assert torch.equal(posterior.mean, problem.initial())
    assert torch.equal(posterior.covariance.variance(), torch.zeros_like(posterior.mean))


def test_snapshots_are_as_many_as_asked() -> None:
    posterior = fitted(problem_of(plain(), regression_data()), SWAG(num_snapshots=13, max_rank=5), 20)
    assert posterior.diagnostics.values["num_snapshots"] == 13
    assert posterior.covariance.factors.shape[1] == 5


def test_few_draws_where_statistics_would_eat_the_budget() -> None:
    problem = problem_of(convolutional_net(), image_data())
    posterior = fitted(problem, SWAG(num_samples=30, batch_size=32), 12)
    assert len(posterior.kept.theta) == 9  # a quarter of 12 epochs, at a third of an epoch each
    assert "only 9 of num_samples=30" in posterior.diagnostics.warnings[0]
    assert posterior.cost.total <= 12 * problem.num_examples


def test_too_small_a_budget_says_so() -> None:
    with pytest.raises(BudgetError, match=r"allows 1 snapshots, but a covariance needs at least 2"):
        fitted(problem_of(plain(), regression_data()), SWAG(batch_size=200), 4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scale": 0}, "SWAG(scale=0): scale must be a positive number."),
        ({"max_rank": 1}, "SWAG(max_rank=1): max_rank must be at least 2, because (2) divides by K − 1."),
        ({"map_share": 1.0}, "SWAG(map_share=1.0): map_share must be between 0 and 1."),
        ({"num_snapshots": 1}, "SWAG(num_snapshots=1): num_snapshots must be at least 2."),
        ({"swag_learning_rate": -1}, "SWAG(swag_learning_rate=-1): swag_learning_rate must be a positive number."),
        ({"learning_rate": math.nan}, "SWAG(learning_rate=nan): learning_rate must be a positive number."),
    ],
)
def test_settings_are_checked(settings: dict[str, float], message: str) -> None:
    with pytest.raises(MethodError) as error:
        SWAG(**settings)
    assert str(error.value) == message


def test_a_budget_of_time_that_ends_anywhere_gives_a_gaussian_or_says_why_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that ticks whenever it is read: the time is over at every possible place of the path."""
    ticks = itertools.count()
    monkeypatch.setattr(Meter, "seconds", property(lambda _: float(next(ticks))))
    data = regression_data()
    found = []
    for seconds in range(1, 80):
        problem = problem_of(plain(), data, validation=data, pretrained=True)
        try:
            posterior = SWAG(batch_size=10).fit(problem, Run(problem.meter, limit=math.inf, seconds=float(seconds)))
        except BudgetError:
            found.append(False)
            continue
        assert isinstance(posterior, GaussianPosterior)
        assert bool(torch.isfinite(posterior.covariance.variance()).all())
        found.append(True)
    assert set(found) == {True, False}
