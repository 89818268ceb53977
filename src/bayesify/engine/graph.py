"""Leaves out of a traced graph what changes nothing: batching turns every layer into a chain of trivial operations.

A third of a small network's operations are of this kind, and each costs as much to launch as one that works:

* views with the shape and strides of what they view, and views taken twice;
* products with one and powers of one, from derivative formulas;
* whatever follows from shapes alone, such as the gradient of a sum: it is computed once.

The graph gives bit for bit what it gave before.
"""

from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

aten = torch.ops.aten
VIEWS = {aten.view.default, aten.expand.default, aten._unsafe_view.default}
REPEATABLE = VIEWS | {aten.transpose.int, aten.unsqueeze.default}
NEUTRAL = {aten.mul.Scalar, aten.mul.Tensor, aten.div.Tensor, aten.pow.Tensor_Scalar}
"""Of a tensor and the number one they are the tensor."""
FILLED = {aten.ones_like.default: 1.0, aten.zeros_like.default: 0.0}


def leave_out_trivial(graph: GraphModule) -> None:
    """Changes the graph in place; `recompile` it afterwards."""
    if not any(_writes(node) for node in graph.graph.nodes):  # what is written to must not become another's result
        _fold(graph)
        _replace(graph, _same_values)
    _replace(graph, _same_memory)
    _leave_out_repeated(graph)


def _replace(graph: GraphModule, same_as: Any) -> None:
    for node in list(graph.graph.nodes):
        same = same_as(node)
        if same is not None:
            node.replace_all_uses_with(same)
            graph.graph.erase_node(node)


def _same_memory(node: Node) -> Node | None:
    """The earlier node that `node` is another view of, with the same shape and strides."""
    source = node.args[0] if node.op == "call_function" and node.args else None
    if not isinstance(source, Node):
        return None
    if node.target in VIEWS:
        return source if _layout(node) == _layout(source) else None
    if node.target is aten.transpose.int and source.target is aten.transpose.int:
        dims = node.meta["val"].dim()
        there, back = ({int(d) % dims for d in own.args[1:]} for own in (source, node))  # type: ignore[arg-type]
        origin = source.args[0]
        return origin if there == back and isinstance(origin, Node) else None
    return None


def _same_values(node: Node) -> Node | None:
    """The earlier node whose values `node` has, by multiplying with one and the like."""
    if node.op != "call_function" or node.target not in NEUTRAL or len(node.args) != 2:
        return None
    source, factor = node.args
    neutral = isinstance(factor, (int, float)) and factor == 1
    return source if neutral and isinstance(source, Node) and _layout(node) == _layout(source) else None


def _leave_out_repeated(graph: GraphModule) -> None:
    """Keeps the first of equal views of one tensor."""
    seen: dict[Any, Node] = {}
    for node in list(graph.graph.nodes):
        if node.op != "call_function" or node.target not in REPEATABLE:
            continue
        first = seen.setdefault((node.target, repr(node.args), repr(node.kwargs)), node)
        if first is not node:
            node.replace_all_uses_with(first)
            graph.graph.erase_node(node)


def _fold(graph: GraphModule) -> None:
    """Computes what follows from filled tensors alone, and keeps it with the graph."""
    values: dict[Node, Tensor] = {}
    for node in graph.graph.nodes:
        if node.op != "call_function":
            continue
        if node.target in FILLED:
            like = node.meta["val"]
            values[node] = torch.full(like.shape, FILLED[node.target], dtype=like.dtype, device=like.device)
        elif node.all_input_nodes and all(own in values for own in node.all_input_nodes):
            found = node.target(*torch.fx.map_arg(node.args, values.get), **torch.fx.map_arg(node.kwargs, values.get))
            if isinstance(found, Tensor):
                values[node] = found
    for number, (node, value) in enumerate(values.items()):
        outside = [user for user in node.users if user not in values]
        if not outside:
            continue
        name = f"_folded_{number}"
        graph.register_buffer(name, value)
        with graph.graph.inserting_before(node):
            constant = graph.graph.get_attr(name)
        constant.meta["val"] = node.meta["val"]
        for user in outside:
            user.replace_input_with(node, constant)


def _writes(node: Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return (schema is not None and schema.is_mutable) or "batch_norm" in str(node.target)


def _layout(node: Node) -> tuple[object, ...]:
    value = node.meta["val"]
    return (value.shape, value.stride(), value.dtype)
