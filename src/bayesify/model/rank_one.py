"""Layers whose weights are shared by members, each with factors of its own: W ∘ (r_k s_kᵀ)."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from bayesify.errors import ModelError
from bayesify.model.network import Indexed
from bayesify.model.normalisation import Scaling
from bayesify.model.surgery import replaced

LAYERS = (nn.Linear, nn.modules.conv._ConvNd)


class RankOne(Indexed, Scaling):
    """A linear layer or convolution as in member k: r_k ∘ (W (s_k ∘ x)) + b_k.

    The particle's index is its member. Where it has none (−1) members take the examples of a batch in turn, or, in
    training, as the network that holds the layer drew them.
    """

    member: Tensor
    index = ("member",)

    def __init__(self, layer: nn.Module, num_members: int, init_scale: float) -> None:
        nn.Module.__init__(self)
        assert isinstance(layer, LAYERS)
        self.layer = layer
        self.init_scale = init_scale
        self.on_maps = not isinstance(layer, nn.Linear)
        weight, own = layer.weight, layer.bias
        size = layer.in_channels if isinstance(layer, nn.modules.conv._ConvNd) else weight.shape[1]
        outputs = layer.out_channels if isinstance(layer, nn.modules.conv._ConvNd) else weight.shape[0]
        self.inner = nn.Parameter(weight.new_ones(num_members, size))  # s
        self.outer = nn.Parameter(weight.new_ones(num_members, outputs))  # r
        self.bias: nn.Parameter | None = None
        if own is not None:
            self.bias = nn.Parameter(own.detach().repeat(num_members, 1), requires_grad=own.requires_grad)
            layer.bias = None
        self.register_buffer("member", torch.full((), -1, device=weight.device))
        self.drawn: list[Tensor] = []

    def reset_parameters(self) -> None:
        """Factors N(1, init_scale²) and biases 0."""
        nn.init.normal_(self.inner, 1.0, self.init_scale)
        nn.init.normal_(self.outer, 1.0, self.init_scale)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, ..., in) or (B, in, ...) → as the layer."""
        if self.drawn:
            (member,) = self.drawn
        else:
            turns = torch.arange(len(x), device=x.device) % len(self.inner)
            member = torch.where(self.member < 0, turns, self.member)
        if len(member) != len(x):
            raise ModelError(
                f"batch_ensemble gave {len(member)} examples their members, but a layer meets {len(x)} rows: the model "
                "must keep the batch in the first dimension."
            )
        x = self.layer(x * self._spread(self.inner[member], x)) * self._spread(self.outer[member], x)
        return x if self.bias is None else x + self._spread(self.bias[member], x)

    def _spread(self, values: Tensor, x: Tensor) -> Tensor:
        """(B, features) for features at the end of x, or at dimension 1 of maps."""
        ones = (1,) * (x.dim() - 2)
        return values.reshape(len(values), -1, *ones) if self.on_maps else values.reshape(len(values), *ones, -1)


class SharedMembers(nn.Module):
    """A network with such layers, which gives every training example one member for all of them."""

    def __init__(self, base: nn.Module, num_members: int) -> None:
        nn.Module.__init__(self)
        self.base = base
        self.num_members = num_members

    def forward(self, *arguments: Any, **keywords: Any) -> Any:
        """As the network."""
        if not self.training:
            return self.base(*arguments, **keywords)
        first = pytree.tree_leaves((arguments, keywords))[0]
        drawn = torch.randint(self.num_members, (len(first),), device=first.device)
        layers = [layer for layer in self.base.modules() if isinstance(layer, RankOne)]
        for layer in layers:
            layer.drawn = [drawn]
        try:
            return self.base(*arguments, **keywords)
        finally:
            for layer in layers:
                layer.drawn = []


def with_rank_one(module: nn.Module, settings: Any) -> nn.Module:
    """Factors for each of `members` on every linear layer and convolution, all 1 until they are initialised.

    Raises:
        ModelError: there is no such layer.
    """
    count, init_scale = settings["members"], settings["init_scale"]
    inside = tuple(f"{name}." for name, layer in module.named_modules() if isinstance(layer, nn.MultiheadAttention))
    places = [
        (name, layer) for name, layer in module.named_modules(remove_duplicate=False) if isinstance(layer, LAYERS)
    ]
    places = [(name, layer) for name, layer in places if not inside or not name.startswith(inside)]
    if not places:
        raise ModelError(
            "batch_ensemble found no nn.Linear and no convolution to share between members: build the model from them."
        )
    made: dict[int, RankOne] = {}  # one layer in several places stays one
    for name, layer in places:
        made.setdefault(id(layer), RankOne(layer, count, init_scale))
        module = replaced(module, name, made[id(layer)])
    return SharedMembers(module, count)
