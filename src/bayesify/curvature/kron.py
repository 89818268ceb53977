"""Kronecker-factored curvature, K-FAC (Martens & Grosse 2015; Grosse & Martens 2016).

Weight sharing is treated as "expand" in Eschenhagen et al. (2023): positions count like examples.

For a layer that maps inputs a (with a last coordinate 1 for its bias) to outputs W a, at T positions per example and
with output gradients g of every vector–Jacobian product r, the block of H that belongs to its (out, in) matrix is

    H_layer ≈ (1 / N T) (Σ_{n,t,r} g gᵀ) ⊗ (Σ_{n,t} a aᵀ),                                                       (1)

exact for one position of one example, and for one Linear layer under a Gaussian likelihood. Blocks between layers
are left out. The prior's standard deviations D are the same for all of a layer's weights and for all its biases, so
that D H D is (1) with its a scaled: the prior is added to the eigenvalues exactly, without damping.

Parameters that no such layer holds (normalisation scales, embeddings, tied weights, grouped convolutions, attention's
fused projections) get their exact diagonal of H.

Cost: the vector–Jacobian products that `curvature.ggn` also takes, and one gradient evaluation to find the layers.
Memory: the factors, and per chunk the layers' inputs and output gradients, never per-example gradients of a layer.
"""

from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.func import vjp

from bayesify.covariance import KroneckerBasis
from bayesify.curvature.ggn import Expansion, Vectors, cotangents_of, draw_directions
from bayesify.curvature.jacobian import as_batch, rows_per_chunk
from bayesify.curvature.layers import Layer, Layers, find_layers, hooked, input_columns, output_columns
from bayesify.curvature.spectrum import KroneckerSpectrum, eigen
from bayesify.data import Data
from bayesify.engine.vectorise import Vectorised
from bayesify.model.network import Buffers, Mode
from bayesify.model.problem import Problem


class Factors(NamedTuple):
    """Running sums of one layer, float64."""

    inputs: Tensor  # (in, in) Σ a aᵀ
    outputs: Tensor  # (out, out) Σ g gᵀ
    gradient: Tensor  # (out, in) Σ g aᵀ of the log likelihood
    positions: int  # N T


class Rest(NamedTuple):
    """Running sums of the parameters outside layers, and of the log likelihood, float64."""

    diagonal: Tensor  # (P_others,)
    gradient: Tensor  # (P_others,)
    log_likelihood: Tensor  # ()


class Pulled(NamedTuple):
    """One chunk's captured inputs, and per vector–Jacobian product what it pulled back; the gradient comes last."""

    inputs: list[list[Tensor]]  # per layer and call, (B, 1, ...)
    outputs: list[list[Tensor]]  # per layer and call, (B, R [+ 1], 1, ...)
    others: Tensor  # (B, R [+ 1], P_others)
    log_likelihood: Tensor  # (B,)


def expand_kronecker(
    problem: Problem, theta: Tensor, buffers: Buffers, scale: Tensor, vectors: Vectors, rng: torch.Generator
) -> Expansion:
    """The Kronecker-factored H. Arguments as in `curvature.ggn.expand_diagonal`."""
    network, own = problem.model.split(theta)
    found = find_layers(problem, theta, buffers, rng)
    factors = [_no_factors(layer, theta) for layer in found.layers]
    zeros = theta.new_zeros(len(found.others), dtype=torch.float64)
    rest = Rest(zeros, zeros, zeros.new_zeros(()))
    batched = Vectorised(partial(_one_example, problem, vectors, found), gradient=False, way=problem.way)
    elements = vectors.per_example * (len(found.others) + sum(layer.elements for layer in found.layers))
    for chunk in problem.data.chunks(rows_per_chunk(elements)):
        directions = draw_directions(vectors, chunk.num_examples, network, rng)
        evaluated = batched((None, None, None, 0), directions, network, own, buffers, chunk)
        problem.meter.gradient(chunk.num_examples * vectors.per_example, evaluated.flops)
        part = Pulled(*evaluated.result)
        parts = zip(found.layers, factors, part.inputs, part.outputs, strict=True)
        factors = [_add(vectors, *own_parts) for own_parts in parts]
        rest = _add_rest(vectors, rest, part)
    spectrum = _spectrum(found, factors, rest, scale.double())
    gradient = torch.cat([*(own_factors.gradient.flatten() for own_factors in factors), rest.gradient])
    ordered = torch.empty_like(gradient)
    ordered[spectrum.basis.order] = gradient
    return Expansion(rest.log_likelihood, ordered if vectors.gradient else None, spectrum)


