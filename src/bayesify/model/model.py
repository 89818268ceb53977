"""A network and a likelihood, evaluated for K particles: all that prediction needs."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from bayesify.data import chunk_inputs, num_rows
from bayesify.engine.budget import Meter
from bayesify.engine.vectorise import Vectorised, Way
from bayesify.errors import BayesifyError, ModelError
from bayesify.model.likelihoods import Likelihood
from bayesify.model.network import Buffers, Mode, Network

CHUNK_ELEMENTS = 2**23
"""Activations are kept below about this many numbers per layer by chunking rows: tens of megabytes."""


class Model:
    """Maps particles θ = (network parameters, likelihood parameters) and inputs to outputs."""

    def __init__(self, network: Network, likelihood: Likelihood, way: Way = Way.AUTO) -> None:
        self.network = network
        self.likelihood = likelihood
        self._outputs = Vectorised(self._one_output, gradient=False, way=way)

    def split(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """(..., P) → network parameters (..., P_network), likelihood parameters (..., L)."""
        size = self.network.layout.num_parameters
        network, own = torch.split(theta, [size, theta.shape[-1] - size], dim=-1)
        return network, own

    def outputs(self, theta: Tensor, inputs: Any, buffers: Buffers, meter: Meter | None = None) -> Tensor:
        """Outputs of K particles, (K, B, C), without gradients.

        Args:
            theta: (K, P).
            inputs: a pytree of (B, ...) tensors on the network's device.
            buffers: {name: (K, ...)}.
            meter: where the forward passes are counted, if anywhere.
        """
        parts = []
        network = self.split(theta)[0]
        with torch.no_grad():
            for chunk in chunk_inputs(inputs, self.rows_at_once(len(theta))):
                part, flops = self._outputs((0, None), network, buffers, chunk)
                parts.append(part)
                if meter is not None:
                    meter.forward(num_rows(chunk) * len(theta), flops)
        return torch.cat(parts, dim=1)

    def rows_at_once(self, num_particles: int) -> int:
        """How many rows keep the activations of all particles within the chunk size."""
        width = max((max(slot.shape) for slot in self.network.layout.slots if slot.shape), default=1)
        return max(16, CHUNK_ELEMENTS // (width * num_particles))

    def _one_output(self, network: Tensor, buffers: Buffers, inputs: Any) -> Tensor:
        return self.network(network, buffers, inputs, Mode.PREDICT)


@contextmanager
def explained(inputs: Any) -> Iterator[None]:
    """Within the block, what torch says of inputs that do not fit the model becomes an error that names their shape.

    Raises:
        ModelError: the model cannot evaluate these inputs.
    """
    try:
        yield
    except (BayesifyError, torch.OutOfMemoryError):
        raise
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        shapes = ", ".join(str(tuple(leaf.shape)) for leaf in pytree.tree_leaves(inputs))
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise ModelError(
            f"the model cannot evaluate inputs of shape {shapes} ({reason}): pass inputs of the shape and type that "
            "its forward() takes, or adapt its first layer."
        ) from error
