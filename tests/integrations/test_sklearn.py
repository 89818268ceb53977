"""scikit-learn's own checks, and what they do not cover: units, intervals, samples, models, likelihoods, pickles."""

import copy
import io
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.metrics import r2_score
from sklearn.model_selection import GridSearchCV, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder
from sklearn.utils.estimator_checks import parametrize_with_checks
from small_problems import critical_value
from torch import nn

import bayesify as bay
from bayesify.arena.field import default_epochs
from bayesify.errors import BudgetError, DataError, MethodError, ModelError, UnsupportedError
from bayesify.integrations.sklearn import BayesClassifier, BayesRegressor
from bayesify.likelihoods import Gaussian, Loss
from bayesify.methods.deep_ensemble import DeepEnsemble
from bayesify.methods.map import MAP

QUICK = MAP(batch_size=64)
EPOCHS = 30
SMALL = DeepEnsemble(num_members=2)


@parametrize_with_checks([BayesClassifier(QUICK, epochs=EPOCHS), BayesRegressor(QUICK, epochs=EPOCHS)])
def test_scikit_learns_own_checks(estimator: Any, check: Any) -> None:
    check(estimator)


def table(num_examples: int = 80, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(num_examples, 3))
    return x, np.sin(x[:, 0]) + 0.5 * x[:, 1] + 0.1 * rng.normal(size=num_examples)


def regressor(**settings: Any) -> BayesRegressor:
    return BayesRegressor(**({"method": SMALL, "epochs": 5} | settings))


def classifier(**settings: Any) -> BayesClassifier:
    return BayesClassifier(**({"method": SMALL, "epochs": 5} | settings))


def linear(num_inputs: int, num_outputs: int) -> nn.Module:
    return nn.Linear(num_inputs, num_outputs)


def test_public_names() -> None:
    assert bay.BayesClassifier is BayesClassifier
    assert bay.BayesRegressor is BayesRegressor


# ---- units -----------------------------------------------------------------------------------------------------------


def test_predictions_follow_the_units_of_y() -> None:
    x, y = table()
    plain, moved = regressor().fit(x, y), regressor().fit(x, 1e6 + 1e3 * y)
    mean, std = plain.predict(x, return_std=True)
    moved_mean, moved_std = moved.predict(x, return_std=True)
    np.testing.assert_allclose(moved_mean, 1e6 + 1e3 * mean, rtol=1e-11)
    np.testing.assert_allclose(moved_std, 1e3 * std, rtol=1e-6)
    for own, others in zip(plain.predict_interval(x), moved.predict_interval(x), strict=True):
        np.testing.assert_allclose(others, 1e6 + 1e3 * own, rtol=1e-9)
    np.testing.assert_allclose(moved.sample_y(x, 3), 1e6 + 1e3 * plain.sample_y(x, 3), rtol=1e-9)


def test_predictions_do_not_depend_on_the_units_of_the_inputs() -> None:
    x, y = table()
    units = np.array([1e3, 1e-3, 1.0])
    np.testing.assert_allclose(
        regressor().fit(x * units + 7, y).predict(x * units + 7), regressor().fit(x, y).predict(x), rtol=1e-6
    )


def test_the_posterior_is_of_standardised_data() -> None:
    x, y = table()
    fitted = regressor().fit(x, y)
    inside = fitted.posterior_.predict(fitted.input_scaler_.transform(x)).mean.numpy()
    np.testing.assert_allclose(fitted.predict(x), y.mean() + y.std() * inside, rtol=1e-12)


