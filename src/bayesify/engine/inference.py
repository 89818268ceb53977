"""Makes a traced graph without derivatives cheaper: products of long batches transposed, what follows them in place.

A graph that nobody differentiates may overwrite what has no other reader. Only two facts are used: a product's result
is new memory, and a · b = (bᵀ · aᵀ)ᵀ, which lays the rows of the batch out last, where libraries are quickest for the
narrow matrices of many small networks.
"""

from torch import Tensor
from torch.fx import Graph, GraphModule, Node

from bayesify.engine.graph import aten

LONG = 64
"""Rows from which a transposed product is quicker, where it has fewer columns than rows."""

PRODUCTS = {aten.bmm.default, aten.baddbmm.default}
IN_PLACE = {
    aten.relu.default: aten.relu_.default,
    aten.tanh.default: aten.tanh_.default,
    aten.sigmoid.default: aten.sigmoid_.default,
    aten.silu.default: aten.silu_.default,
}


def make_cheaper(graph: GraphModule, transposed: bool) -> None:
    """Changes the graph in place; `recompile` it afterwards. Rounding changes only with `transposed`."""
    nodes = [node for node in graph.graph.nodes if node.op == "call_function"]
    if any(node.target is aten.as_strided.default for node in nodes):
        return  # it reads memory as it lies
    for node in nodes:
        if transposed and node.target is aten.bmm.default and _is_long(node):
            _transpose(graph.graph, node)
        elif node.target is aten.mul.Scalar and node.args[1] == 1 and isinstance(node.args[1], int):
            node.replace_all_uses_with(node.args[0])  # how a layer's bias is scaled
    if transposed:
        for node in nodes:
            if node.target in (aten.view.default, aten._unsafe_view.default):
                node.target = aten.reshape.default  # what it reads may now lie in another order
    _overwrite(graph.graph)


def _value(node: Node) -> Tensor:
    value: Tensor = node.meta["val"]
    return value


def _is_long(node: Node) -> bool:
    rows, columns = _value(node).shape[1:]
    return rows >= LONG and columns < rows


def _transpose(graph: Graph, node: Node) -> None:
    left, right = node.args
    assert isinstance(left, Node)
    assert isinstance(right, Node)
    with graph.inserting_before(node):
        product = graph.call_function(aten.bmm.default, (_turned(graph, right), _turned(graph, left)))
        result = graph.call_function(aten.transpose.int, (product, 1, 2))
    result.meta = dict(node.meta)
    node.replace_all_uses_with(result)
    graph.erase_node(node)


def _turned(graph: Graph, node: Node) -> Node:
    if node.target is aten.transpose.int and set(node.args[1:]) == {1, 2}:
        assert isinstance(node.args[0], Node)
        return node.args[0]
    return graph.call_function(aten.transpose.int, (node, 1, 2))


def _overwrite(graph: Graph) -> None:
    """Elementwise operations on a product that nobody else reads."""
    new: set[Node] = set()
    for node in graph.nodes:
        if node.op != "call_function":
            continue
        readable = [own for own in node.args if isinstance(own, Node) and own in new and len(own.users) == 1]
        if node.target in PRODUCTS or (node.target is aten.transpose.int and readable):
            new.add(node)
        elif node.target in IN_PLACE and readable:
            node.target = IN_PLACE[node.target]
            new.add(node)
        elif node.target is aten.add.Tensor and readable and not node.kwargs:
            _add_in_place(node, readable[0], new)


def _add_in_place(node: Node, target: Node, new: set[Node]) -> None:
    other = next((own for own in node.args if own is not target), None)
    same = (_value(node).shape, _value(node).dtype) == (_value(target).shape, _value(target).dtype)
    if other is None or not same:
        return
    node.target, node.args = aten.add_.Tensor, (target, other)
    new.add(node)
