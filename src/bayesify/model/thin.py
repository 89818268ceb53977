"""A narrower copy of a network: every hidden width times a factor."""

import math

from torch import nn

from bayesify.engine.rng import seeded
from bayesify.errors import ModelError
from bayesify.model.normalisation import FilterResponseNorm2d
from bayesify.model.surgery import output_layer, replaced


def with_thin_layers(module: nn.Module, factor: float) -> nn.Module:
    """Fresh layers, hidden ones `factor` as wide; inputs and outputs of the network stay. The module is changed.

    A layer's inputs are as wide as the last of its width before it, in the order of registration, or a multiple of the
    layer before, after a flattening. Frozen layers keep their width; layers that share a weight still do.

    Raises:
        ModelError: a layer with weights is not one whose width can be changed.
    """
    last = output_layer(module)
    widths: dict[int, int] = {}  # whole → thin, the latest last
    shared: dict[int, nn.Parameter] = {}
    for name, layer in list(module.named_modules()):
        if not any(True for _ in layer.parameters(recurse=False)):
            continue
        if isinstance(layer, (nn.Linear, nn.Conv2d)):
            thin = _thinner(name, layer, widths, 1.0 if name == last else factor)
            widths.pop(layer.weight.shape[0], None)
            widths[layer.weight.shape[0]] = thin.weight.shape[0]
            thin.weight = shared.setdefault(id(layer.weight), nn.Parameter(thin.weight, layer.weight.requires_grad))
            module = replaced(module, name, thin)
        else:
            module = replaced(module, name, _normalisation(name, layer, widths))
    return module


def _thinner(name: str, layer: nn.Linear | nn.Conv2d, widths: dict[int, int], factor: float) -> nn.Linear | nn.Conv2d:
    inputs, outputs = layer.weight.shape[1], layer.weight.shape[0]
    if isinstance(layer, nn.Conv2d) and layer.groups != 1:
        raise _cannot(name, "a grouped convolution")
    thin_inputs = inputs
    if widths:
        whole = inputs if inputs in widths else next(reversed(widths))
        if inputs % whole:
            raise _cannot(name, f"a layer of {inputs} inputs after one of {whole} outputs")
        thin_inputs = inputs // whole * widths[whole]
    if not layer.weight.requires_grad:
        if thin_inputs != inputs:
            raise _cannot(name, "a frozen layer after a trained one")
        return layer
    thin = max(1, math.ceil(factor * outputs))
    has_bias = layer.bias is not None
    with seeded(0):  # replaced by each member's own start
        if isinstance(layer, nn.Linear):
            fresh: nn.Linear | nn.Conv2d = nn.Linear(thin_inputs, thin, has_bias)
        else:
            places = {key: getattr(layer, key) for key in ("kernel_size", "stride", "padding", "dilation")}
            fresh = nn.Conv2d(thin_inputs, thin, bias=has_bias, padding_mode=layer.padding_mode, **places)
    return fresh.to(layer.weight)


def _normalisation(name: str, layer: nn.Module, widths: dict[int, int]) -> nn.Module:
    if isinstance(layer, nn.PReLU) and layer.num_parameters == 1:
        return layer
    size = tuple(next(layer.parameters(recurse=False)).shape)
    if len(size) != 1 or size[0] not in widths:
        raise _cannot(name, f"{type(layer).__name__} of shape {size}")
    thin = widths[size[0]]
    if isinstance(layer, nn.modules.batchnorm._BatchNorm):
        fresh: nn.Module = type(layer)(thin, layer.eps, layer.momentum)
    elif isinstance(layer, nn.LayerNorm):
        fresh = nn.LayerNorm(thin, layer.eps)
    elif isinstance(layer, FilterResponseNorm2d):
        fresh = FilterResponseNorm2d(thin)
    else:
        raise _cannot(name, type(layer).__name__)
    return fresh.to(next(layer.parameters(recurse=False)))


def _cannot(name: str, what: str) -> ModelError:
    return ModelError(
        f"the network cannot be made narrower at {name!r}, {what}: build the narrow network yourself and use "
        "deep_ensemble, or use batch_ensemble."
    )
