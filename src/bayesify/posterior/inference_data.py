"""Chains in the form that ArviZ takes: function values at chosen inputs, and the log likelihood of chosen data."""

from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from bayesify.data import as_data
from bayesify.errors import UnsupportedError
from bayesify.posterior.base import Posterior
from bayesify.posterior.chains import chain_values
from bayesify.predictive import Predictive

Array = npt.NDArray[np.generic]
Groups = dict[str, dict[str, Array]]


def to_arviz(posterior: Posterior, inputs: Any, data: Any = None) -> Any:
    """See `Posterior.to_arviz`."""
    found = groups(posterior, inputs, data)
    return converted(_arviz(), found)


def groups(posterior: Posterior, inputs: Any, data: Any = None) -> Groups:
    """Arrays (chain, draw, ...) by group and name."""
    values = chain_values(posterior, inputs)
    outputs = values.outputs.double().cpu().numpy()  # R-hat is of ranks, and single precision has ties
    found: Groups = {"posterior": {"function": outputs[..., 0] if outputs.shape[-1] == 1 else outputs}}
    if values.parameters.shape[-1]:
        found["posterior"]["likelihood"] = values.parameters.double().cpu().numpy()
    if data is not None:
        given = as_data(data)
        at = chain_values(posterior, given.inputs)
        draws = Predictive(posterior.model.likelihood, at.outputs.flatten(0, 1), at.parameters.flatten(0, 1))
        log_likelihood = draws.draw_log_prob(given.targets).double().cpu().numpy()
        found["log_likelihood"] = {"y": log_likelihood.reshape(*at.outputs.shape[:2], -1)}
        found["observed_data"] = {"y": given.targets.cpu().numpy()}
    return found


def converted(arviz: ModuleType, found: Groups) -> Any:
    """The groups as this ArviZ holds them: one argument each until version 1, one dictionary since."""
    dims = {"function": ["input", "output"][: found["posterior"]["function"].ndim - 2]}
    if int(arviz.__version__.split(".")[0]) >= 1:
        return arviz.from_dict(found, dims=dims)
    return arviz.from_dict(**found, dims=dims)


def _arviz() -> ModuleType:
    try:
        import arviz
    except ImportError as error:
        raise UnsupportedError(f"to_arviz needs ArviZ ({error}): pip install arviz.") from error
    found: ModuleType = arviz
    return found
