"""The plane's posterior: against closed forms and numerical integration, and off the plane nothing."""

from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from safetensors import safe_open
from small_problems import fitted, normalised, plain, problem_of, regression_data, run_of
from targets import Target, _moments, correlated_gaussian, excess, mixture
from torch import Tensor, nn

import bayesify as bay
from bayesify.data import Data
from bayesify.engine.run import Run
from bayesify.errors import BudgetError, MethodError
from bayesify.methods import Multi
from bayesify.methods.pca_subspace import PCASubspace, directions
from bayesify.model.likelihoods import Gaussian
from bayesify.model.network import Network
from bayesify.model.priors import Laplace
from bayesify.model.problem import Problem
from bayesify.posterior.draws import Draws

EPOCHS = 800
CHAINS = 16


def method(rank: int, **settings: float) -> PCASubspace:
    return PCASubspace(rank=rank, num_chains=CHAINS, num_draws=400, path_share=0.1, **settings)  # type: ignore[arg-type]


def run_for(problem: Problem, epochs: float = EPOCHS) -> Run:
    return Run(problem.meter, limit=epochs * problem.num_examples * CHAINS)


def sampled(problem: Problem, own: PCASubspace) -> Tensor:
    posterior = own.fit(problem, run_for(problem))
    assert isinstance(posterior, Draws)
    return posterior.kept.theta.reshape(CHAINS, -1, problem.num_parameters)


class Line(NamedTuple):
    mean: Tensor
    span: Tensor


def path_of(problem: Problem, own: PCASubspace) -> Line:
    """The same path again, by the same random numbers."""
    found = own.path.follow(problem, run_for(problem).phase("path", own.path_share)).state
    return Line(found.best_mean.double(), directions(found.deviations, int(found.snapshots), own.rank))


def on_plane(target: Target, own: PCASubspace, temperature: float, likelihood_only: bool) -> Target:
    """The Gaussian that a Gaussian posterior is on the plane, in coordinates z of the path."""
    problem = target.problem
    path = path_of(problem, own)
    x, y = problem.data.inputs.double(), problem.data.targets.double()
    precision, pull = x.T @ x / 0.25, x.T @ y / 0.25
    if not likelihood_only:
        precision = precision + torch.eye(len(precision))
    inside = path.span.T @ precision @ path.span
    right = path.span.T @ (pull - precision @ path.mean)
    if likelihood_only:
        assert own.prior_scale is not None
        inside = inside + torch.eye(len(inside)) / own.prior_scale**2
    mean, root = torch.linalg.solve(inside, right), torch.linalg.cholesky(inside / temperature)
    flat = torch.linalg.pinv(path.span)

    def features(draws: Tensor) -> Tensor:
        z = (draws - path.mean) @ flat.T
        off = draws - path.mean - z @ path.span.T
        assert float(off.abs().max()) < 1e-4 * float((draws - path.mean).abs().max())
        return _moments((z - mean) @ root)

    return Target(problem, features)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("temperature", [1.0, 0.3])
def test_draws_are_of_the_posterior_on_the_plane(dtype: torch.dtype, temperature: float) -> None:
    """Five dimensions of twenty: 5 means and 15 products within Monte Carlo error, at a failure rate of 1e-5."""
    target, own = correlated_gaussian(dtype, temperature), method(5)
    assert excess(sampled(target.problem, own), on_plane(target, own, temperature, False)) < 1


@pytest.mark.parametrize("temperature", [1.0, 0.3])
def test_a_prior_of_its_own_is_on_the_plane_alone(temperature: float) -> None:
    target, own = correlated_gaussian(temperature=temperature), method(5, prior_scale=2.0)
    assert excess(sampled(target.problem, own), on_plane(target, own, temperature, True)) < 1


def test_the_check_refuses_a_wrong_temperature() -> None:
    target, own = correlated_gaussian(temperature=0.8), method(5)
    assert excess(sampled(target.problem, own), on_plane(target, own, 1.0, False)) > 1


