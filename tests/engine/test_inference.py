"""Graphs for inference only: cheaper, and equal; to the bit where products keep their layout."""

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx

from bayesify.engine.graph import aten, leave_out_trivial
from bayesify.engine.inference import LONG, make_cheaper
from bayesify.engine.rng import generator, seeded
from bayesify.engine.vectorise import Vectorised, Way


def networks() -> dict[str, nn.Module]:
    with seeded(0):
        return {
            "mlp": nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 2)),
            "no bias": nn.Sequential(nn.Linear(4, 6, bias=False), nn.SiLU(), nn.Linear(6, 2, bias=False)),
            "residual": Residual(),
            "normalised": nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Sigmoid(), nn.Linear(8, 2)),
            "wide": nn.Sequential(
                nn.Linear(4, 200), nn.ReLU(), nn.Unflatten(1, (20, 10)), nn.Flatten(), nn.Linear(200, 2)
            ),
        }


class Residual(nn.Module):
    """Reads one product several times: nothing of it may be overwritten before the last."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        g = self.second(torch.relu(h))
        return torch.cat([h + g, torch.tanh(g) + g.view(-1, 4), torch.sigmoid(h)], dim=1)


def graph_of(module: nn.Module, rows: int) -> tuple[GraphModule, tuple[Tensor, ...]]:
    names, shapes = zip(*((name, p.shape) for name, p in module.named_parameters()), strict=True)

    def one(x: Tensor, *values: Tensor) -> Tensor:
        outputs: Tensor = functional_call(module, dict(zip(names, values, strict=True)), (x,))
        return outputs

    rng = generator("cpu", "inference")
    values = [torch.randn(3, *shape, generator=rng) for shape in shapes]
    inputs = (torch.randn(rows, 4, generator=rng), *values)
    graph = make_fx(vmap(one, in_dims=(None, *(0 for _ in values))))(*inputs)
    leave_out_trivial(graph)
    graph.graph.eliminate_dead_code()
    return graph, inputs


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("rows", [1, 5, LONG, 3 * LONG])
@pytest.mark.parametrize("name", networks())
def test_the_result_is_the_same_and_nothing_given_is_overwritten(name: str, rows: int, transposed: bool) -> None:
    graph, inputs = graph_of(networks()[name], rows)
    before = [value.clone() for value in inputs]
    with torch.no_grad():
        expected = graph(*inputs)
        make_cheaper(graph, transposed)
        graph.graph.lint()
        graph.recompile()
        found = graph(*inputs)
        again = graph(*inputs)
    torch.testing.assert_close(found, expected, rtol=1e-4 if transposed else 0, atol=1e-5 if transposed else 0)
    assert torch.equal(found, again)
    assert all(torch.equal(a, b) for a, b in zip(inputs, before, strict=True))


def targets(graph: GraphModule) -> list[object]:
    return [node.target for node in graph.graph.nodes]


def test_products_of_long_batches_are_transposed_and_what_follows_is_in_place() -> None:
    graph, _ = graph_of(networks()["mlp"], LONG)
    assert aten.relu.default in targets(graph)
    make_cheaper(graph, transposed=True)
    found = targets(graph)
    assert [found.count(target) for target in (aten.bmm.default, aten.add_.Tensor)] == [3, 3]
    assert {aten.relu_.default, aten.tanh_.default} <= set(found)
    assert not {aten.relu.default, aten.tanh.default, aten.add.Tensor} & set(found)
    products = [node for node in graph.graph.nodes if node.target is aten.bmm.default]
    assert all(len(node.users) == 1 and next(iter(node.users)).target is aten.transpose.int for node in products)


def test_short_batches_keep_their_layout() -> None:
    graph, _ = graph_of(networks()["mlp"], LONG - 1)
    make_cheaper(graph, transposed=True)
    assert targets(graph).count(aten.bmm.default) == 3


def test_transposed_results_do_not_depend_on_earlier_calls() -> None:
    module = networks()["mlp"]
    size = sum(p.numel() for p in module.parameters())
    rng = generator("cpu", "calls")
    theta, x = torch.randn(4, size, generator=rng), torch.randn(2 * LONG, 4, generator=rng)

    def one(theta: Tensor, x: Tensor) -> Tensor:
        parts = theta.split([p.numel() for p in module.parameters()])
        named = {n: part.view(p.shape) for part, (n, p) in zip(parts, module.named_parameters(), strict=True)}
        outputs: Tensor = functional_call(module, named, (x,))
        return outputs

    evaluate = Vectorised(one, gradient=False, transposed=True)
    with torch.no_grad():
        results = [evaluate((None,), theta, x) for _ in range(4)]
        looped = Vectorised(one, gradient=False, way=Way.LOOPED)((None,), theta, x)
    assert all(torch.equal(found.result, results[0].result) for found in results)
    torch.testing.assert_close(results[0].result, looped.result)
    assert results[0].flops == looped.flops > 0
