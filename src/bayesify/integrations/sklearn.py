"""scikit-learn estimators: any method as a classifier or regressor that fits pipelines, searches and cross-validation.

Inputs, and real-valued targets, are standardised inside; predictions, intervals and samples come back in the units of
y. Categories and missing values are a pipeline's work (for example skrub's TableVectorizer).
"""

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.preprocessing import StandardScaler
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, column_or_1d, validate_data
from torch import Tensor, nn

from bayesify.arena.field import default_epochs
from bayesify.engine.budget import Budget
from bayesify.engine.rng import seeded
from bayesify.errors import BudgetError, DataError, MethodError, ModelError
from bayesify.fitting import fit
from bayesify.methods.base import Method
from bayesify.model.likelihoods import (
    Bernoulli,
    Gaussian,
    HeteroscedasticGaussian,
    Likelihood,
    StudentT,
    get_likelihood,
)
from bayesify.model.prior import Prior
from bayesify.models.mlp import mlp_for
from bayesify.posterior.base import Posterior
from bayesify.posterior.saving import load
from bayesify.predictive import Predictive

Array = NDArray[Any]
Factory = Callable[[int, int], nn.Module]
FLOATS = [np.float64, np.float32]
MAX_SEED = 2**31 - 1


class PredictionInterval(NamedTuple):
    """Low and high, each shaped like the predictions."""

    low: Array
    high: Array


