"""Calls of a traced graph's operations by torch's generated bindings.

A trace records `torch.ops.aten.add.Tensor`, whose arguments are matched against the operator's schema in every call;
`torch.add` parses them in generated code and reaches the same operator in half the time. A small network's gradient
has a hundred such calls.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch.fx import GraphModule

from bayesify.engine.graph import aten

QUICK: dict[Any, Callable[..., Any]] = {
    aten._log_softmax.default: torch._log_softmax,
    aten._unsafe_view.default: torch.Tensor.view,  # replayed without autograd, which alone tells them apart
    aten.add.Tensor: torch.add,
    aten.add_.Tensor: torch.Tensor.add_,
    aten.baddbmm.default: torch.baddbmm,
    aten.bmm.default: torch.bmm,
    aten.cat.default: torch.cat,
    aten.clone.default: torch.clone,
    aten.div.Tensor: torch.div,
    aten.exp.default: torch.exp,
    aten.expand.default: torch.Tensor.expand,
    aten.log.default: torch.log,
    aten.mm.default: torch.mm,
    aten.mul.Tensor: torch.mul,
    aten.ne.Scalar: torch.ne,
    aten.neg.default: torch.neg,
    aten.permute.default: torch.permute,
    aten.pow.Tensor_Scalar: torch.pow,
    aten.relu.default: torch.relu,
    aten.relu_.default: torch.relu_,
    aten.reshape.default: torch.reshape,
    aten.sigmoid_.default: torch.sigmoid_,
    aten.split_with_sizes.default: torch.split_with_sizes,
    aten.sub.Tensor: torch.sub,
    aten.sum.dim_IntList: torch.sum,
    aten.tanh.default: torch.tanh,
    aten.tanh_.default: torch.tanh_,
    aten.transpose.int: torch.transpose,
    aten.unsqueeze.default: torch.unsqueeze,
    aten.view.default: torch.Tensor.view,
    aten.where.self: torch.where,
}
"""Bindings that take the operator's arguments as they are, and choose that operator for them."""


def call_quickly(graph: GraphModule) -> None:
    """Changes the graph in place; `recompile` it afterwards. Its results are the same to the bit."""
    for node in graph.graph.nodes:
        if node.op == "call_function":
            node.target = QUICK.get(node.target, node.target)
