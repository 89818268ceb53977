"""A network with an epinet beside its last layer: outputs depend on an index z that the particle holds."""

import math
from collections.abc import Mapping
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from bayesify.data import num_rows
from bayesify.engine.rng import generator
from bayesify.errors import ModelError
from bayesify.model.network import Indexed, Inputs, Mode, Network
from bayesify.model.surgery import replaced

SIGNAL, PLAIN = "signal", "plain"
"""Names under which training examples carry their signal, and inputs that are no mapping themselves."""
GAIN = math.sqrt(2.0)
"""Prior functions have weights N(0, 2 / fan-in) and biases N(0, 1): the default prior's law."""


class Recorded(nn.Module):
    """A linear layer that hands its input out, once."""

    def __init__(self, layer: nn.Module) -> None:
        nn.Module.__init__(self)
        self.layer = layer
        self._features: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        """As the layer."""
        self._features = [x]
        result: Tensor = self.layer(x)
        return result

    def features(self) -> Tensor:
        """What went in last."""
        (found,) = self._features
        self._features = []  # or else copies of the module would have to copy a graph
        return found


class PriorEnsemble(nn.Module):
    """Dz frozen networks (two hidden layers of ReLUs; linear where `hidden` is 0), combined by z: Σ_d z_d g_d / √Dz."""

    def __init__(self, sizes: tuple[int, ...], num_functions: int, seed: int, like: Tensor) -> None:
        nn.Module.__init__(self)
        rng = generator("cpu", "prior functions", seed)
        self.num_layers = len(sizes) - 1
        for number, (fan_in, fan_out) in enumerate(pairwise(sizes)):
            weight = torch.randn(num_functions, fan_in, fan_out, generator=rng, dtype=torch.float64)
            bias = torch.randn(num_functions, 1, fan_out, generator=rng, dtype=torch.float64)
            self.register_buffer(f"weight{number}", (weight * GAIN / math.sqrt(fan_in)).to(like))
            self.register_buffer(f"bias{number}", bias.to(like))

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        """(B, F), (B, Dz) → (B, C)."""
        hidden = x
        for number in range(self.num_layers):
            hidden = hidden @ self.get_buffer(f"weight{number}") + self.get_buffer(f"bias{number}")  # (Dz, B, ...)
            hidden = hidden.relu() if number < self.num_layers - 1 else hidden
        return (hidden * z.mT[..., None]).sum(0) / math.sqrt(z.shape[-1])


class Learned(nn.Module):
    """σ_L(x, z): a network of (x, z) with C Dz outputs, times z; of x alone where it has no hidden layers."""

    def __init__(self, sizes: tuple[int, ...], index_dim: int, like: Tensor) -> None:
        nn.Module.__init__(self)
        self.takes_index = len(sizes) > 2
        widths = [sizes[0] + index_dim * self.takes_index, *sizes[1:-1], sizes[-1] * index_dim]
        place: dict[str, Any] = {"dtype": like.dtype, "device": like.device}
        linear = [nn.Linear(a, b, **place) for a, b in pairwise(widths)]
        self.layers = nn.ModuleList(linear)

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        """(B, F), (B, Dz) → (B, C)."""
        hidden = torch.cat([x, z], -1) if self.takes_index else x
        for number, layer in enumerate(self.layers):
            hidden = layer(hidden if number == 0 else hidden.relu())
        by_index = hidden.reshape(len(hidden), -1, z.shape[-1])  # (B, C, Dz)
        result: Tensor = (by_index * z.unsqueeze(-2)).sum(-1)
        return result