def test_a_fixed_noise_scale_is_in_the_units_of_y() -> None:
    x, y = table()
    fitted = regressor(method=QUICK, likelihood=Gaussian(scale=5.0)).fit(x, 100 * y)
    np.testing.assert_allclose(fitted.predict(x, return_std=True)[1], 5.0, rtol=1e-6)
    two = regressor(method=QUICK, likelihood=Gaussian(scale=5.0, num_targets=2)).fit(x, np.stack([100 * y, y], 1))
    np.testing.assert_allclose(two.predict(x, return_std=True)[1], 5.0, rtol=1e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_default_network_has_the_precision_of_x(dtype: Any) -> None:
    x, y = table()
    fitted = regressor().fit(x.astype(dtype), y)
    assert fitted.posterior_.model.network.initial.numpy().dtype == dtype
    assert fitted.predict(x).dtype == np.float64


# ---- regression ------------------------------------------------------------------------------------------------------


def test_intervals_are_nested_and_hold_about_what_they_say() -> None:
    x, y = table(300)
    fitted = regressor(epochs=60).fit(x[:200], y[:200])
    narrow, wide = fitted.predict_interval(x[200:], level=0.5), fitted.predict_interval(x[200:], level=0.95)
    assert (wide.low < narrow.low).all()
    assert (narrow.high < wide.high).all()
    inside = (wide.low <= y[200:]) & (y[200:] <= wide.high)
    assert 0.8 <= inside.mean() <= 1.0
    with pytest.raises(DataError, match=r"level=1\.5"):
        fitted.predict_interval(x, level=1.5)


def test_samples_have_the_predictive_mean_and_spread() -> None:
    x, y = table()
    fitted = regressor().fit(x, y)
    count = 4000
    drawn = fitted.sample_y(x, count, random_state=1)
    mean, std = fitted.predict(x, return_std=True)
    z = critical_value(len(x))
    assert drawn.shape == (len(x), count)
    assert (np.abs(drawn.mean(1) - mean) < z * std / np.sqrt(count)).all()
    np.testing.assert_array_equal(drawn[:, :5], fitted.sample_y(x, count, random_state=1)[:, :5])
    assert not np.array_equal(drawn, fitted.sample_y(x, count, random_state=2))


def test_several_targets() -> None:
    x, y = table()
    targets = np.stack([y, 100 * y + 3], axis=1)
    fitted = regressor(epochs=40).fit(x, targets)
    mean, std = fitted.predict(x, return_std=True)
    assert mean.shape == std.shape == fitted.predict_interval(x).low.shape == (len(x), 2)
    assert fitted.sample_y(x, 7).shape == (len(x), 2, 7)
    assert (r2_score(targets, mean, multioutput="raw_values") > 0.8).all()


def test_one_column_of_targets_is_one_target() -> None:
    x, y = table()
    np.testing.assert_array_equal(regressor().fit(x, y[:, None]).predict(x), regressor().fit(x, y).predict(x))


@pytest.mark.parametrize("likelihood", ["heteroscedastic_gaussian", "student_t", "poisson"])
def test_likelihoods(likelihood: str) -> None:
    x, y = table()
    y = np.round(np.exp(y)) if likelihood == "poisson" else y
    fitted = regressor(likelihood=likelihood).fit(x, y)
    mean, std = fitted.predict(x, return_std=True)
    low, high = fitted.predict_interval(x)
    assert (std > 0).all()
    assert (low <= high).all()
    if likelihood == "poisson":
        assert (mean > 0).all()
        np.testing.assert_array_equal(low, np.round(low))


def test_a_loss_predicts_but_cannot_be_pickled() -> None:
    x, y = table()
    loss = Loss(lambda outputs, targets: (outputs.squeeze(-1) - targets).abs())
    fitted = regressor(likelihood=loss).fit(x, y)
    assert fitted.predict(x).shape == y.shape
    with pytest.raises(UnsupportedError, match="Loss"):
        joblib.dump(fitted, io.BytesIO())


# ---- classification --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("likelihood", ["categorical", "bernoulli"])
def test_labels_of_any_kind(likelihood: str) -> None:
    x, y = table(200)
    labels = np.where(y > 0, "yes", "no")
    fitted = classifier(likelihood=likelihood, epochs=40).fit(x, labels)
    probs = fitted.predict_proba(x)
    assert fitted.classes_.tolist() == ["no", "yes"]
    assert set(fitted.predict(x)) <= {"no", "yes"}
    np.testing.assert_allclose(probs.sum(1), 1, rtol=1e-12)
    np.testing.assert_array_equal(fitted.predict(x) == "yes", probs[:, 1] > 0.5)
    assert fitted.score(x, labels) > 0.9


def test_sampled_labels_have_the_predicted_frequencies() -> None:
    x, y = table()
    fitted = classifier().fit(x, np.digitize(y, [-0.5, 0.5]) + 10)
    count = 4000
    drawn = fitted.sample_y(x, count)
    probs = fitted.predict_proba(x)
    found = np.stack([(drawn == label).mean(1) for label in fitted.classes_], axis=1)
    allowed = critical_value(probs.size) * np.sqrt(probs * (1 - probs) / count) + 1 / count
    assert (np.abs(found - probs) < allowed).all()


# ---- models and settings ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", [linear, nn.Linear, nn.Linear(3, 1)], ids=["function", "class", "module"])
def test_models(model: Any) -> None:
    x, y = table()
    fitted = regressor(model=model).fit(x, y)
    assert fitted.posterior_.model.network.layout.num_parameters == 4
    assert fitted.predict(x).shape == y.shape


def test_a_users_module_is_left_as_it_is() -> None:
    x, y = table()
    module = nn.Linear(3, 1)
    before = copy.deepcopy(module.state_dict())
    regressor(model=module).fit(x, y)
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())


