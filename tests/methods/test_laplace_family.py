"""Laplace's structures, priors and predictives against conjugate and numerical answers."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from curvature_cases import problem_of
from scipy.optimize import minimize
from torch import Tensor, nn

import bayesify as bay
from bayesify.engine.run import Run
from bayesify.fitting import fit_problem, make_problem
from bayesify.likelihoods import Gaussian, HeteroscedasticGaussian
from bayesify.methods.laplace import Laplace
from bayesify.posterior import Linearised
from bayesify.priors import Normal

N, D, NOISE, SCALE = 40, 4, 0.6, 1.3


class Conjugate:
    """y = Φ θ + noise without a bias, θ_i ~ N(0, scale² / a_i): posterior and evidence."""

    def __init__(self, log_factors: Any = 0.0, noise: float = NOISE, rows: slice = slice(None)) -> None:
        rng = torch.Generator().manual_seed(8)
        design = torch.randn(N, D, generator=rng, dtype=torch.float64)
        weights = torch.tensor([1.0, -0.1, 0.4, 3.0], dtype=torch.float64)
        targets = design @ weights + 0.8 * torch.randn(N, generator=rng, dtype=torch.float64)
        self.design, self.targets = design[rows], targets[rows]
        factors = torch.as_tensor(log_factors, dtype=torch.float64).expand(D).exp()
        self.covariance = torch.linalg.inv(self.design.mT @ self.design / noise**2 + factors.diag() / SCALE**2)
        self.mean = self.covariance @ self.design.mT @ self.targets / noise**2
        whole = noise**2 * torch.eye(len(self.targets), dtype=torch.float64)
        whole = whole + SCALE**2 * (self.design / factors) @ self.design.mT
        zero = torch.zeros_like(self.targets)
        self.evidence = float(torch.distributions.MultivariateNormal(zero, whole).log_prob(self.targets))


class TwoLayers(nn.Module):
    """A linear model whose weights belong to two layers, two inputs each."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.first = nn.Linear(2, 1, bias=False, dtype=torch.float64)
        self.second = nn.Linear(2, 1, bias=False, dtype=torch.float64)
        with torch.no_grad():
            for layer in (self.first, self.second):
                layer.weight.fill_(0.3)

    def forward(self, x: Tensor) -> Tensor:
        first: Tensor = self.first(x[:, :2])
        return first + self.second(x[:, 2:])


def fit(method: Laplace, exact: Conjugate, module: nn.Module, likelihood: Any = None) -> Linearised:
    posterior = bay.fit(
        module, (exact.design, exact.targets), method=method, likelihood=likelihood or Gaussian(scale=NOISE),
        prior=Normal(scale=SCALE), pretrained=True, validation=None,
    )  # fmt: skip
    assert isinstance(posterior, Linearised)
    return posterior


def one_layer() -> nn.Module:
    layer = nn.utils.skip_init(nn.Linear, D, 1, bias=False, dtype=torch.float64)
    with torch.no_grad():
        layer.weight.fill_(0.3)
    return layer


def dense(posterior: Linearised) -> Tensor:
    return posterior.covariance.project(torch.eye(D, dtype=torch.float64))


# ---- structures ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("structure", ["low_rank", "ekfac", "full", "kron"])
def test_the_posterior_is_the_conjugate_one(structure: str) -> None:
    exact = Conjugate()
    module = one_layer()
    with torch.no_grad():
        module.weight.copy_(exact.mean[None])  # type: ignore[union-attr, operator]
    posterior = fit(Laplace(structure, "fixed"), exact, module)
    torch.testing.assert_close(posterior.mean, exact.mean)
    torch.testing.assert_close(dense(posterior), exact.covariance, rtol=1e-6, atol=1e-9)
    assert posterior.log_marginal_likelihood == pytest.approx(exact.evidence, abs=1e-6)


