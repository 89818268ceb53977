"""The linearised posterior against its definition f(x; μ) + J(x) (θ − μ)."""

from typing import Any

import pytest
import torch
from curvature_cases import NAMES, Parts, module_and_inputs, problem_of
from scipy.stats import norm
from small_problems import critical_value
from torch import Tensor, nn
from torch.distributions import MultivariateNormal

import bayesify as bay
from bayesify.covariance import Full
from bayesify.curvature import jacobian as chunking
from bayesify.engine.run import Run
from bayesify.errors import UnsupportedError
from bayesify.fitting import fit_problem
from bayesify.methods.laplace import Laplace
from bayesify.model.problem import Problem
from bayesify.posterior import Linearised, Mixture, linearised


def posterior_of(name: str, likelihood: str = "categorical", num_samples: int = 50) -> tuple[Problem, Linearised]:
    """A posterior with a made-up dense covariance at the module's weights."""
    problem = problem_of(name, likelihood)
    size = problem.num_network_parameters
    root = 0.1 * torch.randn(size, size, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    mean = problem.initial()
    return problem, Linearised(problem.model, mean, Full(root), problem.network.buffers(1), num_samples)


def by_definition(problem: Problem, posterior: Linearised, theta: Tensor) -> Tensor:
    """(S, B, C)."""
    parts, size = Parts(problem, posterior.mean), problem.num_network_parameters
    change = (theta - posterior.mean)[:, :size]
    outputs = problem.outputs(posterior.mean[None], problem.data.inputs, posterior.buffers)
    return outputs + torch.einsum("bcp,sp->sbc", parts.jacobian, change)


@pytest.mark.parametrize("name", NAMES)
def test_draws_are_the_definition(name: str) -> None:
    problem, posterior = posterior_of(name)
    theta = posterior.particles(seed=3).theta
    outputs = posterior.predict(problem.data.inputs, seed=3).outputs
    torch.testing.assert_close(outputs, by_definition(problem, posterior, theta))
    assert len(theta) == 50
    assert len(posterior.predict(problem.data.inputs, num_samples=4).outputs) == 4


def fitted(name: str, structure: str, likelihood: str) -> tuple[Problem, Linearised]:
    """The posterior that a fit at the module's weights finds."""
    problem = problem_of(name, likelihood)
    method = Laplace(structure=structure, prior_precision="fixed")
    posterior = fit_problem(problem, method, Run(problem.meter, limit=1e9))
    assert isinstance(posterior, Linearised)
    return problem, posterior


FACTORED = {"linear", "no_bias", "mlp", "in_place", "twice", "conv"}
"""Networks whose parameters all lie in layers, so that nothing goes through whole Jacobians."""


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("structure", ["kron", "diag"])
@pytest.mark.parametrize("num_samples", [2, 50])
@pytest.mark.parametrize("rows", [1, 7])
def test_draws_by_layers_are_the_definition(
    name: str, structure: str, num_samples: int, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Few draws and many, few rows and many: the products are then taken in another order."""
    problem, posterior = fitted(name, structure, "categorical")
    monkeypatch.setattr(chunking, "CHUNK_ELEMENTS", rows * 4000)
    monkeypatch.setattr(linearised, "DRAW_ELEMENTS", 3 * len(posterior.mean))  # so that noise comes in pieces
    theta = posterior.particles(num_samples, seed=3).theta
    outputs = posterior.predict(problem.data.inputs, num_samples, seed=3).outputs
    torch.testing.assert_close(outputs, by_definition(problem, posterior, theta))
    first = posterior.predict(problem.data.inputs[:2], num_samples, seed=3).outputs
    torch.testing.assert_close(first, outputs[:, :2])
    assert (posterior._factored(problem.data.inputs) is not None) == (name in FACTORED)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("structure", ["kron", "diag"])
def test_variances_by_layers_are_the_definition(name: str, structure: str) -> None:
    problem, posterior = fitted(name, structure, "gaussian")
    covariance = posterior.covariance.project(Parts(problem, posterior.mean).jacobian)
    found = posterior.predict(problem.data.inputs).epistemic
    torch.testing.assert_close(found, covariance.diagonal(dim1=-2, dim2=-1))


@pytest.mark.parametrize("structure", ["kron", "diag", "per_output"])
@pytest.mark.parametrize("likelihood", ["categorical", "gaussian"])
@pytest.mark.parametrize("rows", [2, 7])
def test_the_last_layer_alone_is_the_definition(structure: str, likelihood: str, rows: int) -> None:
    """Without a backward pass; fewer rows than features and more."""
    whole = problem_of("mlp", likelihood)
    part = whole.network.restricted(whole.network.initial, {}, {"2.weight", "2.bias"})
    problem = whole.with_changes(network=part)
    method = Laplace(structure=structure, prior_precision="fixed")
    posterior = fit_problem(problem, method, Run(problem.meter, limit=1e9))
    assert isinstance(posterior, Linearised)
    found = posterior._factored(problem.data.inputs)
    assert found is not None
    assert [layer.is_output for layer in found.layers.layers] == [True]
    predictive = posterior.predict(problem.data.inputs[:rows], 20)
    if likelihood == "categorical":
        expected = by_definition(problem, posterior, posterior.particles(20).theta)[:, :rows]
        torch.testing.assert_close(predictive.outputs, expected)
    else:
        covariance = posterior.covariance.project(Parts(problem, posterior.mean).jacobian)
        torch.testing.assert_close(predictive.epistemic, covariance.diagonal(dim1=-2, dim2=-1)[:rows])


def test_a_weight_used_past_its_layer_is_seen_at_inputs_of_zeros() -> None:
    problem, posterior = fitted("around", "diag", "categorical")
    posterior.predict(torch.zeros(2, 3))
    assert posterior._factored(problem.data.inputs) is None


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("likelihood", ["categorical", "gaussian"])
def test_one_function_is_the_same_everywhere(name: str, likelihood: str) -> None:
    problem, posterior = posterior_of(name, likelihood)
    inputs = problem.data.inputs
    function = posterior.draw(seed=1)
    torch.testing.assert_close(torch.cat([function(inputs[:3]), function(inputs[3:])]), function(inputs))
    assert not torch.allclose(function(inputs), posterior.draw(seed=2)(inputs))


@pytest.mark.parametrize("rows", [1, 4, 100])
def test_closed_form_is_the_definition(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    problem, posterior = posterior_of("mlp", "gaussian")
    monkeypatch.setattr(chunking, "CHUNK_ELEMENTS", rows * 2 * problem.num_network_parameters)
    posterior.mean[-2:] = torch.tensor([-0.2, 0.4])
    inputs, targets = problem.data
    parts = Parts(problem, posterior.mean)
    covariance = posterior.covariance.project(parts.jacobian.flatten(0, 1))
    noise = problem.likelihood.noise(posterior.mean[-2:])  # type: ignore[attr-defined]
    outputs = problem.outputs(posterior.mean[None], inputs, {})[0]
    predictive = posterior.predict(inputs)
    torch.testing.assert_close(predictive.mean, outputs)
    torch.testing.assert_close(predictive.epistemic, covariance.diagonal().reshape(7, 2))
    torch.testing.assert_close(predictive.aleatoric, noise.square().expand(7, 2))
    joint = MultivariateNormal(outputs.flatten(), covariance + torch.diag(noise.square().repeat(7)))
    torch.testing.assert_close(predictive.joint_log_prob(targets), joint.log_prob(targets.flatten()))
    rescaled, scaled = predictive.rescaled(1.0, 2.0), 1.0 + 2.0 * targets
    expected = joint.log_prob(targets.flatten()) - 14 * torch.tensor(2.0, dtype=torch.float64).log()
    torch.testing.assert_close(rescaled.joint_log_prob(scaled), expected)


def test_closed_form_agrees_with_draws() -> None:
    """Draws of functions have the stated mean and covariance; failure rate 1e-5."""
    problem, posterior = posterior_of("mlp", "gaussian")
    theta = posterior.particles(4000).theta
    draws = by_definition(problem, posterior, theta).flatten(1)
    predictive = posterior.predict(problem.data.inputs)
    mean, variance = predictive.mean.flatten(), predictive.epistemic.flatten()
    z = (draws.mean(0) - mean) / (variance / 4000).sqrt()
    assert float(z.abs().max()) < critical_value(14)
    spread = ((draws - mean).square().mean(0) / variance - 1) / (2 / 4000) ** 0.5
    assert float(spread.abs().max()) < critical_value(14)


def test_classification_averages_over_the_exact_logits() -> None:
    """A binary classifier's probability against quadrature over its Gaussian logit; failure rate 1e-5."""
    rng = torch.Generator().manual_seed(0)
    x, y = torch.randn(20, 3, generator=rng, dtype=torch.float64), torch.randint(2, (20,), generator=rng)
    module = nn.utils.skip_init(nn.Linear, 3, 1, dtype=torch.float64)
    nn.init.constant_(module.weight, 0.8)
    nn.init.constant_(module.bias, -0.3)
    posterior = bay.fit(module, (x, y), method="laplace(full, fixed)", likelihood="bernoulli", pretrained=True)
    assert isinstance(posterior, Linearised)
    count = 20_000
    found = posterior.predict(x, num_samples=count).probs[:, 1]
    design = torch.cat([x, torch.ones(20, 1, dtype=torch.float64)], dim=1)
    mean, variance = design @ posterior.mean, posterior.covariance.project(design[:, None])[:, 0, 0]
    nodes = torch.linspace(-8, 8, 401, dtype=torch.float64)
    weights = torch.as_tensor(norm.pdf(nodes.numpy())) * 0.04
    sigmoids = (mean[:, None] + variance.sqrt()[:, None] * nodes).sigmoid()
    expected = (weights * sigmoids).sum(1)
    error = ((weights * sigmoids.square()).sum(1) - expected.square()).sqrt() / count**0.5
    assert float(((found - expected) / error).abs().max()) < critical_value(20)


def test_the_rest_of_theta_stays() -> None:
    problem, posterior = posterior_of("mlp", "gaussian")
    theta = posterior.particles(5).theta
    assert theta.shape == (5, problem.num_parameters)
    assert torch.equal(theta[:, -2:], posterior.mean[-2:].expand(5, 2))


@pytest.mark.parametrize("likelihood", ["categorical", "gaussian"])
def test_earlier_calls_change_nothing(likelihood: str) -> None:
    problem, posterior = posterior_of("mlp", likelihood)
    inputs, targets = problem.data
    first = posterior.predict(inputs).log_prob(targets)
    for _ in range(4):
        assert torch.equal(posterior.predict(inputs).log_prob(targets), first)


def test_batch_size_does_not_matter() -> None:
    problem, posterior = posterior_of("batch_norm")
    inputs = problem.data.inputs
    whole = posterior.predict(inputs).logits
    parts = torch.cat([posterior.predict(inputs[:1]).logits, posterior.predict(inputs[1:]).logits])
    torch.testing.assert_close(parts, whole)


def test_a_mixture_of_closed_forms() -> None:
    problem, posterior = posterior_of("mlp", "gaussian")
    other = Linearised(posterior.model, posterior.mean + 0.1, posterior.covariance)
    inputs, targets = problem.data
    values = torch.stack([part.predict(inputs).joint_log_prob(targets) for part in (posterior, other)])
    pooled = Mixture([posterior, other]).predict(inputs)
    torch.testing.assert_close(pooled.joint_log_prob(targets), torch.logsumexp(values, 0) - torch.tensor(2.0).log())
    singles = torch.stack([part.predict(inputs).log_prob(targets) for part in (posterior, other)])
    assert pooled.num_draws == 2
    assert bool((pooled.log_prob(targets) <= singles.max(0).values + 1e-9).all())


def test_too_large_a_joint_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    problem, posterior = posterior_of("mlp", "gaussian")
    monkeypatch.setattr(linearised, "MAX_JOINT", 8)
    predictive = posterior.predict(problem.data.inputs)
    with pytest.raises(UnsupportedError, match="at most 4 examples at a time"):
        predictive.joint_log_prob(problem.data.targets)


@pytest.mark.parametrize("likelihood", ["categorical", "gaussian"])
def test_save_and_load(likelihood: str, tmp_path: Any) -> None:
    problem, posterior = posterior_of("batch_norm", likelihood)
    posterior.save(tmp_path / "net.bayes")
    again = bay.load(tmp_path / "net.bayes", module_and_inputs("batch_norm")[0])
    assert isinstance(again, Linearised)
    assert again.num_samples == posterior.num_samples
    inputs, targets = problem.data
    before, after = posterior.predict(inputs), again.predict(inputs)
    torch.testing.assert_close(after.log_prob(targets), before.log_prob(targets))
    torch.testing.assert_close(after.joint_log_prob(targets), before.joint_log_prob(targets))
    torch.testing.assert_close(again.draw()(inputs), posterior.draw()(inputs))