def test_random_state() -> None:
    x, y = table()
    first = regressor(random_state=3).fit(x, y).predict(x)
    np.testing.assert_array_equal(first, regressor(random_state=3).fit(x, y).predict(x))
    np.testing.assert_array_equal(first, regressor(random_state=np.random.RandomState(3)).fit(x, y).predict(x))
    assert not np.array_equal(first, regressor(random_state=4).fit(x, y).predict(x))
    unseeded = regressor(random_state=None)
    assert not np.array_equal(unseeded.fit(x, y).predict(x), unseeded.fit(x, y).predict(x))


def test_epochs_and_budgets() -> None:
    x, y = table()
    whole = {"method": MAP(batch_size=20), "validation_fraction": 0}  # all 80 rows, no validation to pay for
    assert regressor(**whole, epochs=5).fit(x, y).posterior_.cost.total == 5 * 80
    budget = bay.Budget(gradient_evaluations=640)
    assert regressor(**whole, epochs=None, budget=budget).fit(x, y).posterior_.cost.total == 640
    assert regressor(epochs=None)._budget(len(x)) == bay.Budget(epochs=default_epochs(len(x)))


@pytest.mark.parametrize(
    ("estimator", "error", "message"),
    [
        (regressor(epochs=5, budget=bay.Budget(epochs=5)), BudgetError, "give one of them"),
        (regressor(likelihood="categorical"), MethodError, "use BayesClassifier"),
        (classifier(likelihood="gaussian"), MethodError, "use BayesRegressor"),
        (regressor(method="swga"), MethodError, "Did you mean 'swag'"),
        (regressor(model=lambda inputs, outputs: "net"), ModelError, "must return a torch.nn.Module"),
        (regressor(model=nn.Linear(5, 1)), ModelError, r"inputs of shape \(8, 3\)"),
    ],
)
def test_errors(estimator: Any, error: type[Exception], message: str) -> None:
    x, y = table()
    with pytest.raises(error, match=message):
        estimator.fit(x, y > 0 if isinstance(estimator, BayesClassifier) else y)


# ---- life with scikit-learn ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "method",
    ["map", "mc_dropout(num_samples=5)", "temperature_scaled(deep_ensemble(2))", "multi(swag(num_snapshots=3), 2)"],
)
def test_pickles_predict_the_same(method: str) -> None:
    x, y = table(200)
    fitted = regressor(method=method, epochs=8).fit(x, y)
    file = io.BytesIO()
    joblib.dump(fitted, file)
    file.seek(0)
    for again in (joblib.load(file), copy.deepcopy(fitted)):
        for own, others in zip(fitted.predict(x, return_std=True), again.predict(x, return_std=True), strict=True):
            np.testing.assert_array_equal(own, others)
        assert again.posterior_.cost == fitted.posterior_.cost
    assert not clone(fitted).__dict__.keys() & {"posterior_", "module_"}


def test_pipelines_and_searches() -> None:
    x, y = table()
    frame = pd.DataFrame({"a": x[:, 0], "b": x[:, 1], "c": np.where(x[:, 2] > 0, "up", "down")})
    encoded = frame.assign(c=OneHotEncoder(drop="first", sparse_output=False).fit_transform(frame[["c"]])[:, 0])
    search = GridSearchCV(regressor(), {"method": ["map", SMALL], "epochs": [2, 20]}, cv=2).fit(encoded, y)
    assert search.best_params_["epochs"] == 20
    assert search.best_estimator_.feature_names_in_.tolist() == ["a", "b", "c"]
    with pytest.raises(ValueError, match="could not convert string to float"):
        regressor().fit(frame, y)
    pipeline = make_pipeline(OneHotEncoder(handle_unknown="ignore", sparse_output=False), classifier())
    probs = cross_val_predict(pipeline, frame[["c"]], y > 0, cv=2, method="predict_proba")
    assert probs.shape == (len(y), 2)
