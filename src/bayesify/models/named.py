"""Networks by name: one way for the command line, the arena and Python."""

import math
from collections.abc import Callable

from torch import nn

from bayesify.errors import ModelError, suggest
from bayesify.models.convolutional import SMALLEST_LENET, Shape, lenet, resnet20_frn
from bayesify.models.mlp import mlp_for

MODELS: dict[str, Callable[[Shape, int], nn.Module]] = {"lenet": lenet, "resnet20_frn": resnet20_frn}
"""(shape of one example, number of outputs) → a fresh module."""

DEFAULT = "default"


def model_for(name: str, shape: Shape, num_outputs: int, num_examples: int) -> nn.Module:
    """A fresh network by name.

    Args:
        name: 'default', 'lenet' or 'resnet20_frn'. The default is a perceptron sized to the data, and LeNet for images.
        shape: of one example: (features,), or (channels, height, width).
        num_outputs: of the network.
        num_examples: that it will be trained on.

    Raises:
        ModelError: there is no network of that name, or it does not fit the shape.
    """
    if name == DEFAULT:
        return _default(shape, num_outputs, num_examples)
    if name not in MODELS:
        raise ModelError(f"there is no network {name!r}. {suggest(name, [DEFAULT, *MODELS])}")
    return MODELS[name](shape, num_outputs)


def _default(shape: Shape, num_outputs: int, num_examples: int) -> nn.Module:
    if len(shape) == 1:
        return mlp_for(num_examples, shape[0], num_outputs)
    if len(shape) == 3 and min(shape[1:]) >= SMALLEST_LENET:
        return lenet(shape, num_outputs)
    return nn.Sequential(nn.Flatten(), mlp_for(num_examples, math.prod(shape), num_outputs))
