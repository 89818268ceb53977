"""The package as a whole: its names, its weight, its types."""

import ast
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from bayesify import metrics

ALLOWED = {"bayesify.errors"} | {f"bayesify.metrics.{file.stem}" for file in Path(metrics.__file__).parent.glob("*.py")}


def test_all_names_exist_and_nothing_public_is_left_out():
    exported = {name for name in vars(metrics) if not name.startswith("_")}
    modules = {name for name in exported if type(getattr(metrics, name)) is type(metrics)}
    assert exported - modules == set(metrics.__all__)


def test_importing_needs_numpy_alone():
    # `evaluate` reads a Predictive and so needs torch; arrays in, arrays out is the rule for all others.
    files = set(Path(metrics.__file__).parent.glob("*.py")) - {Path(metrics.__file__).with_name("evaluate.py")}
    for file in sorted(files):
        for statement in ast.parse(file.read_text(encoding="utf-8")).body:
            names = [alias.name for alias in statement.names] if isinstance(statement, ast.Import) else []
            if isinstance(statement, ast.ImportFrom):
                names = [statement.module]
            for name in names:
                top = name.split(".")[0]
                assert top == "numpy" or top in sys.stdlib_module_names or name in ALLOWED, f"{file.name}: {name}"


@pytest.mark.parametrize("kind", [list, np.asarray, torch.tensor])
def test_lists_arrays_and_tensors_give_the_same_float64_result(kind):
    probs, labels, y = [[0.25, 0.75], [0.5, 0.5]], [1, 0], [1.0, 2.0]
    per_example = {
        "log_loss": metrics.log_loss(kind(probs), kind(labels)),
        "brier": metrics.brier(kind(probs), kind(labels)),
        "squared_error": metrics.squared_error(kind(y), kind(y)),
        "crps_gaussian": metrics.crps_gaussian(kind(y), kind(y), kind(y)),
        "entropy": metrics.entropy(kind(probs)),
        "total_variation": metrics.total_variation(kind(probs), kind(probs)),
    }
    for values in per_example.values():
        assert isinstance(values, np.ndarray)
        assert values.dtype == np.float64
        assert values.shape == (2,)
    np.testing.assert_allclose(per_example["log_loss"], [-np.log(0.75), np.log(2)])
    averages = [
        metrics.accuracy(kind(probs), kind(labels)),
        metrics.rmse(kind(y), kind(y)),
        metrics.expected_calibration_error(kind(probs), kind(labels)),
        metrics.auroc(kind(y), kind(y)),
        metrics.joint_log_prob(kind(probs)),
        metrics.agreement(kind(probs), kind(probs)),
    ]
    assert all(type(value) is float for value in averages)


def test_inputs_are_not_modified():
    probs, samples = np.array([[0.3, 0.7], [0.6, 0.4]]), np.array([[3.0, 1.0], [1.0, 2.0]])
    before = probs.copy(), samples.copy()
    metrics.brier(probs, [0, 1])
    metrics.crps_samples([0.0, 0.0], samples)
    metrics.wasserstein1(samples, samples)
    metrics.calibration_error_regression(probs[0])
    np.testing.assert_array_equal(probs, before[0])
    np.testing.assert_array_equal(samples, before[1])
