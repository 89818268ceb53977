"""The generalised Gauss–Newton matrix (Schraudolph 2002; Martens 2020) of a network on its data, diagonal or full.

    H = Σ_n J_nᵀ Λ_n J_n,      Λ_n = L_n L_nᵀ = Fisher information of p(y | f) at f(x_n),                        (1)

as a sum of outer products of the rows (J_nᵀ L_n e_r)ᵀ: one vector–Jacobian product per example and output. With many
outputs the unit vectors e_r are replaced by R random sign vectors z_r/√R, whose E[z zᵀ] = I makes (1) unbiased.

Rows are formed for a chunk of examples at a time; the sums are kept in float64, because null directions of H are told
from weak ones by differences of large numbers. A diagonal of layers needs no rows: theirs are Σ_t g aᵀ, see
`curvature.factored`. Cost: R gradient evaluations per example, one more for the gradient of the log likelihood; the
diagonal's memory is one chunk's activations. Not here: second derivatives of the network, which (1) leaves out.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.func import vjp

from bayesify.curvature.factored import SINGLE, Part, chunk_of_directions, for_each_part
from bayesify.curvature.fisher import Vectors, cotangents_of
from bayesify.curvature.jacobian import as_batch, rows_per_chunk
from bayesify.curvature.layers import Layers, find_layers
from bayesify.curvature.spectrum import DiagonalSpectrum, FullSpectrum, Spectrum, eigen
from bayesify.data import Data
from bayesify.engine.vectorise import Vectorised
from bayesify.model.network import Buffers, Mode
from bayesify.model.problem import Problem


class Expansion(NamedTuple):
    """The log likelihood around one parameter vector, to second order; float64."""

    log_likelihood: Tensor  # ()
    gradient: Tensor | None  # (P_network,)
    spectrum: Spectrum  # of D H D


class Pulled(NamedTuple):
    """One chunk's vector–Jacobian products."""

    rows: Tensor  # (B, R [+ 1], P_network); the gradient is the last
    log_likelihood: Tensor  # (B,)

    def of_fisher(self, vectors: Vectors, scale: Tensor) -> Tensor:
        """The rows of H's root in prior units, (B R, P_network) in float64: H is the sum of their squares."""
        return self.rows[:, : vectors.num_fisher].double().flatten(0, 1) * scale.double()


def expand_diagonal(
    problem: Problem, theta: Tensor, buffers: Buffers, scale: Tensor, vectors: Vectors, rng: torch.Generator
) -> Expansion:
    """The diagonal of H.

    Args:
        problem: model and data; its meter counts.
        theta: (P,).
        buffers: {name: (...)} of this particle.
        scale: D (P_network,), the prior's standard deviations.
        vectors: which products to take.
        rng: for random sign vectors.
    """
    total = theta.new_zeros(len(scale), dtype=torch.float64)
    sums = Sums.zero(total)
    found = find_layers(problem, theta, buffers, rng)
    if found.batched and problem.way not in SINGLE:
        sums = _add_up(problem, found, theta, buffers, vectors, rng, total)
        return sums.expansion(DiagonalSpectrum(total * scale.double().square()), vectors)
    for part in rows_of(problem, theta, buffers, vectors, rng):
        total += part.rows[:, : vectors.num_fisher].double().square().sum((0, 1))
        sums = sums.plus(part, vectors)
    return sums.expansion(DiagonalSpectrum(total * scale.double().square()), vectors)


def expand_full(
    problem: Problem, theta: Tensor, buffers: Buffers, scale: Tensor, vectors: Vectors, rng: torch.Generator
) -> Expansion:
    """All of H, (P_network, P_network) numbers. Arguments as in `expand_diagonal`."""
    total = theta.new_zeros(len(scale), len(scale), dtype=torch.float64)
    sums = Sums.zero(total[0])
    for part in rows_of(problem, theta, buffers, vectors, rng):
        rows = part.of_fisher(vectors, scale)
        total.addmm_(rows.mT, rows)
        sums = sums.plus(part, vectors)
    return sums.expansion(FullSpectrum(*eigen(total)), vectors)


