"""Dropout layers whose masks a particle can fix, and where a network has them or lacks them."""

import torch
from torch import Tensor, nn

from bayesify.errors import ModelError
from bayesify.model.network import Indexed, Network
from bayesify.model.parameters import NORMALISATIONS
from bayesify.model.surgery import replaced

ACTIVATIONS = (
    nn.ReLU, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Tanh, nn.Sigmoid, nn.Softplus, nn.Mish, nn.ReLU6, nn.SELU,
    nn.Hardswish, nn.CELU, nn.PReLU,
)  # fmt: skip
"""What counts as an activation when dropout has to be added to a network that has none."""


class FixedDropout(Indexed):
    """Dropout whose mask is a buffer shared by all examples, so that one particle is one consistent function.

    The mask covers features (the last dimension) or channels (dimension 1), never positions: a draw of the weights
    is the same at every position (Gal & Ghahramani 2016, "A theoretically grounded application of dropout in recurrent
    networks"). Training draws masks of the same form, one per example. The size is known only when the first
    activations pass, so the module starts with an empty mask, which drops nothing; one that is called with several
    sizes uses the first entries of one mask.
    """

    mask: Tensor
    index = ("mask",)

    def __init__(self, rate: float, *, channels: bool = False) -> None:
        nn.Module.__init__(self)
        self.p = rate  # the name that nn.Dropout gives it, for modules that ask theirs
        self.feature_dim = 1 if channels else -1
        self.num_features = 0
        self.register_buffer("mask", torch.ones(0))

    def forward(self, x: Tensor) -> Tensor:
        """(B, ..., features) → the same shape; one mask per example in training, the stored mask otherwise."""
        size = x.shape[self.feature_dim]
        shape = [1] * x.dim()
        shape[self.feature_dim] = size
        if self.training:
            shape[0] = x.shape[0]
            return x * nn.functional.dropout(x.new_ones(shape), self.p, training=True)
        self.num_features = max(self.num_features, size)
        if self.mask.shape[-1] == 0:
            return x
        if size > self.mask.shape[-1]:
            raise ModelError(
                f"a dropout layer meets {size} features but its masks were drawn for {self.mask.shape[-1]}: with "
                "mc_dropout, inputs at prediction must not be longer than those in training."
            )
        return x * self.mask[..., :size].reshape(shape)


def has_dropout(module: nn.Module) -> bool:
    """Whether any layer drops out in training."""
    return any(isinstance(layer, (nn.modules.dropout._DropoutNd, FixedDropout)) for layer in module.modules())


def fixed_layers(network: Network) -> dict[str, FixedDropout]:
    """The layers with masks that can be fixed, by the names of their masks."""
    return {name: layer for name, layer in network.indexed.items() if isinstance(layer, FixedDropout)}


def with_fixed_dropout(module: nn.Module, rate: float) -> nn.Module:
    """Dropout layers whose masks can be fixed in the places of the module's own, or after its inner activations.

    Raises:
        ModelError: there is no place for them.
    """
    on_maps = _after_convolution(module)
    # The same layer object may stand in several places: each place gets a mask of its own.
    places = [name for name, _ in module.named_modules(remove_duplicate=False)]
    found = [name for name in places if isinstance(module.get_submodule(name), nn.modules.dropout._DropoutNd)]
    for name in found:
        own = module.get_submodule(name)
        if isinstance(own, nn.modules.dropout._DropoutNd):  # not yet replaced under another name of its parent
            module = replaced(module, name, _fixed(own, channels=name in on_maps))
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
            module = replaced(module, name, nn.Sequential(own, FixedDropout(rate, channels=name in on_maps)))
    return module


def with_dropout_everywhere(module: nn.Module, rate: float) -> nn.Module:
    """Dropout after every linear layer, embedding and convolution but the last, in the place of the module's own.

    Convolutions drop whole filters.

    Raises:
        ModelError: there is no layer before the last.
    """
    places = [(name, layer) for name, layer in module.named_modules(remove_duplicate=False)]
    attention = [f"{name}." for name, layer in places if isinstance(layer, nn.MultiheadAttention)]
    kinds = (nn.Linear, nn.Embedding, nn.modules.conv._ConvNd)
    layers = [name for name, layer in places if isinstance(layer, kinds) and not name.startswith(tuple(attention))]
    if len(layers) < 2:
        raise ModelError(
            "mc_dropout(everywhere=True) drops after every layer but the last, and the model has no other linear "
            "layer, embedding or convolution: use a deeper model."
        )
    for name, own in places:
        if isinstance(own, nn.modules.dropout._DropoutNd):
            module = replaced(module, name, nn.Identity())
    for name in layers[:-1]:
        own = module.get_submodule(name)
        on_maps = isinstance(own, nn.modules.conv._ConvNd)
        module = replaced(module, name, nn.Sequential(own, FixedDropout(rate, channels=on_maps)))
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
