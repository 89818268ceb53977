"""Likelihoods: densities against torch.distributions, Fisher information against its definition, errors in words."""

import math
from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor
from torch import distributions as td
from torch.autograd.functional import hessian

from bayesify.errors import BayesifyError, DataError, MethodError, ModelError, UnsupportedError
from bayesify.model.likelihoods import (
    MIN_SCALE,
    Bernoulli,
    Categorical,
    Gaussian,
    HeteroscedasticGaussian,
    Likelihood,
    Loss,
    Poisson,
    StudentT,
    get_likelihood,
    likelihood_from_settings,
    likelihood_settings,
)


class Case:
    """A likelihood with outputs, targets and own parameters that fit it."""

    def __init__(
        self, likelihood: Likelihood, num_outputs: int, targets: list[Any], own: tuple[float, ...] = ()
    ) -> None:
        self.likelihood = likelihood
        rng = torch.Generator().manual_seed(0)
        self.outputs = torch.randn(len(targets), num_outputs, generator=rng, dtype=torch.float64)
        self.targets = likelihood.prepare(torch.tensor(targets), torch.float64)
        self.own = torch.tensor(own, dtype=torch.float64)

    def __repr__(self) -> str:
        return f"{self.likelihood!r}"

    def reference(self) -> Tensor:
        """Log p(y | f) written with torch.distributions, (B,)."""
        kind, f, y = self.likelihood, self.outputs, self.targets
        if isinstance(kind, Categorical):
            return td.Categorical(logits=f).log_prob(y)
        if isinstance(kind, Bernoulli):
            return td.Bernoulli(logits=f[:, 0]).log_prob(y)
        if isinstance(kind, Poisson):
            return td.Poisson(f[:, 0].exp()).log_prob(y)
        y = y.reshape(len(y), -1)
        if isinstance(kind, HeteroscedasticGaussian):
            size = f.shape[1] // 2
            raw = f[:, size:]
            return td.Normal(f[:, :size], (1 + raw.exp()).log() + MIN_SCALE).log_prob(y).sum(-1)
        assert isinstance(kind, (Gaussian, StudentT))
        scale = torch.full_like(f[0], kind.scale) if kind.scale else self.own.exp() + MIN_SCALE
        if isinstance(kind, StudentT):
            return td.StudentT(kind.df, f, scale).log_prob(y).sum(-1)
        return td.Normal(f, scale).log_prob(y).sum(-1)


REAL = [0.3, -1.2, 2.0, 0.0]
TWO = [[0.3, 1.0], [-1.2, 0.0], [2.0, -3.0]]
CASES = [
    Case(Categorical(), 3, [0, 2, 1, 2]),
    Case(Bernoulli(), 1, [0, 1, 1]),
    Case(Gaussian(), 1, REAL, (-0.5,)),
    Case(Gaussian(scale=0.7), 1, REAL),
    Case(Gaussian(num_targets=2), 2, TWO, (-0.5, 0.4)),
    Case(Gaussian(scale=0.7, num_targets=2), 2, TWO),
    Case(HeteroscedasticGaussian(), 2, REAL),
    Case(HeteroscedasticGaussian(num_targets=2), 4, TWO),
    Case(StudentT(), 1, REAL, (0.2,)),
    Case(StudentT(df=2.5, scale=0.3), 1, REAL),
    Case(StudentT(num_targets=2), 2, TWO, (0.2, -1.0)),
    Case(Poisson(), 1, [0, 3, 1, 12]),
]


