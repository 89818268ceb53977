"""Intervals and sets with guaranteed coverage, from any posterior's predictive and held-out data (MAPIE does the work).

Whatever the posterior says, sets built here hold the target with probability ≥ level, if calibration and new examples
are exchangeable and the calibration data were not trained on. The guarantee is on average over calibration sets and
new examples, not for every input. Regression: the predictive's own quantiles are widened or narrowed by one number
(conformalised quantile regression, Romano, Patterson & Candès 2019), so that intervals keep following the predictive's
spread. Classification: classes whose probability passes one threshold (Sadinle, Lei & Wasserman 2019).
"""

import math
import warnings
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bayesify.data import as_data
from bayesify.errors import DataError, UnsupportedError
from bayesify.posterior.base import Posterior
from bayesify.predictive import Interval, Predictive


class Conformal:
    """A posterior with calibrated intervals (regression) or sets of classes (classification); see `conformalise`."""

    def __init__(self, posterior: Posterior, calibrators: list[Any], level: float) -> None:
        self.posterior = posterior
        self.level = level
        self._calibrators = calibrators

    def interval(self, inputs: Any) -> Interval:
        """Low and high, each (B,) or (B, D); with several targets each column is covered on its own.

        Raises:
            UnsupportedError: the posterior is a classifier's.
        """
        predictive = self.posterior.predict(inputs)
        _require_kind(predictive, "regression", "interval", "sets")
        bounds = []
        for calibrator, table in zip(self._calibrators, _quantiles(predictive, self.level), strict=True):
            bounds.append(calibrator.predict_interval(table, symmetric_correction=True)[1][:, :, 0])  # (B, 2)
        found = torch.as_tensor(np.stack(bounds, -1)).to(predictive.mean)  # (B, 2, D)
        found = found.squeeze(-1) if found.shape[-1] == 1 else found
        return Interval(found[:, 0], found[:, 1])

    def sets(self, inputs: Any) -> Tensor:
        """Which classes are in each example's set, boolean (B, C).

        Raises:
            UnsupportedError: the posterior is not a classifier's.
        """
        predictive = self.posterior.predict(inputs)
        _require_kind(predictive, "classification", "sets", "interval")
        (calibrator,) = self._calibrators
        sets = calibrator.predict_set(_probabilities(predictive))[1][:, :, 0]
        return torch.as_tensor(sets, device=predictive.probs.device)


def conformalise(posterior: Posterior, calibration_data: Any, level: float = 0.9) -> Conformal:
    """Calibrates intervals or sets to hold the target with probability at least `level`.

    Args:
        posterior: any posterior for regression or classification.
        calibration_data: (X, y) or what else `fit` takes, not trained on.
        level: between 0 and 1.

    Raises:
        DataError: the level is out of range, or there are too few examples for it.
        UnsupportedError: the likelihood is neither for real targets nor for classes.
    """
    if not 0 < level < 1:
        raise DataError(f"conformalise(level={level}): the level must lie between 0 and 1.")
    data = as_data(calibration_data)
    needed = math.ceil(max(1 / level, 1 / (1 - level)) - 1e-9)  # MAPIE's bound
    if data.num_examples < needed:
        raise DataError(
            f"{data.num_examples} calibration examples cannot support level {level:g}: give at least {needed}, or "
            "lower the level."
        )
    predictive = posterior.predict(data.inputs)
    if predictive.kind == "regression":
        targets = data.targets.reshape(data.num_examples, -1).double().cpu().numpy()
        tables = _quantiles(predictive, level)
        calibrators = [_interval_calibrator(t, y, level) for t, y in zip(tables, targets.T, strict=True)]
        return Conformal(posterior, calibrators, level)
    if predictive.kind == "classification":
        targets = data.targets.reshape(-1).long().cpu().numpy()
        return Conformal(posterior, [_set_calibrator(_probabilities(predictive), targets, level)], level)
    raise UnsupportedError(
        f"conformal calibration is not defined for a {predictive.kind} likelihood: it needs real targets or classes."
    )


def _require_kind(predictive: Predictive, kind: str, asked: str, instead: str) -> None:
    if predictive.kind != kind:
        raise UnsupportedError(f"{asked}() is for {kind}, and this is {predictive.kind}: use {instead}().")


def _quantiles(predictive: Predictive, level: float) -> list[NDArray[np.float64]]:
    """For each target a table (B, 3) of the lower, upper and middle quantile."""
    columns = [predictive.quantile(q) for q in (0.5 - level / 2, 0.5 + level / 2, 0.5)]
    table = torch.stack([c.reshape(len(c), -1) for c in columns], 1).double().cpu().numpy()  # (B, 3, D)
    return [np.ascontiguousarray(table[:, :, d]) for d in range(table.shape[2])]


def _probabilities(predictive: Predictive) -> NDArray[np.float64]:
    probs = predictive.probs.double()
    return np.asarray((probs / probs.sum(-1, keepdim=True)).cpu().numpy())


class _Estimators(NamedTuple):
    column: type[Any]
    table: type[Any]


def _estimators() -> _Estimators:
    """Fitted scikit-learn estimators whose inputs are already what they predict."""
    from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin

    class Column(RegressorMixin, BaseEstimator):  # type: ignore[misc]
        def __init__(self, index: int = 0) -> None:
            self.index = index
            self.is_fitted = True  # what MAPIE looks for

        def fit(self, X: Any, y: Any = None) -> "Column":
            return self

        def predict(self, X: NDArray[np.float64]) -> NDArray[np.float64]:
            return np.asarray(X)[:, self.index]

        def __sklearn_is_fitted__(self) -> bool:
            return True

    class Table(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
        def __init__(self, num_classes: int = 2) -> None:
            self.num_classes = num_classes
            self.classes_ = np.arange(num_classes)

        def fit(self, X: Any, y: Any = None) -> "Table":
            return self

        def predict(self, X: NDArray[np.float64]) -> NDArray[np.int64]:
            return np.asarray(np.argmax(X, axis=1))

        def predict_proba(self, X: NDArray[np.float64]) -> NDArray[np.float64]:
            return np.asarray(X)

        def __sklearn_is_fitted__(self) -> bool:
            return True

    return _Estimators(Column, Table)


def _interval_calibrator(table: NDArray[np.float64], targets: NDArray[np.float64], level: float) -> Any:
    from mapie.regression import ConformalizedQuantileRegressor

    columns = [_estimators().column(index) for index in range(3)]
    return ConformalizedQuantileRegressor(columns, confidence_level=level, prefit=True).conformalize(table, targets)


def _set_calibrator(probs: NDArray[np.float64], targets: NDArray[np.int64], level: float) -> Any:
    from mapie.classification import SplitConformalClassifier

    calibrator = SplitConformalClassifier(_estimators().table(probs.shape[1]), confidence_level=level, prefit=True)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*less labels")  # rare classes may be absent: coverage is marginal
        return calibrator.conformalize(probs, targets)