def test_low_rank_with_enough_rank_is_full() -> None:
    problem = problem_of("mlp")
    fits = [fit_problem(problem, Laplace(s), Run(problem.meter, limit=1e9)) for s in ("low_rank", "full")]
    low, full = fits
    assert isinstance(low, Linearised)
    assert isinstance(full, Linearised)
    units = torch.eye(problem.num_network_parameters, dtype=torch.float64)
    torch.testing.assert_close(low.covariance.project(units), full.covariance.project(units), rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(low.mean, full.mean)
    assert low.log_marginal_likelihood == pytest.approx(full.log_marginal_likelihood, abs=1e-6)
    torch.testing.assert_close(low.covariance.variance(), full.covariance.variance(), rtol=1e-5, atol=1e-7)


def test_less_rank_is_wider() -> None:
    problem = problem_of("mlp")
    low, full = (
        fit_problem(problem, Laplace(s, "fixed", rank=2), Run(problem.meter, limit=1e9)) for s in ("low_rank", "full")
    )
    units = torch.eye(problem.num_network_parameters, dtype=torch.float64)
    difference = low.covariance.project(units) - full.covariance.project(units)  # type: ignore[attr-defined]
    assert float(torch.linalg.eigvalsh(difference).min()) > -1e-10
    assert float(difference.trace()) > 0.01


def test_samples_of_a_low_rank_have_its_covariance() -> None:
    problem = problem_of("mlp")
    posterior = fit_problem(problem, Laplace("low_rank", "fixed", rank=3), Run(problem.meter, limit=1e9))
    assert isinstance(posterior, Linearised)
    size = problem.num_network_parameters
    root = posterior.covariance.coloured(torch.eye(size, dtype=torch.float64))  # the noise's unit vectors
    torch.testing.assert_close(root.mT @ root, posterior.covariance.project(torch.eye(size, dtype=torch.float64)))


@pytest.mark.parametrize("structure", ["kron", "ekfac", "diag", "low_rank", "full"])
@pytest.mark.parametrize("curvature", ["mc_fisher", "empirical_fisher"])
def test_every_curvature_in_every_structure(structure: str, curvature: str, tmp_path: Path) -> None:
    problem = problem_of("mlp", "gaussian")
    method = Laplace(structure, "layerwise", curvature=curvature, fisher_samples=3)
    posterior = fit_problem(problem, method, Run(problem.meter, limit=1e9))
    inputs, targets = problem.data
    predictive = posterior.predict(inputs)
    assert bool(torch.isfinite(predictive.log_prob(targets)).all())
    posterior.save(tmp_path / "net.bayes")
    again = bay.load(tmp_path / "net.bayes", problem.network.module)
    torch.testing.assert_close(again.predict(inputs).log_prob(targets), predictive.log_prob(targets))


# ---- priors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "structure", "groups"),
    [
        ("layerwise", "full", [0, 0, 1, 1]),
        ("layerwise", "low_rank", [0, 0, 1, 1]),
        ("diagonal", "full", [0, 1, 2, 3]),
        ("diagonal", "low_rank", [0, 1, 2, 3]),
    ],
)
@pytest.mark.parametrize("learned", [True, False])
def test_every_precision_is_the_best_and_the_posterior_that_under_it(
    how: str, structure: str, groups: list[int], learned: bool
) -> None:
    size = max(groups) + 1

    def at(x: Any) -> Conjugate:
        logs = torch.as_tensor(x[:size], dtype=torch.float64).clamp(-14, 14)
        return Conjugate(logs[groups], math.exp(x[size]) if learned else NOISE)

    start = [0.0] * size + [math.log(NOISE)] * learned
    options = {"xatol": 1e-8, "fatol": 1e-11, "maxiter": 20000, "maxfev": 20000, "adaptive": True}
    best = minimize(lambda x: -at(x).evidence, start, method="Nelder-Mead", options=options)
    posterior = fit(Laplace(structure, how), at(start), TwoLayers(), Gaussian() if learned else None)
    values, exact = posterior.diagnostics.values, at(best.x)
    assert values["mode_moved"]
    assert posterior.log_marginal_likelihood == pytest.approx(exact.evidence, abs=1e-6)
    torch.testing.assert_close(posterior.mean[:D], exact.mean, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(dense(posterior), exact.covariance, rtol=1e-2, atol=1e-5)
    if how == "layerwise":
        found = values["prior_precision_factor"]
        assert list(found) == ["first", "second"]
        assert [math.log(found[name]) for name in found] == pytest.approx(best.x[:2].tolist(), abs=1e-3)
    one = fit(Laplace("full"), at(start), TwoLayers(), Gaussian() if learned else None)
    assert posterior.log_marginal_likelihood > one.log_marginal_likelihood + 0.1  # than with one factor for all


@pytest.mark.parametrize("structure", ["kron", "ekfac", "diag"])
def test_layerwise_is_the_best_of_its_own_quadratic(structure: str) -> None:
    """No scaled prior has a higher evidence, and refitting with the chosen one finds nothing to change."""
    problem = problem_of("mlp")
    whole = fit_problem(problem, Laplace(structure, "layerwise"), Run(problem.meter, limit=1e9))
    one = fit_problem(problem, Laplace(structure, "evidence"), Run(problem.meter, limit=1e9))
    factors = whole.diagnostics.values["prior_precision_factor"]
    assert set(factors) == {"0", "2"}
    if whole.diagnostics.values["mode_moved"] == one.diagnostics.values["mode_moved"]:
        assert whole.log_marginal_likelihood >= one.log_marginal_likelihood - 1e-9


# ---- evidence during training ----------------------------------------------------------------------------------------


def online_data() -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(2)
    x = torch.randn(120, 3, generator=rng)
    return x, torch.sin(x[:, 0]) + 0.2 * torch.randn(120, generator=rng)


@pytest.mark.parametrize("how", ["evidence", "layerwise"])
def test_evidence_during_training_follows_its_plan(how: str) -> None:
    module = nn.Sequential(nn.Linear(3, 10), nn.Tanh(), nn.Linear(10, 1))
    method = Laplace(prior_precision=how, evidence_epochs=10, batch_size=32)
    posterior = bay.fit(module, online_data(), method=method, budget=bay.Budget(epochs=80), validation=None)
    path = posterior.diagnostics.values["evidence_path"]
    assert [entry["epochs"] for entry in path] == [10.0 * (i + 1) for i in range(len(path))]
    assert len(path) >= 4
    assert posterior.cost.total <= 80 * 120 * (1 + 1e-6)
    assert posterior.cost.total >= 0.97 * 80 * 120
    assert path[-1]["log_evidence"] > path[0]["log_evidence"] + 10
    assert all(set(entry["prior_precision_factor"]) == {"0.weight", "0.bias", "2.weight", "2.bias"} for entry in path)
    last = path[-1]["prior_precision_factor"]
    assert last["0.weight"] == pytest.approx(last["0.bias"], rel=1e-4)
    assert (last["0.weight"] == pytest.approx(last["2.weight"], rel=1e-4)) == (how == "evidence")


def test_a_linear_model_trained_online_ends_at_its_best_evidence() -> None:
    """Whatever happens on the way, the result is the maximum of the closed form."""
    best = minimize(
        lambda x: -Conjugate(x[0], math.exp(x[1])).evidence, [0.0, math.log(NOISE)], method="Nelder-Mead",
        options={"xatol": 1e-9, "fatol": 1e-13},
    )  # fmt: skip
    exact = Conjugate()
    posterior = bay.fit(
        one_layer(), (exact.design, exact.targets), likelihood="gaussian", prior=Normal(scale=SCALE), validation=None,
        method=Laplace("full", evidence_epochs=20, learning_rate=0.05), budget=bay.Budget(epochs=200),
    )  # fmt: skip
    assert posterior.log_marginal_likelihood == pytest.approx(-best.fun, abs=1e-5)
    path = posterior.diagnostics.values["evidence_path"]
    factor = path[-1]["prior_precision_factor"]["weight"] * posterior.diagnostics.values["prior_precision_factor"]
    assert math.log(factor) == pytest.approx(float(best.x[0]), abs=1e-3)


def test_a_stopped_fit_goes_on_to_the_same_result(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
    method = Laplace(evidence_epochs=10, batch_size=32)

    def again() -> Linearised:
        posterior = bay.fit(
            module, online_data(), method=method, budget=bay.Budget(epochs=40), validation=None, checkpoint=tmp_path
        )
        assert isinstance(posterior, Linearised)
        return posterior

    whole = again()
    (tmp_path / "fit--map.safetensors").unlink()  # as if stopped before the last part
    resumed = again()
    assert torch.equal(resumed.mean, whole.mean)
    assert resumed.diagnostics.values["evidence_path"] == whole.diagnostics.values["evidence_path"]
    assert len(whole.diagnostics.values["evidence_path"]) >= 2
    assert resumed.cost.total == whole.cost.total


def test_a_small_budget_has_no_place_for_it() -> None:
    module = nn.Linear(3, 1)
    method = Laplace(evidence_epochs=10, batch_size=32)
    posterior = bay.fit(module, online_data(), method=method, budget=bay.Budget(epochs=12), validation=None)
    assert posterior.diagnostics.values["evidence_path"] == []


# ---- predictions of classes ------------------------------------------------------------------------------------------


def classified(likelihood: str, num_outputs: int) -> tuple[Linearised, Tensor, Tensor]:
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(40, 2, generator=rng, dtype=torch.float64)
    y = (x[:, 0] + 0.5 * torch.randn(40, generator=rng, dtype=torch.float64) > 0).long()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        module = nn.Sequential(nn.Linear(2, 6), nn.Tanh(), nn.Linear(6, num_outputs)).double()
    with torch.no_grad():
        module[2].weight.mul_(6)  # type: ignore[operator, union-attr]
    problem = make_problem(module, (x, y), likelihood=likelihood, pretrained=True, validation=None)
    method = Laplace("kron", "fixed", predictive="probit")
    posterior = fit_problem(problem, method, Run(problem.meter, limit=1e9))
    assert isinstance(posterior, Linearised)
    return posterior, x, y


@pytest.mark.parametrize(("likelihood", "num_outputs"), [("bernoulli", 1), ("categorical", 2)])
def test_probit_is_its_formula_and_near_the_integral(likelihood: str, num_outputs: int) -> None:
    posterior, x, _ = classified(likelihood, num_outputs)
    rows = torch.cat([part.jacobian for part in posterior._jacobian.chunks(posterior.mean, {}, x, num_outputs)])
    means = posterior.model.outputs(posterior.mean[None], x, {})[0]
    contrast = torch.ones(1, dtype=torch.float64) if num_outputs == 1 else torch.tensor([-1.0, 1.0]).double()
    odds = means @ contrast
    variance = posterior.covariance.project(torch.einsum("bcp,c->bp", rows, contrast)[:, None])[:, 0, 0]
    found = posterior.predict(x).probs[:, 1]
    torch.testing.assert_close(found, torch.sigmoid(odds / (1 + math.pi / 8 * variance).sqrt()))
    z = torch.linspace(-8, 8, 4001, dtype=torch.float64)
    density = torch.exp(-0.5 * z.square()) / math.sqrt(2 * math.pi)
    integral = torch.trapezoid(torch.sigmoid(odds[:, None] + variance.sqrt()[:, None] * z) * density, z)
    assert float((found - integral).abs().max()) < 0.02
    assert float((torch.sigmoid(odds) - integral).abs().max()) > 0.03  # the plug-in is not near
    assert float(variance.max()) > 1


def test_probit_of_many_classes_is_near_what_is_sampled(tmp_path: Path) -> None:
    posterior, x, y = classified("categorical", 4)
    predictive = posterior.predict(x)
    sampled = Linearised(posterior.model, posterior.mean, posterior.covariance, posterior.buffers).predict(x, 4000)
    assert float((predictive.probs - sampled.probs).abs().max()) < 0.06
    torch.testing.assert_close(predictive.probs.sum(1), torch.ones(len(x), dtype=torch.float64))
    # What needs whole functions has them: dependence between examples, and what more data would remove.
    assert bool((predictive.epistemic > 1e-3).all())
    joint = posterior.predict(x, 500).joint_log_prob(y)
    assert float(joint) != pytest.approx(float(predictive.log_prob(y).sum()), abs=0.1)
    posterior.save(tmp_path / "net.bayes")
    again = bay.load(tmp_path / "net.bayes", posterior.model.network.module).predict(x)
    torch.testing.assert_close(again.probs, predictive.probs)


# ---- heteroscedastic noise -------------------------------------------------------------------------------------------


class Constant(nn.Module):
    """f₁ and f₂ are parameters."""

    def __init__(self, mean: float, raw: float) -> None:
        nn.Module.__init__(self)
        self.bias = nn.Parameter(torch.tensor([mean, raw], dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return self.bias.expand(len(x), 2)


@pytest.mark.parametrize("structure", ["full", "kron", "diag", "low_rank"])
def test_heteroscedastic_noise(structure: str) -> None:
    """Two parameters: the information of mean and raw scale by hand, and the predictive by a grid."""
    rng = torch.Generator().manual_seed(0)
    x, y = torch.zeros(12, 1, dtype=torch.float64), 0.5 + torch.randn(12, generator=rng, dtype=torch.float64)
    mean, raw = 0.4, 0.8
    posterior = bay.fit(
        Constant(mean, raw), (x, y), likelihood=HeteroscedasticGaussian(), prior=Normal(scale=2.0), pretrained=True,
        method=Laplace(structure, "fixed", num_samples=20_000), validation=None,
    )  # fmt: skip
    assert isinstance(posterior, Linearised)
    scale, slope = math.log1p(math.exp(raw)) + 1e-4, 1 / (1 + math.exp(-raw))
    precision = [12 / scale**2 + 0.25, 24 * (slope / scale) ** 2 + 0.25]
    variance = 1 / torch.tensor(precision, dtype=torch.float64)
    torch.testing.assert_close(posterior.covariance.variance(), variance, rtol=1e-6, atol=0)
    # The mean integrates in closed form, the raw scale on a grid.
    z = torch.linspace(-8, 8, 2001, dtype=torch.float64)
    scales = nn.functional.softplus(raw + variance[1].sqrt() * z) + 1e-4
    tests = torch.tensor([-2.0, 0.0, 0.5, 3.0], dtype=torch.float64)
    total = (scales.square() + variance[0]).sqrt()
    weight = torch.exp(-0.5 * z.square()) / math.sqrt(2 * math.pi)
    exact = torch.trapezoid(torch.distributions.Normal(mean, total).log_prob(tests[:, None]).exp() * weight, z)
    predictive = posterior.predict(torch.zeros(4, 1, dtype=torch.float64))
    spread = predictive.draw_log_prob(tests).exp().std(0) / 20_000**0.5
    assert bool(((predictive.log_prob(tests).exp() - exact).abs() < 5 * spread).all())
    assert predictive.epistemic == pytest.approx(float(variance[0]), rel=0.05)