@pytest.mark.parametrize("case", CASES, ids=repr)
def test_log_prob_against_torch(case: Case) -> None:
    found = case.likelihood.log_prob(case.outputs, case.targets, case.own)
    torch.testing.assert_close(found, case.reference(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("case", CASES, ids=repr)
def test_components_are_the_same_distribution(case: Case) -> None:
    """Two draws with their own outputs and own parameters, as a predictive mixes them."""
    outputs = torch.stack([case.outputs, case.outputs.flip(0) + 0.1])
    own = torch.stack([case.own, case.own - 0.3])
    components = case.likelihood.components(outputs, own)
    columns = case.targets.reshape(len(case.targets), -1)
    value = case.targets if case.likelihood.kind == "classification" else columns
    found = components.log_prob(value.long() if case.likelihood.kind == "classification" else value)
    found = found if found.dim() == 2 else found.sum(-1)
    expected = [case.likelihood.log_prob(f, case.targets, p) for f, p in zip(outputs, own, strict=True)]
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("case", [c for c in CASES if c.likelihood.kind == "classification"], ids=repr)
def test_fisher_is_the_expected_hessian(case: Case) -> None:
    """Over classes the expectation is a sum: E[−∇² log p]."""
    classes = range(case.outputs.shape[1] if case.outputs.shape[1] > 1 else 2)
    for f, found in zip(case.outputs, case.likelihood.fisher(case.outputs, case.own), strict=True):
        expected = torch.zeros_like(found)
        for label in classes:
            y = case.likelihood.prepare(torch.tensor([label]), torch.float64)

            def log_prob(value: Tensor, y: Tensor = y) -> Tensor:
                return case.likelihood.log_prob(value[None], y, case.own)[0]

            expected -= log_prob(f).exp() * hessian(log_prob, f)
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("case", [c for c in CASES if c.likelihood.kind != "classification"], ids=repr)
def test_fisher_is_the_variance_of_the_score(case: Case) -> None:
    """E[∇ log p ∇ log pᵀ] over 50,000 draws of y, each entry within 5.5 standard errors (10⁻⁵ in all)."""
    count = 50_000
    rng = torch.Generator().manual_seed(1)
    f, own = case.outputs[:1], case.own
    components = case.likelihood.components(f[None], own[None])
    y = _draws(components, count, rng)
    outputs = f.expand(count, -1).clone().requires_grad_()
    total = case.likelihood.log_prob(outputs, y.squeeze(-1) if y.shape[-1] == 1 else y, own).sum()
    (score,) = torch.autograd.grad(total, outputs)
    products = score.unsqueeze(-1) * score.unsqueeze(-2)
    error = products.std(0) / math.sqrt(count)
    found = case.likelihood.fisher(f, own)[0]
    assert ((products.mean(0) - found).abs() <= 5.5 * error + 1e-12).all()
    assert torch.linalg.eigvalsh(found).min() >= 0


def _draws(components: td.Distribution, count: int, rng: torch.Generator) -> Tensor:
    if isinstance(components, td.Poisson):
        return torch.poisson(components.rate[0, 0].expand(count, -1), generator=rng)
    size = components.mean.shape[-1]
    noise = torch.randn(count, size, generator=rng, dtype=torch.float64)
    if isinstance(components, td.StudentT):
        df = components.df[0, 0].expand(count, -1)
        gamma = torch._standard_gamma(df / 2, generator=rng)
        return components.loc[0, 0] + components.scale[0, 0] * noise * (df / 2 / gamma).sqrt()
    return components.mean[0, 0] + components.stddev[0, 0] * noise


def test_student_t_against_scipy() -> None:
    case = CASES[9]
    expected = stats.t(2.5, loc=case.outputs[:, 0].numpy(), scale=0.3).logpdf(case.targets.numpy())
    found = case.likelihood.log_prob(case.outputs, case.targets, case.own)
    torch.testing.assert_close(found, torch.from_numpy(expected), rtol=1e-12, atol=1e-12)


def test_bernoulli_probabilities_have_the_shape_of_any_classifier() -> None:
    outputs = torch.tensor([[[0.0], [2.0]]])
    probs = Bernoulli().components(outputs, torch.zeros(1, 0)).probs
    torch.testing.assert_close(probs[..., 1], outputs[..., 0].sigmoid())
    assert probs.shape == (1, 2, 2)


def test_extreme_outputs_stay_finite() -> None:
    big = torch.tensor([[1e4], [-1e4]], dtype=torch.float64)
    labels = torch.tensor([0.0, 1.0], dtype=torch.float64)
    assert Bernoulli().log_prob(big, labels, torch.zeros(0)).tolist() == [-1e4, -1e4]
    logits = torch.tensor([[1e4, 0.0]], dtype=torch.float64)
    assert Categorical().log_prob(logits, torch.tensor([1]), torch.zeros(0)).tolist() == [-1e4]
    assert Gaussian().noise(torch.tensor([-1e4])).item() == pytest.approx(MIN_SCALE)


def test_a_loss_stands_in_for_a_likelihood() -> None:
    loss = Loss(lambda outputs, targets: (outputs[:, 0] - targets).abs(), temperature=2.0)
    outputs, targets = torch.tensor([[1.0], [3.0]]), torch.tensor([0.0, 1.0])
    assert loss.log_prob(outputs, targets, torch.zeros(0)).tolist() == [-0.5, -1.0]
    loss.check(outputs, targets)
    with pytest.raises(UnsupportedError, match="no distribution over targets"):
        loss.components(outputs[None], torch.zeros(1, 0))
    with pytest.raises(UnsupportedError, match="no Fisher information"):
        loss.fisher(outputs, torch.zeros(0))
    mean = Loss(lambda outputs, targets: (outputs[:, 0] - targets).abs().mean())
    with pytest.raises(ModelError, match=r"reduction='none'"):
        mean.check(outputs, targets)
    labels = torch.tensor([1, 2])
    assert loss.prepare(labels, torch.float64).dtype == torch.int64
    assert loss.prepare(targets, torch.float64).dtype == torch.float64


@pytest.mark.parametrize(
    ("likelihood", "num_outputs", "targets", "error", "words"),
    [
        (Categorical(), 3, [0, 3], DataError, "class labels run from 0 to 3 but the model has 3 outputs"),
        (Categorical(), 3, [-1, 2], DataError, "class labels run from -1 to 2"),
        (Bernoulli(), 2, [0.0, 1.0], ModelError, "2 outputs per example but the Bernoulli likelihood needs 1"),
        (Bernoulli(), 1, [0.0, 2.0], DataError, "needs targets 0 and 1"),
        (Bernoulli(), 1, [-1.0, 1.0], DataError, "needs targets 0 and 1"),
        (Gaussian(), 2, REAL[:2], ModelError, "2 outputs per example"),
        (Gaussian(), 1, TWO[:2], DataError, r"pass Gaussian\(num_targets=2\)"),
        (Gaussian(num_targets=2), 2, REAL[:2], DataError, r"pass Gaussian\(num_targets=1\)"),
        (HeteroscedasticGaussian(), 1, REAL[:2], ModelError, "1 outputs per example"),
        (StudentT(), 3, REAL[:2], ModelError, "3 outputs per example"),
        (StudentT(num_targets=1), 1, TWO[:2], DataError, r"pass StudentT\(num_targets=2\)"),
        (Poisson(), 1, [1.0, -1.0], DataError, "needs counts 0, 1, 2"),
        (Poisson(), 1, [1.0, 0.5], DataError, "needs counts 0, 1, 2"),
        (Poisson(), 2, [1.0, 2.0], ModelError, "2 outputs per example"),
    ],
)
def test_checks_say_what_is_wrong(
    likelihood: Likelihood, num_outputs: int, targets: list[Any], error: type[BayesifyError], words: str
) -> None:
    outputs = torch.zeros(2, num_outputs)
    with pytest.raises(error, match=words) as caught:
        likelihood.check(outputs, torch.tensor(targets))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("case", CASES, ids=repr)
def test_checks_accept_what_fits(case: Case) -> None:
    case.likelihood.check(case.outputs, case.targets)


def test_a_fractional_count_is_the_one_named() -> None:
    with pytest.raises(DataError, match=r"got 0\.5 "):
        Poisson().check(torch.zeros(3, 1), torch.tensor([0.0, 3.0, 0.5]))


def test_targets_are_prepared() -> None:
    column = torch.tensor([[1], [0]], dtype=torch.int32)
    assert Categorical().prepare(column, torch.float32).tolist() == [1, 0]
    assert Categorical().prepare(column, torch.float32).dtype == torch.int64
    assert Bernoulli().prepare(column, torch.float64).tolist() == [1.0, 0.0]
    assert Gaussian().prepare(torch.tensor([1, 2]), torch.float64).dtype == torch.float64


@pytest.mark.parametrize("case", CASES, ids=repr)
def test_settings_round_trip(case: Case) -> None:
    assert likelihood_from_settings(likelihood_settings(case.likelihood)) == case.likelihood


@pytest.mark.parametrize("case", CASES, ids=repr)
def test_own_parameters_start_where_they_should(case: Case) -> None:
    start = case.likelihood.initial_parameters()
    assert start.shape == (case.likelihood.num_parameters,) == case.own.shape


def test_by_name() -> None:
    for name in ("categorical", "bernoulli", "gaussian", "heteroscedastic_gaussian", "student_t", "poisson"):
        assert get_likelihood(name).name == name
    with pytest.raises(MethodError, match="Did you mean 'gaussian'"):
        get_likelihood("gausian")


@pytest.mark.parametrize("scale", [0.0, -1.0, math.nan, math.inf])
def test_bad_settings(scale: float) -> None:
    with pytest.raises(MethodError, match="Gaussian"):
        Gaussian(scale=scale)
    with pytest.raises(MethodError, match="StudentT"):
        StudentT(scale=scale)
    with pytest.raises(MethodError, match="StudentT"):
        StudentT(df=scale)
    with pytest.raises(MethodError, match="Loss"):
        Loss(lambda f, y: f[:, 0], temperature=scale)