def _one_example(
    problem: Problem,
    vectors: Vectors,
    found: Layers,
    directions: Tensor,
    network: Tensor,
    own: Tensor,
    buffers: Buffers,
    row: Data,
) -> tuple[Any, ...]:
    def function(shifts: list[list[Tensor]], others: Tensor) -> tuple[Tensor, list[list[Tensor]]]:
        whole = network.index_copy(0, found.others, others)
        with hooked(found.layers, shifts) as calls:
            outputs = problem.network(whole, buffers, as_batch(row.inputs), Mode.PREDICT)[0]
        return outputs, calls.inputs

    zeros = [[network.new_zeros(shape) for shape in layer.shapes] for layer in found.layers]
    triple: Any = vjp(function, zeros, network[found.others], has_aux=True)
    outputs, pull, inputs = triple
    cotangents, log_likelihood = cotangents_of(problem.likelihood, vectors, outputs, row.targets, own, directions)
    pulled = [pull(cotangent) for cotangent in cotangents]
    gradients = [
        [torch.stack([shifts[i][j] for shifts, _ in pulled]) for j in range(len(layer.shapes))]
        for i, layer in enumerate(found.layers)
    ]
    return inputs, gradients, torch.stack([others for _, others in pulled]), log_likelihood


def _no_factors(layer: Layer, theta: Tensor) -> Factors:
    size_in, size_out = layer.num_inputs, layer.num_outputs
    zeros = partial(theta.new_zeros, dtype=torch.float64)
    return Factors(zeros((size_in, size_in)), zeros((size_out, size_out)), zeros((size_out, size_in)), 0)


def _add(vectors: Vectors, layer: Layer, factors: Factors, inputs: list[Tensor], outputs: list[Tensor]) -> Factors:
    """One chunk more. All calls of a layer in one pass are positions."""
    columns = [input_columns(layer, value.flatten(0, 1)).flatten(0, 1).double() for value in inputs]
    a = torch.cat(columns)  # (B T, in)
    total, gradient = factors.outputs, factors.gradient
    for r in range(vectors.per_example):
        own = [output_columns(layer, value[:, r].flatten(0, 1)).flatten(0, 1).double() for value in outputs]
        g = torch.cat(own)  # (B T, out)
        if r < vectors.num_fisher:
            total = total + g.mT @ g
        else:
            gradient = gradient + g.mT @ a
    return Factors(factors.inputs + a.mT @ a, total, gradient, factors.positions + len(a))


def _add_rest(vectors: Vectors, rest: Rest, part: Pulled) -> Rest:
    squares = part.others[:, : vectors.num_fisher].double().square().sum((0, 1))
    gradient = rest.gradient + part.others[:, -1].double().sum(0) if vectors.gradient else rest.gradient
    return Rest(rest.diagonal + squares, gradient, rest.log_likelihood + part.log_likelihood.double().sum())


def _spectrum(found: Layers, factors: list[Factors], rest: Rest, scale: Tensor) -> KroneckerSpectrum:
    values, bases = [], []
    for layer, own in zip(found.layers, factors, strict=True):
        inputs_scale = scale[layer.order[: layer.num_inputs]]  # the same in every row of the layer's matrix
        right_values, right = eigen(inputs_scale[:, None] * own.inputs * inputs_scale)
        left_values, left = eigen(own.outputs)
        values.append((left_values[:, None] * right_values / own.positions).flatten())
        bases.append((left, right))
    values.append(rest.diagonal * scale[found.others].square())
    order = torch.cat([*(layer.order for layer in found.layers), found.others])
    return KroneckerSpectrum(torch.cat(values), KroneckerBasis(order, bases))