class _Bayes(BaseEstimator):  # type: ignore[misc]
    """What both estimators share: settings, fitting, and how the fitted posterior travels through pickle."""

    def __init__(
        self,
        method: str | Method = "deep_ensemble",
        *,
        model: nn.Module | Factory | None = None,
        likelihood: str | Likelihood | None = None,
        prior: str | Prior | None = None,
        epochs: float | None = None,
        budget: Budget | None = None,
        validation_fraction: float = 0.1,
        random_state: Any = 0,
        device: str = "auto",
    ) -> None:
        self.method = method
        self.model = model
        self.likelihood = likelihood
        self.prior = prior
        self.epochs = epochs
        self.budget = budget
        self.validation_fraction = validation_fraction
        self.random_state = random_state
        self.device = device

    def _fit(self, inputs: Array, targets: Array, likelihood: Likelihood, num_outputs: int) -> None:
        self.input_scaler_ = StandardScaler().fit(inputs)
        seed = _seed(self.random_state)
        self.module_ = _build(self.model, inputs, num_outputs, seed)
        self.posterior_: Posterior = fit(
            self.module_,
            (self.input_scaler_.transform(inputs), targets),
            likelihood=likelihood,
            method=self.method,
            prior=self.prior,
            budget=self._budget(len(inputs)),
            validation=self.validation_fraction,
            seed=seed,
            device=self.device,
            progress=False,
        )

    def _budget(self, num_examples: int) -> Budget:
        if self.budget is not None and self.epochs is not None:
            raise BudgetError(f"epochs={self.epochs} and budget={self.budget} were both given: give one of them.")
        if self.budget is not None:
            return self.budget
        return Budget(epochs=default_epochs(num_examples) if self.epochs is None else self.epochs)

    def _predictive(self, X: ArrayLike) -> Predictive:  # in the units of the network
        check_is_fitted(self)
        inputs = validate_data(self, X, reset=False, dtype=FLOATS)
        return self.posterior_.predict(self.input_scaler_.transform(inputs))

    def __getstate__(self) -> dict[str, Any]:
        # The posterior travels in its own file format: what is compiled for this process stays here.
        state: dict[str, Any] = BaseEstimator.__getstate__(self)
        if "posterior_" not in state:
            return state
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "posterior"
            self.posterior_.save(path)
            return {**state, "posterior_": path.read_bytes()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        BaseEstimator.__setstate__(self, state)
        if "posterior_" not in state:
            return
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "posterior"
            path.write_bytes(state["posterior_"])
            self.posterior_ = load(path, self.module_)


class BayesClassifier(ClassifierMixin, _Bayes):  # type: ignore[misc]
    """A classifier with calibrated class probabilities, from any method.

    Args:
        method: a name such as 'laplace', a written form such as 'multi(swag, 5)', or a Method.
        model: a module, or a function (number of inputs, number of outputs) → module; None is a multilayer perceptron
            sized to the data, in the precision of X.
        likelihood: a name or a Likelihood; None is categorical. 'bernoulli' gives two classes one output.
        prior: a name or a Prior; None is Normal with fan-in scaling.
        epochs: passes over the data per network; None is sized to the data, as in `bayesify compare`.
        budget: a Budget, in place of `epochs`.
        validation_fraction: of the rows, held out by methods that need it.
        random_state: a number, a RandomState, or None for another result every time.
        device: 'auto', 'cpu', 'cuda', ...

    Attributes:
        posterior_: the posterior, over functions of the standardised inputs.
        classes_: the labels (C,), in the order of `predict_proba`.
        module_: the network as it was given or built, not trained.
        input_scaler_: the StandardScaler of the inputs.
        n_features_in_: number of columns of X.
        feature_names_in_: their names, where X is a table with names.
    """

    classes_: Array

    def fit(self, X: ArrayLike, y: ArrayLike) -> Self:
        """Fits the posterior.

        Args:
            X: (N, features), numbers.
            y: (N,) labels of any kind.

        Raises:
            DataError: fewer than two classes.
        """
        inputs, labels = validate_data(self, X, y, dtype=FLOATS)
        labels = column_or_1d(labels, warn=True)
        check_classification_targets(labels)
        self.classes_, targets = np.unique(labels, return_inverse=True)
        if len(self.classes_) < 2:
            raise DataError(f"y holds one class only, {self.classes_[0]!r}: a classifier needs at least two classes.")
        likelihood = get_likelihood(self.likelihood or "categorical")
        if likelihood.kind != "classification":
            raise MethodError(f"likelihood={self.likelihood!r} is not for classes: use BayesRegressor.")
        self._fit(inputs, targets, likelihood, 1 if isinstance(likelihood, Bernoulli) else len(self.classes_))
        return self

    def predict_proba(self, X: ArrayLike) -> Array:
        """Class probabilities (B, C), averaged over the posterior."""
        return self._predictive(X).logits.double().softmax(-1).numpy(force=True)

    def predict(self, X: ArrayLike) -> Array:
        """The most probable label of each row, (B,)."""
        chosen = self.predict_proba(X).argmax(1)
        labels: Array = self.classes_[chosen]
        return labels

    def sample_y(self, X: ArrayLike, n_samples: int = 1, random_state: Any = 0) -> Array:
        """Labels drawn from the predictive, (B, n_samples)."""
        drawn = self._predictive(X).sample((n_samples,), seed=_seed(random_state))
        labels: Array = self.classes_[drawn.T.numpy(force=True)]
        return labels


class BayesRegressor(RegressorMixin, _Bayes):  # type: ignore[misc]
    """A regressor with standard deviations, intervals and samples, from any method.

    Args:
        method: a name such as 'laplace', a written form such as 'multi(swag, 5)', or a Method.
        model: a module, or a function (number of inputs, number of outputs) → module; None is a multilayer perceptron
            sized to the data, in the precision of X.
        likelihood: a name or a Likelihood; None is Gaussian with a learned noise scale. A scale given to it is in the
            units of y.
        prior: a name or a Prior; None is Normal with fan-in scaling.
        epochs: passes over the data per network; None is sized to the data, as in `bayesify compare`.
        budget: a Budget, in place of `epochs`.
        validation_fraction: of the rows, held out by methods that need it.
        random_state: a number, a RandomState, or None for another result every time.
        device: 'auto', 'cpu', 'cuda', ...

    Attributes:
        posterior_: the posterior, over functions from standardised inputs to standardised targets.
        module_: the network as it was given or built, not trained.
        input_scaler_: the StandardScaler of the inputs.
        target_scaler_: the StandardScaler of the targets; counts, and targets of a Loss, are left as they are.
        n_features_in_: number of columns of X.
        feature_names_in_: their names, where X is a table with names.
    """

    def __sklearn_tags__(self) -> Any:
        tags = RegressorMixin.__sklearn_tags__(self)
        tags.target_tags.multi_output = True
        return tags

    def fit(self, X: ArrayLike, y: ArrayLike) -> Self:
        """Fits the posterior.

        Args:
            X: (N, features), numbers.
            y: (N,) or (N, targets), numbers.
        """
        inputs, targets = validate_data(self, X, y, dtype=FLOATS, y_numeric=True, multi_output=True)
        columns = targets.reshape(len(targets), -1).astype(np.float64)
        likelihood = _regression_likelihood(self.likelihood, columns.shape[1])
        self.target_scaler_ = _target_scaler(columns, likelihood)
        likelihood = _in_standard_units(likelihood, self.target_scaler_)
        scaled = self.target_scaler_.transform(columns).astype(inputs.dtype)
        scaled = scaled[:, 0] if scaled.shape[1] == 1 else scaled
        outputs = 2 if isinstance(likelihood, HeteroscedasticGaussian) else 1
        self._fit(inputs, scaled, likelihood, outputs * columns.shape[1])
        return self

    def predict(self, X: ArrayLike, return_std: bool = False) -> Array | tuple[Array, Array]:
        """Predictive means (B,) or (B, targets), and with `return_std` the standard deviations, noise included."""
        predictive = self._predictive(X)
        mean = self._in_users_units(predictive.mean)
        if not return_std:
            return mean
        return mean, self._in_users_units(predictive.stddev, spread=True)

    def predict_interval(self, X: ArrayLike, level: float = 0.9) -> PredictionInterval:
        """The central interval that holds y with the given probability.

        Raises:
            DataError: the level is not between 0 and 1.
        """
        if not 0 < level < 1:
            raise DataError(f"predict_interval(level={level}): the level must lie between 0 and 1.")
        low, high = self._predictive(X).interval(level)
        return PredictionInterval(self._in_users_units(low), self._in_users_units(high))

    def sample_y(self, X: ArrayLike, n_samples: int = 1, random_state: Any = 0) -> Array:
        """Draws from the predictive, noise included, (B, n_samples) or (B, targets, n_samples)."""
        drawn = self._predictive(X).sample((n_samples,), seed=_seed(random_state))
        return np.moveaxis(self._in_users_units(drawn), 0, -1)

    def _in_users_units(self, value: Tensor, *, spread: bool = False) -> Array:
        scale, loc = self.target_scaler_.scale_, self.target_scaler_.mean_
        found: Array = value.numpy(force=True).astype(np.float64)
        if scale is not None:
            found = found * (scale if len(scale) > 1 else scale[0])
        if loc is not None and not spread:
            found = found + (loc if len(loc) > 1 else loc[0])
        return found


def _seed(random_state: Any) -> int:
    if random_state is None:
        return int(np.random.default_rng().integers(MAX_SEED))
    return int(check_random_state(random_state).randint(MAX_SEED))


def _build(model: nn.Module | Factory | None, inputs: Array, num_outputs: int, seed: int) -> nn.Module:
    if isinstance(model, nn.Module):
        return model
    with seeded(seed):
        if model is None:
            network = mlp_for(len(inputs), inputs.shape[1], num_outputs)
            return network.double() if inputs.dtype == np.float64 else network
        module = model(inputs.shape[1], num_outputs)
    if not isinstance(module, nn.Module):
        raise ModelError(
            f"model({inputs.shape[1]}, {num_outputs}) returned a {type(module).__name__}: it must return a "
            "torch.nn.Module."
        )
    return module


def _regression_likelihood(chosen: str | Likelihood | None, num_targets: int) -> Likelihood:
    likelihood = get_likelihood(chosen or "gaussian")
    if likelihood.kind == "classification":
        raise MethodError(f"likelihood={chosen!r} is for classes: use BayesClassifier.")
    if isinstance(chosen, Likelihood) or not isinstance(likelihood, (Gaussian, HeteroscedasticGaussian, StudentT)):
        return likelihood
    return replace(likelihood, num_targets=num_targets)


def _target_scaler(columns: Array, likelihood: Likelihood) -> StandardScaler:
    real = likelihood.kind == "regression"
    scaler = StandardScaler(with_mean=real, with_std=real).fit(columns)
    if _fixed_scale(likelihood) is not None:
        # One noise scale for all targets: they must keep their sizes relative to each other.
        scaler.scale_ = np.full(columns.shape[1], float(np.sqrt(scaler.var_.mean())) or 1.0)
    return scaler


def _fixed_scale(likelihood: Likelihood) -> float | None:
    return likelihood.scale if isinstance(likelihood, (Gaussian, StudentT)) else None


def _in_standard_units(likelihood: Likelihood, scaler: StandardScaler) -> Likelihood:
    if not isinstance(likelihood, (Gaussian, StudentT)) or likelihood.scale is None:
        return likelihood
    return replace(likelihood, scale=likelihood.scale / float(scaler.scale_[0]))
