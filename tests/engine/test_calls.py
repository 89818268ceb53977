"""Quick calls reach the operators that were recorded, and give the same bits."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode

from bayesify.engine.calls import QUICK, call_quickly
from bayesify.engine.graph import aten
from bayesify.engine.rng import generator

RNG = generator("cpu", "calls")
A, B = torch.rand(2, 3, 4, generator=RNG) + 0.1, torch.rand(2, 3, 4, generator=RNG) + 0.1
C, MATRIX = torch.rand(2, 4, 5, generator=RNG), torch.rand(4, 3, generator=RNG)
EXAMPLES: dict[Any, list[tuple[tuple[Any, ...], dict[str, Any]]]] = {
    aten._log_softmax.default: [((A, -1, False), {})],
    aten._unsafe_view.default: [((A, [6, 4]), {})],
    aten.add.Tensor: [((A, B), {}), ((A, 2.0), {}), ((A, B), {"alpha": 2})],
    aten.add_.Tensor: [((A, B), {}), ((A, 2), {})],
    aten.baddbmm.default: [((C[:, :1], C.mT, C), {}), ((C[:, :1], C.mT, C), {"beta": 2, "alpha": 0.5})],
    aten.bmm.default: [((A, C), {})],
    aten.cat.default: [(([A, B],), {}), (([A, B], 1), {})],
    aten.clone.default: [((A,), {}), ((A.mT,), {"memory_format": torch.contiguous_format})],
    aten.div.Tensor: [((A, B), {}), ((A, 3), {})],
    aten.exp.default: [((A,), {})],
    aten.expand.default: [((A[:, :1], [2, 3, 4]), {})],
    aten.log.default: [((A,), {})],
    aten.mm.default: [((A[0], MATRIX), {})],
    aten.mul.Tensor: [((A, B), {}), ((A, 2.0), {})],
    aten.ne.Scalar: [((A, 0), {})],
    aten.neg.default: [((A,), {})],
    aten.permute.default: [((A, [2, 0, 1]), {})],
    aten.pow.Tensor_Scalar: [((A, 2), {}), ((A, -0.5), {})],
    aten.relu.default: [((A - 0.5,), {})],
    aten.relu_.default: [((A - 0.5,), {})],
    aten.reshape.default: [((A.mT, [6, 4]), {})],
    aten.sigmoid_.default: [((A,), {})],
    aten.split_with_sizes.default: [((A, [1, 3], 2), {}), ((A, [1, 1]), {})],
    aten.sub.Tensor: [((A, B), {}), ((A, 1.5), {}), ((A, B), {"alpha": 2})],
    aten.sum.dim_IntList: [((A, [1]), {}), ((A, [0, 2], True), {}), ((A, [1]), {"dtype": torch.float64})],
    aten.tanh.default: [((A,), {})],
    aten.tanh_.default: [((A,), {})],
    aten.transpose.int: [((A, 1, 2), {}), ((A, -1, 0), {})],
    aten.unsqueeze.default: [((A, -1), {})],
    aten.view.default: [((A, [2, -1]), {})],
    aten.where.self: [((A > B, A, B), {})],
}


class Called(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Within the block, the operators reached and what they got."""

    def __init__(self) -> None:
        TorchDispatchMode.__init__(self)  # type: ignore[no-untyped-call]
        self.calls: list[tuple[str, str]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls.append((str(func), repr((args, kwargs or {}))))
        return func(*args, **(kwargs or {}))


def reached(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[list[tuple[str, str]], Any]:
    own = [arg.clone() if isinstance(arg, Tensor) and arg.is_contiguous() else arg for arg in args]
    with torch.no_grad(), Called() as called:
        result = function(*own, **kwargs)
    return called.calls, result


@pytest.mark.parametrize("operator", QUICK, ids=str)
def test_the_binding_reaches_the_operator_with_the_same_arguments(operator: Any) -> None:
    for args, kwargs in EXAMPLES[operator]:
        expected, result = reached(operator, args, kwargs)
        found, again = reached(QUICK[operator], args, kwargs)
        if operator is aten._unsafe_view.default:
            expected = [("aten.view.default", values) for _, values in expected]
        assert found == expected
        torch.testing.assert_close(again, result, rtol=0, atol=0)


def test_a_graph_keeps_its_results_and_what_has_no_binding() -> None:
    def function(x: Tensor, y: Tensor) -> Tensor:
        return torch.cumsum(x.transpose(1, 2) @ y + 2, 1).relu().sum(1)

    graph: GraphModule = make_fx(function)(A, B)
    expected = graph(A, B)
    call_quickly(graph)
    graph.graph.lint()
    graph.recompile()
    assert torch.equal(graph(A, B), expected)
    targets = {node.target for node in graph.graph.nodes}
    assert aten.cumsum.default in targets
    assert {torch.bmm, torch.relu} <= targets
