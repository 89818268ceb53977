"""A network and a likelihood, evaluated for K particles: all that prediction needs."""

import operator
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from bayesify.data import num_rows
from bayesify.engine.budget import Meter
from bayesify.engine.inference import LONG
from bayesify.engine.vectorise import Vectorised, Way
from bayesify.errors import BayesifyError, ModelError
from bayesify.model.chunks import Chunking, Watched, pieces
from bayesify.model.likelihoods import Likelihood
from bayesify.model.network import Buffers, Mode, Network

CHUNK_ELEMENTS = 2**23
"""Activations are kept below about this many numbers per layer by chunking rows: tens of megabytes."""
CACHED_ELEMENTS = 2**19
"""Aimed at per layer where all rows are gone through for every gradient: 2 MB of float32, a second-level cache."""
BLOCK_ROWS = 512
"""Rows that blocks of gradients are not cut below: half of what prediction takes, as the activations are kept."""


class Model:
    """Maps particles θ = (network parameters, likelihood parameters) and inputs to outputs."""

    def __init__(self, network: Network, likelihood: Likelihood, way: Way = Way.AUTO) -> None:
        self.network = network
        self.likelihood = likelihood
        self._outputs = Vectorised(self._one_output, gradient=False, way=way)
        self._long_outputs = Vectorised(self._one_output, gradient=False, way=way, transposed=True)
        self._chunking = Chunking(network.layout)
        self._width = max((max(slot.shape) for slot in network.layout.slots if slot.shape), default=1)

    def split(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """(..., P) → network parameters (..., P_network), likelihood parameters (..., L)."""
        size = self.network.layout.num_parameters
        network, own = torch.split(theta, [size, theta.shape[-1] - size], dim=-1)
        return network, own

    def outputs(self, theta: Tensor, inputs: Any, buffers: Buffers, meter: Meter | None = None) -> Tensor:
        """Outputs of K particles, (K, B, C), without gradients, a chunk of particles and rows at a time.

        Args:
            theta: (K, P).
            inputs: a pytree of (B, ...) tensors on the network's device.
            buffers: {name: (K, ...)}.
            meter: where the forward passes are counted, if anywhere.
        """
        network = self.split(theta)[0]
        num_draws, total = len(theta), num_rows(inputs)
        chunk = self._chunking.choose(inputs, num_draws)
        measured = self._chunking.is_measured(inputs)
        result = None
        with torch.no_grad():
            if measured and num_draws <= chunk.draws and total <= chunk.rows:
                return self._chunk(network, inputs, buffers, meter, measured)
            for rows in pieces(total, chunk.rows):
                some = pytree.tree_map(operator.itemgetter(rows), inputs)
                for draws in pieces(num_draws, chunk.draws):
                    own = {name: value[draws] for name, value in buffers.items()}
                    part = self._chunk(network[draws], some, own, meter, measured)
                    measured = True
                    if result is None:
                        result = part.new_empty((num_draws, total, part.shape[-1]))
                    result[draws, rows] = part
        assert result is not None  # there is at least one draw and one row
        return result

    def _chunk(self, network: Tensor, inputs: Any, buffers: Buffers, meter: Meter | None, measured: bool) -> Tensor:
        """Outputs of some draws on some rows, at once; what it holds is measured where that is not known."""
        evaluate = self._long_outputs if num_rows(inputs) >= LONG else self._outputs
        if measured:
            part, flops = evaluate((0, None), network, buffers, inputs)
        else:
            with Watched() as watched:
                part, flops = evaluate((0, None), network, buffers, inputs)
            looped = evaluate.way_used(network) == Way.LOOPED
            self._chunking.learn(inputs, watched.peak, 1 if looped else len(network))
        if meter is not None:
            meter.forward(num_rows(inputs) * len(network) * self.network.passes, flops)
        result: Tensor = part
        return result

    def block_rows(self, num_particles: int) -> int:
        """Rows whose gradients are taken at a time: activations stay in cache, as long as blocks are not short."""
        return min(self.rows_at_once(num_particles), max(BLOCK_ROWS, CACHED_ELEMENTS // (self._width * num_particles)))

    def rows_at_once(self, num_particles: int) -> int:
        """How many rows keep the activations of all particles within the chunk size."""
        return max(16, CHUNK_ELEMENTS // (self._width * num_particles))

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
