"""The leading eigenvectors of the Gauss–Newton matrix in prior units, without forming it.

D H D (see `curvature.spectrum`) is multiplied with R + 10 random vectors, and once more with the orthonormalised
result: one step of subspace iteration (Halko, Martinsson & Tropp 2011, algorithm 4.4). What it is within their span,
V = U B with (U Bᵀ) diag(λ) (U B) the small eigenproblem (Rayleigh–Ritz), is kept up to rank R. It is all of D H D, to
rounding, if that has no larger rank; otherwise what is left out counts as zero, so that the posterior is wider than
with all of H: directions in which the data say less than in the R best stay as the prior has them.

Cost: the vector–Jacobian products of `curvature.ggn` three times (once if the vectors are as many as the parameters);
memory P (R + 10) numbers and a chunk of rows.
"""

import torch
from torch import Tensor

from bayesify.curvature.fisher import Vectors
from bayesify.curvature.ggn import Expansion, Sums, rows_of
from bayesify.curvature.spectrum import LowRankSpectrum, eigen
from bayesify.model.network import Buffers
from bayesify.model.problem import Problem

OVERSAMPLING = 10
"""Random vectors beyond the rank, as Halko et al. advise (section 4.2)."""
PASSES = 3
"""Through the data."""


def expand_low_rank(
    problem: Problem,
    theta: Tensor,
    buffers: Buffers,
    scale: Tensor,
    vectors: Vectors,
    rng: torch.Generator,
    rank: int,
) -> Expansion:
    """The `rank` leading eigenvectors of D H D. Other arguments as in `curvature.ggn.expand_diagonal`."""
    size = min(len(scale), rank + OVERSAMPLING)
    basis = _orthonormal(_normal(len(scale), size, theta, rng))
    random_state = rng.get_state()
    product, sums = _product(problem, theta, buffers, scale, vectors, rng, basis)
    if size < len(scale):
        for _ in range(PASSES - 1):
            rng.set_state(random_state)  # the same H, where random vectors stand in for it
            basis = _orthonormal(product)
            product, _ = _product(problem, theta, buffers, scale, vectors._replace(gradient=False), rng, basis)
    values, inner = eigen(basis.mT @ product)
    best = values.argsort(descending=True)[:rank]
    return sums.expansion(LowRankSpectrum(values[best], basis @ inner[:, best]), vectors)


def _product(
    problem: Problem,
    theta: Tensor,
    buffers: Buffers,
    scale: Tensor,
    vectors: Vectors,
    rng: torch.Generator,
    basis: Tensor,
) -> tuple[Tensor, Sums]:
    """D H D times `basis` (P, R), and what one pass adds up beside it."""
    product, sums = torch.zeros_like(basis), Sums.zero(basis[:, 0])
    for part in rows_of(problem, theta, buffers, vectors, rng):
        rows = part.of_fisher(vectors, scale)
        product.addmm_(rows.mT, rows @ basis)
        sums = sums.plus(part, vectors)
    return product, sums


def _normal(size: int, count: int, like: Tensor, rng: torch.Generator) -> Tensor:
    return torch.randn(size, count, generator=rng, device=like.device, dtype=torch.float64)


def _orthonormal(matrix: Tensor) -> Tensor:
    basis: Tensor = torch.linalg.qr(matrix).Q
    return basis
