"""Leaves out of a traced graph what changes nothing: batching turns every layer into a chain of trivial views.

A third of a small network's operations are of this kind, and each costs as much to launch as one that works. Only
operations whose result has the same memory, shape and strides as an earlier one are left out, so that the graph gives
bit for bit what it gave before.
"""

import torch
from torch.fx import GraphModule, Node

aten = torch.ops.aten
RESHAPES = {aten.view.default, aten.expand.default, aten._unsafe_view.default}


def leave_out_trivial_views(graph: GraphModule) -> None:
    """Changes the graph in place; `recompile` it afterwards."""
    for node in list(graph.graph.nodes):
        same = _same_as(node)
        if same is not None:
            node.replace_all_uses_with(same)
            graph.graph.erase_node(node)


def _same_as(node: Node) -> Node | None:
    """The earlier node that `node` repeats, if it does."""
    source = node.args[0] if node.op == "call_function" and node.args else None
    if not isinstance(source, Node):
        return None
    if node.target in RESHAPES:
        return source if _layout(node) == _layout(source) else None
    if node.target is aten.transpose.int and source.target is aten.transpose.int:
        dims = node.meta["val"].dim()
        there, back = ({int(d) % dims for d in own.args[1:]} for own in (source, node))  # type: ignore[arg-type]
        origin = source.args[0]
        return origin if there == back and isinstance(origin, Node) else None
    return None


def _layout(node: Node) -> tuple[object, ...]:
    value = node.meta["val"]
    return (value.shape, value.stride(), value.dtype)
