"""Changes a method makes to a private copy of the user's module: dropout layers whose masks a particle can fix."""

import copy
from collections.abc import Mapping

from torch import nn

from bayesify.errors import ModelError
from bayesify.model.network import FixedDropout
from bayesify.model.parameters import NORMALISATIONS

ACTIVATIONS = (
    nn.ReLU, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Tanh, nn.Sigmoid, nn.Softplus, nn.Mish, nn.ReLU6, nn.SELU,
    nn.Hardswish, nn.CELU, nn.PReLU,
)  # fmt: skip
"""What counts as an activation when dropout has to be added to a network that has none."""


def transformed(module: nn.Module, transform: Mapping[str, float]) -> nn.Module:
    """A copy of `module` with the named changes; the same changes are repeated when a posterior is loaded.

    Args:
        module: the user's network, left as it is.
        transform: {} or {"dropout": rate}: `rate` is used where dropout has to be added.
    """
    module = copy.deepcopy(module)
    return _with_fixed_dropout(module, transform["dropout"]) if "dropout" in transform else module


def _with_fixed_dropout(module: nn.Module, rate: float) -> nn.Module:
    on_maps = _after_convolution(module)
    # The same layer object may stand in several places: each place gets a mask of its own.
    places = [name for name, _ in module.named_modules(remove_duplicate=False)]
    found = [name for name in places if isinstance(module.get_submodule(name), nn.modules.dropout._DropoutNd)]
    for name in found:
        own = module.get_submodule(name)
        if isinstance(own, nn.modules.dropout._DropoutNd):  # not yet replaced under another name of its parent
            module = _replaced(module, name, _fixed(own, channels=name in on_maps))
    if found:
        return module
    activations = _inner_activations(module, places)
    if not activations:
        raise ModelError(
            "mc_dropout found neither dropout layers nor activation modules to add dropout after: put nn.Dropout into "
            "the model, or use activation modules (nn.ReLU()) instead of functions."
        )
    for name in activations:
        own = module.get_submodule(name)
        if isinstance(own, ACTIVATIONS):
            module = _replaced(module, name, nn.Sequential(own, FixedDropout(rate, channels=name in on_maps)))
    return module


def _fixed(own: nn.modules.dropout._DropoutNd, *, channels: bool) -> FixedDropout:
    if isinstance(own, (nn.AlphaDropout, nn.FeatureAlphaDropout)):
        raise ModelError(
            "mc_dropout cannot fix the masks of alpha dropout, which shifts what it does not drop: use nn.Dropout in "
            "the model instead."
        )
    return FixedDropout(float(own.p), channels=channels or not isinstance(own, nn.Dropout))


def _inner_activations(module: nn.Module, places: list[str]) -> list[str]:
    """Activations between layers; one after the last layer shapes the outputs, which must not be dropped."""
    activations = [name for name in places if isinstance(module.get_submodule(name), ACTIVATIONS)]
    last = max((i for i, name in enumerate(places) if _has_weights(module.get_submodule(name))), default=0)
    # Where all are registered after all layers, the order says nothing about use.
    return [name for name in activations if places.index(name) < last] or activations


def _after_convolution(module: nn.Module) -> set[str]:
    """Places whose nearest layer with weights before them, in the order of registration, is a convolution."""
    result, on_maps = set(), False
    for name, owner in module.named_modules(remove_duplicate=False):
        if _has_weights(owner):
            on_maps = isinstance(owner, nn.modules.conv._ConvNd)
        elif on_maps:
            result.add(name)
    return result


def _has_weights(owner: nn.Module) -> bool:
    if isinstance(owner, (*ACTIVATIONS, *NORMALISATIONS)):
        return False
    return any(True for _ in owner.parameters(recurse=False))


def _replaced(module: nn.Module, name: str, new: nn.Module) -> nn.Module:
    if not name:
        return new
    parent, _, leaf = name.rpartition(".")
    setattr(module.get_submodule(parent), leaf, new)
    return module