class Epinet(Indexed):
    """μ(x) + σ_L(sg[φ(x)], z) + β σ_P(sg[φ(x)], z).

    z is the particle's index, 0 by itself. Inputs with a signal c (B, Dz) are training examples: each gets a z of its
    own, N(0, I), and c · z is taken off, so that the network is trained towards targets moved by it; signals of width
    0 move nothing.
    """

    z: Tensor
    index = ("z",)

    def __init__(self, module: nn.Module, settings: Mapping[str, Any]) -> None:
        nn.Module.__init__(self)
        self.index_dim = int(settings["index_dim"])
        self.takes_inputs = bool(settings["inputs"])
        self.prior_scale = float(settings["prior_scale"])
        layer = module.get_submodule(settings["last"])
        assert isinstance(layer, nn.Linear)
        self._last = (Recorded(layer),)  # in a tuple, because it goes by its place in the base
        self.base = replaced(module, settings["last"], self._last[0])
        size, outputs = layer.in_features + int(settings["inputs"]), layer.out_features
        hidden, prior_hidden = (
            (width,) * 2 if width else () for width in (settings["hidden"], settings["prior_hidden"])
        )
        self.learned = Learned((size, *hidden, outputs), self.index_dim, layer.weight)
        self.prior = PriorEnsemble((size, *prior_hidden, outputs), self.index_dim, settings["seed"], layer.weight)
        self.register_buffer("z", layer.weight.new_zeros(self.index_dim))

    def forward(self, *arguments: Any, signal: Tensor | None = None, plain: Any = None, **keywords: Any) -> Tensor:
        """Outputs (B, C)."""
        if plain is not None:
            arguments = (plain,)
        outputs = self.base(*arguments, **keywords)
        outputs = getattr(outputs, "logits", outputs)
        features = self._last[0].features().detach()
        outputs = outputs.reshape(len(features), -1)
        if self.takes_inputs:
            features = torch.cat([features, arguments[0]], -1)
        z = self.z.expand(len(features), -1)
        if signal is not None:
            z = torch.randn_like(z)
        result: Tensor = outputs + self.learned(features, z) + self.prior_scale * self.prior(features, z)
        if signal is not None and signal.shape[-1]:
            result = result - (signal * z).sum(-1, keepdim=True)
        return result


def with_epinet(module: nn.Module, settings: Mapping[str, Any]) -> nn.Module:
    """The module with an epinet: see `Epinet` and `Place` for what the settings are."""
    return Epinet(module, settings)


class Place(NamedTuple):
    """Where a network's epinet goes."""

    last: str
    """The name of the linear layer whose output is the network's."""
    inputs: int
    """How many numbers of the inputs join its input as features: all of a vector, 0 of anything else."""


def place_of(network: Network, inputs: Inputs) -> Place:
    """Finds the last layer by one forward pass of some inputs (B, ...).

    Raises:
        ModelError: no linear layer's output is the network's.
    """
    seen: dict[str, tuple[Tensor, Tensor]] = {}

    def see(name: str, _module: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> None:
        seen[name] = (arguments[0], output)

    linear = [(name, layer) for name, layer in network.module.named_modules() if isinstance(layer, nn.Linear)]
    hooks = [layer.register_forward_hook(partial(see, name)) for name, layer in linear]
    try:
        with torch.no_grad():
            buffers = {name: value[0] for name, value in network.buffers(1).items()}
            outputs = network(network.initial, buffers, inputs, Mode.PREDICT)
    finally:
        for hook in hooks:
            hook.remove()
    for name, (features, output) in reversed(seen.items()):
        if output.dim() == 2 and torch.equal(output, outputs):
            is_vector = isinstance(inputs, Tensor) and inputs.dim() == 2 and inputs.is_floating_point()
            taken = is_vector and not torch.equal(features, inputs)
            return Place(name, inputs.shape[1] if taken else 0)
    raise ModelError(
        "epinet found no nn.Linear whose output is the network's output, so there are no features to add it to: end "
        "the model with nn.Linear, without an activation, scaling or squeeze after it."
    )


def with_signals(inputs: Inputs, signals: Tensor) -> dict[str, Any]:
    """Training inputs (N, ...) with a signal (N, Dz or 0) for each."""
    assert num_rows(inputs) == len(signals)
    return {**(inputs if isinstance(inputs, Mapping) else {PLAIN: inputs}), SIGNAL: signals}
