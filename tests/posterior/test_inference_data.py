"""Chains as ArviZ takes them. What needs ArviZ itself is skipped where it is not installed."""

import importlib.util
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import bayesify as bay
from bayesify.engine.convergence import convergence
from bayesify.engine.rng import generator
from bayesify.errors import UnsupportedError
from bayesify.posterior.base import Posterior
from bayesify.posterior.inference_data import converted, groups

X = torch.randn(30, 2, generator=generator("cpu", "x"))
Y = X.sum(1)


def fitted(method: str, targets: torch.Tensor = Y, outputs: int = 1) -> Posterior:
    network = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, outputs))
    budget = bay.Budget(epochs=200)
    return bay.fit(network, (X, targets), method=method, budget=budget, progress=False, device="cpu")


@pytest.fixture(scope="module")
def sampled() -> Posterior:
    return fitted("hmc(num_chains=3)")


def test_groups_hold_what_the_chains_say(sampled: Posterior) -> None:
    found = groups(sampled, X[:5], (X[:7], Y[:7]))
    function, noise = found["posterior"]["function"], found["posterior"]["likelihood"]
    draws = function.shape[1]
    assert function.shape == (3, draws, 5)
    assert noise.shape == (3, draws, 1)
    assert found["observed_data"]["y"].shape == (7,)
    log_likelihood = found["log_likelihood"]["y"]
    assert log_likelihood.shape == (3, draws, 7)
    # The mixture of the draws' densities is the predictive's.
    mixed = np.logaddexp.reduce(log_likelihood.reshape(-1, 7)) - np.log(3 * draws)
    np.testing.assert_allclose(mixed, sampled.predict(X[:7]).log_prob(Y[:7]), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(function[1, 0], sampled.functions(X[:5]).outputs[draws, :, 0], rtol=1e-6)


def test_several_outputs_keep_their_dimension() -> None:
    found = groups(fitted("hmc(num_chains=2)", (Y > 0).long(), outputs=2), X[:5], (X[:7], (Y > 0).long()[:7]))
    assert found["posterior"]["function"].shape[2:] == (5, 2)
    assert "likelihood" not in found["posterior"]
    assert found["log_likelihood"]["y"].shape[2:] == (7,)


def test_draws_that_are_not_of_chains_are_refused() -> None:
    with pytest.raises(UnsupportedError, match="not of Markov chains"):
        fitted("deep_ensemble(2)").to_arviz(X)


@pytest.mark.parametrize(("version", "takes_one"), [("0.23.4", False), ("1.3.0", True)])
def test_both_generations_are_served(sampled: Posterior, version: str, takes_one: bool) -> None:
    def from_dict(*arguments: Any, **named: Any) -> tuple[Any, ...]:
        return arguments, named

    fake: Any = SimpleNamespace(__version__=version, from_dict=from_dict)
    arguments, named = converted(fake, groups(sampled, X[:2]))
    assert named["dims"] == {"function": ["input"]}
    assert next(iter(arguments[0] if takes_one else named)) == "posterior"


@pytest.mark.skipif(importlib.util.find_spec("arviz") is not None, reason="ArviZ is installed")
def test_without_arviz_it_says_what_to_install(sampled: Posterior) -> None:
    with pytest.raises(UnsupportedError, match="pip install arviz"):
        sampled.to_arviz(X)


@pytest.fixture
def arviz() -> ModuleType:
    return pytest.importorskip("arviz", reason="ArviZ is not installed")


@pytest.mark.filterwarnings("default")
def test_arviz_takes_it(sampled: Posterior, arviz: ModuleType) -> None:
    found = sampled.to_arviz(X[:5], (X, Y))
    assert dict(found["posterior"].sizes)["input"] == 5
    assert dict(found["posterior"].sizes)["chain"] == 3
    assert np.isfinite(arviz.loo(found).iloc[0] if int(arviz.__version__[0]) == 0 else arviz.loo(found).elpd)


@pytest.mark.filterwarnings("default")
def test_our_diagnostics_are_arvizs(sampled: Posterior, arviz: ModuleType) -> None:
    """On chains of networks as they come, unmixed ones included."""
    found = sampled.to_arviz(X)
    ours = convergence(np.asarray(found["posterior"]["function"]))
    theirs = [
        np.asarray(function(found, **options)["function"])
        for function, options in ((arviz.rhat, {}), (arviz.ess, {"method": "bulk"}), (arviz.ess, {"method": "tail"}))
    ]
    for mine, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-9)
