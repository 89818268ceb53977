"""Which parameters belong to layers a ↦ W a (Linear, Conv2d), and what goes in and out of these layers.

Whether a layer's weight gradient really is Σ_t g aᵀ, over the positions t of its inputs a and output gradients g, is
not assumed from its type but checked on one example: a module may use a weight without calling its layer (attention),
twice, or through a parametrisation. Forward hooks on the private copy of the module see the inputs and add shifts of
zero to the outputs; the gradient in a shift is g. A second check, on two examples, tells whether rows go through the
network on their own: only then does one pass of a whole batch give every example's a and g (`curvature.factored`).
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils import _pytree as pytree

from bayesify.model.network import Buffers, Inputs, Mode, Network
from bayesify.model.problem import Problem

PROBE_TOLERANCE = 1e-3
"""Relative difference above which a layer's weight gradient is not Σ_t g aᵀ; rounding in float32 is 1e-6."""

CHECK_COST = 3
"""Gradient evaluations of the two checks."""


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
    is_output: bool = False
    """Whether its outputs are the network's, so that g is whatever is pulled back."""

    @property
    def num_inputs(self) -> int:
        """Columns of its matrix."""
        return len(self.order) // self.num_outputs


class Layers(NamedTuple):
    """How the parameters divide into layers and the rest."""

    layers: list[Layer]
    others: Tensor  # (P_others,) positions in the flat vector
    batched: bool = False
    """Whether the layers hold everything, and rows do not mix: a batch shows every example's inputs and gradients."""


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
    """The layers of a problem's network, by its first two rows; `CHECK_COST` gradient evaluations, metered.

    Args:
        problem: model and data.
        theta: (P,).
        buffers: {name: (...)} of this particle.
        rng: for the direction of the check.
    """
    rows = torch.tensor([0, min(1, problem.num_examples - 1)], device=theta.device)
    inputs = problem.data.select(rows).inputs
    found = layers_of(problem.network, problem.model.split(theta)[0], buffers, inputs, rng)
    problem.meter.gradient(CHECK_COST)
    return found


def layers_of(network: Network, weights: Tensor, buffers: Buffers, inputs: Inputs, rng: torch.Generator) -> Layers:
    """Keeps the layers whose weight gradient is Σ_t g aᵀ on the first example, and compares two examples with one.

    Args:
        network: the network.
        weights: its parameters (P_network,).
        buffers: {name: (...)} of this particle.
        inputs: two rows.
        rng: for the direction of the check.
    """
    candidates = linear_layers(network)
    one = _probe(network, candidates, weights, buffers, pytree.tree_map(lambda leaf: leaf[:1], inputs), rng)
    layers = []
    for layer, own_inputs, gradients in zip(candidates, one.inputs, one.gradients, strict=True):
        if not gradients or any(value is None for value in gradients):
            continue
        a, g = joined(layer, own_inputs, gradients)
        if _agree(one.whole[layer.order], (g[0].mT @ a[0]).flatten()):
            shapes = tuple(value.shape for value in gradients)
            is_output = len(shapes) == 1 and torch.equal(gradients[0], one.direction)
            layers.append(layer._replace(shapes=shapes, elements=a[0].numel() + g[0].numel(), is_output=is_output))
    rest = torch.ones(len(weights), dtype=torch.bool, device=weights.device)
    for layer in layers:
        rest[layer.order] = False
    others = rest.nonzero().squeeze(-1)
    apart = _rows_are_apart(network, layers, weights, buffers, inputs, one)
    return Layers(layers, others, apart and not len(others))


class _Probe(NamedTuple):
    """One pass forward and back."""

    direction: Tensor  # (1, C), what was pulled back from the first row's outputs
    outputs: Tensor  # (B, C)
    whole: Tensor  # (P_network,) the gradient
    inputs: list[list[Tensor]]  # per layer and call
    gradients: list[tuple[Tensor, ...]]  # in the outputs of each layer and call


def _probe(
    network: Network,
    layers: list[Layer],
    weights: Tensor,
    buffers: Buffers,
    inputs: Inputs,
    given: torch.Generator | Tensor,
) -> _Probe:
    """The pass for the direction `given`, or a random one."""
    leaf = weights.detach().clone().requires_grad_()
    with torch.enable_grad(), hooked(layers) as calls:
        outputs = network(leaf, buffers, inputs, Mode.PREDICT)
        direction = given
        if isinstance(given, torch.Generator):
            direction = torch.randn((1, outputs.shape[-1]), generator=given, device=given.device).to(outputs)
        assert isinstance(direction, Tensor)
        shifts = [shift for own in calls.shifts for shift in own]
        whole, *pulled = torch.autograd.grad(outputs[:1], [leaf, *shifts], direction, allow_unused=True)
    gradients = []
    for own in calls.shifts:
        gradients.append(tuple(pulled[: len(own)]))
        pulled = pulled[len(own) :]
    values = [[value.detach() for value in own] for own in calls.inputs]
    return _Probe(direction, outputs.detach(), whole, values, gradients)


