"""One network → K networks.

Four ways to evaluate a function of one particle for all K of them:

* **traced**: `vmap` traced once per shape with `make_fx`, then replayed without functorch's overhead;
* **compiled**: the traced graph as machine code, where so many calls are expected that it repays the compile;
* **eager**: `vmap` as it is, for shapes that come once or twice;
* **looped**: one particle at a time with plain autograd: large models, and modules that `vmap` refuses.

All agree to rounding (a contract test). FLOPs are counted once per traced shape.
"""

import operator
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.func import grad_and_value, vmap
from torch.fx import GraphModule, Node
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils import _pytree as pytree
from torch.utils.flop_counter import FlopCounterMode

from bayesify.engine.calls import call_quickly
from bayesify.engine.compiled import compiled
from bayesify.engine.graph import leave_out_trivial
from bayesify.engine.inference import make_cheaper
from bayesify.engine.rng import seeded

TRACE_AFTER = 3
"""A shape is traced when it comes the third time: tracing costs about as much as 20 eager calls."""

COMPILE_FROM = 40_000
"""Expected calls that repay a compile: about 0.1 s per operation, which then takes about 2.5 µs less in every call.
A rule of the work ahead, not of what happens to be on the disk: the same call must give the same digits."""
COMPILE_SHARED = 200
"""The same where the way is COMPILED: who asks for that runs many fits of the same shapes, which share the compile."""

LOOP_ABOVE = 20_000_000
"""K × P above which particles are looped over: batched weights would no longer fit caches, or memory."""

REFUSALS = ("vmap", "functorch", "Batching rule", "batching rule", "inplace arithmetic", "match the broadcast shape")
"""What torch says where it cannot batch; the last is an in-place operation where batches meet what is not batched."""

Function = Callable[..., Any]


class Evaluated(NamedTuple):
    """What a batched call gives."""

    result: Any
    flops: float
    """Floating point operations of matrix products and convolutions, counted once per shape by running it."""


class Way(StrEnum):
    """How K particles are evaluated."""

    AUTO = "auto"
    TRACED = "traced"
    COMPILED = "compiled"
    EAGER = "eager"
    LOOPED = "looped"


FREE = {Way.AUTO, Way.COMPILED}
"""Ways that leave the choice open."""


@dataclass
class _Known:
    """What is known of one combination of shapes."""

    calls: int = 0
    graph: Function | None = None
    flops: float = 0.0
    compiled: bool = False


