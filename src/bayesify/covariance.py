"""Covariances of Gaussian posteriors: sampled, projected to outputs, saved; P × P is formed only where it must be."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

NORMAL_PIECE = 2**16
"""Normal numbers at a time, within the cache; a multiple of the 16 that torch makes together, so that none changes."""


class Matrix(NamedTuple):
    """Where a layer's (out, in) matrix lies in the flat vector."""

    order: Tensor  # (out · in,)
    num_outputs: int


class Block(NamedTuple):
    """Σ of one layer's matrix, of which a draw is W = L (√variance ∘ ε) Rᵀ for independent standard normal ε."""

    variance: Tensor  # (out, in)
    places: Tensor | slice  # of ε (out · in,) in the white noise of all of Σ
    left: Tensor | None = None  # L (out, out); None for the identity
    right: Tensor | None = None  # R (in, in), or one for every output, (out, in, in)


class Covariance(ABC):
    """Σ (P, P) in some structure; subclasses are final."""

    name: ClassVar[str]

    def sample(self, num_samples: int, rng: torch.Generator) -> Tensor:
        """Draws from N(0, Σ), (num_samples, P)."""
        return self.coloured(self.white(num_samples, rng))

    @abstractmethod
    def white(self, num_samples: int, rng: torch.Generator) -> Tensor:
        """Independent standard normal numbers, as many in each row as a draw takes."""

    @abstractmethod
    def coloured(self, white: Tensor) -> Tensor:
        """The draws (S, P) that this white noise stands for."""

    @abstractmethod
    def blocks(self, matrices: Sequence[Matrix]) -> list[Block] | None:
        """Σ matrix by matrix, where these hold all parameters and Σ is block diagonal in them; None otherwise."""

    @abstractmethod
    def variance(self) -> Tensor:
        """The diagonal of Σ, (P,)."""

    @abstractmethod
    def project(self, jacobian: Tensor) -> Tensor:
        """J Σ Jᵀ over the last two dimensions: (..., C, P) → (..., C, C)."""

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """What must be saved; the constructor takes the same names."""


class Diagonal(Covariance):
    """Σ = diag(variance)."""

    name = "diagonal"

    def __init__(self, diagonal: Tensor) -> None:
        self.diagonal = diagonal

    def white(self, num_samples: int, rng: torch.Generator) -> Tensor:  # noqa: D102
        return _normal((num_samples, len(self.diagonal)), self.diagonal, rng)

    def coloured(self, white: Tensor) -> Tensor:  # noqa: D102
        return self.diagonal.sqrt() * white

    def blocks(self, matrices: Sequence[Matrix]) -> list[Block] | None:  # noqa: D102
        if sum(len(matrix.order) for matrix in matrices) != len(self.diagonal):
            return None
        return [Block(self.diagonal[matrix.order].reshape(matrix.num_outputs, -1), matrix.order) for matrix in matrices]

    def variance(self) -> Tensor:  # noqa: D102
        return self.diagonal

    def project(self, jacobian: Tensor) -> Tensor:  # noqa: D102
        return (jacobian * self.diagonal) @ jacobian.mT

    def tensors(self) -> dict[str, Tensor]:  # noqa: D102
        return {"diagonal": self.diagonal}


class LowRank(Covariance):
    """Σ = diag(diagonal) + F Fᵀ with factors F (P, R); one R-vector of noise serves all parameters."""

    name = "low_rank"

    def __init__(self, diagonal: Tensor, factors: Tensor) -> None:
        self.diagonal, self.factors = diagonal, factors

    def white(self, num_samples: int, rng: torch.Generator) -> Tensor:  # noqa: D102
        independent = _normal((num_samples, len(self.diagonal)), self.diagonal, rng)
        return torch.cat([independent, _normal((num_samples, self.factors.shape[1]), self.diagonal, rng)], dim=1)

    def coloured(self, white: Tensor) -> Tensor:  # noqa: D102
        size = len(self.diagonal)
        return self.diagonal.sqrt() * white[:, :size] + white[:, size:] @ self.factors.mT

    def blocks(self, matrices: Sequence[Matrix]) -> list[Block] | None:  # noqa: D102
        del matrices
        return None

    def variance(self) -> Tensor:  # noqa: D102
        return self.diagonal + self.factors.square().sum(1)

    def project(self, jacobian: Tensor) -> Tensor:  # noqa: D102
        low = jacobian @ self.factors
        return (jacobian * self.diagonal) @ jacobian.mT + low @ low.mT

    def tensors(self) -> dict[str, Tensor]:  # noqa: D102
        return {"diagonal": self.diagonal, "factors": self.factors}


