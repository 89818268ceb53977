"""Covariances of Gaussian posteriors: sampled, projected to outputs, saved; P × P is formed only where it must be."""

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor


class Covariance(ABC):
    """Σ (P, P) in some structure; subclasses are final."""

    name: ClassVar[str]

    @abstractmethod
    def sample(self, num_samples: int, rng: torch.Generator) -> Tensor:
        """Draws from N(0, Σ), (num_samples, P)."""

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

    def sample(self, num_samples: int, rng: torch.Generator) -> Tensor:  # noqa: D102
        return self.diagonal.sqrt() * _normal((num_samples, len(self.diagonal)), self.diagonal, rng)

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

    def sample(self, num_samples: int, rng: torch.Generator) -> Tensor:  # noqa: D102
        independent = self.diagonal.sqrt() * _normal((num_samples, len(self.diagonal)), self.diagonal, rng)
        shared = _normal((num_samples, self.factors.shape[1]), self.diagonal, rng)
        return independent + shared @ self.factors.mT

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

    def sample(self, num_samples: int, rng: torch.Generator) -> Tensor:  # noqa: D102
        return _normal((num_samples, self.root.shape[1]), self.root, rng) @ self.root.mT

    def variance(self) -> Tensor:  # noqa: D102
        return self.root.square().sum(1)

    def project(self, jacobian: Tensor) -> Tensor:  # noqa: D102
        half = jacobian @ self.root
        return half @ half.mT

    def tensors(self) -> dict[str, Tensor]:  # noqa: D102
        return {"root": self.root}


def _normal(shape: tuple[int, ...], like: Tensor, rng: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=rng, device=like.device, dtype=like.dtype)
