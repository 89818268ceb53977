"""prior.check: each fault has a prior that shows it, and the default prior shows none."""

import json

import pytest
import torch
from torch import Tensor, nn

from bayesify.errors import DataError, MethodError, UnsupportedError
from bayesify.likelihoods import Categorical, Gaussian, HeteroscedasticGaussian, Loss, Poisson
from bayesify.models import mlp
from bayesify.priors import Flat, Horseshoe, Laplace, Normal, Prior, StudentT

DEEP = (100, 100, 100)


@pytest.fixture(scope="module")
def inputs() -> Tensor:
    return torch.randn(300, 8, generator=torch.Generator().manual_seed(0))


def test_wide_prior_saturates(inputs: Tensor) -> None:
    found = Normal(scale=1.0).check(mlp(8, 3, DEEP), inputs)
    assert found.confidence is not None
    assert found.confidence > 0.95
    (warning,) = found.warnings
    assert "the prior N(0,1) is too wide for this network" in warning
    assert "Normal(scale='fan_in')" in warning


def test_one_class_functions(inputs: Tensor) -> None:
    """Biases a hundred times the weights: every function is certain of one class everywhere."""
    prior = Normal(scale={"bias": 100.0, ".": 1.0})
    found = prior.check(mlp(8, 2, ()), inputs)
    assert found.one_class is not None
    assert found.one_class > 0.9
    (warning, *_) = found.warnings
    assert f"{found.one_class_certain:.0%} of prior functions predict one class for all inputs" in warning


@pytest.mark.parametrize("num_outputs", [2, 10])
@pytest.mark.parametrize("hidden", [(50, 50), DEEP])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_default_prior_is_not_blamed(num_outputs: int, hidden: tuple[int, ...], seed: int, inputs: Tensor) -> None:
    assert Normal().check(mlp(8, num_outputs, hidden), inputs, "categorical", seed=seed).warnings == ()
    assert Normal().check(mlp(8, 1, hidden), inputs, "gaussian", seed=seed).warnings == ()
    assert Normal().check(mlp(8, 1, hidden), inputs, "bernoulli", seed=seed).warnings == ()


@pytest.mark.parametrize("prior", [Laplace(), StudentT()])
def test_other_scaled_priors_are_not_blamed(prior: Prior, inputs: Tensor) -> None:
    assert prior.check(mlp(8, 3), inputs).warnings == ()


@pytest.mark.parametrize(("num_outputs", "likelihood"), [(3, "categorical"), (1, "gaussian"), (1, "poisson")])
def test_tiny_prior_is_constant(num_outputs: int, likelihood: str, inputs: Tensor) -> None:
    found = Normal(scale=0.01).check(mlp(8, num_outputs), inputs, likelihood)
    assert found.constant == 1.0
    (warning,) = found.warnings
    assert "constant" in warning
    assert "too narrow" in warning


def test_wide_prior_explodes(inputs: Tensor) -> None:
    found = Normal(scale=1.0).check(mlp(8, 1, DEEP), inputs, "gaussian")
    assert found.exploding is not None
    assert found.exploding > 0.9
    (warning,) = found.warnings
    assert "explode" in warning
    assert "standardise the targets" in warning
    assert "log rates" in Normal(scale=1.0).check(mlp(8, 1, DEEP), inputs, Poisson()).warnings[0]


def test_overflow_counts_as_exploding(inputs: Tensor) -> None:
    found = Normal(scale=1e20).check(mlp(8, 1, DEEP), inputs, Gaussian())
    assert found.exploding == 1.0
    assert "100% of prior functions overflow" in found.warnings[0]
    assert "overflow" in Normal(scale=1e20).check(mlp(8, 3, DEEP), inputs).warnings[0]


def test_horseshoe_tails_are_told(inputs: Tensor) -> None:
    assert Horseshoe().check(mlp(8, 1), inputs, "gaussian").warnings


