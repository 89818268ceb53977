import math

import pytest
import torch
from small_problems import NOISE, PRIOR_SCALE, linear_posterior, linear_problem, run_of
from torch import Tensor, nn

from bayesify.covariance import LowRank
from bayesify.data import Data
from bayesify.engine.rng import generator
from bayesify.errors import MethodError
from bayesify.methods.low_rank_vi import LowRankVI
from bayesify.methods.mean_field_vi import MeanFieldVI
from bayesify.methods.variational import Sampled
from bayesify.model.likelihoods import Gaussian
from bayesify.model.network import Mode, Network
from bayesify.model.priors import Laplace, Normal
from bayesify.model.problem import Batch, Problem
from bayesify.posterior.gaussian import Gaussian as GaussianPosterior

RANK, SIZE = 2, 8


def low_rank_problem(temperature: float = 1.0) -> Problem:
    """Linear regression whose posterior covariance is a multiple of I plus RANK directions, of unequal length.

    The data know P − RANK directions equally well, and the others not at all: there the prior stays.
    """
    rng = generator("cpu", "low rank")
    basis = torch.linalg.qr(torch.randn(SIZE, SIZE, generator=rng, dtype=torch.float64))[0]
    lengths = torch.tensor([8.0] * (SIZE - RANK) + [1.0, 0.0], dtype=torch.float64)
    x = NOISE * lengths[:, None] * basis.mT
    y = x @ torch.randn(SIZE, generator=rng, dtype=torch.float64)
    network = Network(nn.Linear(SIZE, 1, bias=False).double())
    return Problem(network, Gaussian(scale=NOISE), Normal(scale=PRIOR_SCALE), Data(x, y), temperature=temperature)


def covariance_of(posterior: object) -> Tensor:
    assert isinstance(posterior, GaussianPosterior)
    assert isinstance(posterior.covariance, LowRank)
    return posterior.covariance.diagonal.diag() + posterior.covariance.factors @ posterior.covariance.factors.mT


@pytest.mark.parametrize("temperature", [1.0, 0.3])
def test_it_is_exact_where_the_posterior_is_of_its_form(temperature: float) -> None:
    problem = low_rank_problem(temperature)
    precision = problem.data.inputs.mT @ problem.data.inputs / NOISE**2 + torch.eye(SIZE) / PRIOR_SCALE**2
    exact = temperature * torch.linalg.inv(precision)
    mean = torch.linalg.solve(precision, problem.data.inputs.mT @ problem.data.targets.flatten() / NOISE**2)
    method = LowRankVI(learning_rate=0.02, num_samples=128, batch_size=SIZE, rank=RANK)
    posterior = method.fit(problem, run_of(problem, 2000 * 128))
    root = torch.linalg.cholesky(exact)
    found = torch.linalg.solve(root, torch.linalg.solve(root, covariance_of(posterior)).mT)  # I in its own units
    assert float((found - torch.eye(SIZE)).abs().max()) < 0.03
    assert float(torch.linalg.solve(root, posterior.tensors()["mean"] - mean).abs().max()) < 0.03
    correlations = exact / exact.diagonal().sqrt() / exact.diagonal().sqrt()[:, None] - torch.eye(SIZE)
    assert float(correlations.abs().max()) > 0.4  # the control: mean-field would be far off


def test_every_gradient_is_that_of_the_bound() -> None:
    problem, temperature = linear_problem(0.3), 0.3
    method = LowRankVI(rank=3)
    rng = generator("cpu", "gradient")
    phi = 0.3 * torch.randn(4 * 5, generator=rng, dtype=torch.float64)
    white = torch.randn(6, 4 + 3, generator=rng, dtype=torch.float64)

    def objective(phi: Tensor) -> Tensor:
        parts = method.parts(phi)
        factors = parts.log_scale.exp()[:, None] * parts.factors
        theta = parts.mean + parts.log_scale.exp() * white[:, :4] + white[:, 4:] @ factors.mT
        noise = torch.distributions.Normal(theta @ problem.data.inputs.mT, NOISE)
        fit = noise.log_prob(problem.data.targets.flatten()).sum(1).mean()
        covariance = (2 * parts.log_scale).exp().diag() + factors @ factors.mT
        q = torch.distributions.MultivariateNormal(parts.mean, covariance)
        cross = problem.prior.log_density(parts.mean) - 0.5 * covariance.trace() / PRIOR_SCALE**2
        return (fit + cross) / temperature + q.entropy()

    (expected,) = torch.autograd.grad(objective(own := phi.clone().requires_grad_()), own)
    deviation = method.covariance(phi).coloured(white)
    gradient, _ = problem.likelihood_gradient(phi[:4] + deviation, Batch(problem.data), Mode.TRAIN)
    found = method.pull(phi, Sampled(white, deviation, gradient / temperature))
    found = found + method.inward(phi, problem.prior.gaussian(), temperature)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_bound_is_tighter_than_mean_field_by_what_correlations_cost() -> None:
    problem = linear_problem()
    exact = linear_posterior(problem)
    found = {}
    for kind in (MeanFieldVI, LowRankVI):
        method = kind(learning_rate=0.02, num_samples=64, batch_size=200)
        posterior = method.fit(problem, run_of(problem, 64 * 1000))
        phi = torch.cat([posterior.mean, 0.5 * posterior.covariance.diagonal.log()])
        if isinstance(posterior.covariance, LowRank):
            scaled = posterior.covariance.factors / posterior.covariance.diagonal.sqrt()[:, None]
            phi = torch.cat([phi, scaled.flatten()])
        found[kind] = method.bound(problem, phi, 2**14, generator("cpu", "bound"))
    gap = 0.5 * float(exact.precision.diagonal().log().sum() - torch.logdet(exact.precision))
    assert found[MeanFieldVI] == pytest.approx(exact.log_evidence - gap, abs=0.05)
    assert found[LowRankVI] == pytest.approx(exact.log_evidence, abs=0.05)
    assert gap > 0.14


def test_other_priors_work() -> None:
    problem = linear_problem(prior=Laplace(scale=1.0)).with_changes(likelihood=Gaussian(scale=1e4))
    method = LowRankVI(learning_rate=0.02, num_samples=64, batch_size=200)
    found = covariance_of(method.fit(problem, run_of(problem, 64 * 1500)))
    expected = math.pi / 2 * torch.eye(4, dtype=torch.float64)
    assert float((found - expected).abs().max()) < 0.15


def test_bad_settings_are_refused() -> None:
    with pytest.raises(MethodError, match="rank"):
        LowRankVI(rank=0)