def _add_up(
    problem: Problem,
    found: Layers,
    theta: Tensor,
    buffers: Buffers,
    vectors: Vectors,
    rng: torch.Generator,
    total: Tensor,
) -> "Sums":
    """The factored way: adds the squares to `total`, and returns the other sums."""
    gradient, log_likelihood = torch.zeros_like(total), total.new_zeros(())

    def add(part: Part) -> None:
        log_likelihood.add_(part.log_likelihood.double().sum())
        columns = part.forward.columns()
        single: dict[int, Tensor] = {}  # Σ_r g² where there is one position
        for cotangent in part.cotangents[:, : vectors.num_fisher].unbind(1):
            for i, g in enumerate(part.forward.pull(cotangent)):
                if g.shape[1] == 1:
                    single[i] = g[:, 0].square() + single.get(i, 0.0)
                else:
                    squares = torch.bmm(g.mT, columns[i]).square_().sum(0)
                    total[found.layers[i].order] += squares.flatten()
        for i, squares in single.items():
            total[found.layers[i].order] += (squares.mT @ columns[i][:, 0].square()).flatten()
        if vectors.gradient:
            gradient.add_(part.forward.gradient(part.cotangents[:, -1]))

    for_each_part(problem, found, theta, buffers, vectors, rng, add)
    return Sums(log_likelihood, gradient)


class Sums(NamedTuple):
    """Log likelihood and gradient added up over chunks."""

    log_likelihood: Tensor
    gradient: Tensor

    @staticmethod
    def zero(like: Tensor) -> "Sums":
        """Nothing yet; `like` is a float64 (P,)."""
        return Sums(like.new_zeros(()), torch.zeros_like(like))

    def plus(self, part: Pulled, vectors: Vectors) -> "Sums":
        """With one more chunk."""
        gradient = self.gradient
        if vectors.gradient:
            gradient = gradient + part.rows[:, -1].double().sum(0)
        return Sums(self.log_likelihood + part.log_likelihood.double().sum(), gradient)

    def expansion(self, spectrum: Spectrum, vectors: Vectors) -> Expansion:
        """The finished expansion."""
        return Expansion(self.log_likelihood, self.gradient if vectors.gradient else None, spectrum)


def rows_of(
    problem: Problem, theta: Tensor, buffers: Buffers, vectors: Vectors, rng: torch.Generator
) -> Iterator[Pulled]:
    """The vector–Jacobian products of all data, a chunk at a time. Arguments as in `expand_diagonal`."""
    network, own = problem.model.split(theta)
    batched = Vectorised(partial(_one_example, problem, vectors), gradient=False, way=problem.way)
    for chunk in problem.data.chunks(rows_per_chunk(vectors.per_example * len(network))):
        directions = chunk_of_directions(problem, theta, buffers, vectors, chunk, rng)
        evaluated = batched((None, None, None, 0), directions, network, own, buffers, chunk)
        problem.meter.gradient(chunk.num_examples * vectors.per_example, evaluated.flops)
        yield Pulled(*evaluated.result)


def _one_example(
    problem: Problem, vectors: Vectors, directions: Tensor, network: Tensor, own: Tensor, buffers: Buffers, row: Data
) -> tuple[Tensor, Tensor]:
    def function(network: Tensor) -> Tensor:
        return problem.network(network, buffers, as_batch(row.inputs), Mode.PREDICT)[0]

    pair: Any = vjp(function, network)
    outputs, pull = pair
    cotangents, log_likelihood = cotangents_of(problem.likelihood, vectors, outputs, row.targets, own, directions)
    return torch.stack([pull(cotangent)[0] for cotangent in cotangents]), log_likelihood