def test_only_the_means_of_a_heteroscedastic_model_count(inputs: Tensor) -> None:
    model = mlp(8, 2, ())
    prior = Normal(scale={"weight": 0.3, "bias": 1.0})
    found = prior.check(model, inputs, HeteroscedasticGaussian())
    assert found.kind == "regression"
    assert found.across_inputs == pytest.approx(0.3 * 8**0.5, rel=0.2)
    assert found.between_functions == pytest.approx((1 + 8 * 0.3**2) ** 0.5, rel=0.3)


def test_spreads_of_a_linear_model_are_known(inputs: Tensor) -> None:
    """f = w·x + b with N(0, 1): across inputs √8, between functions √(|x|² + 1), on average 3."""
    found = Normal(scale=1.0).check(nn.Linear(8, 1), inputs, "gaussian", num_functions=2000)
    assert found.across_inputs == pytest.approx(8**0.5, rel=0.1)
    assert found.between_functions == pytest.approx(3.0, rel=0.1)


def test_batch_normalisation_uses_the_given_inputs(inputs: Tensor) -> None:
    """The user's running statistics are those of other data: with them these functions would be constant."""
    model = nn.Sequential(nn.Linear(8, 20), nn.BatchNorm1d(20), nn.ReLU(), nn.Dropout(0.9), nn.Linear(20, 3))
    norm = model[1]
    assert isinstance(norm, nn.BatchNorm1d)
    assert norm.running_var is not None
    norm.running_var.fill_(1e12)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = Normal().check(model, inputs)
    assert found.warnings == ()
    assert found.across_inputs > 0.3
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training


def test_likelihood_is_inferred(inputs: Tensor) -> None:
    assert Normal().check(mlp(8, 3), inputs).kind == "classification"
    assert Normal().check(mlp(8, 1), inputs).kind == "regression"
    loss = Loss(lambda outputs, targets: (outputs[:, 0] - targets).square())
    assert Normal().check(mlp(8, 1), inputs, loss).kind == "loss"


def test_report(inputs: Tensor) -> None:
    found = Normal(scale=1.0).check(mlp(8, 3), inputs, Categorical(), num_functions=20)
    text = str(found)
    assert text.startswith("20 functions from the prior on 300 inputs (classification)")
    assert "warning: " in text
    assert json.loads(json.dumps(found.as_dict()))["num_functions"] == 20
    assert "of that of equal chances" in text


def test_same_seed_same_result_without_the_global_state(inputs: Tensor) -> None:
    big = inputs.repeat(3, 1)  # more than are looked at
    state = torch.get_rng_state()
    model = mlp(8, 2)
    torch.set_rng_state(state)
    first = Normal().check(model, big, seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    assert first == Normal().check(model, big, seed=3)
    assert first != Normal().check(model, big, seed=4)
    assert first.num_inputs == 500


def test_bad_arguments(inputs: Tensor) -> None:
    with pytest.raises(UnsupportedError, match="improper"):
        Flat().check(mlp(8, 2), inputs)
    with pytest.raises(DataError, match="at least 2 inputs"):
        Normal().check(mlp(8, 2), inputs[:1])
    with pytest.raises(DataError, match="NaN"):
        Normal().check(mlp(8, 2), inputs * float("nan"))
    with pytest.raises(MethodError, match="num_functions=1"):
        Normal().check(mlp(8, 2), inputs, num_functions=1)
    with pytest.raises(MethodError, match="Did you mean 'categorical'"):
        Normal().check(mlp(8, 2), inputs, "categorial")


def test_entropy_goes_from_certainty_to_equal_chances(inputs: Tensor) -> None:
    def entropy(scale: float) -> float:
        found = Normal(scale=scale).check(nn.Linear(8, 3), inputs)
        assert found.entropy is not None
        return found.entropy

    assert entropy(1e-3) == pytest.approx(1.0, abs=1e-4)
    assert entropy(1e3) == pytest.approx(0.0, abs=0.01)
    assert 0.2 < entropy(0.5) < 0.9
