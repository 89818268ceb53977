"""What a comparison keeps of Markov chains, and what the report draws of them."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import bayesify as bay
from bayesify.arena.chains import KEPT_CHAINS, KEPT_DRAWS, TEST_INPUTS, chain_series, chain_summary
from bayesify.arena.report import render_html
from bayesify.engine.convergence import autocorrelation, rank_histogram
from bayesify.engine.rng import generator
from bayesify.model.likelihoods import Categorical, Gaussian
from bayesify.model.model import Model
from bayesify.model.network import Network
from bayesify.posterior.base import Particles
from bayesify.posterior.draws import Draws

X = torch.randn(30, 2, generator=generator("cpu", "x"))


def of_chains(likelihood: Any, outputs: int, chains: int = 3, draws: int = 20) -> Draws:
    model = Model(Network(nn.Linear(2, outputs)), likelihood)
    theta = torch.randn(chains * draws, 3 * outputs, generator=generator("cpu", "theta"))
    return Draws(model, Particles(theta, {}), chains)


def test_regression_keeps_means_chain_by_chain() -> None:
    posterior = of_chains(Gaussian(scale=1.0), 1)
    found = chain_series(posterior, X.numpy())
    assert found["chains"].shape == (3, 20, TEST_INPUTS)
    rows = found["chain_rows"]
    assert rows[0] == 0
    assert rows[-1] == 29
    np.testing.assert_allclose(found["chains"][1, 4], posterior.functions(X[rows]).outputs[24, :, 0], rtol=1e-6)


@pytest.mark.parametrize("outputs", [2, 3])
def test_classification_keeps_the_favourite_classes_probability(outputs: int) -> None:
    posterior = of_chains(Categorical(), outputs)
    found = chain_series(posterior, X.numpy())
    predictive = posterior.predict(X[found["chain_rows"]])
    np.testing.assert_allclose(found["chains"].mean((0, 1)), predictive.probs.max(-1).values, rtol=1e-5)


def test_what_is_kept_is_bounded() -> None:
    found = chain_series(of_chains(Gaussian(scale=1.0), 1, chains=20, draws=300), X.numpy())
    assert found["chains"].shape == (KEPT_CHAINS, KEPT_DRAWS, TEST_INPUTS)
    assert found["chains"].nbytes < 100_000
    assert chain_series(of_chains(Gaussian(scale=1.0), 1), X[:3].numpy())["chains"].shape[2] == 3


def test_only_chains_are_kept() -> None:
    posterior = of_chains(Gaussian(scale=1.0), 1)
    assert chain_series(Draws(posterior.model, posterior.kept), X.numpy()) == {}


def stored(values: np.ndarray) -> dict[str, np.ndarray]:
    return {"chains": values, "rows": np.arange(100, 130), "chain_rows": np.array([2, 7])}


def test_the_input_on_which_chains_agree_least_is_shown() -> None:
    values = np.random.default_rng(0).normal(size=(4, 50, 2))
    values[0, :, 1] += 3
    found = chain_summary(stored(values))
    assert found is not None
    assert found["row"] == 107
    assert found["r_hat"] > 1.2
    assert np.shape(found["trace"]) == (4, 50)
    assert np.sum(found["ranks"]) == 200
    assert [chain[0] for chain in found["autocorrelation"]] == [1.0] * 4


def test_too_little_is_not_shown() -> None:
    assert chain_summary({"rows": np.arange(3)}) is None
    assert chain_summary(stored(np.zeros((4, 3, 2)))) is None
    assert chain_summary(stored(np.zeros((4, 30, 2)))) is None  # nothing moves


def test_rank_histograms() -> None:
    agreeing = np.arange(40.0).reshape(20, 2).T  # every other value is the other chain's
    assert rank_histogram(agreeing, 4).tolist() == [[5, 5, 5, 5], [5, 5, 5, 5]]
    apart = np.stack([np.arange(20.0), 100 + np.arange(20.0)])
    assert rank_histogram(apart, 4).tolist() == [[10, 10, 0, 0], [0, 0, 10, 10]]


def test_autocorrelation_of_an_autoregressive_chain() -> None:
    rng = np.random.default_rng(1)
    x = np.zeros((1, 40_000))
    for t in range(1, x.shape[1]):
        x[:, t] = 0.8 * x[:, t - 1] + 0.6 * rng.normal(size=1)
    found = autocorrelation(x)[0]
    np.testing.assert_allclose(found[:6], 0.8 ** np.arange(6), atol=0.06)  # Bartlett: standard error 0.015 at most
    assert (autocorrelation(np.ones((2, 9))) == 0).all()


def test_the_report_draws_them() -> None:
    values = np.random.default_rng(0).normal(size=(4, 50, 2))
    method = {"name": "hmc", "label": "HMC <b>", "is_control": False, "scores": {"nll": 1.0}}
    page = render_html({"methods": [method], "chains": {"hmc": chain_summary(stored(values))}})
    assert "Did the chains mix?" in page
    assert "HMC &lt;b&gt;: values of 4 chains over 50 kept draws" in page
    assert "of 2 examples looked at; R-hat" in page
    assert "Did the chains mix?" not in render_html({"methods": [method]})


@pytest.mark.parametrize(
    "chains",
    [{"hmc": None}, {"hmc": {}}, {"hmc": {"trace": [[None]]}}, {"hmc": {"trace": [[1.0]]}}, {"hmc": {"trace": 3}}],
)
def test_a_report_survives_partial_chains(chains: dict[str, Any]) -> None:
    render_html({"methods": [{"name": "hmc", "scores": {"nll": 1.0}}], "chains": chains})


def test_a_comparison_has_them(tmp_path: Any) -> None:
    data = (X.repeat(3, 1).numpy(), X.repeat(3, 1).sum(1).numpy())
    result = bay.compare(
        nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 1)),
        data,
        methods=["hmc(num_chains=2, num_draws=20)"],
        splits=1,
        epochs=20,
        workers=1,
        out=tmp_path,
    )
    (found,) = result.data["chains"].values()
    assert np.shape(found["trace"])[0] == 2
    assert "Did the chains mix?" in result.report().html.read_text(encoding="utf-8")
