"""Distances to the predictive of long chains, on both kinds of tasks."""

import numpy as np
import pytest
import torch
from torch import nn

from bayesify.data import Data
from bayesify.engine.budget import Budget
from bayesify.engine.rng import generator
from bayesify.errors import DataError
from bayesify.exactness import RealProblem, check_method, linear_regression
from bayesify.exactness.closeness import distance
from bayesify.model.likelihoods import Categorical, Gaussian
from bayesify.predictive import Predictive


def classes(logits: list[list[float]]) -> Predictive:
    return Predictive(Categorical(), torch.tensor([logits]), torch.zeros(1, 0))


def numbers(means: list[float], scale: float = 1.0) -> Predictive:
    outputs = torch.tensor(means, dtype=torch.float64)[None, :, None]
    return Predictive(Gaussian(scale=scale), outputs, torch.zeros(1, 0))


def test_classes() -> None:
    log3 = float(np.log(3))
    found = distance("x", classes([[0.0, 0.0], [log3, 0.0]]), classes([[log3, 0.0], [0.0, log3]]))
    assert found.agreement == 0.5
    assert found.total_variation == pytest.approx(0.5 * (0.25 + 0.5))
    assert found.wasserstein1 is None
    assert "50.0% of the test set, total variation 0.375" in found.sentence


def test_numbers() -> None:
    """W1 of two normals of one scale is the distance of their means; of one mean, |s − t| √(2/π)."""
    shifted = distance("x", numbers([0.0, 1.0]), numbers([0.3, 1.3]))
    assert shifted.wasserstein1 == pytest.approx(0.3, abs=0.07)  # 4000 draws of each
    wider = distance("x", numbers([0.0] * 20), numbers([0.0] * 20, scale=2.0))
    assert wider.wasserstein1 == pytest.approx((2 / np.pi) ** 0.5, abs=0.05)
    assert distance("x", numbers([0.0] * 20), numbers([0.0] * 20)).wasserstein1 < 0.05
    assert shifted.agreement is None


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(DataError, match="predict the same test inputs"):
        distance("x", numbers([0.0]), numbers([0.0, 1.0]))


def test_part_of_a_check() -> None:
    x = torch.randn(40, 2, generator=generator("cpu", 0))
    data = Data(x, x.sum(1))
    reference = numbers(x[:5].sum(1).tolist(), scale=0.1)
    real = RealProblem("sums", lambda: nn.Linear(2, 1), data, x[:5], Gaussian(scale=0.1), "normal", reference)
    result = check_method("map", problems=[linear_regression()], budget=Budget(epochs=1000), references=[real])
    assert result.closeness[0].wasserstein1 < 0.2
    assert "sums: predictive at W1 = 0." in str(result)
    assert result.as_dict()["closeness"][0]["name"] == "sums"
