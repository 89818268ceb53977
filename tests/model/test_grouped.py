"""Priors with dependence: ARD against its mixture, correlated kernels against torch's MultivariateNormal."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn
from torch.distributions import MultivariateNormal
from torch.fx.experimental.proxy_tensor import make_fx

import bayesify as bay
from bayesify.errors import MethodError, UnsupportedError
from bayesify.model.grouped import KernelNormal, SharedScale
from bayesify.model.parameters import Layout
from bayesify.model.prior import BoundPrior, Prior
from bayesify.model.priors import ARD, ByName, CorrelatedNormal, Horseshoe, Normal, StudentT, get_prior

LIKE = torch.zeros(1, dtype=torch.float64)
DEPENDENT: list[Prior] = [
    ARD(),
    ARD(df=3.0, scale=0.5),
    ARD(layers="weight", rest=Horseshoe(scale=0.7)),
    CorrelatedNormal(),
    CorrelatedNormal(length_scale=3.0, scale=0.2),
    ByName({"^0": ARD(df=2.0), ".": CorrelatedNormal()}),
]


def layout() -> Layout:
    """Two kernels of one shape side by side, so that parts of one family are merged."""
    first, second = nn.Conv2d(3, 2, (2, 3), bias=False), nn.Conv2d(3, 2, (2, 3))
    return Layout.of(nn.Sequential(first, second, nn.Flatten(), nn.Linear(4, 5), nn.LayerNorm(5)))


def points(num: int, size: int) -> Tensor:
    return torch.randn(num, size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def bound(prior: Prior) -> BoundPrior:
    return prior.bind(layout(), 2, LIKE)


@pytest.mark.parametrize("prior", DEPENDENT, ids=repr)
def test_scores_are_the_gradients(prior: Prior) -> None:
    law = bound(prior)
    theta = points(3, len(law.loc) + 2).requires_grad_()
    gradient = torch.autograd.grad(law.log_density(theta).sum(), theta)[0]
    torch.testing.assert_close(law.score(theta.detach()), gradient, rtol=1e-9, atol=1e-9)
    each = torch.vmap(law.score)(theta.detach())
    torch.testing.assert_close(each, gradient, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("prior", DEPENDENT, ids=repr)
def test_draws_have_the_shape_and_repeat(prior: Prior) -> None:
    law = bound(prior)
    draws = law.sample(7, torch.Generator().manual_seed(3))
    assert draws.shape == (7, len(law.loc) + 2)
    assert draws.dtype == torch.float64
    assert torch.equal(draws, law.sample(7, torch.Generator().manual_seed(3)))
    with pytest.raises(UnsupportedError, match="independent over parameters"):
        law.precision()


# ---- ARD -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("df", "outputs", "positions"), [(1.0, 4, 1), (3.0, 2, 3), (0.5, 1, 1)])
def test_ard_is_scipys_multivariate_t_for_each_input(df: float, outputs: int, positions: int) -> None:
    inputs = 5
    family = SharedScale(StudentT(df), df, (outputs, inputs, positions))
    z = points(6, 2 * outputs * inputs * positions)  # two blocks side by side
    found = family.standard_log_density(z)
    assert found.shape == (6, 2 * inputs)
    size = outputs * positions
    groups = z.reshape(6, 2, outputs, inputs, positions).transpose(2, 3).reshape(6, 2 * inputs, size).numpy()
    expected = stats.multivariate_t(shape=np.eye(size), df=df).logpdf(groups)
    torch.testing.assert_close(found, torch.from_numpy(expected.reshape(6, 2 * inputs)), rtol=1e-10, atol=1e-10)


def test_ard_draws_follow_the_law() -> None:
    outputs, inputs, df = 3, 4, 2.0
    family = SharedScale(StudentT(df), df, (outputs, inputs, 1))
    z = family.standard_sample((20_000, outputs * inputs), torch.Generator().manual_seed(0)).reshape(
        -1, outputs, inputs
    )
    lengths = z.square().sum(1) / outputs  # |w|²/d of a multivariate t is F(d, df)
    assert stats.kstest(lengths[:, 1].numpy(), stats.f(outputs, df).cdf).pvalue > 1e-5
    # The control: independent t's of the same marginals are found out.
    alone = StudentT(df).standard_sample(tuple(z.shape), torch.Generator().manual_seed(0))
    assert stats.kstest((alone.square().sum(1) / outputs)[:, 1].numpy(), stats.f(outputs, df).cdf).pvalue < 1e-5
    # Sizes of an input's weights go together, those of different inputs do not.
    assert stats.spearmanr(z[:, 0, 1].abs(), z[:, 1, 1].abs()).statistic > 0.2
    assert abs(stats.spearmanr(z[:, 0, 1].abs(), z[:, 0, 2].abs()).statistic) < 4.5 / math.sqrt(len(z))
    assert stats.kstest(z[:, 2, 3].numpy(), stats.t(df).cdf).pvalue > 1e-5


def test_ard_is_for_the_first_weight_and_leaves_the_rest() -> None:
    slots = {slot.name: slot for slot in layout().slots}
    prior = ARD(rest=StudentT())
    assert isinstance(prior.family_of(slots["0.weight"]), SharedScale)
    assert all(prior.family_of(slots[name]) == StudentT() for name in slots if name != "0.weight")
    everywhere = ARD(layers=r"^(1|3)\.")
    assert [name for name in slots if isinstance(everywhere.family_of(slots[name]), SharedScale)] == [
        "1.weight",
        "3.weight",
    ]
    frozen = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 4), nn.Linear(4, 1))
    assert [slot.name for slot in Layout.of(frozen).slots if slot.is_first] == ["1.weight"]
    frozen[1].requires_grad_(False)
    assert not any(slot.is_first for slot in Layout.of(frozen).slots)


@pytest.mark.parametrize("settings", [{"df": 0.0}, {"df": math.inf}, {"scale": -1.0}, {"gain": 0.0}])
def test_ard_refuses(settings: dict[str, float]) -> None:
    with pytest.raises(MethodError, match="ARD"):
        ARD(**settings)  # type: ignore[arg-type]


def contrast(prior: Prior, x: Tensor, y: Tensor) -> float:
    """By how much the weights of the less relevant of inputs 0 and 3 exceed those of all others, in the posterior."""
    model = nn.Sequential(nn.Linear(10, 6), nn.Tanh(), nn.Linear(6, 1))
    budget = bay.Budget(gradient_evaluations=100_000)
    method = bay.methods.HMC(num_chains=2)
    fitted = bay.fit(model, (x, y), likelihood="gaussian", prior=prior, method=method, budget=budget, progress=False)
    sizes = fitted.sample(100)["0.weight"].square().mean((0, 1)).sqrt()
    relevant = torch.tensor([i in (0, 3) for i in range(10)])
    return float(sizes[relevant].min() / sizes[~relevant].max())


def test_irrelevant_inputs_are_found() -> None:
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(100, 10, generator=rng)
    y = torch.sin(1.5 * x[:, 0]) + 0.7 * x[:, 3] + 0.1 * torch.randn(100, generator=rng)
    usual = contrast(Normal(), x, y)  # 1.3
    assert contrast(ARD(gain=0.1), x, y) > 2 * usual  # 6.5
    assert contrast(Horseshoe(), x, y) > 2 * usual  # 13


# ---- correlated kernels ----------------------------------------------------------------------------------------------


def covariance(kernel: tuple[int, ...], length_scale: float) -> Tensor:
    """Entry by entry, as the definition says."""
    places = list(np.ndindex(*kernel))
    return torch.tensor(
        [[math.exp(-math.dist(p, q) / length_scale) for q in places] for p in places], dtype=torch.float64
    )


@pytest.mark.parametrize(("kernel", "length_scale"), [((3, 3), 1.0), ((2, 4), 3.0), ((5,), 0.5), ((2, 2, 2), 1.5)])
def test_kernels_are_multivariate_normal(kernel: tuple[int, ...], length_scale: float) -> None:
    size = math.prod(kernel)
    family = KernelNormal(Normal(), length_scale, kernel)
    reference = MultivariateNormal(torch.zeros(size, dtype=torch.float64), covariance(kernel, length_scale))
    z = points(4, 6 * size)
    expected = reference.log_prob(z.reshape(4, 6, size))
    torch.testing.assert_close(family.standard_log_density(z), expected, rtol=1e-10, atol=1e-10)
    draws = family.standard_sample((4000, 5 * size), torch.Generator().manual_seed(1)).reshape(-1, size)
    white = torch.linalg.solve_triangular(reference.scale_tril, draws.T, upper=False)
    assert stats.kstest(white.flatten().numpy(), stats.norm.cdf).pvalue > 1e-5
    found = white @ white.T / len(draws)
    assert (found - torch.eye(size)).abs().max() < 6 * math.sqrt(2 / len(draws))


def test_correlated_normal_keeps_marginals_and_what_is_no_kernel() -> None:
    slots = {slot.name: slot for slot in layout().slots}
    prior = CorrelatedNormal(length_scale=2.0)
    torch.testing.assert_close(bound(prior).scale, bound(Normal()).scale)
    assert {name for name in slots if prior.family_of(slots[name]) != Normal()} == {"0.weight", "1.weight"}
    pointwise = Layout.of(nn.Conv2d(3, 2, 1)).slots[0]
    assert prior.family_of(pointwise) == Normal()
    narrow = CorrelatedNormal(length_scale=1e-3)  # no correlation left: the independent prior
    theta = points(3, len(bound(prior).loc) + 2)
    torch.testing.assert_close(bound(narrow).log_density(theta), bound(Normal()).log_density(theta))
    with pytest.raises(MethodError, match="length in pixels"):
        CorrelatedNormal(length_scale=0.0)


def test_convolutions_are_fitted_with_it_and_half_precision_is_kept() -> None:
    x = torch.randn(24, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    y = (x.mean((1, 2, 3)) > 0).long()
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 2))
    fitted = bay.fit(
        model, (x, y), prior="correlated_normal", method="map", budget=bay.Budget(epochs=2), progress=False
    )
    assert fitted.predict(x).probs.shape == (24, 2)
    law = CorrelatedNormal().bind(Layout.of(model), 0, torch.zeros(1))
    assert law.score(torch.zeros(2, len(law.loc))).dtype == torch.float32


@pytest.mark.parametrize("prior", [ARD(), CorrelatedNormal(length_scale=1.37)], ids=repr)
def test_scores_can_be_traced_at_first_sight(prior: Prior) -> None:
    """No other test has this length scale: what is computed once is not computed under the tracer."""
    law = bound(prior)
    traced = make_fx(lambda theta: law.score(theta))(points(3, len(law.loc) + 2))
    theta = 2 * points(3, len(law.loc) + 2)
    torch.testing.assert_close(traced(theta), law.score(theta))


def test_names() -> None:
    assert get_prior("ard") == ARD()
    assert get_prior("correlated_normal") == CorrelatedNormal()
