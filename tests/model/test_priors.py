"""Priors: densities against quadrature and autograd, samples against distribution functions at 10⁻⁵."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.integrate import quad
from torch import Tensor, nn

from bayesify.errors import MethodError, UnsupportedError
from bayesify.model.parameters import Layout
from bayesify.model.prior import LIKELIHOOD_LOG_SCALE, BoundPrior, Family, Prior
from bayesify.model.priors import (
    ByName,
    Flat,
    Horseshoe,
    Laplace,
    Normal,
    StudentT,
    get_prior,
)

PROPER: list[Family] = [Normal(), Laplace(), StudentT(), StudentT(df=1.0), StudentT(df=30.0), Horseshoe()]
LIKE = torch.zeros(1, dtype=torch.float64)


def layout() -> Layout:
    model = nn.Sequential(nn.Linear(4, 9), nn.BatchNorm1d(9), nn.Conv1d(9, 2, 3), nn.Embedding(5, 2))
    return Layout.of(model)


def density(prior: Prior, z: float) -> float:
    return math.exp(float(prior.standard_log_density(torch.tensor(z, dtype=torch.float64))))


def horseshoe_mixture(z: float) -> float:
    """∫ N(z; 0, λ²) half-Cauchy(λ) dλ with λ = eᵘ, by scipy."""

    def integrand(u: float) -> float:
        scale = math.exp(u)
        cauchy = 2 / (math.pi * (1 + scale**2))
        return math.exp(-0.5 * (z / scale) ** 2) / (math.sqrt(2 * math.pi) * scale) * cauchy * scale

    return float(quad(integrand, -40, 40, epsabs=0, epsrel=1e-11, limit=500, points=[math.log(abs(z))])[0])


def own_repr(value: object) -> str | None:
    """Priors by their repr; scipy's objects by number, because their repr holds an address that differs by worker."""
    return repr(value) if isinstance(value, Prior) else None


