"""Exchanging layers of a module."""

from torch import nn

from bayesify.errors import ModelError


def replaced(module: nn.Module, name: str, new: nn.Module) -> nn.Module:
    """The module with `new` in the place of its layer `name`; the module itself is changed."""
    if not name:
        return new
    parent, _, leaf = name.rpartition(".")
    setattr(module.get_submodule(parent), leaf, new)
    return module


def output_layer(module: nn.Module) -> str:
    """The name of the last Linear layer, in the order of registration.

    Raises:
        ModelError: there is none, or other layers with weights come after it.
    """
    layers = dict(module.named_modules())
    weighted = [name for name, layer in layers.items() if any(True for _ in layer.parameters(recurse=False))]
    if not weighted or not isinstance(layers[weighted[-1]], nn.Linear):
        found = type(layers[weighted[-1]]).__name__ if weighted else "nothing"
        raise ModelError(
            f"this method replaces the last layer and expects nn.Linear there, but the model ends with {found}: let "
            "its last registered layer be the nn.Linear that gives the outputs."
        )
    last: str = weighted[-1]
    return last
