"""A network to which an untrained copy of itself is added: a prior function."""

from typing import Any

import torch
from torch import Tensor, nn

from bayesify.model.network import Indexed, Mode, Network


class PriorFunction(Indexed):
    """f(x; θ) + β f(x; w), where the weights w are the particle's index and are not trained.

    The copy's normalisation layers keep the statistics that the module came with and its dropout is off, so that the
    added function is one function.
    """

    weights: Tensor
    index = ("weights",)
    companions = 1

    def __init__(self, module: nn.Module, scale: float) -> None:
        nn.Module.__init__(self)
        self.base = module
        self.scale = scale
        # In a tuple, because torch would train and count the parameters of an attribute.
        self._copy = (Network(module),)
        self.register_buffer("weights", torch.zeros_like(self._copy[0].initial))

    def forward(self, *arguments: Any, **keywords: Any) -> Tensor:
        """Outputs (B, C)."""
        outputs = self.base(*arguments, **keywords)
        outputs = getattr(outputs, "logits", outputs)
        (copy,) = self._copy
        if copy.device != self.weights.device:
            copy.to(self.weights.device)
        added = copy(self.weights, {}, keywords or arguments[0], Mode.PREDICT)
        result: Tensor = outputs.reshape(added.shape) + self.scale * added
        return result


def with_prior_function(module: nn.Module, scale: float) -> nn.Module:
    """The module with `scale` times a copy added, whose weights are the particle's."""
    return PriorFunction(module, scale)
