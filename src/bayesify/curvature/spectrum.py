"""A Gauss–Newton matrix in units of the prior, by its eigenvectors and eigenvalues.

With the prior N(μ₀, D²), D diagonal, and u = D⁻¹ (θ − μ₀), the prior of u is N(0, I) and the Gauss–Newton matrix is
D H D = Q diag(λ) Qᵀ. Multiplying the prior's precision by α or the noise variance by s then only changes numbers, not
eigenvectors: the posterior precision of u is Q diag(λ/s + α) Qᵀ. Nothing here forms P × P except `FullSpectrum`.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from bayesify.covariance import Covariance, Diagonal, Full, Kronecker, KroneckerBasis, PerOutput


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
    def covariance(self, scale: Tensor, variance: Tensor) -> Covariance:
        """Σ = diag(scale) Q diag(variance) Qᵀ diag(scale), in the dtype of `scale`."""


class DiagonalSpectrum(Spectrum):
    """Q = I."""

    def into(self, vector: Tensor) -> Tensor:  # noqa: D102
        return vector

    def out_of(self, vector: Tensor) -> Tensor:  # noqa: D102
        return vector

    def covariance(self, scale: Tensor, variance: Tensor) -> Covariance:  # noqa: D102
        return Diagonal((scale.double().square() * variance).to(scale))


class FullSpectrum(Spectrum):
    """Q (P, P)."""

    def __init__(self, eigenvalues: Tensor, vectors: Tensor) -> None:
        Spectrum.__init__(self, eigenvalues)
        self.vectors = vectors

    def into(self, vector: Tensor) -> Tensor:  # noqa: D102
        return self.vectors.mT @ vector

    def out_of(self, vector: Tensor) -> Tensor:  # noqa: D102
        return self.vectors @ vector

    def covariance(self, scale: Tensor, variance: Tensor) -> Covariance:  # noqa: D102
        return Full((scale.double()[:, None] * self.vectors * variance.sqrt()).to(scale).contiguous())


class KroneckerSpectrum(Spectrum):
    """Q a block L ⊗ R per layer, and the identity on what no layer holds."""

    def __init__(self, eigenvalues: Tensor, basis: KroneckerBasis) -> None:
        Spectrum.__init__(self, eigenvalues)
        self.basis = basis

    def into(self, vector: Tensor) -> Tensor:  # noqa: D102
        return self.basis.into(vector)

    def out_of(self, vector: Tensor) -> Tensor:  # noqa: D102
        return self.basis.out_of(vector)

    def covariance(self, scale: Tensor, variance: Tensor) -> Covariance:  # noqa: D102
        factors = {name: value.to(scale).contiguous() for name, value in self.basis.named_factors().items()}
        return Kronecker(scale, variance.to(scale), self.basis.order, **factors)


class PerOutputSpectrum(Spectrum):
    """Q a block (in, in) for every row of one layer's (out, in) matrix, which lies at `order` in the flat vector."""

    def __init__(self, eigenvalues: Tensor, vectors: Tensor, order: Tensor) -> None:
        Spectrum.__init__(self, eigenvalues)
        self.vectors, self.order = vectors, order

    def into(self, vector: Tensor) -> Tensor:  # noqa: D102
        rows = vector[self.order].reshape(self.vectors.shape[:2])
        return torch.einsum("cij,ci->cj", self.vectors, rows).flatten()

    def out_of(self, vector: Tensor) -> Tensor:  # noqa: D102
        result = torch.empty_like(vector)
        rows = vector.reshape(self.vectors.shape[:2])
        result[self.order] = torch.einsum("cij,cj->ci", self.vectors, rows).flatten()
        return result

    def covariance(self, scale: Tensor, variance: Tensor) -> Covariance:  # noqa: D102
        rows = scale.double()[self.order].reshape(self.vectors.shape[:2])
        basis = (rows[:, :, None] * self.vectors).to(scale).contiguous()
        return PerOutput(self.order, variance.reshape(rows.shape).to(scale).contiguous(), basis)


def eigen(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues and vectors of a positive semi-definite matrix, in float64; rounding below zero is cut off."""
    values, vectors = torch.linalg.eigh(matrix.double())
    return values.clamp_min(0), vectors