@pytest.mark.parametrize("prior", PROPER, ids=repr)
def test_densities_integrate_to_one(prior: Prior) -> None:
    # z = ± eᵘ resolves both the spike of the horseshoe and the heavy tails.
    total = 2 * quad(lambda u: density(prior, math.exp(u)) * math.exp(u), -60, 60, limit=1000, epsabs=1e-10)[0]
    assert total == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize(
    ("prior", "reference"),
    [
        (Normal(), stats.norm()),
        (Laplace(), stats.laplace()),
        (StudentT(df=3.0), stats.t(3)),
        (StudentT(df=0.7), stats.t(0.7)),
    ],
    ids=own_repr,
)
def test_densities_against_scipy(prior: Prior, reference: stats.rv_continuous) -> None:
    z = torch.tensor([-7.0, -0.3, 0.0, 1e-9, 2.0, 500.0], dtype=torch.float64)
    expected = torch.from_numpy(reference.logpdf(z.numpy()))
    torch.testing.assert_close(prior.standard_log_density(z), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("z", [1e-12, 1e-4, 0.1, 1.0, math.sqrt(2), 1.5, 4.0, 30.0, 1e4])
def test_horseshoe_is_the_mixture(z: float) -> None:
    assert density(Horseshoe(), z) == pytest.approx(horseshoe_mixture(z), rel=1e-8)
    assert density(Horseshoe(), -z) == density(Horseshoe(), z)


def test_horseshoe_is_finite_at_zero_in_both_precisions() -> None:
    for dtype in (torch.float32, torch.float64):
        z = torch.zeros(3, dtype=dtype)
        assert torch.isfinite(Horseshoe().standard_log_density(z)).all()
        assert torch.isfinite(Horseshoe().standard_score(z)).all()


@pytest.mark.parametrize("prior", [*PROPER, Flat()], ids=repr)
def test_scores_are_the_gradients(prior: Prior) -> None:
    z = torch.tensor([-40.0, -3.0, -1.2, -1e-3, 1e-5, 0.4, 1.0, 1.5, 9.0, 300.0], dtype=torch.float64)
    z.requires_grad_()
    value = prior.standard_log_density(z).sum()
    gradient = torch.autograd.grad(value, z)[0] if value.requires_grad else torch.zeros_like(z)
    torch.testing.assert_close(prior.standard_score(z.detach()), gradient, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("prior", [*PROPER, Flat()], ids=repr)
def test_bound_scores_are_the_gradients(prior: Prior) -> None:
    bound = prior.bind(layout(), 2, LIKE)
    theta = torch.randn(3, layout().num_parameters + 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    theta.requires_grad_()
    gradient = torch.autograd.grad(bound.log_density(theta).sum(), theta)[0]
    torch.testing.assert_close(bound.score(theta.detach()), gradient, rtol=1e-7, atol=1e-9)


def horseshoe_cdf(z: np.ndarray) -> np.ndarray:
    """By quadrature over the scale: E[Φ(z/λ)], λ = tan(πu/2)."""
    u = (np.arange(200_000) + 0.5) / 200_000
    scale = np.tan(0.5 * np.pi * u)
    return np.array([stats.norm.cdf(value / scale).mean() for value in z])


@pytest.mark.parametrize(
    ("prior", "cdf"),
    [
        (Normal(), stats.norm.cdf),
        (Laplace(), stats.laplace.cdf),
        (StudentT(df=3.0), stats.t(3).cdf),
        (StudentT(df=1.0), stats.t(1).cdf),
    ],
    ids=own_repr,
)
def test_samples_follow_the_distribution(prior: Prior, cdf: object) -> None:
    draws = prior.standard_sample((20_000,), torch.Generator().manual_seed(0)).double().numpy()
    assert stats.kstest(draws, cdf).pvalue > 1e-5
    # The control: draws 20% too wide would be found out.
    assert stats.kstest(1.2 * draws, cdf).pvalue < 1e-5


def test_horseshoe_samples_follow_the_distribution() -> None:
    draws = Horseshoe().standard_sample((20_000,), torch.Generator().manual_seed(0)).numpy()
    grid = np.array([-30.0, -3.0, -1.0, -0.3, -0.05, 0.05, 0.3, 1.0, 3.0, 30.0])
    counts = np.diff([0, *(draws[:, None] <= grid).sum(0), len(draws)])
    chances = np.diff([0.0, *horseshoe_cdf(grid), 1.0])
    assert stats.chisquare(counts, len(draws) * chances).pvalue > 1e-5


@pytest.mark.parametrize("prior", PROPER, ids=repr)
def test_bound_samples_have_loc_and_scale(prior: Prior) -> None:
    bound = prior.bind(layout(), 1, LIKE)
    draws = bound.sample(4000, torch.Generator().manual_seed(1))
    assert draws.shape == (4000, layout().num_parameters + 1)
    assert draws.dtype == torch.float64
    median = (draws[:, :-1] - bound.loc).div(bound.scale).median(0).values
    half = 1 / (2 * density(prior, 0.05) * math.sqrt(4000))  # a median's standard error
    assert median.abs().max() < 5.5 * half
    assert torch.equal(draws, bound.sample(4000, torch.Generator().manual_seed(1)))


def named(value: Tensor) -> dict[str, Tensor]:
    return layout().unflatten(value[: layout().num_parameters])


def test_fan_in_scales() -> None:
    scale = named(Normal().bind(layout(), 0, LIKE).scale)
    gain = math.sqrt(2)
    assert scale["0.weight"].unique().tolist() == [pytest.approx(gain / math.sqrt(4))]
    assert scale["2.weight"].unique().tolist() == [pytest.approx(gain / math.sqrt(9 * 3))]  # channels × kernel
    assert scale["0.bias"].unique().tolist() == [1.0]
    assert scale["1.weight"].unique().tolist() == [1.0]
    assert scale["3.weight"].unique().tolist() == [1.0]  # an embedding picks one row: fan-in 1
    loc = named(Normal().bind(layout(), 0, LIKE).loc)
    assert loc["1.weight"].unique().tolist() == [1.0]  # normalisation does nothing at 1
    assert all(loc[name].unique().tolist() == [0.0] for name in loc if name != "1.weight")
    assert Normal(gain=3.0).bind(layout(), 0, LIKE).scale[0] == pytest.approx(1.5)


def test_scales_by_group() -> None:
    scale = named(Normal(scale={"bias": 0.1, r"^0\.": 2.0, ".": 3.0}).bind(layout(), 0, LIKE).scale)
    assert scale["0.bias"][0] == pytest.approx(0.1)  # the first pattern that matches
    assert scale["0.weight"][0, 0] == 2.0
    assert scale["3.weight"][0, 0] == 3.0
    with pytest.raises(MethodError, match=r"no group for parameter '1\.weight'"):
        Normal(scale={"^0": 1.0}).bind(layout(), 0, LIKE)


def test_log_density_is_that_of_independent_parameters() -> None:
    bound = Normal(scale=0.5).bind(layout(), 2, LIKE)
    theta = torch.randn(4, layout().num_parameters + 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    network = torch.distributions.Normal(bound.loc, bound.scale).log_prob(theta[:, :-2]).sum(-1)
    own = torch.distributions.Normal(0.0, LIKELIHOOD_LOG_SCALE).log_prob(theta[:, -2:]).sum(-1)
    torch.testing.assert_close(bound.log_density(theta), network + own, rtol=1e-12, atol=1e-12)


def test_precision_is_for_gaussian_priors() -> None:
    bound = Normal(scale=0.5).bind(layout(), 1, LIKE)
    torch.testing.assert_close(bound.precision(), torch.full_like(bound.loc, 4.0))
    assert bound.gaussian().precision[-1] == LIKELIHOOD_LOG_SCALE**-2
    assert bound.scales[-1] == LIKELIHOOD_LOG_SCALE
    assert Flat().bind(layout(), 0, LIKE).precision().abs().max() == 0
    with pytest.raises(UnsupportedError, match="the prior is student_t"):
        StudentT().bind(layout(), 0, LIKE).precision()


def test_flat_is_flat() -> None:
    bound: BoundPrior = Flat().bind(layout(), 0, LIKE)
    theta = torch.randn(2, layout().num_parameters, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    assert bound.log_density(theta).tolist() == [0.0, 0.0]
    with pytest.raises(UnsupportedError, match="improper"):
        bound.sample(1, torch.Generator())


@pytest.mark.parametrize("kind", [Normal, Laplace, StudentT, Horseshoe])
@pytest.mark.parametrize("scale", [0.0, -1.0, math.inf, math.nan, "wide", {".": 0.0}])
def test_bad_scales(kind: type[Prior], scale: object) -> None:
    with pytest.raises(MethodError, match=kind.__name__):
        kind(scale=scale)  # type: ignore[call-arg]


@pytest.mark.parametrize("kind", [Normal, Laplace, StudentT, Horseshoe])
@pytest.mark.parametrize("gain", [0.0, -1.0, math.nan])
def test_bad_gains(kind: type[Prior], gain: float) -> None:
    with pytest.raises(MethodError, match="gain"):
        kind(gain=gain)  # type: ignore[call-arg]


def test_bad_degrees_of_freedom() -> None:
    with pytest.raises(MethodError, match="df=0"):
        StudentT(df=0.0)


def test_by_name() -> None:
    assert get_prior(None) == Normal()
    assert get_prior("horseshoe") == Horseshoe()
    prior = Laplace(scale=2.0)
    assert get_prior(prior) is prior
    with pytest.raises(MethodError, match="Did you mean 'horseshoe'"):
        get_prior("horsshoe")


def test_families_by_name_each_hold_for_their_own_parameters() -> None:
    prior = ByName({r"^0\.": Horseshoe(scale=0.3), "bias": Laplace(scale=2.0), ".": Normal(scale=0.7)})
    bound = prior.bind(layout(), 2, LIKE)
    theta = torch.randn(3, len(bound.loc) + 2, dtype=LIKE.dtype, generator=torch.Generator().manual_seed(0))
    expected = Normal().bind(layout(), 2, LIKE).log_density(theta) - Normal().bind(layout(), 0, LIKE).log_density(
        theta[:, :-2]
    )  # the likelihood's own
    for slot in layout().slots:
        family = prior.family_of(slot)
        z = (theta[:, slot.offset : slot.offset + slot.size] - float(slot.role == "scale")) / family.scale_of(slot)
        expected = expected + (family.standard_log_density(z) - math.log(family.scale_of(slot))).sum(-1)
    torch.testing.assert_close(bound.log_density(theta), expected)
    point = theta.requires_grad_()
    slope = torch.autograd.grad(bound.log_density(point).sum(), point)[0]
    torch.testing.assert_close(bound.score(point.detach()), slope)
    with pytest.raises(UnsupportedError, match="horseshoe"):
        bound.precision()
    assert bound.sample(5, torch.Generator().manual_seed(1)).shape == (5, theta.shape[1])


def test_families_by_name_must_cover_every_parameter_and_be_priors() -> None:
    with pytest.raises(MethodError, match="no pattern for parameter"):
        ByName({"^0": Normal()}).bind(layout(), 0, LIKE)
    with pytest.raises(MethodError, match="needs a prior"):
        ByName({".": 0.5})  # type: ignore[dict-item]
