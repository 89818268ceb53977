"""A Gauss–Newton matrix in units of the prior, by its eigenvectors and eigenvalues.

With the prior N(μ₀, D²), D diagonal, and u = D⁻¹ (θ − μ₀), the prior of u is N(0, I) and the Gauss–Newton matrix is
D H D = Q diag(λ) Qᵀ. Multiplying the prior's precision by α or the noise variance by s then only changes numbers, not
eigenvectors: the posterior precision of u is Q diag(λ/s + α) Qᵀ. Nothing here forms P × P except `FullSpectrum`.
Where groups of parameters get factors of their own, `Spectrum.rescaled` finds the eigenvectors in the new units.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from bayesify.covariance import Covariance, Diagonal, Full, Kronecker, KroneckerBasis, PerOutput, Spiked
from bayesify.curvature import precisions

NO_PART = 1e-12
"""Share of a vector that is rounding."""


class Spectrum(ABC):
    """Q and λ of D H D = Q diag(λ) Qᵀ; subclasses are final.

    Covariances are made of contiguous tensors, as they are after loading: another layout would be rounded differently.
    """

    def __init__(self, eigenvalues: Tensor) -> None:
        self.eigenvalues = eigenvalues

    @abstractmethod
    def into(self, vector: Tensor) -> Tensor:
        """Qᵀ v, (P,)."""

    @abstractmethod
    def out_of(self, vector: Tensor) -> Tensor:
        """Q v, (P,)."""

    @abstractmethod
    def rescaled(self, factor: Tensor) -> "Spectrum":
        """Of F D H D F for F = diag(factor), of one value in each block of Q that is not the identity."""

    @abstractmethod
    def system(self) -> precisions.System:
        """D H D in the coordinates of `apart`."""

    @abstractmethod
    def apart(self, vector: Tensor) -> Tensor:
        """Of parameters (P,), in coordinates in which such blocks, or all parameters, are coordinates of their own."""

    @abstractmethod
    def joined(self, vector: Tensor) -> Tensor:
        """The inverse of `apart`."""

    @abstractmethod
    def places(self, groups: Tensor) -> Tensor:
        """The groups (P,) of parameters as groups of the coordinates of `apart`."""

    @abstractmethod
    def holding(self, vectors: list[Tensor]) -> "Spectrum":
        """The same matrix, such that these vectors (P,) are known by their coordinates."""

    @abstractmethod
    def covariance(self, scale: Tensor, variance: Tensor) -> Covariance:
        """Σ = diag(scale) Q diag(variance) Qᵀ diag(scale), in the dtype of `scale`."""


class ParameterSpectrum(Spectrum, ABC):
    """Base of those whose groups are sets of parameters: `apart` changes nothing."""

    def apart(self, vector: Tensor) -> Tensor:
        """The parameters."""
        return vector

    def joined(self, vector: Tensor) -> Tensor:
        """The parameters."""
        return vector

    def places(self, groups: Tensor) -> Tensor:
        """The same."""
        return groups


class BlockSpectrum(Spectrum, ABC):
    """Base of those whose groups are blocks of Q: `apart` is Qᵀ, whose coordinates belong to parameters in `order`."""

    def __init__(self, eigenvalues: Tensor, order: Tensor) -> None:
        Spectrum.__init__(self, eigenvalues)
        self.order = order

    def system(self) -> precisions.System:
        """Diagonal in Q."""
        return precisions.Diagonal(self.eigenvalues)

    def apart(self, vector: Tensor) -> Tensor:
        """Qᵀ v."""
        return self.into(vector)

    def joined(self, vector: Tensor) -> Tensor:
        """Q v."""
        return self.out_of(vector)

    def places(self, groups: Tensor) -> Tensor:
        """Of the parameters in `order`."""
        return groups[self.order]

    def holding(self, vectors: list[Tensor]) -> Spectrum:
        """Itself: Q has P columns."""
        del vectors
        return self


class DiagonalSpectrum(ParameterSpectrum):
    """Q = I."""

    def into(self, vector: Tensor) -> Tensor:  # noqa: D102
        return vector

    def out_of(self, vector: Tensor) -> Tensor:  # noqa: D102
        return vector

    def rescaled(self, factor: Tensor) -> Spectrum:  # noqa: D102
        return DiagonalSpectrum(self.eigenvalues * factor.square())

    def system(self) -> precisions.System:  # noqa: D102
        return precisions.Diagonal(self.eigenvalues)

    def holding(self, vectors: list[Tensor]) -> Spectrum:  # noqa: D102
        del vectors
        return self

    def covariance(self, scale: Tensor, variance: Tensor) -> Covariance:  # noqa: D102
        return Diagonal((scale.double().square() * variance).to(scale))


class FullSpectrum(ParameterSpectrum):
    """Q (P, P)."""

    def __init__(self, eigenvalues: Tensor, vectors: Tensor) -> None:
        Spectrum.__init__(self, eigenvalues)
        self.vectors = vectors

    def into(self, vector: Tensor) -> Tensor:  # noqa: D102
        return self.vectors.mT @ vector

    def out_of(self, vector: Tensor) -> Tensor:  # noqa: D102
        return self.vectors @ vector

    def rescaled(self, factor: Tensor) -> Spectrum:  # noqa: D102
        return FullSpectrum(*eigen(factor[:, None] * self._matrix() * factor))

    def system(self) -> precisions.System:  # noqa: D102
        return precisions.Dense(self._matrix())

    def holding(self, vectors: list[Tensor]) -> Spectrum:  # noqa: D102
        del vectors
        return self

    def _matrix(self) -> Tensor:
        return (self.vectors * self.eigenvalues) @ self.vectors.mT

    def covariance(self, scale: Tensor, variance: Tensor) -> Covariance:  # noqa: D102
        return Full((scale.double()[:, None] * self.vectors * variance.sqrt()).to(scale).contiguous())


class KroneckerSpectrum(BlockSpectrum):
    """Q a block L ⊗ R per layer, and the identity on what no layer holds."""

    def __init__(self, eigenvalues: Tensor, basis: KroneckerBasis) -> None:
        BlockSpectrum.__init__(self, eigenvalues, basis.order)
        self.basis = basis

    def into(self, vector: Tensor) -> Tensor:  # noqa: D102
        return self.basis.into(vector)

    def out_of(self, vector: Tensor) -> Tensor:  # noqa: D102
        return self.basis.out_of(vector)

    def rescaled(self, factor: Tensor) -> Spectrum:  # noqa: D102
        return KroneckerSpectrum(self.eigenvalues * factor[self.order].square(), self.basis)

    def covariance(self, scale: Tensor, variance: Tensor) -> Covariance:  # noqa: D102
        factors = {name: value.to(scale).contiguous() for name, value in self.basis.named_factors().items()}
        return Kronecker(scale, variance.to(scale), self.basis.order, **factors)


class PerOutputSpectrum(BlockSpectrum):
    """Q a block (in, in) for every row of one layer's (out, in) matrix, which lies at `order` in the flat vector."""

    def __init__(self, eigenvalues: Tensor, vectors: Tensor, order: Tensor) -> None:
        BlockSpectrum.__init__(self, eigenvalues, order)
        self.vectors = vectors

    def into(self, vector: Tensor) -> Tensor:  # noqa: D102
        rows = vector[self.order].reshape(self.vectors.shape[:2])
        return torch.einsum("cij,ci->cj", self.vectors, rows).flatten()

    def out_of(self, vector: Tensor) -> Tensor:  # noqa: D102
        result = torch.empty_like(vector)
        rows = vector.reshape(self.vectors.shape[:2])
        result[self.order] = torch.einsum("cij,cj->ci", self.vectors, rows).flatten()
        return result

    def rescaled(self, factor: Tensor) -> Spectrum:  # noqa: D102
        return PerOutputSpectrum(self.eigenvalues * factor[self.order].square(), self.vectors, self.order)

    def covariance(self, scale: Tensor, variance: Tensor) -> Covariance:  # noqa: D102
        rows = scale.double()[self.order].reshape(self.vectors.shape[:2])
        basis = (rows[:, :, None] * self.vectors).to(scale).contiguous()
        return PerOutput(self.order, variance.reshape(rows.shape).to(scale).contiguous(), basis)


