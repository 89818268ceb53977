"""Laplace: exact where it must be, honest about its cost, and running on every kind of network."""

import math
from typing import Any

import pytest
import torch
from curvature_cases import NAMES, Parts, module_and_inputs, problem_of
from scipy.optimize import minimize
from torch import Tensor, nn
from torch.distributions import MultivariateNormal

import bayesify as bay
from bayesify.curvature.layers import CHECK_COST
from bayesify.engine.budget import FORWARD_COST
from bayesify.engine.run import Run
from bayesify.errors import BudgetError, MethodError, UnsupportedError
from bayesify.fitting import fit_problem, make_problem
from bayesify.likelihoods import Gaussian, Loss
from bayesify.methods.base import describe
from bayesify.methods.laplace import Laplace
from bayesify.methods.registry import get_method
from bayesify.methods.tempered import Tempered
from bayesify.model.problem import Problem
from bayesify.posterior import Gaussian as GaussianPosterior
from bayesify.posterior import Linearised
from bayesify.posterior.base import Posterior
from bayesify.priors import Flat, Normal, StudentT

STRUCTURES = ("kron", "diag", "full")
NOISE, SCALE, N, D = 0.7, 1.3, 30, 3


# ---- Bayesian linear regression --------------------------------------------------------------------------------------


class Conjugate:
    """The exact posterior of y = Φ θ + noise, θ ~ N(0, scale²)."""

    def __init__(self, scale: float = SCALE, noise: float = NOISE) -> None:
        rng = torch.Generator().manual_seed(4)
        self.inputs = torch.randn(N, D, generator=rng, dtype=torch.float64) @ torch.tensor(
            [[1.0, 0.9, 0.0], [0.0, 0.5, 0.4], [0.0, 0.0, 2.0]], dtype=torch.float64
        )
        self.tests = 3 * torch.randn(6, D, generator=rng, dtype=torch.float64)
        self.design, self.test_design = (
            torch.cat([x, torch.ones(len(x), 1, dtype=torch.float64)], dim=1) for x in (self.inputs, self.tests)
        )
        weights = torch.tensor([0.5, -1.0, 0.2, 0.7], dtype=torch.float64)
        self.targets = self.design @ weights + 0.5 * torch.randn(N, generator=rng, dtype=torch.float64)
        self.test_targets = self.test_design @ weights + 0.5 * torch.randn(6, generator=rng, dtype=torch.float64)
        self.noise, self.scale = noise, scale
        self.precision = self.design.mT @ self.design / noise**2 + torch.eye(D + 1, dtype=torch.float64) / scale**2
        self.covariance = torch.linalg.inv(self.precision)
        self.mean = self.covariance @ self.design.mT @ self.targets / noise**2

    def module(self, weights: Tensor | None = None) -> nn.Module:
        layer = nn.utils.skip_init(nn.Linear, D, 1, dtype=torch.float64)
        values = self.mean if weights is None else weights
        with torch.no_grad():
            layer.weight.copy_(values[:D])
            layer.bias.copy_(values[D:])
        return layer

    def evidence(self) -> float:
        whole = self.noise**2 * torch.eye(N, dtype=torch.float64) + self.scale**2 * self.design @ self.design.mT
        return float(MultivariateNormal(torch.zeros_like(self.targets), whole).log_prob(self.targets))


def fit_linear(method: Laplace | Tempered, exact: Conjugate, module: nn.Module, likelihood: Any = None) -> Posterior:
    return bay.fit(
        module,
        (exact.inputs, exact.targets),
        method=method,
        likelihood=likelihood or Gaussian(scale=NOISE),
        prior=Normal(scale=SCALE),
        pretrained=True,
        validation=None,
    )


def dense(posterior: Posterior) -> Tensor:
    assert isinstance(posterior, (Linearised, GaussianPosterior))
    return posterior.covariance.project(torch.eye(len(posterior.covariance.variance()), dtype=torch.float64))


@pytest.mark.parametrize("structure", ["full", "kron", "per_output"])
@pytest.mark.parametrize("linearised", [True, False])
def test_linear_regression_is_exact(structure: str, linearised: bool) -> None:
    exact = Conjugate()
    posterior = fit_linear(Laplace(structure, "fixed", linearised), exact, exact.module())
    torch.testing.assert_close(posterior.mean, exact.mean, rtol=0, atol=1e-12)  # type: ignore[attr-defined]
    torch.testing.assert_close(dense(posterior), exact.covariance, rtol=1e-8, atol=1e-12)
    assert posterior.log_marginal_likelihood == pytest.approx(exact.evidence(), abs=1e-8)


