"""A module's trainable parameters as one flat vector, so that K networks are one (K, P) matrix.

Only parameters with `requires_grad` count: a frozen backbone costs nothing, an adapter or a last layer costs what
is trained. Tied weights are one parameter (PyTorch names them once).
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from bayesify.errors import ModelError
from bayesify.model.normalisation import Scaling

NORMALISATIONS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, Scaling)
"""What counts as a normalisation layer for priors: its scale is 1 where it does nothing."""


class Slot(NamedTuple):
    """Where one named parameter lies in the flat vector, and what the priors need to know of it."""

    name: str
    shape: torch.Size
    offset: int
    fan_in: int
    """How many inputs feed one output of this weight; 1 for biases, embeddings and normalisation scales."""
    role: str
    """'weight', 'bias', 'embedding' or 'scale' (of a normalisation layer: its neutral value is 1, not 0)."""
    is_first: bool = False
    """Whether this is the module's first weight, frozen ones counted: the one that meets the inputs."""

    @property
    def size(self) -> int:
        """Number of scalars."""
        return math.prod(self.shape)


class Layout:
    """The order, shapes and roles of the trainable parameters of one module."""

    def __init__(self, slots: tuple[Slot, ...]) -> None:
        self.slots = slots
        self.num_parameters = sum(slot.size for slot in slots)
        self._sizes = [slot.size for slot in slots]

    @staticmethod
    def of(module: nn.Module) -> "Layout":
        """Reads the trainable parameters of a module.

        Raises:
            ModelError: nothing is trainable, or parameters differ in dtype or device.
        """
        owners = {
            f"{prefix}.{name}" if prefix else name: owner
            for prefix, owner in module.named_modules()
            for name, _ in owner.named_parameters(recurse=False)
        }
        slots: list[Slot] = []
        offset = 0
        named = dict(module.named_parameters())
        roles = {name: _role(name.rpartition(".")[2], parameter, owners[name]) for name, parameter in named.items()}
        first = next((name for name, role in roles.items() if role == "weight"), "")
        trainable = [(name, parameter) for name, parameter in named.items() if parameter.requires_grad]
        _check_alike(trainable)
        for name, parameter in trainable:
            fan_in = _fan_in(parameter, owners[name], roles[name])
            slots.append(Slot(name, parameter.shape, offset, fan_in, roles[name], name == first))
            offset += parameter.numel()
        if not slots:
            raise ModelError(
                "the model has no trainable parameter (none has requires_grad=True), so there is nothing to infer: "
                "unfreeze at least one layer with parameter.requires_grad_(True)."
            )
        return Layout(tuple(slots))

    @property
    def names(self) -> tuple[str, ...]:
        """Parameter names in flat order."""
        return tuple(slot.name for slot in self.slots)

    def flatten(self, named: Mapping[str, Tensor]) -> Tensor:
        """Named tensors of shapes (*lead, *shape) to one tensor (*lead, P)."""
        parts = []
        for slot in self.slots:
            value = named[slot.name]
            lead = value.shape[: value.dim() - len(slot.shape)]
            parts.append(value.reshape(*lead, slot.size))
        return torch.cat(parts, dim=-1)

    def unflatten(self, theta: Tensor) -> dict[str, Tensor]:
        """(*lead, P) to views {name: (*lead, *shape)}."""
        lead = theta.shape[:-1]
        # One split, whose derivative is one concatenation, where slices would each be padded to P and added up.
        parts = torch.split(theta, self._sizes, dim=-1)
        return {s.name: part.reshape(*lead, *s.shape) for s, part in zip(self.slots, parts, strict=True)}

    def describe(self) -> list[list[object]]:
        """JSON-ready [name, shape] pairs: what a saved posterior is checked against."""
        return [[slot.name, list(slot.shape)] for slot in self.slots]


def _check_alike(trainable: list[tuple[str, nn.Parameter]]) -> None:
    for name, parameter in trainable[1:]:
        first, other = trainable[0][1], parameter
        if (first.dtype, first.device) != (other.dtype, other.device):
            raise ModelError(
                f"trainable parameters must share one dtype and device, but {trainable[0][0]!r} is {first.dtype} on "
                f"{first.device} and {name!r} is {other.dtype} on {other.device}: convert the model with .to(...)."
            )


def _role(leaf: str, parameter: Tensor, owner: nn.Module) -> str:
    if isinstance(owner, NORMALISATIONS):
        return "bias" if leaf in ("bias", "threshold") else "scale"
    if isinstance(owner, (nn.Embedding, nn.EmbeddingBag)):
        return "embedding"
    return "weight" if parameter.dim() >= 2 else "bias"


def _fan_in(parameter: Tensor, owner: nn.Module, role: str) -> int:
    if role != "weight":
        return 1
    if isinstance(owner, nn.modules.conv._ConvTransposeNd):
        return parameter.shape[0] * math.prod(parameter.shape[2:]) // owner.groups
    return math.prod(parameter.shape[1:])
