"""Kronecker factors: exact where they are exact, and equal to the definition where they are an approximation."""

import pytest
import torch
from curvature_cases import NAMES, Parts, problem_of
from torch import Tensor
from torch.nn import functional as F

from bayesify.curvature import jacobian as chunking
from bayesify.curvature.fisher import Vectors
from bayesify.curvature.ggn import Expansion
from bayesify.curvature.kron import expand_kronecker
from bayesify.curvature.layers import CHECK_COST, find_layers
from bayesify.curvature.spectrum import KroneckerSpectrum
from bayesify.model.problem import Problem

EXACT = Vectors(2, 2, True, True)


def expand(problem: Problem, vectors: Vectors = EXACT) -> Expansion:
    buffers = {key: value[0] for key, value in problem.network.buffers(1).items()}
    scale = problem.prior.precision().rsqrt()
    return expand_kronecker(problem, problem.initial(), buffers, scale, vectors, torch.Generator().manual_seed(0))


def matrix(problem: Problem, expansion: Expansion) -> Tensor:
    """H, back from prior units, formed from its eigenvectors."""
    spectrum, root = expansion.spectrum, problem.prior.precision().sqrt()
    assert isinstance(spectrum, KroneckerSpectrum)
    vectors = torch.stack([spectrum.out_of(unit) for unit in torch.eye(len(root), dtype=torch.float64)], dim=1)
    return root[:, None] * ((vectors * spectrum.eigenvalues) @ vectors.mT) * root


def layer_names(name: str) -> list[str]:
    problem = problem_of(name)
    buffers = {key: value[0] for key, value in problem.network.buffers(1).items()}
    found = find_layers(problem, problem.initial(), buffers, torch.Generator().manual_seed(0))
    return [layer.name for layer in found.layers]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("linear", [""]),
        ("no_bias", [""]),
        ("mlp", ["0", "2"]),
        ("in_place", ["0", "2"]),
        ("batch_norm", ["0", "3"]),
        ("frozen", ["2"]),  # the first layer's bias alone is no layer
        ("tied", ["last"]),
        ("twice", ["layer", "last"]),
        ("around", ["last"]),
        ("conv", ["0", "2", "4"]),
        ("grouped", ["2"]),
        ("attention", ["last"]),
        ("recurrent", ["last"]),
    ],
)
def test_layers_found(name: str, expected: list[str]) -> None:
    assert layer_names(name) == expected


