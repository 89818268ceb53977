"""One module, evaluated at any parameter vector, without ever being changed.

A particle is a parameter vector *and* its buffers: BatchNorm's running statistics and fixed dropout masks belong to
the particle and are never mixed between particles. Running statistics are a function of (parameters, training data):
they are not tracked during training but estimated by a pass over the data once a particle is finished.
"""

import copy
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.func import functional_call

from bayesify.engine.rng import seeded
from bayesify.errors import ModelError
from bayesify.model.parameters import Layout

Inputs = Any  # a tensor, or a pytree of tensors whose first dimension is the batch
Buffers = dict[str, Tensor]


class Mode(StrEnum):
    """How stochastic or batch-dependent layers behave."""

    TRAIN = "train"
    """Dropout on, normalisation by batch statistics: what optimisers see."""
    DENSITY = "density"
    """Dropout off, normalisation by batch statistics: a deterministic density for full-batch methods."""
    PREDICT = "predict"
    """Dropout off, normalisation by the particle's stored statistics."""


class Indexed(nn.Module):
    """Base of layers of which buffers, the index, choose one function: a dropout mask, the number of a member.

    The index belongs to the particle, as running statistics do: `Network.buffers` repeats it, and a method puts in what
    it drew for every particle.
    """

    index: ClassVar[tuple[str, ...]]
    """Names of those buffers."""
    companions: ClassVar[int] = 0
    """Other networks as large as the whole that are evaluated with each example: each costs a forward pass."""


class Network:
    """A private copy of a module with its trainable parameters taken out as a flat vector."""

    def __init__(self, module: nn.Module, transform: Mapping[str, Any] | None = None) -> None:
        self.module = copy.deepcopy(module)
        self.transform = dict(transform or {})
        _forget_tracking(self.module)
        self.layout = Layout.of(self.module)
        self.initial = self.layout.flatten(dict(self.module.named_parameters())).detach().clone()
        self.running = tuple(
            f"{prefix}.{name}" if prefix else name
            for prefix, owner in self.module.named_modules()
            if isinstance(owner, nn.modules.batchnorm._NormBase) and owner.track_running_stats
            for name in ("running_mean", "running_var")
        )
        self.indexed = {
            f"{prefix}.{name}" if prefix else name: owner
            for prefix, owner in self.module.named_modules()
            if isinstance(owner, Indexed)
            for name in owner.index
        }
        """The layers with an index by the names of its buffers."""
        self.companions = sum(owner.companions for owner in self.module.modules() if isinstance(owner, Indexed))
        """Forward passes of other networks that belong to one of this."""
        self.passes = 1 + self.companions
        """All forward passes of one evaluation."""
        self.is_restricted = False
        """Whether part of what the user wanted trained is frozen here, at values of our own."""
        self._mode: Mode | None = None

    def to(self, device: torch.device) -> "Network":
        """This network on a device."""
        self.module.to(device)
        self.initial = self.initial.to(device)
        return self

    @property
    def device(self) -> torch.device:
        """Where parameters live."""
        return self.initial.device

    @property
    def dtype(self) -> torch.dtype:
        """Floating type of the parameters."""
        return self.initial.dtype

    def buffers(self, num_particles: int) -> Buffers:
        """The module's own running statistics and indices, repeated for K particles: {name: (K, *shape)}."""
        if not self.running and not self.indexed:
            return {}
        own = dict(self.module.named_buffers())
        return {
            name: own[name].expand(num_particles, *own[name].shape).clone() for name in (*self.running, *self.indexed)
        }

    def __call__(self, theta: Tensor, buffers: Buffers, inputs: Inputs, mode: Mode) -> Tensor:
        """Outputs (B, C) of the network with parameters `theta` (P,); `buffers` are updated in place in training."""
        self.set_mode(mode)
        arguments, keywords = ((), inputs) if isinstance(inputs, Mapping) else ((inputs,), None)
        state = {**self.layout.unflatten(theta), **buffers}
        with _plain_attention():
            outputs = functional_call(self.module, state, arguments, dict(keywords) if keywords else None)
        outputs = getattr(outputs, "logits", outputs)  # Hugging Face models return a record
        if not isinstance(outputs, Tensor):
            raise ModelError(
                f"the model returned a {type(outputs).__name__}; return one tensor of outputs (B, C), for example by "
                "wrapping the model in a module whose forward picks it."
            )
        return outputs.unsqueeze(-1) if outputs.dim() == 1 else outputs

    def reinitialised(self, num_particles: int, rng: torch.Generator) -> Tensor:
        """Fresh trainable parameters (K, P) by each layer's own `reset_parameters`; LeCun-uniform where it has none."""
        scratch = copy.deepcopy(self.module)
        draws = []
        with seeded(int(torch.randint(2**62, (), generator=rng, device=rng.device))):
            for _ in range(num_particles):
                _reset(scratch)
                draws.append(self.layout.flatten(dict(scratch.named_parameters())).detach().clone())
        return torch.stack(draws)

    def computes_as(self, other: "Network") -> bool:
        """Whether both give the same outputs at the same trainable parameters, as far as their modules tell."""
        alike = self.layout.slots == other.layout.slots and self.transform == other.transform
        return self is other or (alike and _alike(self.module, other.module))

    def set_mode(self, mode: Mode) -> None:
        """Switches layers; does nothing when the mode is already set (walking the module is slow)."""
        if mode == self._mode:
            return
        self.module.train(mode == Mode.TRAIN)
        if mode == Mode.DENSITY:
            for owner in self.module.modules():
                if isinstance(owner, nn.modules.batchnorm._NormBase):
                    owner.train(True)
        self._mode = mode

    def frozen(self) -> dict[str, Tensor]:
        """Parameters that are not trained here: what a posterior over a part of the network must save as well."""
        own = dict(self.module.named_buffers())
        frozen = {name: p.detach() for name, p in self.module.named_parameters() if not p.requires_grad}
        return frozen | {name: own[name] for name in self.running}

    def restricted(self, theta: Tensor, buffers: Buffers, names: set[str]) -> "Network":
        """The same network at `theta` (P,) and `buffers` {name: (...)}, only the parameters in `names` trainable."""
        values = {**self.layout.unflatten(theta), **buffers}
        return self.with_frozen(names, {name: value for name, value in values.items() if name not in names}, values)

    def with_frozen(
        self, names: set[str], frozen: Mapping[str, Tensor], values: Mapping[str, Tensor] | None = None
    ) -> "Network":
        """A copy in which only `names` are trainable and the tensors in `frozen` (and `values`) are as given."""
        if not frozen and values is None:
            return self
        module = copy.deepcopy(self.module)
        own = {**dict(module.named_parameters()), **dict(module.named_buffers())}
        with torch.no_grad():
            for name, value in {**frozen, **(values or {})}.items():
                own[name].copy_(value)
        for name, parameter in module.named_parameters():
            parameter.requires_grad_(name in names)
        result = Network(module, self.transform)
        result.is_restricted = True
        return result