class Full(Covariance):
    """Σ = S Sᵀ with any square root S (P, P)."""

    name = "full"

    def __init__(self, root: Tensor) -> None:
        self.root = root

    def white(self, num_samples: int, rng: torch.Generator) -> Tensor:  # noqa: D102
        return _normal((num_samples, self.root.shape[1]), self.root, rng)

    def coloured(self, white: Tensor) -> Tensor:  # noqa: D102
        return white @ self.root.mT

    def blocks(self, matrices: Sequence[Matrix]) -> list[Block] | None:  # noqa: D102
        del matrices
        return None

    def variance(self) -> Tensor:  # noqa: D102
        return self.root.square().sum(1)

    def project(self, jacobian: Tensor) -> Tensor:  # noqa: D102
        half = jacobian @ self.root
        return half @ half.mT

    def tensors(self) -> dict[str, Tensor]:  # noqa: D102
        return {"root": self.root}


class Spiked(Covariance):
    """Σ = D (rest · I + V diag(eigenvariance − rest) Vᵀ) D with D = diag(scale) and orthonormal V (P, R).

    Args:
        scale: (P,).
        vectors: V.
        eigenvariance: (R,) along V.
        rest: (1,) in all other directions.
    """

    name = "spiked"

    def __init__(self, scale: Tensor, vectors: Tensor, eigenvariance: Tensor, rest: Tensor) -> None:
        self.scale, self.vectors, self.eigenvariance, self.rest = scale, vectors, eigenvariance, rest

    def white(self, num_samples: int, rng: torch.Generator) -> Tensor:  # noqa: D102
        return _normal((num_samples, len(self.scale)), self.scale, rng)

    def coloured(self, white: Tensor) -> Tensor:  # noqa: D102
        change = self.eigenvariance.sqrt() - self.rest.sqrt()
        return self.scale * (self.rest.sqrt() * white + ((white @ self.vectors) * change) @ self.vectors.mT)

    def blocks(self, matrices: Sequence[Matrix]) -> list[Block] | None:  # noqa: D102
        del matrices
        return None

    def variance(self) -> Tensor:  # noqa: D102
        change = self.vectors.square() @ (self.eigenvariance - self.rest)
        return self.scale.square() * (self.rest + change)

    def project(self, jacobian: Tensor) -> Tensor:  # noqa: D102
        scaled = jacobian * self.scale
        along = scaled @ self.vectors
        return self.rest * scaled @ scaled.mT + (along * (self.eigenvariance - self.rest)) @ along.mT

    def tensors(self) -> dict[str, Tensor]:  # noqa: D102
        own = {"scale": self.scale, "vectors": self.vectors}
        return own | {"eigenvariance": self.eigenvariance, "rest": self.rest}


class KroneckerBasis:
    """An orthogonal Q (P, P): after reordering, a block L ⊗ R for every layer, then the identity.

    `order` (P,) lists the parameters layer by layer; a layer's (out, in) matrix V is rotated to Lᵀ V R. What follows
    the last layer is left as it is.
    """

    def __init__(self, order: Tensor, factors: list[tuple[Tensor, Tensor]]) -> None:
        self.order, self.factors = order, factors

    def into(self, vector: Tensor) -> Tensor:
        """Qᵀ v: (..., P) → (..., P)."""
        return self._blocks(vector[..., self.order], [(left.mT, right) for left, right in self.factors])

    def out_of(self, vector: Tensor) -> Tensor:
        """Q v: (..., P) → (..., P)."""
        return self._restored(self._blocks(vector, [(left, right.mT) for left, right in self.factors]))

    def diagonal(self, values: Tensor) -> Tensor:
        """The diagonal of Q diag(values) Qᵀ, (P,)."""
        squares = [(left.square(), right.square().mT) for left, right in self.factors]
        return self._restored(self._blocks(values, squares))

    def named_factors(self) -> dict[str, Tensor]:
        """{left_0, right_0, left_1, …}."""
        pairs = enumerate(self.factors)
        return {f"{side}_{i}": value for i, pair in pairs for side, value in zip(("left", "right"), pair, strict=True)}

    @staticmethod
    def _blocks(vector: Tensor, maps: list[tuple[Tensor, Tensor]]) -> Tensor:
        parts, start = [], 0
        for left, right in maps:
            size = len(left) * len(right)
            block = vector[..., start : start + size].reshape(*vector.shape[:-1], len(left), len(right))
            parts.append((left @ block @ right).flatten(-2))
            start += size
        return torch.cat([*parts, vector[..., start:]], dim=-1)

    def _restored(self, vector: Tensor) -> Tensor:
        result = torch.empty_like(vector)
        result[..., self.order] = vector
        return result