class LowRankSpectrum(ParameterSpectrum):
    """Q the columns of `vectors` (P, R), with λ = 0 for everything orthogonal to them.

    The last of the R + 1 coordinates stands for that rest. `holding` adds eigenvectors with λ = 0 until given vectors
    have no part in it: then the rest adds nothing to the evidence, because its precision is the prior's.
    """

    def __init__(self, eigenvalues: Tensor, vectors: Tensor) -> None:
        Spectrum.__init__(self, torch.cat([eigenvalues, eigenvalues.new_zeros(1)]))
        self.vectors = vectors

    def into(self, vector: Tensor) -> Tensor:
        """(P,) → (R + 1,)."""
        return torch.cat([self.vectors.mT @ vector, vector.new_zeros(1)])

    def out_of(self, vector: Tensor) -> Tensor:
        """(R + 1,) → (P,)."""
        return self.vectors @ vector[:-1]

    def rescaled(self, factor: Tensor) -> Spectrum:  # noqa: D102
        half = factor[:, None] * self.vectors * self.eigenvalues[:-1].sqrt()
        left, values, _ = torch.linalg.svd(half, full_matrices=False)
        return LowRankSpectrum(values.square(), left)

    def system(self) -> precisions.System:  # noqa: D102
        return precisions.LowRank(self.eigenvalues[:-1], self.vectors)

    def holding(self, vectors: list[Tensor]) -> Spectrum:  # noqa: D102
        own = self.vectors
        for vector in vectors:
            left = vector
            for _ in range(2):  # twice is enough to be orthogonal to rounding
                left = left - own @ (own.mT @ left)
            size = left.norm()
            if float(size) > NO_PART * float(vector.norm()):
                own = torch.cat([own, (left / size)[:, None]], dim=1)
        missing = own.shape[1] - self.vectors.shape[1]
        return LowRankSpectrum(torch.cat([self.eigenvalues[:-1], own.new_zeros(missing)]), own)

    def covariance(self, scale: Tensor, variance: Tensor) -> Covariance:  # noqa: D102
        known = (self.eigenvalues[:-1] > 0).nonzero().squeeze(-1)
        vectors = self.vectors[:, known].to(scale).contiguous()
        return Spiked(scale, vectors, variance[known].to(scale), variance[-1:].to(scale))


def eigen(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues and vectors of a positive semi-definite matrix, in float64; rounding below zero is cut off."""
    values, vectors = torch.linalg.eigh(matrix.double())
    return values.clamp_min(0), vectors