@pytest.mark.parametrize("structure", ["full", "kron", "per_output"])
def test_linear_regression_predicts_exactly(structure: str) -> None:
    exact = Conjugate()
    predictive = fit_linear(Laplace(structure, "fixed"), exact, exact.module()).predict(exact.tests)
    outputs = exact.test_design @ exact.covariance @ exact.test_design.mT
    torch.testing.assert_close(predictive.mean, exact.test_design @ exact.mean)
    torch.testing.assert_close(predictive.epistemic, outputs.diagonal(), rtol=1e-8, atol=0)
    torch.testing.assert_close(predictive.variance, outputs.diagonal() + NOISE**2, rtol=1e-8, atol=0)
    joint = MultivariateNormal(exact.test_design @ exact.mean, outputs + NOISE**2 * torch.eye(6, dtype=torch.float64))
    torch.testing.assert_close(predictive.joint_log_prob(exact.test_targets), joint.log_prob(exact.test_targets))
    margins = torch.distributions.Normal(predictive.mean, predictive.stddev)
    torch.testing.assert_close(predictive.log_prob(exact.test_targets), margins.log_prob(exact.test_targets))


def test_diagonal_is_one_over_the_precisions_diagonal() -> None:
    exact = Conjugate()
    posterior = fit_linear(Laplace("diag", "fixed"), exact, exact.module())
    torch.testing.assert_close(dense(posterior), torch.diag(1 / exact.precision.diagonal()))


@pytest.mark.parametrize("structure", ["full", "kron"])
def test_temperature_scales_the_covariance(structure: str) -> None:
    exact = Conjugate()
    posterior = fit_linear(Tempered(Laplace(structure, "fixed"), 0.3), exact, exact.module())
    torch.testing.assert_close(dense(posterior), 0.3 * exact.covariance, rtol=1e-8, atol=1e-12)
    assert posterior.record.temperature == 0.3
    assert posterior.log_marginal_likelihood == pytest.approx(exact.evidence(), abs=1e-8)


