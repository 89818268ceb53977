import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_problems import critical_value, linear_posterior, linear_problem, normalised, problem_of, run_of
from torch import Tensor

from bayesify.covariance import Diagonal
from bayesify.engine.rng import generator
from bayesify.errors import MethodError
from bayesify.methods.mean_field_vi import MeanFieldVI
from bayesify.methods.variational import Sampled, antithetic
from bayesify.model.likelihoods import Gaussian
from bayesify.model.network import Mode
from bayesify.model.priors import Flat, Laplace, Normal
from bayesify.model.problem import Batch, Problem
from bayesify.posterior.draws import Draws
from bayesify.posterior.gaussian import Gaussian as GaussianPosterior

FULL = MeanFieldVI(learning_rate=0.01, num_samples=128, batch_size=200)
"""All data in a batch: what is left is the noise of the particles."""


def fitted(problem: Problem, method: MeanFieldVI = FULL, steps: int = 1200) -> GaussianPosterior:
    posterior = method.fit(problem, run_of(problem, steps * method.num_samples))
    assert isinstance(posterior, GaussianPosterior)
    return posterior


@pytest.mark.parametrize("temperature", [1.0, 0.3])
def test_linear_regression_gives_the_mean_field_optimum(temperature: float) -> None:
    problem = linear_problem(temperature)
    exact = linear_posterior(problem)
    posterior = fitted(problem)
    torch.testing.assert_close(posterior.mean, exact.mean, rtol=0.02, atol=0)
    expected = temperature / exact.precision.diagonal()
    torch.testing.assert_close(posterior.covariance.variance(), expected, rtol=0.02, atol=0)
    marginal = temperature * torch.linalg.inv(exact.precision).diagonal()
    assert float((expected / marginal).min()) < 0.75  # the control: it is not the marginals' variance


def test_minibatches_do_not_bias_it() -> None:
    problem = linear_problem()
    exact = linear_posterior(problem)
    posterior = fitted(problem, replace(FULL, batch_size=40, num_samples=16, learning_rate=5e-3), steps=2000)
    torch.testing.assert_close(posterior.mean, exact.mean, rtol=0.02, atol=0)
    torch.testing.assert_close(posterior.covariance.variance(), 1 / exact.precision.diagonal(), rtol=0.02, atol=0)


def objective(problem: Problem, method: MeanFieldVI, phi: Tensor, white: Tensor) -> Tensor:
    """(1) of the frame with fixed noise, by torch's own Gaussians: the KL divergence is a sum over parameters."""
    mean, log_scale = phi.chunk(2)
    theta = mean + log_scale.exp() * white
    fit = torch.stack(
        [
            torch.distributions.Normal(problem.data.inputs @ one, 0.5).log_prob(problem.data.targets.flatten()).sum()
            for one in theta
        ]
    ).mean()
    prior = torch.distributions.Normal(problem.prior.loc, problem.prior.scale)
    q = torch.distributions.Normal(mean, log_scale.exp())
    if problem.temperature == 1.0:
        return fit - torch.distributions.kl_divergence(q, prior).sum()
    cross = prior.log_prob(mean).sum() - 0.5 * (log_scale.exp() / problem.prior.scale).square().sum()
    return (fit + cross) / problem.temperature + q.entropy().sum()


@pytest.mark.parametrize("temperature", [1.0, 0.3])
def test_gradient_is_that_of_the_bound(temperature: float) -> None:
    problem = linear_problem(temperature)
    rng = generator("cpu", "gradient")
    phi = 0.3 * torch.randn(8, generator=rng, dtype=torch.float64) - 0.5
    white = torch.randn(6, 4, generator=rng, dtype=torch.float64)
    phi.requires_grad_()
    (expected,) = torch.autograd.grad(objective(problem, FULL, phi, white), phi)
    phi = phi.detach()
    deviation = FULL.covariance(phi).coloured(white)
    gradient, _ = problem.likelihood_gradient(phi[:4] + deviation, Batch(problem.data), Mode.TRAIN)
    sampled = Sampled(white, deviation, gradient / temperature)
    found = FULL.pull(phi, sampled) + FULL.inward(phi, problem.prior.gaussian(), temperature)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_reported_bound_is_the_evidence_where_the_posterior_is_of_that_form() -> None:
    x = torch.tensor([[2.0], [1.0], [-1.0]], dtype=torch.float64)  # one parameter: no correlations to ignore
    problem = linear_problem()
    data = problem.data._replace(inputs=torch.cat([x, torch.zeros(3, 3, dtype=torch.float64)], 1))
    problem = problem.with_changes(data=data._replace(targets=torch.tensor([1.0, 0.2, -0.9], dtype=torch.float64)))
    exact = linear_posterior(problem)
    phi = torch.cat([exact.mean, -0.5 * exact.precision.diagonal().log()])
    found = FULL.bound(problem, phi, 2**14, generator("cpu", "bound"))
    error = math.sqrt(0.5) * float(exact.precision[0, 0] - problem.prior.scale[0] ** -2) / float(exact.precision[0, 0])
    assert found == pytest.approx(exact.log_evidence, abs=critical_value() * error * math.sqrt(2 / 2**14))
    wider = FULL.bound(problem, phi + torch.tensor([0.0] * 4 + [0.5] * 4), 2**10, generator("cpu", "bound"))
    assert wider < exact.log_evidence - 0.5