@contextmanager
def _plain_attention() -> Iterator[None]:
    # torch's fused inference kernel would pass over the layers' dropout modules, and vmap cannot batch it.
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)


def _alike(one: nn.Module, other: nn.Module) -> bool:
    """Same classes, settings, buffers and frozen parameters; trainable parameters may differ."""
    own, others = dict(one.named_modules()), dict(other.named_modules())
    if own.keys() != others.keys() or not all(_same_settings(own[name], others[name]) for name in own):
        return False
    frozen, other_frozen = (
        dict(module.named_buffers()) | {name: p for name, p in module.named_parameters() if not p.requires_grad}
        for module in (one, other)
    )
    if frozen.keys() != other_frozen.keys():
        return False
    return all(torch.equal(frozen[name], other_frozen[name]) for name in frozen)


def _same_settings(one: nn.Module, other: nn.Module) -> bool:
    skipped = {"_parameters", "_buffers", "_modules", "training"}
    own, others = ({k: v for k, v in vars(module).items() if k not in skipped} for module in (one, other))
    return type(one) is type(other) and _same(own, others)


def _same(one: Any, other: Any) -> bool:
    """Equality of plain values; anything else is only the same as itself."""
    if one is other:
        return True
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_same(value, other[name]) for name, value in one.items())
    if isinstance(one, Tensor):
        return torch.equal(one, other)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(_same, one, other))
    return isinstance(one, (int, float, str, bytes, set, frozenset, torch.dtype, torch.device)) and bool(one == other)


def _reset(module: nn.Module) -> None:
    for owner in module.modules():
        if isinstance(owner, nn.modules.batchnorm._NormBase):
            _reset_normalisation(owner)
            continue
        reset = getattr(owner, "reset_parameters", None)
        if callable(reset):
            reset()
            continue
        for parameter in owner.parameters(recurse=False):
            if parameter.requires_grad and parameter.dim() >= 2:
                bound = math.sqrt(3.0 / math.prod(parameter.shape[1:]))
                nn.init.uniform_(parameter, -bound, bound)


def _reset_normalisation(owner: nn.modules.batchnorm._NormBase) -> None:
    # Its own reset_parameters() would also reset the step counter, which was taken away.
    if owner.affine:
        nn.init.ones_(owner.weight)
        nn.init.zeros_(owner.bias)


def _forget_tracking(module: nn.Module) -> None:
    # With momentum 1 one forward pass leaves exactly that batch's statistics in the buffers; averaging over batches
    # is done where the statistics are estimated. The step counter would be an in-place integer under vmap.
    for owner in module.modules():
        if isinstance(owner, nn.modules.batchnorm._NormBase) and owner.track_running_stats:
            owner.momentum = 1.0
            owner.num_batches_tracked = None
