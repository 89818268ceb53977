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

from bayesify.curvature.fisher import Rows, Vectors, chunk_directions, cotangents_of
from bayesify.curvature.jacobian import rows_per_chunk
from bayesify.curvature.layers import Layers, hooked, joined_inputs, joined_outputs
from bayesify.data import Data
from bayesify.engine.vectorise import Way
from bayesify.model.network import Buffers, Inputs, Mode, Network
from bayesify.model.problem import Problem

SINGLE = (Way.TRACED, Way.EAGER)
"""Ways that insist on one example at a time, vectorised; the others leave it open, or are plain autograd as this is."""

CACHE_ELEMENTS, MIN_ROWS = 2**20, 32
"""Layers' outputs at a time, for which a backward pass finds most of what it reads in the cache; and how few rows are
worth the calls."""


class Pass(NamedTuple):
    """One forward pass, ready for backward ones."""

    layers: Layers
    outputs: Tensor  # (B, C), with their graph
    weights: Tensor  # (P_network,)
    received: list[list[Tensor]]  # per layer and call, its inputs
    shifts: list[list[Tensor]]

    def columns(self) -> list[Tensor]:
        """Every layer's inputs (B, T, in), formed at each call."""
        pairs = zip(self.layers.layers, self.received, strict=True)
        return [joined_inputs(layer, own, len(self.outputs)) for layer, own in pairs]

    def gradient(self, cotangent: Tensor) -> Tensor:
        """(B, C) → the gradient in the weights (P_network,), of a pass that wanted it."""
        return torch.autograd.grad(self.outputs, self.weights, cotangent, retain_graph=True)[0]

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


def forward(
    network: Network, layers: Layers, weights: Tensor, buffers: Buffers, inputs: Inputs, gradient: bool = False
) -> Pass:
    """Runs a batch.

    Args:
        network: the network.
        layers: of it, `batched`.
        weights: (P_network,).
        buffers: {name: (...)} of this particle.
        inputs: a pytree of (B, ...) tensors.
        gradient: whether `Pass.gradient` will be asked for.
    """
    weights = weights.detach().requires_grad_(gradient)
    with torch.enable_grad(), hooked(layers.layers) as calls:
        outputs = network(weights, buffers, inputs, Mode.PREDICT)
    received = [[value.detach() for value in own] for own in calls.inputs]
    return Pass(layers, outputs, weights, received, calls.shifts)


def for_each_part(
    problem: Problem,
    layers: Layers,
    theta: Tensor,
    buffers: Buffers,
    vectors: Vectors,
    rng: torch.Generator,
    consume: Callable[[Part], None],
    pulls: bool = True,
) -> None:
    """Passes all the data forward, metered with the backward passes that `consume` takes.

    Arguments as in `curvature.ggn.expand_diagonal`; without `pulls` it takes none. FLOPs are counted in the first
    chunk, by running it.
    """
    weights, own = problem.model.split(theta)

    def cotangents(outputs: Tensor, targets: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
        return cotangents_of(problem.likelihood, vectors, outputs, targets, own, directions)

    def run(chunk: Data) -> None:
        part = forward(problem.network, layers, weights, buffers, chunk.inputs, vectors.gradient)
        rows = Rows(chunk.num_examples, weights, rng)
        directions = chunk_directions(problem.likelihood, vectors, own, rows, part.outputs.detach)
        consume(Part(part, *vmap(cotangents)(part.outputs.detach(), chunk.targets, directions)))

    flops_per_row = None
    elements = sum(layer.elements for layer in layers.layers) + vectors.per_example * vectors.num_outputs
    activations = sum(shape.numel() for layer in layers.layers for shape in layer.shapes)
    at_once = min(rows_per_chunk(elements), max(MIN_ROWS, CACHE_ELEMENTS // max(1, activations)))
    for chunk in problem.data.chunks(at_once):
        if flops_per_row is None:
            with FlopCounterMode(display=False) as counter:
                run(chunk)
            flops_per_row = counter.get_total_flops() / chunk.num_examples
        else:
            run(chunk)
        flops = flops_per_row * chunk.num_examples
        if pulls:
            problem.meter.gradient(chunk.num_examples * vectors.per_example, flops)
        else:
            problem.meter.forward(chunk.num_examples, flops)


def chunk_of_directions(
    problem: Problem, theta: Tensor, buffers: Buffers, vectors: Vectors, chunk: Data, rng: torch.Generator
) -> Tensor:
    """As `chunk_directions`, for those who have no outputs yet: where targets are drawn, a metered forward pass."""

    def outputs() -> Tensor:
        own = {name: value[None] for name, value in buffers.items()}
        return problem.outputs(theta[None], chunk.inputs, own)[0]

    rows = Rows(chunk.num_examples, theta, rng)
    return chunk_directions(problem.likelihood, vectors, problem.model.split(theta)[1], rows, outputs)