@pytest.mark.parametrize("name", ["linear", "no_bias"])
def test_one_linear_layer_under_gaussian_noise_is_exact(name: str) -> None:
    problem = problem_of(name, "gaussian")
    torch.testing.assert_close(matrix(problem, expand(problem)), Parts(problem).ggn, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("likelihood", ["categorical", "gaussian"])
def test_one_example_is_exact_in_every_layer(likelihood: str) -> None:
    problem = problem_of("mlp", likelihood, count=1)
    found, expected = matrix(problem, expand(problem)), Parts(problem).ggn
    first = 3 * 4 + 4
    torch.testing.assert_close(found[:first, :first], expected[:first, :first])
    torch.testing.assert_close(found[first:, first:], expected[first:, first:])
    assert float(found[:first, first:].abs().max()) < 1e-12 < float(expected[:first, first:].abs().max())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("likelihood", ["categorical", "gaussian"])
def test_what_no_layer_holds_is_the_exact_diagonal(name: str, likelihood: str) -> None:
    problem = problem_of(name, likelihood)
    buffers = {key: value[0] for key, value in problem.network.buffers(1).items()}
    others = find_layers(problem, problem.initial(), buffers, torch.Generator().manual_seed(0)).others
    expansion, expected = expand(problem), Parts(problem)
    block = matrix(problem, expansion)[others][:, others]
    torch.testing.assert_close(block, torch.diag(expected.ggn.diagonal()[others]), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(expansion.gradient, expected.gradient)
    torch.testing.assert_close(expansion.log_likelihood, expected.log_likelihood)


def test_several_examples_are_the_definition() -> None:
    """Written out for the first layer of an MLP: Σ g gᵀ ⊗ Σ a aᵀ / N, rows of the weight, bias last in each."""
    problem = problem_of("mlp")
    parts, inputs = Parts(problem), problem.data.inputs
    a = torch.cat([inputs, torch.ones(7, 1, dtype=torch.float64)], dim=1)
    bias = parts.jacobian[:, :, 12:16]  # a bias's Jacobian is the gradient in the layer's outputs
    g = torch.einsum("ncp,ncd,ndq->pq", bias, parts.fisher, bias)
    expected = torch.kron(g, a.mT @ a) / 7
    order = torch.cat([torch.arange(12).reshape(4, 3), torch.arange(12, 16)[:, None]], dim=1).flatten()
    found = matrix(problem, expand(problem))[order][:, order]
    torch.testing.assert_close(found, expected)


def test_convolution_is_the_definition() -> None:
    """Patches cut out by hand, output gradients from autograd, summed over examples, positions and outputs."""
    problem = problem_of("conv")
    module, inputs = problem.network.module, problem.data.inputs
    first, rest = module[0], module[1:]
    a, g, count = torch.zeros(19, 19).double(), torch.zeros(3, 3).double(), 0
    for n in range(7):
        maps = first(inputs[n : n + 1]).detach().requires_grad_()  # (1, 3, 3, 3)
        outputs = rest(maps)[0]
        rows = torch.stack([torch.autograd.grad(f, maps, retain_graph=True)[0][0] for f in outputs])  # (C, 3, 3, 3)
        fisher = problem.likelihood.fisher(outputs.detach()[None], torch.zeros(0))[0]
        padded = F.pad(inputs[n], (1, 1, 1, 1))
        for i in range(3):
            for j in range(3):
                patch = padded[:, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3].flatten()
                column = torch.cat([patch, torch.ones(1).double()])
                a += torch.outer(column, column)
                g += rows[:, :, i, j].mT @ fisher @ rows[:, :, i, j]
                count += 1
    order = torch.cat([torch.arange(54).reshape(3, 18), torch.arange(54, 57)[:, None]], dim=1).flatten()
    found = matrix(problem, expand(problem))[order][:, order]
    torch.testing.assert_close(found, torch.kron(g, a) / count)


def test_a_layer_called_twice_sums_over_its_calls() -> None:
    problem = problem_of("twice", count=1)
    layer, last = problem.network.module.layer, problem.network.module.last
    x = problem.data.inputs
    hidden = layer(x)
    middle = torch.tanh(hidden)
    second = layer(middle)
    outputs = last(torch.tanh(second))[0]
    fisher = problem.likelihood.fisher(outputs.detach()[None], torch.zeros(0))[0]
    rows = [torch.autograd.grad(f, (hidden, second), retain_graph=True) for f in outputs]
    g = sum(torch.cat([row[k] for row in rows]).mT @ fisher @ torch.cat([row[k] for row in rows]) for k in range(2))
    columns = torch.cat([torch.cat([value, torch.ones(1, 1).double()], dim=1) for value in (x, middle)]).detach()
    order = torch.cat([torch.arange(9).reshape(3, 3), torch.arange(9, 12)[:, None]], dim=1).flatten()
    found = matrix(problem, expand(problem))[order][:, order]
    torch.testing.assert_close(found, torch.kron(g, columns.mT @ columns) / 2)


@pytest.mark.parametrize("name", ["mlp", "conv", "attention"])
def test_chunks_and_ways_do_not_matter(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = expand(problem_of(name)).spectrum.eigenvalues
    torch.testing.assert_close(expand(problem_of(name, way="looped")).spectrum.eigenvalues, whole)
    monkeypatch.setattr(chunking, "CHUNK_ELEMENTS", 1)
    torch.testing.assert_close(expand(problem_of(name, way="traced")).spectrum.eigenvalues, whole)


def test_meter_counts_every_product_and_the_check() -> None:
    problem = problem_of("mlp")
    expand(problem)
    assert problem.meter.gradient_evaluations == 7 * 3 + CHECK_COST
    assert problem.meter.forward_evaluations == 0