class Kronecker(Covariance):
    """Σ = D Q diag(eigenvariance) Qᵀ D with D = diag(scale) and Q a Kronecker product per layer.

    Args:
        scale: (P,).
        eigenvariance: (P,), in the order of the basis.
        order: (P,) integers, see `KroneckerBasis`.
        factors: left_0 (out, out), right_0 (in, in), left_1, …
    """

    name = "kronecker"

    def __init__(self, scale: Tensor, eigenvariance: Tensor, order: Tensor, **factors: Tensor) -> None:
        self.scale, self.eigenvariance = scale, eigenvariance
        pairs = [(factors[f"left_{i}"], factors[f"right_{i}"]) for i in range(len(factors) // 2)]
        self.basis = KroneckerBasis(order, pairs)

    def white(self, num_samples: int, rng: torch.Generator) -> Tensor:  # noqa: D102
        return _normal((num_samples, len(self.scale)), self.scale, rng)

    def coloured(self, white: Tensor) -> Tensor:  # noqa: D102
        return self.scale * self.basis.out_of(self.eigenvariance.sqrt() * white)

    def blocks(self, matrices: Sequence[Matrix]) -> list[Block] | None:  # noqa: D102
        same = len(matrices) == len(self.basis.factors)
        if not same or not torch.equal(torch.cat([matrix.order for matrix in matrices]), self.basis.order):
            return None
        result, start = [], 0
        for matrix, (left, right) in zip(matrices, self.basis.factors, strict=True):
            scale = self.scale[matrix.order].reshape(matrix.num_outputs, -1)
            if left.shape[0] != matrix.num_outputs or not torch.equal(scale, scale[:1].expand_as(scale)):
                return None
            places = slice(start, start + len(matrix.order))
            variance = self.eigenvariance[places].reshape(scale.shape)
            result.append(Block(variance, places, left, scale[0][:, None] * right))
            start = places.stop
        return result

    def variance(self) -> Tensor:  # noqa: D102
        return self.scale.square() * self.basis.diagonal(self.eigenvariance)

    def project(self, jacobian: Tensor) -> Tensor:  # noqa: D102
        rotated = self.basis.into(jacobian * self.scale)
        return (rotated * self.eigenvariance) @ rotated.mT

    def tensors(self) -> dict[str, Tensor]:  # noqa: D102
        own = {"scale": self.scale, "eigenvariance": self.eigenvariance, "order": self.basis.order}
        return own | self.basis.named_factors()


class PerOutput(Covariance):
    """Σ of one layer's (out, in) matrix whose rows are independent: Σ_c = R_c diag(variance_c) R_cᵀ for row c.

    Args:
        order: (out · in,) where the matrix lies in the flat vector.
        rowvariance: (out, in).
        basis: R (out, in, in).
    """

    name = "per_output"

    def __init__(self, order: Tensor, rowvariance: Tensor, basis: Tensor) -> None:
        self.order, self.rowvariance, self.basis = order, rowvariance, basis

    def white(self, num_samples: int, rng: torch.Generator) -> Tensor:  # noqa: D102
        return _normal((num_samples, len(self.order)), self.basis, rng)

    def coloured(self, white: Tensor) -> Tensor:  # noqa: D102
        scaled = white.reshape(-1, *self.rowvariance.shape) * self.rowvariance.sqrt()
        result = torch.empty_like(white)
        result[:, self.order] = torch.einsum("cij,scj->sci", self.basis, scaled).flatten(1)
        return result

    def blocks(self, matrices: Sequence[Matrix]) -> list[Block] | None:  # noqa: D102
        if len(matrices) != 1 or not torch.equal(matrices[0].order, self.order):
            return None
        return [Block(self.rowvariance, slice(0, len(self.order)), None, self.basis)]

    def variance(self) -> Tensor:  # noqa: D102
        result = torch.empty_like(self.rowvariance.flatten())
        result[self.order] = torch.einsum("cij,cj->ci", self.basis.square(), self.rowvariance).flatten()
        return result

    def project(self, jacobian: Tensor) -> Tensor:  # noqa: D102
        rows = jacobian[..., self.order].reshape(*jacobian.shape[:-1], *self.rowvariance.shape)
        half = torch.einsum("...ci,cij->...cj", rows, self.basis) * self.rowvariance.sqrt()
        return half.flatten(-2) @ half.flatten(-2).mT

    def tensors(self) -> dict[str, Tensor]:  # noqa: D102
        return {"order": self.order, "rowvariance": self.rowvariance, "basis": self.basis}


def _normal(shape: tuple[int, ...], like: Tensor, rng: torch.Generator) -> Tensor:
    if like.device.type != "cpu":
        return torch.randn(shape, generator=rng, device=like.device, dtype=like.dtype)
    result = torch.empty(shape, dtype=like.dtype)
    flat, size = result.view(-1), result.numel()
    for start in range(0, max(1, size - 15), NORMAL_PIECE):  # torch makes fewer than 16 in another way
        end = start + NORMAL_PIECE
        flat[start : end if end < size - 15 else size].normal_(generator=rng)
    return result
