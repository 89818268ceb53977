"""Every example's layer inputs a and output gradients g from ordinary passes of a whole batch.

Where all parameters sit in layers a ↦ W a and rows do not mix (`Layers.batched`), one forward pass of a batch shows
every a, and one backward pass per cotangent every g; an example's Jacobian is then, layer by layer, the products
Σ_t g aᵀ of what is kept. Nothing is vectorised over examples, no weight gradient is formed that is not asked for, and
memory is that of one batch's activations. Not here: which of these products are wanted (`ggn`, `kron`, `functions`).
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import vmap
from torch.utils.flop_counter import FlopCounterMode

from bayesify.curvature.fisher import Vectors, cotangents_of, draw_directions
from bayesify.curvature.jacobian import rows_per_chunk
from bayesify.curvature.layers import Layers, hooked, joined_inputs, joined_outputs
from bayesify.data import Data
from bayesify.engine.vectorise import Way
from bayesify.model.network import Buffers, Inputs, Mode, Network
from bayesify.model.problem import Problem

SINGLE = (Way.TRACED, Way.EAGER)
"""Ways that insist on one example at a time, vectorised; the others leave it open, or are plain autograd as this is."""


class Pass(NamedTuple):
    """One forward pass, ready for backward ones."""

    layers: Layers
    outputs: Tensor  # (B, C), with their graph
    inputs: list[Tensor]  # per layer (B, T, in)
    shifts: list[list[Tensor]]

    def pull(self, cotangent: Tensor) -> list[Tensor]:
        """(B, C) → every layer's output gradients (B, T, out)."""
        flat = [shift for own in self.shifts for shift in own]
        pulled = list(torch.autograd.grad(self.outputs, flat, cotangent, retain_graph=True, materialize_grads=True))
        result = []
        for layer, own in zip(self.layers.layers, self.shifts, strict=True):
            result.append(joined_outputs(layer, pulled[: len(own)], len(cotangent)))
            pulled = pulled[len(own) :]
        return result


class Part(NamedTuple):
    """One chunk of the data, with what is to be pulled back."""

    forward: Pass
    cotangents: Tensor  # (B, R [+ 1], C); the gradient is the last
    log_likelihood: Tensor  # (B,)


def forward(network: Network, layers: Layers, weights: Tensor, buffers: Buffers, inputs: Inputs) -> Pass:
    """Runs a batch.

    Args:
        network: the network.
        layers: of it, `batched`.
        weights: (P_network,).
        buffers: {name: (...)} of this particle.
        inputs: a pytree of (B, ...) tensors.
    """
    with torch.enable_grad(), hooked(layers.layers) as calls:
        outputs = network(weights.detach(), buffers, inputs, Mode.PREDICT)
    pairs = zip(layers.layers, calls.inputs, strict=True)
    columns = [joined_inputs(layer, [value.detach() for value in own], len(outputs)) for layer, own in pairs]
    return Pass(layers, outputs, columns, calls.shifts)


def for_each_part(
    problem: Problem,
    layers: Layers,
    theta: Tensor,
    buffers: Buffers,
    vectors: Vectors,
    rng: torch.Generator,
    consume: Callable[[Part], None],
) -> None:
    """Passes all the data forward, metered with the backward passes that `consume` takes.

    Arguments as in `curvature.ggn.expand_diagonal`. FLOPs are counted in the first chunk, by running it.
    """
    weights, own = problem.model.split(theta)

    def cotangents(outputs: Tensor, targets: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
        return cotangents_of(problem.likelihood, vectors, outputs, targets, own, directions)

    def run(chunk: Data) -> None:
        directions = draw_directions(vectors, chunk.num_examples, weights, rng)
        part = forward(problem.network, layers, weights, buffers, chunk.inputs)
        consume(Part(part, *vmap(cotangents)(part.outputs.detach(), chunk.targets, directions)))

    flops_per_row = None
    elements = sum(layer.elements for layer in layers.layers) + vectors.per_example * vectors.num_outputs
    for chunk in problem.data.chunks(rows_per_chunk(elements)):
        if flops_per_row is None:
            with FlopCounterMode(display=False) as counter:
                run(chunk)
            flops_per_row = counter.get_total_flops() / chunk.num_examples
        else:
            run(chunk)
        problem.meter.gradient(chunk.num_examples * vectors.per_example, flops_per_row * chunk.num_examples)
