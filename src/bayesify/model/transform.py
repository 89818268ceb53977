"""Changes a method makes to a private copy of the module, by name and settings, which a saved posterior repeats."""

import copy
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from bayesify.model.dropout import with_dropout_everywhere, with_fixed_dropout
from bayesify.model.epinet import with_epinet
from bayesify.model.network import Network
from bayesify.model.prior_function import with_prior_function
from bayesify.model.problem import Problem
from bayesify.model.random_features import with_random_features
from bayesify.model.rank_one import with_rank_one
from bayesify.model.spectral_norm import with_spectral_norm
from bayesify.model.thin import with_thin_layers
from bayesify.model.variational_head import with_variational_head

TRANSFORMS: dict[str, Callable[[nn.Module, Any], nn.Module]] = {
    "dropout": with_fixed_dropout,
    "dropout_everywhere": with_dropout_everywhere,
    "spectral_norm": with_spectral_norm,
    "random_features": with_random_features,
    "variational_head": with_variational_head,
    "rank_one": with_rank_one,
    "epinet": with_epinet,
    "prior_function": with_prior_function,
    "thin": with_thin_layers,
}
"""Each takes a copy of the module, which it may change, and settings that JSON can hold."""


def transformed(module: nn.Module, transform: Mapping[str, Any]) -> nn.Module:
    """A copy of `module` with the named changes, in their order; the same changes are repeated on loading.

    Args:
        module: the user's network, left as it is.
        transform: settings by name: {"dropout": rate}, where `rate` is used where dropout has to be added.
    """
    module = copy.deepcopy(module)
    for name, settings in transform.items():
        module = TRANSFORMS[name](module, settings)
    return module


def with_transform(problem: Problem, **changes: Any) -> Problem:
    """The problem with a changed network, from the weights that it has.

    Raises:
        ModelError: the network has no place for a change.
    """
    before = problem.network
    network = Network(transformed(before.module, changes), {**before.transform, **changes})
    network.is_restricted = before.is_restricted
    return problem.with_changes(network=network)