def test_correlations_cost_evidence() -> None:
    problem = linear_problem()
    exact = linear_posterior(problem)
    run = run_of(problem, 1200 * 128)
    FULL.fit(problem, run)
    gap = 0.5 * float(exact.precision.diagonal().log().sum() - torch.logdet(exact.precision))  # KL(q ‖ p) at best
    assert gap > 0.1
    assert run.notes["elbo"] == pytest.approx(exact.log_evidence - gap, abs=1.5)  # 16 draws, 4 parameters


def test_priors_without_a_closed_form() -> None:
    """A Laplace prior so wide, and data so many, that the posterior is that of a flat one."""
    wide = fitted(linear_problem(prior=Laplace(scale=1e3)))
    flat = fitted(linear_problem(prior=Flat()))
    torch.testing.assert_close(wide.mean, flat.mean, rtol=0.01, atol=0)
    torch.testing.assert_close(wide.covariance.variance(), flat.covariance.variance(), rtol=0.02, atol=0)


def test_a_prior_alone_is_found_whatever_its_shape() -> None:
    # No information: q tends to the Gaussian closest to a Laplace density. With b = 1, E|θ| + log 2 − H(q) is least
    # at σ = √(π/2).
    problem = linear_problem(prior=Laplace(scale=1.0))
    problem = problem.with_changes(likelihood=Gaussian(scale=1e4))
    posterior = fitted(problem, steps=1500)
    expected = torch.full((4,), math.pi / 2, dtype=torch.float64)
    torch.testing.assert_close(posterior.covariance.variance(), expected, rtol=0.05, atol=0)


def test_pairs_cancel_what_is_odd() -> None:
    noise = antithetic(Diagonal(torch.ones(3)), 5, generator("cpu", "pairs"))
    assert noise.shape == (5, 3)
    assert torch.equal(noise[3:], -noise[:2])
    assert not torch.equal(noise[2], -noise[0])


def test_batch_normalisation_gets_statistics_per_draw() -> None:
    x = torch.randn(400, 4, generator=generator("cpu", 5))
    problem = problem_of(normalised(), (x, x[:, 0]))
    run = run_of(problem, 60)
    posterior = MeanFieldVI().fit(problem, run)
    assert isinstance(posterior, Draws)
    assert float(posterior.kept.buffers["1.running_mean"].std(0).min()) > 0
    assert "elbo" not in run.notes


def test_resumed_fit_equals_an_undisturbed_one(tmp_path: Path) -> None:
    method = MeanFieldVI(batch_size=50)
    undisturbed = method.fit(problem := linear_problem(), run_of(problem, 20))

    class KilledError(Exception):
        pass

    def kill(fraction: float) -> None:
        if fraction > 0.5:
            raise KilledError

    with pytest.raises(KilledError):
        method.fit(problem := linear_problem(), run_of(problem, 20, folder=tmp_path, progress=kill))
    resumed = method.fit(problem := linear_problem(), run_of(problem, 20, folder=tmp_path))
    for one, other in zip(undisturbed.tensors().values(), resumed.tensors().values(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("field", ["learning_rate", "num_samples", "initial_scale", "batch_size"])
def test_bad_settings_are_refused(field: str) -> None:
    with pytest.raises(MethodError, match=field):
        MeanFieldVI(**{field: 0})


@pytest.mark.parametrize(("prior", "scale"), [(0.2, 0.2), (100.0, math.sqrt(2 / 4))])
def test_start_is_narrow_whatever_the_prior(prior: float, scale: float) -> None:
    problem = linear_problem(prior=Normal(scale=prior))
    posterior = MeanFieldVI(learning_rate=1e-9, initial_scale=0.1).fit(problem, run_of(problem, 4))
    assert isinstance(posterior, GaussianPosterior)
    expected = torch.full((4,), (0.1 * scale) ** 2, dtype=torch.float64)
    torch.testing.assert_close(posterior.covariance.variance(), expected, rtol=1e-4, atol=0)
