"""Values of many functions at once, and chains that are kept, for every form of a posterior."""

from pathlib import Path

import pytest
import torch
from torch import nn

import bayesify as bay
from bayesify.engine.rng import generator
from bayesify.errors import MethodError, UnsupportedError
from bayesify.posterior.base import Posterior
from bayesify.posterior.chains import chain_lengths, chain_values
from bayesify.posterior.draws import Draws


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 1))


X = torch.randn(30, 2, generator=generator("cpu", "x"))
Y = X.sum(1)


def fitted(method: str) -> Posterior:
    return bay.fit(network(), (X, Y), method=method, budget=bay.Budget(epochs=40), progress=False, device="cpu")


METHODS = {
    "draws": "deep_ensemble(3)",
    "gaussian": "laplace(linearised=False)",
    "linearised": "laplace",
    "mixture": "multi(laplace(linearised=False), 3)",
    "calibrated": "temperature_scaled(deep_ensemble(3))",
}


@pytest.mark.parametrize("form", METHODS)
def test_functions_are_those_of_the_draws(form: str) -> None:
    posterior = fitted(METHODS[form])
    assert posterior.form == form
    found = posterior.functions(X[:7], 6, seed=3)
    assert found.outputs.shape == (6, 7, 1)
    assert found.parameters.shape == (6, 1)  # the noise is learned
    # One draw at all inputs: values at a part of the inputs are a part of the values.
    torch.testing.assert_close(posterior.functions(X[2:4], 6, seed=3).outputs, found.outputs[:, 2:4])
    if form != "linearised":  # whose functions are not the network's
        particles = posterior.particles(6, seed=3)
        direct = posterior.model.outputs(particles.theta, X[:7], particles.buffers)
        torch.testing.assert_close(found.outputs, direct)


def test_linearised_functions_have_the_closed_forms_moments() -> None:
    posterior = fitted("laplace")
    found = posterior.functions(X[:5], 20_000).outputs[..., 0].double()
    epistemic = posterior.predict(X[:5]).epistemic.double()
    ratio = found.var(0) / epistemic
    assert float((ratio - 1).abs().max()) < 4.9 * (2 / 20_000) ** 0.5  # 5 comparisons at 1e-5


def test_functions_need_a_draw() -> None:
    with pytest.raises(MethodError, match="at least one draw"):
        fitted("map").functions(X, 0)


def sampled(method: str, epochs: int = 100) -> Posterior:
    budget = bay.Budget(epochs=epochs)
    return bay.fit(network(), (X, Y), method=method, budget=budget, progress=False, device="cpu")


def test_samplers_keep_their_chains(tmp_path: Path) -> None:
    posterior = sampled("hmc(num_chains=3)")
    assert isinstance(posterior, Draws)
    assert posterior.num_chains == 3
    length = len(posterior.kept.theta) // 3
    assert chain_lengths(posterior) == (length,) * 3
    values = chain_values(posterior, X[:2])
    assert values.outputs.shape == (3, length, 2, 1)
    torch.testing.assert_close(values.outputs[1, 0], posterior.functions(X[:2]).outputs[length])
    posterior.save(tmp_path / "chains.bayes")
    again = bay.load(tmp_path / "chains.bayes", network())
    assert torch.equal(chain_values(again, X[:2]).outputs, values.outputs)


def test_what_is_not_of_chains_says_so(tmp_path: Path) -> None:
    posterior = fitted("deep_ensemble(3)")
    posterior.save(tmp_path / "members.bayes")
    for one in (posterior, bay.load(tmp_path / "members.bayes", network()), fitted("multi(deep_ensemble(2), 2)")):
        assert chain_lengths(one) == ()
        with pytest.raises(UnsupportedError, match="not of Markov chains"):
            chain_values(one, X)


def test_chains_of_different_length_are_cut_to_their_last_draws() -> None:
    posterior = sampled("temperature_scaled(multi(hmc(num_chains=2), 2))", 150)
    lengths = chain_lengths(posterior)
    assert len(lengths) == 4
    assert len(set(lengths)) == 2  # or else this tests nothing: the first mode leaves the second a little more
    values = chain_values(posterior, X[:2]).outputs
    assert values.shape[:2] == (4, min(lengths))
    every = posterior.functions(X[:2]).outputs
    torch.testing.assert_close(values[-1], every[-min(lengths) :])
    torch.testing.assert_close(values[0], every[lengths[0] - min(lengths) : lengths[0]])
