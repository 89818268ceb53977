"""Exchanging layers of a module."""

from torch import nn


def replaced(module: nn.Module, name: str, new: nn.Module) -> nn.Module:
    """The module with `new` in the place of its layer `name`; the module itself is changed."""
    if not name:
        return new
    parent, _, leaf = name.rpartition(".")
    setattr(module.get_submodule(parent), leaf, new)
    return module
