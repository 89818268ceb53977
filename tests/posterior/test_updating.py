"""Posteriors conditioned on more data: the posterior of all of them where the model is linear and Gaussian."""

import itertools
from pathlib import Path

import pytest
import torch
from small_problems import regression_data
from torch import Tensor, nn

import bayesify as bay
from bayesify.errors import DataError, UnsupportedError
from bayesify.likelihoods import Gaussian
from bayesify.methods.laplace import Laplace
from bayesify.methods.tempered import Tempered
from bayesify.posterior import Linearised
from bayesify.posterior.base import Posterior
from bayesify.priors import Normal

N, D, NOISE, SCALE = 30, 3, 0.7, 1.3


def data() -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(4)
    x = torch.randn(N, D, generator=rng, dtype=torch.float64)
    return x, x @ torch.tensor([0.5, -1.0, 0.2]).double() + torch.randn(N, generator=rng, dtype=torch.float64)


def design(x: Tensor) -> Tensor:
    return torch.cat([x, torch.ones(len(x), 1, dtype=torch.float64)], dim=1)


def exact(x: Tensor, y: Tensor, temperature: float = 1.0) -> tuple[Tensor, Tensor, float]:
    phi = design(x)
    precision = phi.mT @ phi / NOISE**2 + torch.eye(D + 1, dtype=torch.float64) / SCALE**2
    mean = torch.linalg.solve(precision, phi.mT @ y / NOISE**2)
    whole = NOISE**2 * torch.eye(len(y), dtype=torch.float64) + SCALE**2 * phi @ phi.mT
    evidence = torch.distributions.MultivariateNormal(torch.zeros_like(y), whole).log_prob(y)
    return mean, temperature * torch.linalg.inv(precision), float(evidence)


def module(weights: Tensor) -> nn.Module:
    layer = nn.utils.skip_init(nn.Linear, D, 1, dtype=torch.float64)
    with torch.no_grad():
        layer.weight.copy_(weights[None, :D])
        layer.bias.copy_(weights[D:])
    return layer


def start(method: Laplace | Tempered, rows: slice) -> Posterior:
    x, y = data()
    return bay.fit(
        module(exact(x[rows], y[rows])[0]), (x[rows], y[rows]), likelihood=Gaussian(scale=NOISE),
        prior=Normal(scale=SCALE), method=method, pretrained=True, validation=None,
    )  # fmt: skip


def dense(posterior: Posterior) -> Tensor:
    assert isinstance(posterior, Linearised)
    return posterior.covariance.project(torch.eye(D + 1, dtype=torch.float64))


def mean_of(posterior: Posterior) -> Tensor:
    assert isinstance(posterior, Linearised)
    return posterior.mean if posterior.shift is None else posterior.mean + posterior.shift


