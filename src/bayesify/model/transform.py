"""Changes a method makes to a private copy of the user's module: dropout layers whose masks a particle can fix."""

import copy
from collections.abc import Mapping

from torch import nn

from bayesify.errors import ModelError
from bayesify.model.network import FixedDropout

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
    found = [name for name, owner in module.named_modules() if isinstance(owner, nn.modules.dropout._DropoutNd)]
    for name in found:
        own = module.get_submodule(name)
        channels = not isinstance(own, (nn.Dropout, nn.AlphaDropout, nn.FeatureAlphaDropout))
        module = _replaced(module, name, FixedDropout(float(getattr(own, "p", rate)), channels=channels))
    if found:
        return module
    activations = [name for name, owner in module.named_modules() if isinstance(owner, ACTIVATIONS)]
    if not activations:
        raise ModelError(
            "mc_dropout found neither dropout layers nor activation modules to add dropout after: put nn.Dropout into "
            "the model, or use activation modules (nn.ReLU()) instead of functions."
        )
    for name in activations:
        module = _replaced(module, name, nn.Sequential(module.get_submodule(name), FixedDropout(rate)))
    return module


def _replaced(module: nn.Module, name: str, new: nn.Module) -> nn.Module:
    if not name:
        return new
    parent, _, leaf = name.rpartition(".")
    setattr(module.get_submodule(parent), leaf, new)
    return module
