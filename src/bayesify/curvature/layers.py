"""Which parameters belong to layers a ↦ W a (Linear, Conv2d), and what goes in and out of these layers.

Whether a layer's weight gradient really is Σ_t g aᵀ, over the positions t of its inputs a and output gradients g, is
not assumed from its type but checked on one example: a module may use a weight without calling its layer (attention),
twice, or through a parametrisation. Forward hooks on the private copy of the module see the inputs and add shifts of
zero to the outputs; the gradient in a shift is g.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bayesify.model.network import Buffers, Mode, Network
from bayesify.model.problem import Problem

PROBE_TOLERANCE = 1e-3
"""Relative difference above which a layer's weight gradient is not Σ_t g aᵀ; rounding in float32 is 1e-6."""

CHECK_COST = 1
"""Gradient evaluations of the check."""


class Layer(NamedTuple):
    """A Linear or Conv2d module whose weight is trained here."""

    name: str
    module: nn.Linear | nn.Conv2d
    order: Tensor  # (out · in,) where its (out, in) matrix lies in the flat vector; a bias is its last column
    num_outputs: int
    has_bias: bool
    shapes: tuple[torch.Size, ...] = ()
    """Of its outputs in every call during one forward pass of a batch of one example."""
    elements: int = 0
    """Numbers that one example's inputs, unfolded, and outputs take."""

    @property
    def num_inputs(self) -> int:
        """Columns of its matrix."""
        return len(self.order) // self.num_outputs


class Layers(NamedTuple):
    """How the parameters divide into layers and the rest."""

    layers: list[Layer]
    others: Tensor  # (P_others,) positions in the flat vector


class Calls:
    """What the hooks saw: the inputs of every layer's calls, and the shifts added to its outputs."""

    def __init__(self, layers: list[Layer], shifts: list[list[Tensor]] | None) -> None:
        self._given = shifts is not None
        self.inputs: list[list[Tensor]] = [[] for _ in layers]
        self.shifts: list[list[Tensor]] = [[] for _ in layers] if shifts is None else shifts

    def __call__(self, index: int, module: nn.Module, arguments: tuple[Any, ...], output: Tensor) -> Tensor:
        """The forward hook of layer `index`."""
        del module
        if not self._given:
            self.shifts[index].append(torch.zeros_like(output, requires_grad=True))
        shift = self.shifts[index][len(self.inputs[index])]
        self.inputs[index].append(arguments[0])
        return output + shift


@contextmanager
def hooked(layers: list[Layer], shifts: list[list[Tensor]] | None = None) -> Iterator[Calls]:
    """Within the block, layers add `shifts` (one per call; None makes zeros that want gradients) to their outputs."""
    calls = Calls(layers, shifts)
    handles = [layer.module.register_forward_hook(partial(calls, i)) for i, layer in enumerate(layers)]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def find_layers(problem: Problem, theta: Tensor, buffers: Buffers, rng: torch.Generator) -> Layers:
    """Runs one example forward and backward, and keeps the layers whose weight gradient is Σ_t g aᵀ.

    One gradient evaluation, metered.

    Args:
        problem: model and data.
        theta: (P,).
        buffers: {name: (...)} of this particle.
        rng: for the direction of the check.
    """
    network = problem.model.split(theta)[0].detach().clone().requires_grad_()
    candidates = _candidates(problem.network)
    with torch.enable_grad(), hooked(candidates) as calls:
        outputs = problem.network(network, buffers, problem.data.select(slice(0, 1)).inputs, Mode.PREDICT)
        direction = torch.randn(outputs.shape, generator=rng, device=rng.device).to(outputs)
        shifts = [shift for own in calls.shifts for shift in own]
        whole, *pulled = torch.autograd.grad(outputs, [network, *shifts], direction, allow_unused=True)
    problem.meter.gradient(CHECK_COST)
    layers = []
    for layer, inputs, own in zip(candidates, calls.inputs, calls.shifts, strict=True):
        gradients, pulled = pulled[: len(own)], pulled[len(own) :]
        if not gradients or any(value is None for value in gradients):
            continue
        a = torch.cat([input_columns(layer, value.detach()) for value in inputs], dim=1)[0]
        g = torch.cat([output_columns(layer, value) for value in gradients], dim=1)[0]
        if _agree(whole[layer.order], (g.mT @ a).flatten()):
            shapes = tuple(shift.shape for shift in own)
            layers.append(layer._replace(shapes=shapes, elements=a.numel() + g.numel()))
    rest = torch.ones(len(network), dtype=torch.bool, device=network.device)
    for layer in layers:
        rest[layer.order] = False
    return Layers(layers, rest.nonzero().squeeze(-1))


def input_columns(layer: Layer, inputs: Tensor) -> Tensor:
    """What a layer's matrix multiplies: inputs (B, ...) → (B, T, in), patches for a convolution, 1 last for a bias."""
    if isinstance(layer.module, nn.Conv2d):
        # The module's own record of its padding, whether it was given as numbers, 'same' or with a mode.
        own = layer.module
        mode = "constant" if own.padding_mode == "zeros" else own.padding_mode
        padded = F.pad(inputs, own._reversed_padding_repeated_twice, mode=mode)
        columns = F.unfold(padded, own.kernel_size, dilation=own.dilation, stride=own.stride).mT
    else:
        columns = inputs.reshape(len(inputs), -1, inputs.shape[-1])
    return F.pad(columns, (0, 1), value=1.0) if layer.has_bias else columns


def output_columns(layer: Layer, outputs: Tensor) -> Tensor:
    """A layer's outputs or their gradients, (B, ...) → (B, T, out)."""
    if isinstance(layer.module, nn.Conv2d):
        return outputs.flatten(2).mT
    return outputs.reshape(len(outputs), -1, outputs.shape[-1])


def _candidates(network: Network) -> list[Layer]:
    slots = {slot.name: slot for slot in network.layout.slots}
    owners: dict[int, int] = {}
    for _, parameter in network.module.named_parameters(remove_duplicate=False):
        owners[id(parameter)] = owners.get(id(parameter), 0) + 1
    layers = []
    for name, module in network.module.named_modules():
        if not isinstance(module, (nn.Linear, nn.Conv2d)) or (isinstance(module, nn.Conv2d) and module.groups != 1):
            continue
        prefix = f"{name}." if name else ""
        weight, bias = slots.get(f"{prefix}weight"), slots.get(f"{prefix}bias")
        if weight is None or owners[id(module.weight)] > 1:
            continue
        order = torch.arange(weight.offset, weight.offset + weight.size).reshape(weight.shape[0], -1)
        has_bias = bias is not None and owners[id(module.bias)] == 1
        if bias is not None and has_bias:
            order = torch.cat([order, torch.arange(bias.offset, bias.offset + bias.size)[:, None]], dim=1)
        layers.append(Layer(name, module, order.flatten().to(network.device), weight.shape[0], has_bias))
    return layers


def _agree(found: Tensor, expected: Tensor) -> bool:
    return torch.allclose(found, expected, rtol=0.0, atol=PROBE_TOLERANCE * float(found.abs().max()))
