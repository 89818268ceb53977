"""Distances between predictives against closed forms."""

import numpy as np
import pytest
import torch
from scipy import stats

from bayesify.errors import DataError
from bayesify.model.likelihoods import Categorical, Gaussian, HeteroscedasticGaussian, StudentT
from bayesify.predictive import Predictive
from bayesify.reference.distance import Target, points

MEANS = torch.tensor([-1.0, 0.0, 2.0], dtype=torch.float64)


def normal(shift: float = 0.0, scale: float = 1.0, draws: int = 1) -> Predictive:
    """N(mean + shift, scale²) at three test points, by draws that all agree."""
    outputs = (MEANS + shift)[None, :, None].expand(draws, -1, -1)
    return Predictive(Gaussian(scale), outputs, outputs.new_zeros(draws, 0))


def spread(scale: float, noise: float, draws: int) -> Predictive:
    """N(mean, scale² + noise²): draws at the quantiles of N(mean, scale²), in an order that is not theirs."""
    levels = (torch.arange(draws, dtype=torch.float64) + 0.5) / draws
    order = torch.randperm(draws, generator=torch.Generator().manual_seed(0))
    offsets = scale * torch.special.ndtri(levels[order])
    return Predictive(Gaussian(noise), (MEANS + offsets[:, None])[..., None], torch.zeros(draws, 0).double())


def of_classes(*rows: list[float]) -> Predictive:
    return Predictive(Categorical(), torch.tensor(rows, dtype=torch.float64).log()[None], torch.zeros(1, 0).double())


@pytest.mark.parametrize("draws", [1, 7, 2000])
def test_a_shift_is_its_size(draws: int) -> None:
    found = Target(normal(draws=draws)).distance(normal(0.3, draws=3))
    assert found.wasserstein1 == pytest.approx(0.3, abs=2e-3)
    assert found.main == found.wasserstein1
    assert found.kl == pytest.approx(0.3**2 / 2, abs=1e-3)  # KL of N(0, 1) to N(0.3, 1)
    assert found.agreement is None


def test_scales() -> None:
    # W1 of two centred normals is |s − t| E|z|; KL of N(0, 1) to N(0, ½²) is log ½ + 2 − ½.
    found = Target(normal()).distance(normal(scale=0.5))
    assert found.wasserstein1 == pytest.approx(0.5 * np.sqrt(2 / np.pi), rel=2e-3)
    assert found.kl == pytest.approx(np.log(0.5) + 2 - 0.5, rel=0.02)


def test_overconfidence_costs_more_than_the_reverse() -> None:
    assert Target(normal()).distance(normal(scale=0.5)).kl > Target(normal(scale=0.5)).distance(normal()).kl > 0


def test_draws_and_noise_together_are_one_normal() -> None:
    exact = Predictive(Gaussian(float(np.hypot(0.6, 0.8))), MEANS[None, :, None], torch.zeros(1, 0).double())
    found = Target(exact).distance(spread(0.6, 0.8, 500))
    assert found.wasserstein1 == pytest.approx(0.0, abs=5e-3)
    assert found.kl == pytest.approx(0.0, abs=2e-3)


@pytest.mark.parametrize("draws", [1, 30, 4000])
def test_points_are_quantiles(draws: int) -> None:
    found = points(normal(draws=draws))
    assert len(found) >= 8192
    for column, mean in enumerate(MEANS):
        at = stats.norm(float(mean)).cdf(np.sort(found[:, column]))
        np.testing.assert_allclose(at, (np.arange(len(at)) + 0.5) / len(at), atol=2e-3)


def test_other_noise() -> None:
    raw = torch.log(torch.expm1(torch.tensor(1.0 - 1e-4, dtype=torch.float64)))  # softplus gives a scale of 1
    outputs = torch.stack([MEANS, raw.expand(3)], -1)[None]
    varied = Predictive(HeteroscedasticGaussian(), outputs, torch.zeros(1, 0).double())
    assert Target(normal()).distance(varied).wasserstein1 == pytest.approx(0.0, abs=2e-3)
    heavy = Predictive(StudentT(df=4.0, scale=1.0), MEANS[None, :, None], torch.zeros(1, 0).double())
    shifted = Predictive(StudentT(df=4.0, scale=1.0), MEANS[None, :, None] + 1, torch.zeros(1, 0).double())
    assert Target(heavy).distance(shifted).wasserstein1 == pytest.approx(1.0, abs=0.1)


def test_calibration_is_part_of_the_predictive() -> None:
    found = Target(normal()).distance(normal().calibrated(2.0))
    assert found.wasserstein1 == pytest.approx(np.sqrt(2 / np.pi), rel=2e-3)


def test_classes_by_hand() -> None:
    reference, other = of_classes([0.5, 0.5], [0.9, 0.1]), of_classes([0.4, 0.6], [0.6, 0.4])
    found = Target(reference).distance(other)
    assert found.agreement == 0.5  # of ties the first class counts
    assert found.total_variation == pytest.approx((0.1 + 0.3) / 2)
    first = 0.5 * np.log(0.5 / 0.4) + 0.5 * np.log(0.5 / 0.6)
    second = 0.9 * np.log(0.9 / 0.6) + 0.1 * np.log(0.1 / 0.4)
    assert found.kl == pytest.approx((first + second) / 2)
    assert found.main == found.total_variation
    assert found.wasserstein1 is None


def test_others_are_refused() -> None:
    with pytest.raises(DataError, match="cannot be compared"):
        Target(normal()).distance(of_classes([0.5, 0.5], [0.9, 0.1]))
