"""Eigenvalue-corrected Kronecker factors, EKFAC (George, Laurent, Bouthillier, Ballas & Vincent, NeurIPS 2018).

The factors of `curvature.kron` give an orthogonal basis Q, a block L ⊗ R per layer. Their products of eigenvalues are
replaced by the second moments of the rows of H along these directions,

    λ_i = Σ_{n,r} ((Qᵀ D J_nᵀ L_n e_r)_i)²  =  (Qᵀ D H D Q)_ii,                                                  (1)

which is the diagonal matrix in this basis that is closest to D H D. For a layer's inputs a and output gradients g at
positions t the rotated row is Lᵀ (Σ_t g aᵀ) R. The determinant and the trace of (1) are thereby those of an honest
diagonal, where the products of K-FAC's assume that a and g are independent.

Cost: that of `curvature.kron`, and its vector–Jacobian products once more.
"""

import torch
from torch import Tensor

from bayesify.covariance import KroneckerBasis
from bayesify.curvature.factored import SINGLE, Part, for_each_part
from bayesify.curvature.fisher import Vectors
from bayesify.curvature.ggn import Expansion, rows_of
from bayesify.curvature.kron import expand_kronecker
from bayesify.curvature.layers import Layers, find_layers
from bayesify.curvature.spectrum import KroneckerSpectrum
from bayesify.model.network import Buffers
from bayesify.model.problem import Problem


def expand_ekfac(
    problem: Problem, theta: Tensor, buffers: Buffers, scale: Tensor, vectors: Vectors, rng: torch.Generator
) -> Expansion:
    """H by (1). Arguments as in `curvature.ggn.expand_diagonal`."""
    expansion = expand_kronecker(problem, theta, buffers, scale, vectors, rng)
    spectrum = expansion.spectrum
    assert isinstance(spectrum, KroneckerSpectrum)
    again = vectors._replace(gradient=False)
    values = rotated_squares(problem, theta, buffers, scale, again, rng, spectrum.basis)
    return expansion._replace(spectrum=KroneckerSpectrum(values, spectrum.basis))


def rotated_squares(
    problem: Problem,
    theta: Tensor,
    buffers: Buffers,
    scale: Tensor,
    vectors: Vectors,
    rng: torch.Generator,
    basis: KroneckerBasis,
) -> Tensor:
    """(1) in the order of the basis (P,), float64."""
    found = find_layers(problem, theta, buffers, rng)
    total = scale.new_zeros(len(scale), dtype=torch.float64)
    matches = len(found.layers) == len(basis.factors)
    if found.batched and matches and problem.way not in SINGLE:
        _add_up(problem, found, theta, buffers, scale, vectors, rng, basis, total)
        return total
    for part in rows_of(problem, theta, buffers, vectors, rng):
        total += basis.into(part.of_fisher(vectors, scale)).square().sum(0)
    return total


def _add_up(
    problem: Problem,
    found: Layers,
    theta: Tensor,
    buffers: Buffers,
    scale: Tensor,
    vectors: Vectors,
    rng: torch.Generator,
    basis: KroneckerBasis,
    total: Tensor,
) -> None:
    """The factored way: adds (1) to `total`."""
    bases = [
        (left.to(theta), (scale[layer.order[: layer.num_inputs]].double()[:, None] * right).to(theta))
        for layer, (left, right) in zip(found.layers, basis.factors, strict=True)
    ]
    sums = torch.split(total, [len(layer.order) for layer in found.layers])

    def add(part: Part) -> None:
        turned = [a @ right for a, (_, right) in zip(part.forward.columns(), bases, strict=True)]
        for cotangent in part.cotangents[:, : vectors.num_fisher].unbind(1):
            for i, g in enumerate(part.forward.pull(cotangent)):
                g, a = g @ bases[i][0], turned[i]
                if g.shape[1] == 1:
                    squares = g[:, 0].square().mT @ a[:, 0].square()
                else:
                    squares = torch.bmm(g.mT, a).square_().sum(0)
                sums[i].add_(squares.flatten())

    for_each_part(problem, found, theta, buffers, vectors, rng, add)
