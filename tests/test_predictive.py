"""The predictive as a mixture: against torch's own mixtures, brute force and simulation."""

import math
from collections.abc import Callable

import pytest
import torch
from scipy import stats
from torch import Tensor
from torch import distributions as td

from bayesify.errors import DataError, UnsupportedError
from bayesify.likelihoods import (
    Bernoulli,
    Categorical,
    Gaussian,
    HeteroscedasticGaussian,
    Likelihood,
    Loss,
    Poisson,
    StudentT,
)
from bayesify.predictive import Predictive

S, B = 7, 5
CRITICAL = 5.0
"""Standard errors: 6e-7 for one comparison, below 1e-5 for the up to 16 of a test."""


def outputs(num_outputs: int, seed: int = 0, draws: int = S) -> Tensor:
    return torch.randn(draws, B, num_outputs, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def own(size: int) -> Tensor:
    return 0.3 * torch.randn(S, size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def gaussian(num_targets: int = 1) -> Predictive:
    return Predictive(Gaussian(num_targets=num_targets), outputs(num_targets), own(num_targets))


REGRESSIONS: dict[str, Callable[[], Predictive]] = {
    "gaussian": gaussian,
    "fixed": lambda: Predictive(Gaussian(scale=0.4), outputs(1), own(0)),
    "two targets": lambda: gaussian(2),
    "heteroscedastic": lambda: Predictive(HeteroscedasticGaussian(), outputs(2), own(0)),
    "student": lambda: Predictive(StudentT(df=5.0), outputs(1), own(1)),
    "closed form": lambda: Predictive(
        Gaussian(), outputs(1, draws=1), own(1)[:1], output_variance=outputs(1, 2, 1).square()
    ),
    "rescaled": lambda: gaussian().rescaled(loc=-3.0, scale=10.0),
    "calibrated": lambda: gaussian().calibrated(1.7),
    "both": lambda: Predictive(StudentT(df=5.0), outputs(1), own(1)).calibrated(0.6).rescaled(100.0, 3.0),
}


def reference_mixture(predictive: Predictive) -> td.MixtureSameFamily:
    """torch's mixture over draws, (B,) or (B, D): built from the likelihood's components by hand."""
    kind, f = predictive.likelihood, predictive.outputs
    parameters = predictive._m.parameters
    if isinstance(kind, Poisson):
        each: td.Distribution = td.Poisson(f.exp())
    elif isinstance(kind, HeteroscedasticGaussian):
        each = td.Normal(f[..., :1], (1 + f[..., 1:].exp()).log() + 1e-4)
    else:
        assert isinstance(kind, (Gaussian, StudentT))
        scale = torch.full_like(f, kind.scale) if kind.scale else (parameters.exp() + 1e-4)[:, None].expand_as(f)
        each = td.StudentT(kind.df, f, scale) if isinstance(kind, StudentT) else td.Normal(f, scale)
    moved = type(each)(**{name: getattr(each, name).movedim(0, -1) for name in each.arg_constraints})  # type: ignore[call-arg]
    return td.MixtureSameFamily(td.Categorical(torch.ones(f.shape[1], each.mean.shape[-1], len(f))), moved)


PLAIN = ["gaussian", "fixed", "two targets", "heteroscedastic", "student"]


@pytest.mark.parametrize("name", PLAIN)
def test_moments_are_the_mixtures(name: str) -> None:
    predictive = REGRESSIONS[name]()
    reference = reference_mixture(predictive)
    torch.testing.assert_close(predictive.mean, reference.mean.squeeze(-1))
    torch.testing.assert_close(predictive.variance, reference.variance.squeeze(-1))
    torch.testing.assert_close(predictive.stddev.square(), predictive.epistemic + predictive.aleatoric)


@pytest.mark.parametrize("name", [n for n in PLAIN if n != "two targets"])
def test_log_prob_is_the_mixtures(name: str) -> None:
    predictive = REGRESSIONS[name]()
    targets = torch.linspace(-2, 3, B, dtype=torch.float64)
    expected = reference_mixture(predictive).log_prob(targets[:, None]).squeeze(-1)
    torch.testing.assert_close(predictive.log_prob(targets), expected)


def test_several_targets_are_one_event() -> None:
    """The mixture is over draws, each of which gives all D targets: not a product of D mixtures."""
    predictive = gaussian(2)
    targets = torch.zeros(B, 2, dtype=torch.float64)
    scale = own(2).exp() + 1e-4
    total = torch.zeros(B, dtype=torch.float64)
    for s in range(S):
        total += td.Normal(predictive.outputs[s], scale[s]).log_prob(targets).sum(-1).exp() / S
    torch.testing.assert_close(predictive.log_prob(targets).exp(), total)


@pytest.mark.parametrize("name", [n for n in REGRESSIONS if n != "two targets"])
def test_densities_integrate_to_one_and_give_the_moments(name: str) -> None:
    predictive = REGRESSIONS[name]()
    reach = 400 if predictive.likelihood.name == "student_t" else 14
    grid = predictive.mean + predictive.stddev * torch.linspace(-reach, reach, 40 * reach + 1).double()[:, None]
    density = torch.stack([predictive.log_prob(y) for y in grid]).exp()
    one = torch.trapezoid(density, grid, dim=0)
    torch.testing.assert_close(one, torch.ones_like(one), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(torch.trapezoid(density * grid, grid, dim=0), predictive.mean, rtol=1e-5, atol=1e-5)
    second = torch.trapezoid(density * (grid - predictive.mean).square(), grid, dim=0)
    torch.testing.assert_close(second, predictive.variance, rtol=2e-3, atol=0)


@pytest.mark.parametrize("name", REGRESSIONS)
@pytest.mark.parametrize("level", [0.01, 0.3, 0.5, 0.95])
def test_quantile_inverts_the_distribution_function(name: str, level: float) -> None:
    predictive = REGRESSIONS[name]()
    quantile = predictive.quantile(level)
    assert quantile.shape == predictive.mean.shape
    torch.testing.assert_close(predictive.cdf(quantile), torch.full_like(quantile, level), rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", [n for n in REGRESSIONS if n != "two targets"])
def test_distribution_function_is_the_integral(name: str) -> None:
    predictive = REGRESSIONS[name]()
    low, high = predictive.quantile(0.2), predictive.quantile(0.7)
    grid = low + (high - low) * torch.linspace(0, 1, 2001).double()[:, None]
    density = torch.stack([predictive.log_prob(y) for y in grid]).exp()
    mass = torch.trapezoid(density, grid, dim=0)
    torch.testing.assert_close(mass, torch.full_like(mass, 0.5), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", REGRESSIONS)
def test_samples_follow_the_predictive(name: str) -> None:
    """Mean, variance, interval coverage and the distribution function itself, by 20,000 draws."""
    predictive = REGRESSIONS[name]()
    count = 20_000
    draws = predictive.sample((count,), seed=3)
    assert draws.shape == (count, *predictive.mean.shape)
    z = (draws.mean(0) - predictive.mean) / (predictive.stddev / math.sqrt(count))
    assert z.abs().max() < CRITICAL
    centred = (draws - predictive.mean).square()
    z = (centred.mean(0) - predictive.variance) / (centred.std(0) / math.sqrt(count))
    assert z.abs().max() < CRITICAL + 1  # heavy tails: squares are far from normal
    interval = predictive.interval(0.8)
    inside = ((draws >= interval.low) & (draws <= interval.high)).double().mean(0)
    assert (inside - 0.8).abs().max() < CRITICAL * math.sqrt(0.8 * 0.2 / count)
    uniform = torch.stack([predictive.cdf(y) for y in draws[:4000]]).flatten(1)[:, 0]
    assert stats.kstest(uniform.numpy(), "uniform").pvalue > 1e-5


def test_samples_are_reproducible_and_leave_the_global_state() -> None:
    state = torch.get_rng_state()
    predictive = gaussian()
    assert torch.equal(predictive.sample((3, 2), seed=1), predictive.sample((3, 2), seed=1))
    assert not torch.equal(predictive.sample((3,), seed=1), predictive.sample((3,), seed=2))
    assert predictive.sample().shape == (B,)
    assert torch.equal(torch.get_rng_state(), state)


# ---- units and calibration -------------------------------------------------------------------------------------------


def test_rescaling_is_a_change_of_units() -> None:
    base, scaled = gaussian(), gaussian().rescaled(loc=5.0, scale=3.0)
    targets = torch.linspace(-1, 2, B, dtype=torch.float64)
    in_units = 5 + 3 * targets
    torch.testing.assert_close(scaled.mean, 5 + 3 * base.mean)
    torch.testing.assert_close(scaled.stddev, 3 * base.stddev)
    torch.testing.assert_close(scaled.epistemic, 9 * base.epistemic)
    torch.testing.assert_close(scaled.log_prob(in_units), base.log_prob(targets) - math.log(3))
    torch.testing.assert_close(scaled.joint_log_prob(in_units), base.joint_log_prob(targets) - B * math.log(3))
    torch.testing.assert_close(scaled.cdf(in_units), base.cdf(targets))
    torch.testing.assert_close(scaled.quantile(0.3), 5 + 3 * base.quantile(0.3))
    twice = scaled.rescaled(loc=-1.0, scale=2.0)
    torch.testing.assert_close(twice.mean, -1 + 2 * scaled.mean)
    torch.testing.assert_close(twice.log_prob(-1 + 2 * in_units), scaled.log_prob(in_units) - math.log(2))


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_calibration_stretches_about_the_mean(temperature: float) -> None:
    base, hot = gaussian(), gaussian().calibrated(temperature)
    torch.testing.assert_close(hot.mean, base.mean)
    torch.testing.assert_close(hot.stddev, temperature * base.stddev)
    for level in (0.1, 0.5, 0.9):
        torch.testing.assert_close(hot.quantile(level) - hot.mean, temperature * (base.quantile(level) - base.mean))
    torch.testing.assert_close(hot.calibrated(1 / temperature).stddev, base.stddev)


def test_calibration_and_rescaling_commute() -> None:
    targets = 2 + torch.linspace(-5, 9, B, dtype=torch.float64)
    one = gaussian().calibrated(1.3).rescaled(2.0, 4.0)
    two = gaussian().rescaled(2.0, 4.0).calibrated(1.3)
    torch.testing.assert_close(one.log_prob(targets), two.log_prob(targets))
    torch.testing.assert_close(one.stddev, two.stddev)


def test_calibrated_classes() -> None:
    base = Predictive(Categorical(), outputs(3), own(0))
    cold = base.calibrated(0.5)
    torch.testing.assert_close(cold.probs, base.probs.square() / base.probs.square().sum(-1, keepdim=True))
    torch.testing.assert_close(
        cold.log_prob(torch.tensor([0, 1, 2, 0, 1])).exp(), cold.probs[range(B), [0, 1, 2, 0, 1]]
    )
    assert torch.equal(cold.mode, base.mode)


# ---- classification --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("likelihood", "num_outputs"), [(Categorical(), 3), (Bernoulli(), 1)])
def test_classes(likelihood: Likelihood, num_outputs: int) -> None:
    f = outputs(num_outputs)
    predictive = Predictive(likelihood, f, own(0))
    each = f.softmax(-1) if num_outputs > 1 else torch.cat([1 - f.sigmoid(), f.sigmoid()], -1)
    probs = each.mean(0)
    torch.testing.assert_close(predictive.probs, probs)
    torch.testing.assert_close(predictive.probs.sum(-1), torch.ones(B, dtype=torch.float64))
    labels = torch.tensor([0, 1, 1, 0, 1])
    torch.testing.assert_close(predictive.log_prob(labels), probs[range(B), labels.tolist()].log())
    assert torch.equal(predictive.mode, probs.argmax(-1))
    total = -(probs * probs.log()).sum(-1)
    expected = -(each * each.log()).sum(-1).mean(0)
    torch.testing.assert_close(predictive.entropy(), total)
    torch.testing.assert_close(predictive.aleatoric, expected)
    torch.testing.assert_close(predictive.epistemic, total - expected)
    draws = predictive.sample((20_000,), seed=0)
    for c in range(probs.shape[-1]):
        z = ((draws == c).double().mean(0) - probs[:, c]) / (probs[:, c] * (1 - probs[:, c]) / 20_000).sqrt()
        assert z.abs().max() < CRITICAL


def test_draws_that_agree_have_no_epistemic_uncertainty() -> None:
    same = outputs(3)[:1].expand(S, -1, -1)
    assert Predictive(Categorical(), same, own(0)).epistemic.max() < 1e-12
    assert Predictive(Gaussian(scale=1.0), same[..., :1], own(0)).epistemic.max() < 1e-12


def test_extreme_logits_are_finite() -> None:
    predictive = Predictive(Categorical(), 1e4 * outputs(3), own(0))
    assert torch.isfinite(predictive.entropy()).all()
    assert torch.isfinite(predictive.epistemic).all()
    assert (predictive.epistemic >= 0).all()


# ---- joint densities -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("predictive", "targets"),
    [
        (gaussian(), torch.linspace(-1, 2, B).double()),
        (gaussian(2), torch.zeros(B, 2).double()),
        (gaussian().rescaled(1.0, 2.0), torch.linspace(-1, 2, B).double()),
        (Predictive(StudentT(df=5.0), outputs(1), own(1)), torch.linspace(-1, 2, B).double()),
        (Predictive(Poisson(), outputs(1), own(0)), torch.tensor([0, 1, 2, 5, 0])),
        (Predictive(Categorical(), outputs(3), own(0)), torch.tensor([0, 1, 2, 0, 1])),
    ],
    ids=["gaussian", "two targets", "rescaled", "student", "poisson", "categorical"],
)
def test_joint_density_by_brute_force(predictive: Predictive, targets: Tensor) -> None:
    """(1/S) Σ_s Π_b p(y_b | f_s): every draw is one function, predicted alone."""
    likelihood, parameters = predictive.likelihood, predictive._m.parameters
    total = 0.0
    for s in range(S):
        alone = Predictive(likelihood, predictive.outputs[s : s + 1], parameters[s : s + 1])
        if predictive._m.scale != 1.0:
            alone = alone.rescaled(predictive._m.loc, predictive._m.scale)
        total += math.exp(float(alone.log_prob(targets).sum())) / S
    assert float(predictive.joint_log_prob(targets)) == pytest.approx(math.log(total), rel=1e-9)
    assert float(predictive.joint_log_prob(targets)) != pytest.approx(
        float(predictive.log_prob(targets).sum()), rel=1e-3
    )


def test_a_closed_form_joint_is_used() -> None:
    covariance = torch.eye(B, dtype=torch.float64) * 0.5 + 0.4
    normal = td.MultivariateNormal(torch.zeros(B, dtype=torch.float64), covariance)
    predictive = Predictive(
        Gaussian(scale=0.1),
        torch.zeros(1, B, 1, dtype=torch.float64),
        own(0)[:1],
        output_variance=torch.full((1, B, 1), 0.9 - 0.01, dtype=torch.float64),
        joint=lambda targets, blocks: normal.log_prob(targets[blocks[0], 0])[None],
    )
    y = torch.linspace(-1, 1, B).double()
    torch.testing.assert_close(predictive.joint_log_prob(y), normal.log_prob(y))
    scaled = predictive.rescaled(3.0, 2.0)
    torch.testing.assert_close(scaled.joint_log_prob(3 + 2 * y), normal.log_prob(y) - B * math.log(2))
    hot = predictive.calibrated(2.0)
    torch.testing.assert_close(hot.joint_log_prob(2 * y), normal.log_prob(y) - B * math.log(2))


# ---- other likelihoods -----------------------------------------------------------------------------------------------


def test_counts() -> None:
    predictive = Predictive(Poisson(), outputs(1), own(0))
    rates = outputs(1)[..., 0].exp()
    counts = torch.arange(60)
    probs = torch.stack([predictive.log_prob(k.expand(B)) for k in counts]).exp()
    torch.testing.assert_close(probs.sum(0), torch.ones(B, dtype=torch.float64))
    torch.testing.assert_close(probs, td.Poisson(rates).log_prob(counts[:, None, None].double()).exp().mean(1))
    torch.testing.assert_close(predictive.mean, rates.mean(0))
    torch.testing.assert_close(predictive.variance, rates.mean(0) + rates.var(0, unbiased=False))
    cumulative = probs.cumsum(0)
    for k in (0, 3, 7):
        torch.testing.assert_close(predictive.cdf(torch.tensor(float(k))), cumulative[k])
        torch.testing.assert_close(predictive.cdf(torch.tensor(k + 0.5)), cumulative[k])
    assert predictive.cdf(torch.tensor(-1.0)).tolist() == [0.0] * B
    for level in (0.05, 0.5, 0.9):
        expected = (cumulative < level).sum(0).double()
        torch.testing.assert_close(predictive.quantile(level), expected)
    draws = predictive.sample((20_000,), seed=0)
    z = (draws.mean(0) - predictive.mean) / (predictive.stddev / math.sqrt(20_000))
    assert z.abs().max() < CRITICAL


def test_a_loss_predicts_outputs() -> None:
    f = outputs(2)
    predictive = Predictive(Loss(lambda out, y: (out[:, 0] - y).abs(), temperature=2.0), f, own(0))
    torch.testing.assert_close(predictive.mean, f.mean(0))
    torch.testing.assert_close(predictive.variance, f.var(0, unbiased=False))
    targets = torch.zeros(B, dtype=torch.float64)
    expected = (-f[..., 0].abs() / 2).exp().mean(0).log()
    torch.testing.assert_close(predictive.log_prob(targets), expected)
    for undefined in (lambda: predictive.quantile(0.5), lambda: predictive.cdf(0.0), lambda: predictive.probs,
                      lambda: predictive.calibrated(2.0), lambda: predictive.rescaled(0.0, 2.0)):  # fmt: skip
        with pytest.raises(UnsupportedError):
            undefined()
    with pytest.raises(UnsupportedError, match="no distribution over targets"):
        predictive.sample((2,))


@pytest.mark.parametrize("df", [0.8, 1.0, 2.0])
def test_student_without_variance_still_has_quantiles(df: float) -> None:
    """With df ≤ 2 the variance is infinite or undefined, but the distribution is not."""
    predictive = Predictive(StudentT(df=df, scale=1.0), torch.zeros(1, 2, 1, dtype=torch.float64), own(0)[:1])
    reference = stats.t(df)
    scaled = predictive.calibrated(2.0).rescaled(1.0, 3.0)
    for level in (1e-4, 0.3, 0.9):
        expected = torch.full((2,), float(reference.ppf(level)), dtype=torch.float64)
        torch.testing.assert_close(predictive.quantile(level), expected)
        torch.testing.assert_close(scaled.quantile(level), 1 + 6 * expected)
    density = torch.full((2,), float(reference.pdf(0.5)), dtype=torch.float64)
    torch.testing.assert_close(predictive.log_prob(torch.full((2,), 0.5)).exp(), density)
    assert bool(torch.isnan(predictive.mean).all()) == (df <= 1)
    assert stats.kstest(predictive.sample((4000,))[:, 0].numpy(), reference.cdf).pvalue > 1e-5


def test_pooling_is_a_mixture() -> None:
    f = outputs(1)
    parts = [Predictive(Gaussian(scale=0.5), part, own(0)[: len(part)]) for part in (f[:3], f[3:6])]
    pooled, whole = Predictive.pooled(parts), Predictive(Gaussian(scale=0.5), f[:6], own(0)[:6])
    y = torch.zeros(B, dtype=torch.float64)
    torch.testing.assert_close(pooled.log_prob(y), whole.log_prob(y))
    torch.testing.assert_close(pooled.variance, whole.variance)
    torch.testing.assert_close(pooled.joint_log_prob(y), whole.joint_log_prob(y))


def test_pooling_keeps_closed_forms() -> None:
    def part(shift: float) -> Predictive:
        normal = td.MultivariateNormal(torch.full((B,), shift).double(), torch.eye(B).double())
        return Predictive(
            Gaussian(scale=0.6),
            torch.full((1, B, 1), shift).double(),
            own(0)[:1],
            output_variance=torch.full((1, B, 1), 0.64).double(),
            joint=lambda targets, blocks: normal.log_prob(targets[blocks[0], 0])[None],
        )

    pooled = Predictive.pooled([part(0.0), part(2.0)])
    y = torch.linspace(0, 1, B).double()
    each = [td.Normal(shift, 1.0).log_prob(y) for shift in (0.0, 2.0)]
    torch.testing.assert_close(pooled.log_prob(y), torch.stack(each).logsumexp(0) - math.log(2))
    joint = torch.stack([value.sum() for value in each]).logsumexp(0) - math.log(2)
    torch.testing.assert_close(pooled.joint_log_prob(y), joint)
    torch.testing.assert_close(pooled.variance, torch.full((B,), 2.0).double())


# ---- misuse ----------------------------------------------------------------------------------------------------------


def test_misuse_is_told() -> None:
    classes, numbers = Predictive(Categorical(), outputs(3), own(0)), gaussian()
    with pytest.raises(UnsupportedError, match=r"predictive\.probs"):
        _ = classes.mean
    with pytest.raises(UnsupportedError, match="use mean and stddev"):
        _ = numbers.probs
    with pytest.raises(UnsupportedError, match="only real-valued targets"):
        classes.rescaled(0.0, 2.0)
    with pytest.raises(DataError, match="must match"):
        numbers.log_prob(torch.zeros(B + 1))
    for level in (0.0, 1.0, -0.2, math.nan):
        with pytest.raises(DataError, match="between 0 and 1"):
            numbers.quantile(level)
    for level in (0.0, 1.0, 90):
        with pytest.raises(DataError, match="between 0 and 1"):
            numbers.interval(level)
    for label in (-1, 3):
        with pytest.raises(DataError, match="label"):
            classes.log_prob(torch.full((B,), label))
