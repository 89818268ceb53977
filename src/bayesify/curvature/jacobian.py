"""Jacobians of a network's outputs in its parameters, J = ∂f(x; θ)/∂θ, per example and in chunks of rows.

Cost: one forward pass and C vector–Jacobian products per example; memory O(chunk). Not here: forward mode, which
`posterior.linearised` uses for function draws.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.func import vjp
from torch.utils import _pytree as pytree

from bayesify.data import chunk_inputs, num_rows
from bayesify.engine.vectorise import Vectorised, Way
from bayesify.model.model import CHUNK_ELEMENTS, Model
from bayesify.model.network import Buffers, Mode


class Rows(NamedTuple):
    """The Jacobians and outputs of consecutive examples."""

    jacobian: Tensor  # (B, C, P_network)
    outputs: Tensor  # (B, C)


class Jacobian:
    """∂f/∂θ of one particle's network at any inputs."""

    def __init__(self, model: Model, way: Way = Way.AUTO) -> None:
        self._model, self._way = model, way

    def chunks(self, theta: Tensor, buffers: Buffers, inputs: Any, num_outputs: int) -> Iterator[Rows]:
        """Jacobians of consecutive rows, as many at a time as memory for `CHUNK_ELEMENTS` numbers holds.

        Args:
            theta: (P,).
            buffers: {name: (...)} of this particle.
            inputs: a pytree of (B, ...) tensors on the network's device.
            num_outputs: C.
        """
        network = self._model.split(theta)[0]
        # Anew for every call: with a graph kept from earlier calls the same inputs would be rounded differently.
        batched = Vectorised(self._one_example, gradient=False, way=self._way)
        for chunk in chunk_inputs(inputs, rows_per_chunk(num_outputs * len(network))):
            # The unit vectors go in as the batched argument: one of every output for every row.
            units = torch.eye(num_outputs, dtype=theta.dtype, device=theta.device).expand(num_rows(chunk), -1, -1)
            yield Rows(*batched((None, None, 0), units, network, buffers, chunk).result)

    def _one_example(self, units: Tensor, network: Tensor, buffers: Buffers, inputs: Any) -> tuple[Tensor, Tensor]:
        def function(network: Tensor) -> Tensor:
            return self._model.network(network, buffers, as_batch(inputs), Mode.PREDICT)[0]

        pair: Any = vjp(function, network)
        outputs, pull = pair
        return torch.stack([pull(unit)[0] for unit in units]), outputs


def as_batch(example: Any) -> Any:
    """One example as a batch of one."""
    return pytree.tree_map(lambda leaf: leaf.unsqueeze(0), example)


def rows_per_chunk(elements_per_row: int) -> int:
    """How many rows of that many numbers fit a chunk; at least one."""
    return max(1, CHUNK_ELEMENTS // max(1, elements_per_row))