@pytest.mark.parametrize("temperature", [1.0, 0.3])
def test_a_plane_that_is_everything_gives_the_posterior(temperature: float) -> None:
    for target, size in ((correlated_gaussian(temperature=temperature), 20), (mixture(temperature=temperature), 4)):
        assert excess(sampled(target.problem, method(size)), target) < 1


def test_priors_that_are_not_gaussian_are_exact_as_well() -> None:
    """Linear regression with a Laplace prior in two dimensions, integrated on a grid."""
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(12, 2, generator=rng, dtype=torch.float64)
    y = 0.4 * x[:, 0] + 0.7 * torch.randn(12, generator=rng, dtype=torch.float64)
    network = Network(nn.Linear(2, 1, bias=False).double())
    problem = Problem(network, Gaussian(scale=0.7), Laplace(scale=0.2), Data(x, y))
    axis = torch.linspace(-2, 2, 801, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    density = -0.5 * ((grid @ x.T - y) / 0.7).square().sum(1) - grid.abs().sum(1) / 0.2
    weight = (density - density.max()).exp()
    weight = weight / weight.sum()
    mean = weight @ grid
    second = weight @ (grid - mean).square()

    def features(draws: Tensor) -> Tensor:
        centred = draws - mean
        return torch.cat([centred, centred.square() - second], -1)

    assert excess(sampled(problem, method(2)), Target(problem, features)) < 1


def test_modes_are_mixed_and_saved(tmp_path: Path) -> None:
    data = regression_data()
    posterior = fitted(problem_of(plain(), data), Multi(PCASubspace(num_draws=5, num_chains=2), 3), 60)
    predictive = posterior.predict(data[0])
    assert predictive.num_draws <= 30
    kept = [len(part.kept.theta) for part in posterior.components]  # type: ignore[attr-defined]
    assert predictive.num_draws == 3 * min(kept)
    posterior.save(tmp_path / "net.bayes")
    with safe_open(tmp_path / "net.bayes", framework="pt") as file:
        assert sum("theta" in name for name in file.keys()) == 3  # noqa: SIM118 - not a mapping
    assert torch.equal(bay.load(tmp_path / "net.bayes", plain()).predict(data[0]).mean, predictive.mean)


def test_networks_with_normalisation_are_sampled() -> None:
    data = regression_data()
    posterior = fitted(problem_of(normalised(), data), PCASubspace(num_draws=5, num_chains=2), 60)
    assert bool(torch.isfinite(posterior.predict(data[0]).log_prob(data[1])).all())


def test_the_budget_is_kept_and_used() -> None:
    problem = problem_of(plain(), regression_data())
    run = run_of(problem, 100)
    PCASubspace().fit(problem, run)
    assert 0.97 * run.limit <= problem.meter.total <= run.limit
    assert run.notes["dimensions"] == 5
    assert len(run.notes["path_scale"]) == 5


def test_a_plane_has_no_more_dimensions_than_the_network() -> None:
    problem = problem_of(nn.Linear(2, 1, bias=False), regression_data(num_inputs=2), likelihood=Gaussian(scale=1.0))
    run = run_of(problem, 100)
    PCASubspace().fit(problem, run)
    assert run.notes["dimensions"] == 2
    assert "has not rank=5 but 2 dimensions" in run.notes["warnings"][0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rank": 0}, "rank must be a positive number"),
        ({"prior_scale": -1.0}, "prior_scale must be a positive number"),
        ({"path_share": 1.0}, "path_share must be between 0 and 1"),
        ({"num_snapshots": 1}, "num_snapshots must be at least 2"),
    ],
)
def test_settings_are_checked(settings: dict[str, float], message: str) -> None:
    with pytest.raises(MethodError, match=message):
        PCASubspace(**settings)  # type: ignore[arg-type]


def test_too_small_a_budget_is_said() -> None:
    problem = problem_of(plain(), regression_data())
    with pytest.raises(BudgetError, match="gradient evaluations after its path"):
        fitted(problem, PCASubspace(num_chains=50), 10)
