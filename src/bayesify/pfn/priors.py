"""Priors over data sets: what a prior-data fitted network is trained on."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from bayesify.errors import DataError, MethodError
from bayesify.model.network import Network
from bayesify.model.prior import BoundPrior, Prior
from bayesify.model.priors import Normal


class DataSets(NamedTuple):
    """Data sets of one size: inputs (S, n, d), targets (S, n)."""

    inputs: Tensor
    targets: Tensor


class DataPrior(ABC):
    """A law of data sets whose rows are exchangeable; subclasses are immutable."""

    num_inputs: int

    @abstractmethod
    def sample(self, num_sets: int, num_rows: int, rng: torch.Generator) -> DataSets:
        """Draws data sets; float32, on the generator's device."""


class Exact(NamedTuple):
    """Means and standard deviations (..., B) of a Gaussian posterior predictive of y, noise included."""

    mean: Tensor
    stddev: Tensor


@dataclass(frozen=True)
class GPPrior(DataPrior):
    """y = f(x) + noise, f a Gaussian process of variance 1 with kernel exp(−‖x − x′‖² / 2ℓ²), x uniform in [0, 1]ᵈ.

    Attributes:
        length_scale: ℓ.
        noise: standard deviation.
        num_inputs: d.
    """

    length_scale: float = 0.2
    noise: float = 0.1
    num_inputs: int = 1

    def __post_init__(self) -> None:
        for name, value in (("length_scale", self.length_scale), ("noise", self.noise), ("inputs", self.num_inputs)):
            if not (value > 0 and math.isfinite(value)):
                raise MethodError(f"GPPrior({name}={value}): it must be positive and finite.")

    def sample(self, num_sets: int, num_rows: int, rng: torch.Generator) -> DataSets:  # noqa: D102
        x = torch.rand(num_sets, num_rows, self.num_inputs, generator=rng, device=rng.device)
        root = torch.linalg.cholesky(self._noisy(x))
        white = torch.randn(num_sets, num_rows, 1, generator=rng, device=rng.device)
        return DataSets(x, (root @ white).squeeze(-1))

    def posterior(self, inputs: Tensor, targets: Tensor, at: Tensor) -> Exact:
        """The exact posterior predictive at (..., B, d), given (..., n, d) and (..., n); in float64.

        Raises:
            DataError: inputs, targets and test inputs do not fit together.
        """
        x, y, new = inputs.double(), targets.double(), at.double()
        if x.shape[-2] != y.shape[-1] or x.shape[-1] != new.shape[-1]:
            raise DataError(
                f"inputs {tuple(x.shape)}, targets {tuple(y.shape)} and test inputs {tuple(new.shape)} do not fit "
                "together: give (n, d), (n,) and (B, d)."
            )
        root = torch.linalg.cholesky(self._noisy(x))
        cross = torch.linalg.solve_triangular(root, self._kernel(x, new), upper=False)  # (..., n, B)
        white = torch.linalg.solve_triangular(root, y.unsqueeze(-1), upper=False)
        variance = 1 + self.noise**2 - cross.square().sum(-2)
        return Exact((cross * white).sum(-2), variance.sqrt())

    def _kernel(self, one: Tensor, other: Tensor) -> Tensor:
        return torch.exp(-0.5 * (one.unsqueeze(-2) - other.unsqueeze(-3)).square().sum(-1) / self.length_scale**2)

    def _noisy(self, x: Tensor) -> Tensor:
        return self._kernel(x, x) + self.noise**2 * torch.eye(x.shape[-2], dtype=x.dtype, device=x.device)


@dataclass(frozen=True)
class NetworkPrior(DataPrior):
    """y = f_θ(x) + noise, θ from a prior over the weights of a network, x standard normal in every coordinate.

    Its posterior predictive is that of a Bayesian neural network.

    Attributes:
        module: one output, no buffers that training changes; it is copied, never changed.
        num_inputs: d.
        prior: over its parameters.
        noise: standard deviation.
    """

    module: nn.Module
    num_inputs: int
    prior: Prior = field(default_factory=Normal)
    noise: float = 0.1

    def __post_init__(self) -> None:
        if not (self.noise > 0 and math.isfinite(self.noise)):
            raise MethodError(f"NetworkPrior(noise={self.noise}): it must be positive and finite.")

    @cached_property
    def _bound(self) -> tuple[Network, BoundPrior]:
        network = Network(self.module)
        return network, self.prior.bind(network.layout, 0, network.initial)

    def sample(self, num_sets: int, num_rows: int, rng: torch.Generator) -> DataSets:
        """Draws functions, and rows of each.

        Raises:
            MethodError: the network does not give one output per row.
            UnsupportedError: the prior is improper.
        """
        network, bound = self._bound
        x = torch.randn(num_sets, num_rows, self.num_inputs, generator=rng, device=rng.device)
        theta = bound.sample(num_sets, rng).float()

        def function(one: Tensor, rows: Tensor) -> Tensor:
            found: Tensor = functional_call(network.module, network.layout.unflatten(one), (rows,))
            return found

        with torch.no_grad():
            outputs = vmap(function)(theta, x)
        if outputs.shape != (num_sets, num_rows, 1):
            raise MethodError(
                f"the network of a NetworkPrior gives outputs of shape {tuple(outputs.shape[1:])} for {num_rows} rows: "
                "it must give (rows, 1)."
            )
        noise = self.noise * torch.randn(num_sets, num_rows, generator=rng, device=rng.device)
        return DataSets(x, outputs.squeeze(-1) + noise)