@pytest.mark.parametrize("structure", ["full", "kron"])
@pytest.mark.parametrize("noise_is_learned", [True, False])
def test_evidence_finds_the_best_prior_and_moves_there(structure: str, noise_is_learned: bool) -> None:
    """From any weights: the maximiser of the closed-form evidence, and the conjugate posterior under it."""

    def loss(x: Any) -> float:
        return -Conjugate(SCALE * math.exp(-x[0] / 2), math.exp(x[1]) if noise_is_learned else NOISE).evidence()

    options = {"xatol": 1e-9, "fatol": 1e-13}
    best = minimize(loss, [0.0, math.log(NOISE)], method="Nelder-Mead", options=options)
    exact = Conjugate(SCALE * math.exp(-best.x[0] / 2), math.exp(best.x[1]) if noise_is_learned else NOISE)
    module = exact.module(torch.zeros(D + 1, dtype=torch.float64))
    posterior = fit_linear(Laplace(structure), exact, module, Gaussian() if noise_is_learned else None)
    assert isinstance(posterior, Linearised)
    values = posterior.diagnostics.values
    assert values["mode_moved"]
    assert math.log(values["prior_precision_factor"]) == pytest.approx(float(best.x[0]), abs=1e-5)
    assert values["noise"] == pytest.approx([exact.noise], rel=1e-5)
    assert posterior.log_marginal_likelihood == pytest.approx(-best.fun, abs=1e-8)
    torch.testing.assert_close(posterior.mean[: D + 1], exact.mean, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(dense(posterior), exact.covariance, rtol=1e-4, atol=1e-8)


def test_a_number_is_the_precision() -> None:
    exact = Conjugate(scale=0.5)
    posterior = bay.fit(
        exact.module(), (exact.inputs, exact.targets), method=Laplace("full", 4.0), prior=StudentT(),
        likelihood=Gaussian(scale=NOISE), pretrained=True, validation=None,
    )  # fmt: skip
    torch.testing.assert_close(dense(posterior), exact.covariance, rtol=1e-8, atol=1e-12)


# ---- networks --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("structure", ["full", "diag"])
def test_covariance_is_its_definition(name: str, structure: str) -> None:
    problem = problem_of(name)
    posterior = fit_problem(problem, Laplace(structure, "fixed"), Run(problem.meter, limit=1e9))
    whole = Parts(problem).ggn + torch.diag(problem.prior.precision())
    expected = torch.linalg.inv(whole) if structure == "full" else torch.diag(1 / whole.diagonal())
    torch.testing.assert_close(dense(posterior), expected, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("likelihood", ["categorical", "gaussian"])
@pytest.mark.parametrize("linearised", [True, False])
def test_every_network_is_fitted_saved_and_loaded(name: str, likelihood: str, linearised: bool, tmp_path: Any) -> None:
    problem = problem_of(name, likelihood)
    posterior = fit_problem(problem, Laplace(linearised=linearised, num_samples=9), Run(problem.meter, limit=1e9))
    inputs, targets = problem.data
    predictive = posterior.predict(inputs)
    assert bool(torch.isfinite(predictive.log_prob(targets)).all())
    assert bool(torch.isfinite(predictive.joint_log_prob(targets)))
    assert bool((predictive.epistemic > 0).all())
    posterior.save(tmp_path / "net.bayes")
    again = bay.load(tmp_path / "net.bayes", module_and_inputs(name)[0])
    torch.testing.assert_close(again.predict(inputs).log_prob(targets), predictive.log_prob(targets))
    torch.testing.assert_close(
        again.sample(3)[problem.network.layout.names[0]], posterior.sample(3)[problem.network.layout.names[0]]
    )
    assert again.log_marginal_likelihood == posterior.log_marginal_likelihood


def test_kron_has_only_the_blocks_of_layers() -> None:
    """Within a layer the covariance is not diagonal, between layers it is zero."""
    problem = problem_of("mlp")
    posterior = fit_problem(problem, Laplace(prior_precision="fixed"), Run(problem.meter, limit=1e9))
    matrix = dense(posterior)
    assert float(matrix[:16, 16:].abs().max()) < 1e-12
    off = matrix - torch.diag(matrix.diagonal())
    assert float(off[:16, :16].abs().max()) > 1e-4


@pytest.mark.parametrize("structure", STRUCTURES)
def test_a_mode_that_cannot_be_trusted_stays(structure: str) -> None:
    """A strongly curved network far from its mode: the log likelihood does not change as promised."""
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(40, 2, generator=rng, dtype=torch.float64)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = nn.Sequential(nn.Linear(2, 20), nn.Tanh(), nn.Linear(20, 1)).double()
    problem = make_problem(module, (x, torch.sin(2 * x[:, 0])), pretrained=True, validation=None)
    posterior = fit_problem(problem, Laplace(structure), Run(problem.meter, limit=1e9))
    assert isinstance(posterior, Linearised)
    assert not posterior.diagnostics.warnings
    assert posterior.diagnostics.values["mode_moved"] is False
    assert torch.equal(posterior.mean[:-1], problem.network.initial)
    residual = problem.data.targets - module(problem.data.inputs).squeeze(-1).detach()
    assert posterior.diagnostics.values["noise"] == pytest.approx([float(residual.square().mean().sqrt())], rel=1e-6)


def test_a_network_is_not_moved_to_zero() -> None:
    """Inputs that say nothing of the targets: the best prior is a point, and the diagnostics say so."""
    rng = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 30, 1, generator=rng, dtype=torch.float64)
    module = nn.Linear(1, 1, bias=False).double()
    with torch.no_grad():
        module.weight.zero_()
    problem = make_problem(module, (x, y - (x * y).sum() / x.square().sum() * x), pretrained=True, validation=None)
    posterior = fit_problem(problem, Laplace(), Run(problem.meter, limit=1e9))
    assert any("edge of what is searched" in text for text in posterior.diagnostics.warnings)


def test_many_outputs_take_random_vectors() -> None:
    rng = torch.Generator().manual_seed(0)
    x, y = torch.randn(30, 4, generator=rng), torch.randint(25, (30,), generator=rng)
    problem = make_problem(nn.Linear(4, 25), (x, y), pretrained=True, validation=None)
    posterior = fit_problem(problem, Laplace(prior_precision="fixed"), Run(problem.meter, limit=1e9))
    assert posterior.diagnostics.values["fisher_samples"] == 10
    assert problem.meter.gradient_evaluations == 30 * 10 + CHECK_COST


def test_training_does_not_depend_on_what_comes_after_it() -> None:
    """With `epochs` set, the mode is that of the same training by any structure."""
    problem = problem_of("mlp", "gaussian").with_changes(pretrained=False)
    methods = [Laplace(structure, "fixed", epochs=4) for structure in STRUCTURES]
    found = [fit_problem(problem, method, Run(problem.meter, limit=problem.meter.total + 100)) for method in methods]
    first, *others = [posterior.mean for posterior in found]  # type: ignore[attr-defined]
    for other in others:
        torch.testing.assert_close(other, first)


# ---- cost ------------------------------------------------------------------------------------------------------------


class Counter:
    """How many examples passed forward and backward."""

    def __init__(self) -> None:
        self.forward, self.backward = 0, 0


class Counted(nn.Module):
    """A module that counts."""

    def __init__(self, module: nn.Module, counter: Counter) -> None:
        super().__init__()
        self.inner, self.counter = module, counter

    def __deepcopy__(self, memo: Any) -> "Counted":
        import copy

        return Counted(copy.deepcopy(self.inner, memo), self.counter)

    def forward(self, x: Tensor) -> Tensor:
        self.counter.forward += len(x)
        counter = self.counter

        class Count(torch.autograd.Function):
            @staticmethod
            def forward(x: Tensor) -> Tensor:
                return x.clone()

            @staticmethod
            def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
                pass

            @staticmethod
            def backward(ctx: Any, gradient: Tensor) -> Tensor:
                counter.backward += len(gradient)
                return gradient

        return Count.apply(self.inner(x))  # type: ignore[no-any-return, no-untyped-call]


def counted_problem(name: str, counter: Counter, pretrained: bool) -> Problem:
    module, inputs = module_and_inputs(name)
    targets = torch.randn(len(inputs), 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    data = (inputs.repeat(4, *[1] * (inputs.dim() - 1)), targets.repeat(4, 1))
    counted = Counted(module, counter)
    return make_problem(counted, data, likelihood="gaussian", way="looped", pretrained=pretrained, validation=None)


@pytest.mark.parametrize("name", ["mlp", "batch_norm", "conv"])
@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("prior_precision", ["evidence", "fixed"])
@pytest.mark.parametrize("pretrained", [True, False])
def test_meter_is_what_happens(name: str, structure: str, prior_precision: str, pretrained: bool) -> None:
    counter = Counter()
    problem = counted_problem(name, counter, pretrained)
    count, limit = problem.num_examples, 12.0 * problem.num_examples
    fit_problem(problem, Laplace(structure, prior_precision, batch_size=8), Run(problem.meter, limit=limit))
    meter = problem.meter
    assert counter.backward == meter.gradient_evaluations
    vectors, check = 2 + (prior_precision == "evidence"), CHECK_COST * (structure != "full")
    training = meter.gradient_evaluations - vectors * count - check
    assert training % 8 == 0
    # One forward pass of an example serves all its vector-Jacobian products.
    assert counter.forward == meter.forward_evaluations + training + count + check
    assert meter.total <= limit
    if not pretrained:
        assert meter.total > limit - 8 - 1  # less than one more batch, and the count of the outputs
    else:
        expected = count * (vectors + FORWARD_COST * (1 + (prior_precision == "evidence"))) + check + FORWARD_COST
        assert meter.total == pytest.approx(expected)
        assert Laplace(structure, prior_precision).post_hoc_cost(problem) == pytest.approx(expected - FORWARD_COST)


def test_too_small_a_budget_says_what_is_needed() -> None:
    problem = problem_of("mlp").with_changes(pretrained=False)
    with pytest.raises(BudgetError, match=r"needs 19 gradient evaluations .* has 14.*fisher_samples=1"):
        fit_problem(problem, Laplace(), Run(problem.meter, limit=14.0))
    with pytest.raises(BudgetError, match="one step of 1 particles"):
        fit_problem(problem, Laplace(), Run(problem.meter, limit=21.0))


def test_epochs_stop_early_and_say_so() -> None:
    x = torch.randn(60, 3, generator=torch.Generator().manual_seed(0))
    posterior = bay.fit(nn.Linear(3, 1), (x, x.sum(1)), method=Laplace(epochs=3), budget=bay.Budget(epochs=30))
    assert "3 epochs" in posterior.diagnostics.values["unspent"]
    assert posterior.cost.total < 54 * 7


def test_seconds() -> None:
    x = torch.randn(60, 3, generator=torch.Generator().manual_seed(0))
    posterior = bay.fit(nn.Linear(3, 1), (x, x.sum(1)), method=Laplace(), budget=bay.Budget(seconds=0.5))
    assert posterior.cost.gradient_evaluations > 54 * 2


def test_resumed_fit_is_the_undisturbed_one(tmp_path: Any) -> None:
    x = torch.randn(60, 3, generator=torch.Generator().manual_seed(0))
    module = nn.Linear(3, 1)

    def fit(folder: Any) -> Posterior:
        budget = bay.Budget(epochs=8)
        return bay.fit(module, (x, x.sum(1)), method="laplace", budget=budget, checkpoint=folder)

    first = fit(tmp_path)
    second = fit(tmp_path)  # finds the finished training and repeats the curvature
    assert torch.equal(first.predict(x).variance, second.predict(x).variance)
    assert (first.cost.gradient_evaluations, first.cost.total) == (second.cost.gradient_evaluations, second.cost.total)


# ---- refusals --------------------------------------------------------------------------------------------------------


def test_full_is_refused_with_numbers_where_it_cannot_fit() -> None:
    x = torch.randn(20, 1000)
    module = nn.Sequential(nn.Linear(1000, 1000), nn.ReLU(), nn.Linear(1000, 1))
    with pytest.raises(MethodError, match=r"laplace\(structure=full\) would need about \d.* TB .*structure=kron"):
        bay.fit(module, (x, x[:, 0]), method=Laplace("full"))
    problem = make_problem(module, (x, x[:, 0]))
    assert Laplace("kron").memory(problem) < 1e9 < 1e12 < Laplace("full").memory(problem)
    assert Laplace("diag").memory(problem) < 1e9


@pytest.mark.parametrize("prior", [StudentT(), Flat()])
def test_other_priors_are_refused_before_training(prior: Any) -> None:
    problem = make_problem(nn.Linear(3, 1), (torch.randn(20, 3), torch.randn(20)), prior=prior)
    with pytest.raises((UnsupportedError, MethodError), match="prior"):
        fit_problem(problem, Laplace(), Run(problem.meter, limit=1e6))
    assert problem.meter.total == 0


def test_losses_are_refused_before_training() -> None:
    loss = Loss(lambda outputs, targets: (outputs[:, 0] - targets).abs())
    problem = make_problem(nn.Linear(3, 1), (torch.randn(20, 3), torch.randn(20)), likelihood=loss)
    with pytest.raises(UnsupportedError, match="Fisher"):
        fit_problem(problem, Laplace(), Run(problem.meter, limit=1e6))
    assert problem.meter.gradient_evaluations == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"structure": "dense"},
            r"Laplace\(structure='dense'\): structure must be one of kron, ekfac, diag, low_rank, full, per_output",
        ),
        ({"prior_precision": "marglik"}, "must be evidence, layerwise, diagonal, fixed or a positive number"),
        ({"prior_precision": -1.0}, "must be evidence, layerwise, diagonal, fixed or a positive number"),
        ({"prior_precision": True}, "must be evidence, layerwise, diagonal, fixed or a positive number"),
        ({"learning_rate": 0.0}, "learning_rate must be a positive number"),
        ({"fisher_samples": 0}, "fisher_samples must be a positive number"),
        ({"epochs": -1}, "epochs must be a positive number"),
        ({"evidence_epochs": 0}, "evidence_epochs must be a positive number"),
        ({"evidence_epochs": 5, "prior_precision": "fixed"}, "evidence_epochs must be None unless"),
        ({"prior_precision": "diagonal"}, "must be 'layerwise' where curvature is by layer"),
        ({"curvature": "hessian"}, "curvature must be one of ggn, mc_fisher, empirical_fisher"),
        ({"predictive": "mc"}, "predictive must be one of sampled, probit"),
        ({"predictive": "probit", "linearised": False}, "predictive must be 'sampled' unless linearised"),
        ({"rank": 0}, "rank must be a positive number"),
    ],
)
def test_settings_are_checked(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(MethodError, match=message):
        Laplace(**settings)


def test_written_form() -> None:
    assert get_method("laplace") == Laplace()
    assert get_method("laplace(structure=diag, prior_precision=fixed)") == Laplace("diag", "fixed")
    assert describe(Laplace("full", 2.0)) == "laplace(structure=full, prior_precision=2)"
