"""Leaving trivial views out of a traced graph changes its length and not one bit of its results."""

import pytest
import torch
from small_problems import convolutional, image_data, normalised, plain, problem_of, regression_data
from torch import Tensor
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx

from bayesify.engine.graph import leave_out_trivial
from bayesify.engine.rng import generator, seeded
from bayesify.engine.vectorise import Way
from bayesify.model.network import Mode
from bayesify.model.problem import Batch


def traced(function: object, *arguments: Tensor) -> GraphModule:
    graph = make_fx(function, tracing_mode="real")(*arguments)
    leave_out_trivial(graph)
    graph.recompile()
    return graph


def operations(graph: GraphModule) -> int:
    return sum(node.op == "call_function" for node in graph.graph.nodes)


@pytest.mark.parametrize("per_particle", [False, True], ids=["shared batch", "own batches"])
@pytest.mark.parametrize("module", [plain, normalised, convolutional])
def test_traced_and_untraced_calls_agree_bit_for_bit(module: object, per_particle: bool) -> None:
    problem = problem_of(module(), image_data(40) if module is convolutional else regression_data(40))  # type: ignore[operator]
    theta = problem.random(3, generator("cpu", "theta"))
    rows = torch.arange(60).reshape(3, 20) % 40
    batch = Batch(problem.data.select(rows), True) if per_particle else Batch(problem.data)
    calls = []
    for _ in range(4):  # a resumed fit starts untraced where the undisturbed one was traced
        with seeded(0):
            calls.append(problem.gradient(theta, batch))
    assert problem._gradients[Mode.TRAIN].way_used(theta) == Way.TRACED
    for call in calls[1:]:
        for name in ("gradient", "log_likelihood", "log_density"):
            assert torch.equal(getattr(call, name), getattr(calls[0], name))


def test_trivial_views_go() -> None:
    def function(x: Tensor) -> Tensor:
        return x.expand(3, 4).view(3, 4).transpose(0, 1).transpose(1, 0).mul(2)

    x = torch.arange(12.0).reshape(3, 4)
    graph = traced(function, x)
    graph.graph.eliminate_dead_code()
    assert operations(graph) == 1
    assert torch.equal(graph(x), function(x))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.expand(5, 3, 4).mul(2),
        lambda x: x.view(4, 3).mul(2),
        lambda x: x.unsqueeze(0).transpose(0, 1).transpose(1, 2).mul(2),
    ],
)
def test_others_stay(function: object) -> None:
    x = torch.arange(12.0).reshape(3, 4)
    whole = make_fx(function, tracing_mode="real")(x)
    graph = traced(function, x)
    assert operations(graph) == operations(whole)
    assert torch.equal(graph(x), function(x))  # type: ignore[operator]


def test_a_view_that_changes_strides_stays() -> None:
    # Matrix products choose their kernel by strides, and kernels round differently.
    def function(x: Tensor) -> Tensor:
        return x.transpose(1, 2).view(2, 1, 3).mul(2)

    x = torch.arange(6.0).reshape(2, 3, 1)
    assert x.transpose(1, 2).stride() != x.transpose(1, 2).view(2, 1, 3).stride()
    assert operations(traced(function, x)) == 3


def test_products_with_one_repeated_views_and_constants_go() -> None:
    def function(x: Tensor) -> Tensor:
        ones = torch.ones_like(x).neg().sum(0, keepdim=True)  # -3 everywhere, whatever x is
        return x.mul(1).pow(1.0).view(4, 3) + (x * ones).view(4, 3) + x.view(4, 3)

    x = torch.arange(12.0).reshape(3, 4)
    graph = traced(function, x)
    graph.graph.eliminate_dead_code()
    names = [str(node.target) for node in graph.graph.nodes if node.op == "call_function"]
    assert sorted(names) == sorted(["aten.view.default"] * 2 + ["aten.mul.Tensor"] + ["aten.add.Tensor"] * 2)
    for value in (x, -x):
        assert torch.equal(graph(value), function(value))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: torch.ones_like(x).add_(x),  # a constant that is written to would be another one in the next call
        lambda x: x.mul(1).add_(1) + x,  # the product is a copy
        lambda x: x.mul(1.5) + x.pow(2),
        lambda x: x.long().mul(1.0) + x,  # of another type
    ],
)
def test_what_is_written_to_or_changes_values_stays(function: object) -> None:
    x = torch.arange(12.0).reshape(3, 4)
    graph = traced(function, x)
    for value in (x, -x, x):
        kept = value.clone()
        assert torch.equal(graph(value), function(value.clone()))  # type: ignore[operator]
        assert torch.equal(value, kept)
