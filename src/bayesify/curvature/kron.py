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
from bayesify.curvature.factored import SINGLE, Part, chunk_of_directions, for_each_part
from bayesify.curvature.fisher import Vectors, cotangents_of
from bayesify.curvature.ggn import Expansion
from bayesify.curvature.jacobian import as_batch, rows_per_chunk
from bayesify.curvature.layers import Layer, Layers, find_layers, hooked, joined_inputs, joined_outputs
from bayesify.curvature.moments import Rows, moment_of, symmetric
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

    def with_inputs(self, a: Tensor) -> "Factors":
        """With the inputs (B T, in) of one chunk more."""
        return self._replace(inputs=self.inputs.add_(symmetric(a)), positions=self.positions + len(a))

    def with_outputs(self, g: Tensor) -> "Factors":
        """With output gradients (B T, out), for H."""
        return self._replace(outputs=self.outputs.add_(symmetric(g)))

    def with_gradient(self, a: Tensor, g: Tensor) -> "Factors":
        """With inputs and output gradients of the log likelihood."""
        return self._replace(gradient=self.gradient.add_(g.mT @ a))


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
    found = find_layers(problem, theta, buffers, rng)
    sums = _by_batch if found.batched and problem.way not in SINGLE else _by_example
    factors, rest = sums(problem, found, theta, buffers, vectors, rng)
    spectrum = _spectrum(found, factors, rest, scale.double())
    gradient = torch.cat([*(own_factors.gradient.flatten() for own_factors in factors), rest.gradient])
    ordered = torch.empty_like(gradient)
    ordered[spectrum.basis.order] = gradient
    return Expansion(rest.log_likelihood, ordered if vectors.gradient else None, spectrum)


def _by_batch(
    problem: Problem, found: Layers, theta: Tensor, buffers: Buffers, vectors: Vectors, rng: torch.Generator
) -> tuple[list[Factors], Rest]:
    rest = _no_rest(found, theta)
    gradient = theta.new_zeros(sum(len(layer.order) for layer in found.layers), dtype=torch.float64)
    inputs = [moment_of(layer, theta) for layer in found.layers]
    outputs = [Rows(layer.num_outputs, theta) for layer in found.layers]
    positions = [0] * len(found.layers)

    def add(part: Part) -> None:
        rest.log_likelihood.add_(part.log_likelihood.double().sum())
        for moment, received in zip(inputs, part.forward.received, strict=True):
            moment.add(received, len(part.log_likelihood))
        for cotangent in part.cotangents[:, : vectors.num_fisher].unbind(1):
            for i, g in enumerate(part.forward.pull(cotangent)):
                if g.shape[1] == 1:
                    outputs[i].add(g[:, 0])
                else:
                    outputs[i].add_product(torch.bmm(g.mT, g).sum(0))  # a convolution's g would be copied to be flat
                positions[i] += g.shape[0] * g.shape[1]
        if vectors.gradient:
            gradient.add_(part.forward.gradient(part.cotangents[:, -1]))

    for_each_part(problem, found, theta, buffers, vectors, rng, add)
    factors = [
        Factors(a.total(), g.total(), gradient[layer.order].view(layer.num_outputs, -1), count // vectors.num_fisher)
        for layer, a, g, count in zip(found.layers, inputs, outputs, positions, strict=True)
    ]
    return factors, rest


def _by_example(
    problem: Problem, found: Layers, theta: Tensor, buffers: Buffers, vectors: Vectors, rng: torch.Generator
) -> tuple[list[Factors], Rest]:
    network, own = problem.model.split(theta)
    factors = [_no_factors(layer, theta) for layer in found.layers]
    rest = _no_rest(found, theta)
    batched = Vectorised(partial(_one_example, problem, vectors, found), gradient=False, way=problem.way)
    elements = vectors.per_example * (len(found.others) + sum(layer.elements for layer in found.layers))
    for chunk in problem.data.chunks(rows_per_chunk(elements)):
        directions = chunk_of_directions(problem, theta, buffers, vectors, chunk, rng)
        evaluated = batched((None, None, None, 0), directions, network, own, buffers, chunk)
        problem.meter.gradient(chunk.num_examples * vectors.per_example, evaluated.flops)
        part = Pulled(*evaluated.result)
        parts = zip(found.layers, factors, part.inputs, part.outputs, strict=True)
        factors = [_add(vectors, *own_parts) for own_parts in parts]
        rest = _add_rest(vectors, rest, part)
    return factors, rest


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


def _no_rest(found: Layers, theta: Tensor) -> Rest:
    zeros = theta.new_zeros(len(found.others), dtype=torch.float64)
    return Rest(zeros, zeros, zeros.new_zeros(()))


def _add(vectors: Vectors, layer: Layer, factors: Factors, inputs: list[Tensor], outputs: list[Tensor]) -> Factors:
    """One chunk more. All calls of a layer in one pass are positions."""
    a = joined_inputs(layer, [value.flatten(0, 1) for value in inputs], 1)[0]  # (B T, in)
    factors = factors.with_inputs(a)
    for r in range(vectors.per_example):
        g = joined_outputs(layer, [value[:, r].flatten(0, 1) for value in outputs], 1)[0]  # (B T, out)
        factors = factors.with_outputs(g) if r < vectors.num_fisher else factors.with_gradient(a, g)
    return factors


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