class Vectorised:
    """f(theta, *rest) of one particle, made batched over theta's first dimension.

    Args:
        function: takes theta (P,) and pytrees of tensors. With `gradient`, returns (scalar, aux) and the batched
            call returns ((K, P) gradients, (K,) values, aux); otherwise the batched call returns f's results stacked.
        gradient: whether the gradient in theta is wanted.
        way: AUTO picks; COMPILED compiles what is expected to be called often and picks otherwise; the others force.
        on_compile: told the seconds spent on compiling or loading, and why a graph could not be compiled.
        transposed: whether products may be laid out the other way, without derivatives: quicker for many rows, but
            rounded differently, so every shape is traced at once.
    """

    def __init__(
        self,
        function: Function,
        *,
        gradient: bool,
        way: Way = Way.AUTO,
        on_compile: Callable[[float, str | None], None] | None = None,
        transposed: bool = False,
    ) -> None:
        self._function = function
        self._gradient = gradient
        self._way = way
        self._on_compile = on_compile
        self._transposed = transposed
        self._known: dict[Any, _Known] = {}
        self.expected_calls = 0.0
        """How many calls of one shape are to come, as far as the caller knows."""
        self.refused: str | None = None
        """Why vmap could not be used, if it could not."""

    def __call__(self, in_dims: tuple[int | None, ...], theta: Tensor, *rest: Any) -> Evaluated:
        """Evaluates for all K particles.

        Args:
            in_dims: for each of `rest`, 0 where every leaf has a leading K, None where it is shared.
            theta: (K, P).
            rest: pytrees of tensors.
        """
        leaves: list[Tensor] = []
        key = (in_dims, theta.shape, theta.dtype, flattened(rest, leaves))
        known = self._known.get(key)
        if known is not None:
            return Evaluated(self._evaluate(known, in_dims, theta, rest, leaves), known.flops)
        known = _Known()
        wanted = self.wants_compile() and not self._must_loop(theta)  # at once: a resumed fit then repeats its digits
        if self._way == Way.TRACED or self._must_trace(theta) or wanted:
            # Before counting: tracing runs the function once more.
            self._make_graph(known, in_dims, theta, rest, leaves)
        with FlopCounterMode(display=False) as counter:
            if known.compiled:  # the counter does not see into machine code
                with seeded(0):
                    self._batched(in_dims)(theta, *rest)
            result = self._evaluate(known, in_dims, theta, rest, leaves)
        known.flops = float(counter.get_total_flops())
        self._known[key] = known  # only now: a call that failed has counted nothing
        return Evaluated(result, known.flops)

    def _evaluate(
        self,
        known: _Known,
        in_dims: tuple[int | None, ...],
        theta: Tensor,
        rest: tuple[Any, ...],
        leaves: list[Tensor],
    ) -> Any:
        if self._must_loop(theta):
            return self._looped(in_dims, theta, rest)
        if known.graph is None and self._wants_trace(known):
            self._make_graph(known, in_dims, theta, rest, leaves)
        if known.graph is not None:
            return known.graph(theta, *leaves)
        try:
            return self._batched(in_dims)(theta, *rest)
        except RuntimeError as error:
            if self._way not in FREE or not _is_refusal(error):
                raise
            self.refused = str(error).splitlines()[0]
            return self._looped(in_dims, theta, rest)

    def way_used(self, theta: Tensor) -> Way:
        """What `theta`'s shape is evaluated by, for the record."""
        if self._must_loop(theta):
            return Way.LOOPED
        if any(known.compiled for known in self._known.values()):
            return Way.COMPILED
        return Way.TRACED if any(known.graph for known in self._known.values()) else Way.EAGER

    def _must_loop(self, theta: Tensor) -> bool:
        if self._way not in FREE:
            return self._way == Way.LOOPED
        return self.refused is not None or theta.numel() > LOOP_ABOVE

    def _must_trace(self, theta: Tensor) -> bool:
        return self._transposed and self._way in FREE and not self._must_loop(theta)

    def _wants_trace(self, known: _Known) -> bool:
        known.calls += 1
        return self._way in FREE and (known.calls >= TRACE_AFTER or self.wants_compile())

    def wants_compile(self) -> bool:
        """Whether so many calls are expected that it repays a compile."""
        enough = COMPILE_SHARED if self._way == Way.COMPILED else COMPILE_FROM
        return self._way in FREE and self.expected_calls >= enough

    def _make_graph(
        self, known: _Known, in_dims: tuple[int | None, ...], theta: Tensor, rest: tuple[Any, ...], leaves: list[Tensor]
    ) -> None:
        graph = self._trace(in_dims, theta, rest, leaves)
        if graph is None:
            return
        if self.wants_compile():
            package = compiled(graph, (theta, *leaves))
            if self._on_compile is not None:
                self._on_compile(package.seconds, package.refused)
            if package.function is not None:
                known.graph, known.compiled = package.function, True
                return
        call_quickly(graph)
        graph.recompile()
        # GraphModule.__call__ walks Module machinery; the generated forward is the bare function.
        known.graph = graph.forward

    def _batched(self, in_dims: tuple[int | None, ...]) -> Function:
        function = grad_and_value(self._function, has_aux=True) if self._gradient else self._function
        batched = vmap(function, in_dims=(0, *in_dims), randomness="different")

        def flat(*arguments: Any) -> Any:
            with sdpa_kernel(SDPBackend.MATH):  # vmap can batch its parts, but not the fused kernels
                result = batched(*arguments)
            if not self._gradient:
                return result
            gradient, (value, aux) = result
            return gradient, value, aux

        return flat

    def _trace(
        self, in_dims: tuple[int | None, ...], theta: Tensor, rest: tuple[Any, ...], leaves: list[Tensor]
    ) -> GraphModule | None:
        batched = self._batched(in_dims)
        spec = pytree.tree_structure(rest)

        def flat(theta: Tensor, *leaves: Tensor) -> Any:
            return batched(theta, *pytree.tree_unflatten(list(leaves), spec))

        try:
            with seeded(0):  # tracing runs the function once: dropout must not advance the caller's stream
                graph = make_fx(flat, tracing_mode="real")(theta, *leaves)
        except RuntimeError as error:
            if self._way == Way.TRACED or not _is_refusal(error):
                raise
            self.refused = str(error).splitlines()[0]
            return None
        leave_out_trivial(graph)
        if not self._gradient:
            make_cheaper(graph, self._transposed)
        graph.graph.eliminate_dead_code(_has_effect)
        graph.recompile()
        return graph

    def _looped(self, in_dims: tuple[int | None, ...], theta: Tensor, rest: tuple[Any, ...]) -> Any:
        results = []
        for k in range(len(theta)):
            own = [
                pytree.tree_map(operator.itemgetter(k), value) if dim == 0 else value
                for dim, value in zip(in_dims, rest, strict=True)
            ]
            results.append(self._one(theta[k], own))
        return pytree.tree_map(lambda *parts: torch.stack(parts), *results)

    def _one(self, theta: Tensor, rest: list[Any]) -> Any:
        if not self._gradient:
            with torch.no_grad():
                return self._function(theta, *rest)
        theta = theta.detach().requires_grad_()
        with torch.enable_grad():
            value, aux = self._function(theta, *rest)
            (gradient,) = torch.autograd.grad(value, theta)
        return gradient, value.detach(), pytree.tree_map(torch.Tensor.detach, aux)


def flattened(tree: Any, leaves: list[Tensor]) -> Any:
    """Appends the tree's tensors to `leaves`, in pytree's order, and gives their shapes and nesting, hashable.

    As `pytree.tree_flatten`, which takes longer than a compiled gradient of a small network.
    """
    if isinstance(tree, Tensor):
        leaves.append(tree)
        return tree.shape, tree.dtype
    if type(tree) is dict:
        return tuple((name, flattened(value, leaves)) for name, value in tree.items())
    if isinstance(tree, tuple):
        return type(tree), *(flattened(value, leaves) for value in tree)
    own, spec = pytree.tree_flatten(tree)
    leaves += own
    return spec, tuple((leaf.shape, leaf.dtype) for leaf in own)


def _has_effect(node: Node) -> bool:
    # Batch normalisation updates its statistics in place, although its schema does not say so.
    return bool(node.is_impure()) or "batch_norm" in str(node.target)


def _is_refusal(error: RuntimeError) -> bool:
    # vmap says so in words only. A module's own error is not one of them: it is raised at once, not after a loop.
    text = str(error)
    return any(word in text for word in REFUSALS)