def _rows_are_apart(
    network: Network, layers: list[Layer], weights: Tensor, buffers: Buffers, inputs: Inputs, one: _Probe
) -> bool:
    """Whether the first of two rows has the outputs it has alone, and its gradients the first places of every layer."""
    two = _probe(network, layers, weights, buffers, inputs, one.direction)
    if two.outputs.shape[0] != 2 or not _agree(two.outputs[0], one.outputs[0]):
        return False
    for layer, own_inputs, gradients in zip(layers, two.inputs, two.gradients, strict=True):
        expected = [(2 * shape[0], *shape[1:]) for shape in layer.shapes]
        if any(value is None for value in gradients) or [tuple(value.shape) for value in gradients] != expected:
            return False
        a, g = joined(layer, own_inputs, gradients, num_rows=2)
        if bool(g[1].any()) or not _agree(two.whole[layer.order], (g[0].mT @ a[0]).flatten()):
            return False
    return True


def joined(
    layer: Layer, inputs: Sequence[Tensor], outputs: Sequence[Tensor], num_rows: int = 1
) -> tuple[Tensor, Tensor]:
    """A layer's inputs (B, T, in) and output gradients (B, T, out) over all of its calls."""
    return joined_inputs(layer, inputs, num_rows), joined_outputs(layer, outputs, num_rows)


def joined_inputs(layer: Layer, inputs: Sequence[Tensor], num_rows: int) -> Tensor:
    """(B, T, in) from the inputs of every call, whose first dimension is B or a multiple of it."""
    return _concatenated([input_columns(layer, value) for value in inputs], num_rows)


def joined_outputs(layer: Layer, outputs: Sequence[Tensor], num_rows: int) -> Tensor:
    """(B, T, out) from the outputs, or their gradients, of every call."""
    return _concatenated([output_columns(layer, value) for value in outputs], num_rows)


def _concatenated(columns: list[Tensor], num_rows: int) -> Tensor:
    own = [value.reshape(num_rows, -1, value.shape[-1]) for value in columns]
    return own[0] if len(own) == 1 else torch.cat(own, dim=1)


def input_columns(layer: Layer, inputs: Tensor) -> Tensor:
    """What a layer's matrix multiplies: inputs (B, ...) → (B, T, in), patches for a convolution, 1 last for a bias."""
    if isinstance(layer.module, nn.Conv2d):
        return _patches(layer.module, inputs, layer.has_bias)
    columns = inputs.reshape(len(inputs), -1, inputs.shape[-1])
    return F.pad(columns, (0, 1), value=1.0) if layer.has_bias else columns


def _patches(module: nn.Conv2d, inputs: Tensor, has_bias: bool) -> Tensor:
    """(B, C, H, W) → (B, T, C · height · width [+ 1]), one copy of a strided view: several times faster than unfold."""
    padded = padded_image(module, inputs)[0].contiguous()
    batch, channels, *size = padded.shape
    steps = zip(size, module.kernel_size, module.dilation, module.stride, strict=True)
    places = [_places(*step) for step in steps]
    per_image, per_channel, *per_step = padded.stride()
    moves = [step * stride for step, stride in zip(per_step, module.stride, strict=True)]
    within = [step * dilation for step, dilation in zip(per_step, module.dilation, strict=True)]
    shape = (batch, *places, channels, *module.kernel_size)
    view = padded.as_strided(shape, (per_image, *moves, per_channel, *within))
    width = channels * math.prod(module.kernel_size)
    result = inputs.new_empty(batch, math.prod(places), width + has_bias)
    result[..., width:] = 1.0
    result[..., :width].view(shape).copy_(view)
    return result


def padded_image(module: nn.Conv2d, inputs: Tensor, zero_rows: bool = True) -> tuple[Tensor, tuple[int, int]]:
    """A convolution's inputs padded, and how many rows of zeros above and below were left out (`zero_rows` False)."""
    # The module's own record of its padding, whether it was given as numbers, 'same' or with a mode.
    left, right, above, below = module._reversed_padding_repeated_twice
    if module.padding_mode != "zeros":
        return F.pad(inputs, (left, right, above, below), mode=module.padding_mode), (0, 0)
    if zero_rows:
        return F.pad(inputs, (left, right, above, below)), (0, 0)
    return F.pad(inputs, (left, right)), (above, below)


def sliding_columns(module: nn.Conv2d, image: Tensor) -> Tensor:
    """What a kernel sees of each row of a padded image (B, C, H, W) along the width: (B, W', H, C · kernel width)."""
    image = image.contiguous()
    batch, channels, height, length = image.shape
    kernel, dilation, stride = module.kernel_size[1], module.dilation[1], module.stride[1]
    per_image, per_channel, per_row, step = image.stride()
    shape = (batch, _places(length, kernel, dilation, stride), height, channels, kernel)
    view = image.as_strided(shape, (per_image, step * stride, per_row, per_channel, step * dilation))
    return view.reshape(*shape[:3], channels * kernel).contiguous()  # one channel could stay a view


def _places(length: int, kernel: int, dilation: int, stride: int) -> int:
    return (length - dilation * (kernel - 1) - 1) // stride + 1


def output_columns(layer: Layer, outputs: Tensor) -> Tensor:
    """A layer's outputs or their gradients, (B, ...) → (B, T, out)."""
    if isinstance(layer.module, nn.Conv2d):
        return outputs.flatten(2).mT
    return outputs.reshape(len(outputs), -1, outputs.shape[-1])


def linear_layers(network: Network) -> list[Layer]:
    """Every Linear and Conv2d whose weight is trained here and is its own, in the order of registration."""
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
