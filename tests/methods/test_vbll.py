"""VBLL: its objective against quadrature, its optimum against Bayesian linear regression, its posterior as given."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.stats import norm
from small_problems import fitted, plain, problem_of, regression_data
from torch import Tensor, nn

import bayesify as bay
from bayesify.errors import UnsupportedError
from bayesify.likelihoods import Categorical, Gaussian, HeteroscedasticGaussian, Likelihood, Poisson, StudentT
from bayesify.methods import VBLL
from bayesify.methods.vbll import Elbo, Expected, LogScale
from bayesify.model.problem import Batch, Problem
from bayesify.posterior import Linearised
from bayesify.priors import Laplace, Normal

F, N = 5, 40
SCALE, NOISE = 0.8, 0.4


def regression() -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(3)
    x = torch.randn(N, F, generator=rng, dtype=torch.float64)
    return x, x[:, 0] - 0.5 * x[:, 1] + NOISE * torch.randn(N, generator=rng, dtype=torch.float64)


def linear_problem(temperature: float = 1.0) -> tuple[Problem, Problem]:
    problem = problem_of(
        nn.Linear(F, 1).double(),
        regression(),
        likelihood=Gaussian(scale=NOISE),
        prior=Normal(scale=SCALE),
        validation=None,
    ).with_changes(temperature=temperature)
    return problem, VBLL()._changed(problem)


def exact(temperature: float) -> tuple[Tensor, Tensor]:
    """Mean and covariance of (weights, bias) in the tempered posterior."""
    x, y = regression()
    a = torch.cat([x, torch.ones(N, 1, dtype=torch.float64)], dim=1)
    precision = a.mT @ a / NOISE**2 + torch.eye(F + 1, dtype=torch.float64) / SCALE**2
    return torch.linalg.solve(precision, a.mT @ y / NOISE**2), temperature * torch.linalg.inv(precision)


@pytest.mark.parametrize("temperature", [1.0, 0.3])
def test_the_optimum_is_bayesian_linear_regression(temperature: float) -> None:
    """The gradient of (1) vanishes at the exact posterior, and nowhere near it."""
    problem, changed = linear_problem(temperature)
    mean, covariance = exact(temperature)
    root = torch.linalg.cholesky(covariance) / SCALE
    values = {
        "mean.weight": mean[None, :F],
        "mean.bias": mean[F:],
        "root": root.tril(-1)[None],
        "log_scale": root.diagonal().log()[None],
    }
    theta = changed.network.layout.flatten({name: value[None] for name, value in values.items()})
    found = changed.full_gradient(theta)
    torch.testing.assert_close(found.gradient, torch.zeros_like(theta), rtol=0, atol=1e-9)
    assert float(changed.full_gradient(1.01 * theta).gradient.abs().max()) > 0.1
    posterior = VBLL()._posterior(problem, changed, theta)
    assert isinstance(posterior, Linearised)
    torch.testing.assert_close(posterior.mean, mean)
    eye = torch.eye(F + 1, dtype=torch.float64)
    torch.testing.assert_close(posterior.covariance.project(eye), covariance)


def test_training_gets_there() -> None:
    problem, _ = linear_problem()
    posterior = fitted(problem, VBLL(batch_size=N, learning_rate=0.03), 2500)
    assert isinstance(posterior, Linearised)
    mean, covariance = exact(1.0)
    tests = torch.randn(20, F, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    a = torch.cat([tests, torch.ones(20, 1, dtype=torch.float64)], dim=1)
    predictive = posterior.predict(tests)
    torch.testing.assert_close(predictive.mean, a @ mean, rtol=0, atol=1e-4)
    torch.testing.assert_close(predictive.epistemic, (a @ covariance @ a.mT).diagonal(), rtol=1e-3, atol=0)


@pytest.mark.parametrize("base", [Gaussian(scale=0.4), StudentT(scale=0.5), Poisson()])
def test_expected_log_likelihoods_against_quadrature(base: Likelihood) -> None:
    mean, variance, target = 0.3, 0.2, 2.0

    def integrand(f: float) -> float:
        value = base.log_prob(torch.tensor([[f]], dtype=torch.float64), torch.tensor([target]).double(), torch.empty(0))
        return float(value) * float(norm.pdf(f, mean, math.sqrt(variance)))

    expected = quad(integrand, -6, 6, epsabs=1e-12)[0]
    outputs = torch.tensor([[mean, variance]], dtype=torch.float64)
    found = Expected(base).log_prob(outputs, torch.tensor([target]).double(), torch.empty(0))
    assert float(found) == pytest.approx(expected, abs=1e-6)


def test_the_bound_for_classes_is_below_the_expectation_and_tight_without_variance() -> None:
    rng = torch.Generator().manual_seed(0)
    mean, variance = torch.randn(50, 4, generator=rng).double(), torch.rand(50, 4, generator=rng).double()
    targets = torch.randint(4, (50,), generator=rng)
    draws = mean + variance.sqrt() * torch.randn(20_000, 50, 4, generator=rng).double()
    expected = draws.log_softmax(-1).gather(-1, targets.expand(20_000, -1)[..., None])[..., 0].mean(0)
    bound = Expected(Categorical()).log_prob(torch.cat([mean, variance], dim=-1), targets, torch.empty(0))
    assert bool((bound < expected).all())
    tight = Expected(Categorical()).log_prob(torch.cat([mean, 0 * variance], dim=-1), targets, torch.empty(0))
    torch.testing.assert_close(tight, mean.log_softmax(-1).gather(-1, targets[:, None])[:, 0])


def test_the_prior_is_minus_the_kl() -> None:
    """Against the closed form between two Gaussians; only a constant is left out."""
    _, changed = linear_problem()
    rng = torch.Generator().manual_seed(1)
    differences = []
    for _ in range(3):
        theta = 0.5 * torch.randn(1, changed.num_parameters, generator=rng, dtype=torch.float64)
        values = changed.network.layout.unflatten(theta[0])
        root = SCALE * (values["root"][0].tril(-1) + values["log_scale"][0].exp().diag())
        mean = torch.cat([values["mean.weight"][0], values["mean.bias"]])
        q = torch.distributions.MultivariateNormal(mean, scale_tril=root)
        p = torch.distributions.MultivariateNormal(torch.zeros(F + 1).double(), SCALE**2 * torch.eye(F + 1).double())
        kl = torch.distributions.kl_divergence(q, p)
        unused = -0.5 * values["root"].triu().square().sum()  # N(0, 1), and in nothing else
        differences.append(float(changed.prior.log_density(theta)[0] - unused + kl))
    assert np.ptp(differences) < 1e-9


def test_the_family_of_log_scales() -> None:
    family = LogScale(0.3)
    z = torch.linspace(-3, 1, 7, dtype=torch.float64, requires_grad=True)
    slope = torch.autograd.grad(family.standard_log_density(z).sum(), z)[0]
    torch.testing.assert_close(family.standard_score(z.detach()), slope)
    draws = family.standard_sample((100_000,), torch.Generator().manual_seed(0))
    # E s² = T for s = exp(r): a gamma of shape T/2, whose variance is T/2, doubled.
    assert float((2 * draws).exp().mean()) == pytest.approx(0.3, abs=4.5 * math.sqrt(2 * 0.3 / 100_000))


def test_minibatches_and_all_data_agree_on_average() -> None:
    _, changed = linear_problem()
    theta = 0.1 * torch.randn(1, changed.num_parameters, generator=torch.Generator().manual_seed(0)).double()
    parts = [changed.gradient(theta, Batch(chunk)).gradient for chunk in changed.data.chunks(N // 4)]
    torch.testing.assert_close(torch.stack(parts).mean(0), changed.full_gradient(theta).gradient)


def test_hidden_layers_are_trained_and_fixed() -> None:
    posterior = fitted(problem_of(plain(), regression_data()), VBLL(), 60)
    assert set(posterior.sample(2)) == {"2.weight", "2.bias", "likelihood"}
    x, y = regression_data()
    assert float((posterior.predict(x).mean - y).square().mean()) < 0.3 * float(y.var())


def test_what_it_cannot_do_it_says() -> None:
    with pytest.raises(UnsupportedError, match="no expected log likelihood for heteroscedastic"):
        Expected(HeteroscedasticGaussian())
    slot = problem_of(nn.Linear(2, 1), regression_data(num_inputs=2)).network.layout.slots[0]
    with pytest.raises(UnsupportedError, match="Gaussian prior on the last layer"):
        Elbo(Laplace(), "", 1.0).family_of(slot._replace(name="mean.weight"))
    assert bay.methods.VBLL().info.name == "vbll"
