"""Distances to the predictive of long chains, as part of a check; the measures are tested with references."""

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from bayesify.data import Data
from bayesify.datasets import make_task
from bayesify.datasets.task import Task
from bayesify.engine.budget import Budget
from bayesify.engine.rng import generator
from bayesify.errors import DataError
from bayesify.exactness import Closeness, RealProblem, check_method, linear_regression, problem_of
from bayesify.exactness.closeness import closeness
from bayesify.methods.laplace import Laplace
from bayesify.methods.map import MAP
from bayesify.model.likelihoods import Gaussian
from bayesify.predictive import Predictive
from bayesify.reference import Distance, Reference, Setup, make_reference


def numbers(means: list[float], scale: float = 1.0) -> Predictive:
    outputs = torch.tensor(means, dtype=torch.float64)[None, :, None]
    return Predictive(Gaussian(scale=scale), outputs, torch.zeros(1, 0))


def by_w1(value: float) -> Distance:
    return Distance(None, None, value, 0.0)


def test_words_for_classes() -> None:
    sentence = Closeness("x", Distance(0.5, 0.375, None, 0.1), Distance(0.9, 0.125, None, 0.0)).sentence
    assert "50.0% of the test set, total variation 0.3750" in sentence
    assert sentence.endswith("halves of the chains are total variation = 0.1250 apart: 3.0 times that")


def test_below_the_ceiling_nothing_can_be_told() -> None:
    below = Closeness("x", by_w1(0.01), by_w1(0.02))
    assert below.told_apart is False
    assert below.sentence.endswith("W1 = 0.0200 apart: it cannot be told from zero")
    assert below.as_dict()["told_apart"] is False
    above = Closeness("x", by_w1(0.05), by_w1(0.02))
    assert above.told_apart is True
    assert "2.5 times that" in above.sentence
    assert Closeness("x", by_w1(0.05)).told_apart is None
    assert Closeness("x", by_w1(0.05)).sentence == "x: predictive at W1 = 0.0500 from long chains"


def real_sums(scale: float = 0.1, num_test: int = 5) -> RealProblem:
    x = torch.randn(40, 2, generator=generator("cpu", 0))
    reference = numbers(x[:num_test].sum(1).tolist(), scale)
    return RealProblem(
        "sums", lambda: nn.Linear(2, 1), Data(x, x.sum(1)), x[:5], Gaussian(scale=0.1), "normal", reference
    )


def test_part_of_a_check() -> None:
    result = check_method("map", problems=[linear_regression()], budget=Budget(epochs=1000), references=[real_sums()])
    found = result.closeness[0].distance.wasserstein1
    assert found is not None
    assert found < 0.02  # without noise the mode is nearly the sum
    assert "sums: predictive at W1 = 0.0" in str(result)
    assert result.as_dict()["closeness"][0]["name"] == "sums"


def test_a_wrong_scale_is_a_distance() -> None:
    """W1 of two normals of one centre is |s − t| √(2/π)."""
    found = closeness(MAP(), real_sums(scale=1.1), budget=Budget(epochs=1000)).distance.wasserstein1
    assert found == pytest.approx((2 / np.pi) ** 0.5, abs=0.02)


def test_other_test_points_are_refused() -> None:
    with pytest.raises(DataError, match="predict the reference's test inputs"):
        closeness(MAP(), real_sums(num_test=4), budget=Budget(epochs=20))


@pytest.fixture(scope="module")
def task() -> Task:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 2))
    frame = pd.DataFrame({"a": x[:, 0], "b": x[:, 1], "y": x[:, 0] - x[:, 1] + rng.normal(size=60)})
    return make_task(frame, "y")


@pytest.fixture(scope="module")
def reference(task: Task, tmp_path_factory: pytest.TempPathFactory) -> Reference:
    setup = Setup((), "gaussian", "normal", "hmc(warm_start_epochs=20)", chains=4, draws=50)
    budget = Budget(gradient_evaluations=54 * 4 * 4000)
    return make_reference(task, setup, budget=budget, folder=tmp_path_factory.mktemp("reference"))


def test_a_reference_brings_all_but_the_method(task: Task, reference: Reference) -> None:
    """The posterior of a linear model is nearly Gaussian: Laplace is close to it, its mode alone is not as close."""
    real = problem_of(task, reference)
    assert real.ceiling == reference.ceiling.halves
    laplace = closeness(Laplace(structure="full", prior_precision="fixed"), real)
    mode = closeness(MAP(), real)
    assert laplace.ceiling is not None
    assert laplace.distance.main < 3 * laplace.ceiling.main
    assert mode.told_apart
    assert laplace.distance.kl < mode.distance.kl