@pytest.mark.parametrize("structure", ["full", "low_rank"])
@pytest.mark.parametrize("parts", [[12, 30], [1, 5, 6, 30]])
@pytest.mark.parametrize("temperature", [1.0, 0.3])
def test_any_division_of_the_data_gives_the_posterior_of_all(
    structure: str, parts: list[int], temperature: float
) -> None:
    x, y = data()
    posterior = start(Tempered(Laplace(structure, "fixed"), temperature), slice(0, parts[0]))
    before = mean_of(posterior).clone()
    first = posterior
    for low, high in itertools.pairwise(parts):
        posterior = posterior.update((x[low:high], y[low:high]))
    mean, covariance, evidence = exact(x, y, temperature)
    torch.testing.assert_close(mean_of(posterior), mean, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(dense(posterior), covariance, rtol=1e-6, atol=1e-8)
    assert torch.equal(mean_of(first), before)
    if temperature == 1.0:
        assert posterior.log_marginal_likelihood == pytest.approx(evidence, abs=1e-6)
    else:
        with pytest.raises(UnsupportedError):
            _ = posterior.log_marginal_likelihood


def test_kron_is_exact_for_the_same_inputs_again() -> None:
    """Its axes stay: new data with the same input moments are taken up exactly."""
    x, y = data()
    once = start(Laplace("kron", "fixed"), slice(None))
    twice = once.update((x, y.flip(0)))
    mean, covariance, evidence = exact(torch.cat([x, x]), torch.cat([y, y.flip(0)]))
    torch.testing.assert_close(mean_of(twice), mean, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(dense(twice), covariance, rtol=1e-6, atol=1e-8)
    assert twice.log_marginal_likelihood == pytest.approx(evidence, abs=1e-6)


def test_diag_adds_the_diagonals() -> None:
    x, y = data()
    posterior = start(Laplace("diag", "fixed"), slice(0, 10)).update((x[10:], y[10:]))
    expected = 1 / (design(x).square().sum(0) / NOISE**2 + 1 / SCALE**2)
    torch.testing.assert_close(dense(posterior), expected.diag(), rtol=1e-9, atol=1e-12)


def network(num_outputs: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, num_outputs)).double()


def jacobian(posterior: Linearised, x: Tensor) -> Tensor:
    return torch.cat([part.jacobian for part in posterior._jacobian.chunks(posterior.mean, {}, x, 1)])[:, 0]


@pytest.mark.parametrize("structure", ["full", "low_rank"])
def test_linearised_functions_are_updated_exactly(structure: str, tmp_path: Path) -> None:
    """In a network too: they are linear in the parameters, so that the Gaussian is conjugate."""
    x, y = (value.double() for value in regression_data(60))
    posterior = bay.fit(
        network(1), (x[:20], y[:20]), method=Laplace(structure, "fixed"), likelihood=Gaussian(scale=NOISE),
        pretrained=True, validation=None,
    )  # fmt: skip
    assert isinstance(posterior, Linearised)
    posterior_of_all = posterior.update((x[20:30], y[20:30])).update((x[30:50], y[30:50]))
    rows = jacobian(posterior, x)
    prior = posterior.covariance.project(torch.eye(rows.shape[1], dtype=torch.float64))
    new, test = rows[20:50], rows[50:]
    gain = prior @ new.mT @ torch.linalg.inv(new @ prior @ new.mT + NOISE**2 * torch.eye(30, dtype=torch.float64))
    mean = posterior.predict(x[50:]).mean + test @ gain @ (y[20:50] - posterior.predict(x[20:50]).mean)
    variance = (test @ (prior - gain @ new @ prior) @ test.mT).diagonal()
    predictive = posterior_of_all.predict(x[50:])
    torch.testing.assert_close(predictive.mean, mean, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(predictive.epistemic, variance, rtol=1e-6, atol=1e-7)
    gained = posterior_of_all.log_marginal_likelihood - posterior.log_marginal_likelihood
    joint = posterior.predict(x[20:50]).joint_log_prob(y[20:50])
    assert gained == pytest.approx(float(joint), abs=1e-5)
    draws = posterior_of_all.functions(x[50:], 3000).outputs[:, :, 0]
    assert bool(((draws.mean(0) - mean).abs() < 5 * (variance / 3000).sqrt()).all())
    posterior_of_all.save(tmp_path / "net.bayes")
    again = bay.load(tmp_path / "net.bayes", network(1))
    torch.testing.assert_close(again.predict(x[50:]).mean, predictive.mean)
    torch.testing.assert_close(again.draw(1)(x[50:]), posterior_of_all.draw(1)(x[50:]))


@pytest.mark.parametrize("structure", ["kron", "ekfac", "diag", "full", "low_rank"])
@pytest.mark.parametrize("likelihood", ["gaussian", "categorical"])
def test_a_network_learns_from_more_data(structure: str, likelihood: str) -> None:
    x, y = regression_data(400)
    x, targets = x.double(), y.double() if likelihood == "gaussian" else (y > 0).long()
    old, new, test = slice(0, 40), slice(40, 300), slice(300, 400)
    chosen = Gaussian(scale=0.3) if likelihood == "gaussian" else likelihood  # the noise is not updated
    posterior = bay.fit(
        network(1 if likelihood == "gaussian" else 2), (x[old], targets[old]), method=Laplace(structure, "fixed"),
        likelihood=chosen, budget=bay.Budget(epochs=100), validation=None,
    )  # fmt: skip
    updated = posterior.update((x[new], targets[new]))
    before, after = (p.predict(x[test]).log_prob(targets[test]).mean() for p in (posterior, updated))
    assert float(after) > float(before)
    covariances = (p.covariance.variance() for p in (posterior, updated))  # type: ignore[attr-defined]
    wide, narrow = covariances
    assert bool((narrow <= wide * (1 + 1e-9)).all())


def test_what_cannot_be_updated_says_so() -> None:
    x, y = regression_data(40)
    net = nn.Linear(4, 1)
    options = {"budget": bay.Budget(epochs=30), "validation": None}
    for method in ("swag", "laplace(linearised=False)"):
        with pytest.raises(UnsupportedError, match="cannot be updated: call fit on the old and new data"):
            bay.fit(net, (x, y), method=method, **options).update((x, y))  # type: ignore[arg-type]
    with pytest.raises(DataError):
        bay.fit(net, (x, y), method="laplace", **options).update((x, y[:3]))  # type: ignore[arg-type]
