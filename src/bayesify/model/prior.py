"""A prior p(θ) over the flat parameter vector: what every family answers, and what a family becomes on one network.

A prior is bound to a module's layout before use (`prior.bind(layout)`), which turns "fan-in scaling" or per-group
scales into one scale per parameter. Most families are factorised over parameters; others tie those of one input or of
one convolution kernel (`grouped`). Normalisation scales are centred on 1, their neutral value; everything else on 0.
"""

import math
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from bayesify.errors import UnsupportedError
from bayesify.model.parameters import Layout, Slot

if TYPE_CHECKING:
    from bayesify.model.likelihoods import Likelihood
    from bayesify.model.prior_predictive import PriorCheck

LIKELIHOOD_LOG_SCALE = 1.0
"""Prior standard deviation of a likelihood's own parameters (log noise scales): a factor e either way is ordinary."""


class Prior(ABC):
    """The interface; subclasses are immutable."""

    name: ClassVar[str]

    @abstractmethod
    def family_of(self, slot: Slot) -> "Family":
        """The family that one named parameter's entries are of."""

    def bind(self, layout: Layout, num_likelihood: int, like: Tensor) -> "BoundPrior":
        """Fixes family, loc and scale for every parameter of a layout, in the dtype and device of `like`."""
        scale = torch.ones(layout.num_parameters, dtype=like.dtype, device=like.device)
        loc = torch.zeros_like(scale)
        parts: list[Part] = []
        for slot in layout.slots:
            family, end = self.family_of(slot), slot.offset + slot.size
            scale[slot.offset : end] = family.scale_of(slot)
            loc[slot.offset : end] = 1.0 if slot.role == "scale" else 0.0
            start = parts.pop().start if parts and parts[-1].family == family else slot.offset
            parts.append(Part(family, start, end))
        return BoundPrior(parts, loc, scale, num_likelihood)

    def check(
        self,
        model: nn.Module,
        inputs: Any,
        likelihood: "str | Likelihood | None" = None,
        num_functions: int = 100,
        seed: int = 0,
    ) -> "PriorCheck":
        """Draws functions from this prior and says in words what is wrong with them, if anything.

        Args:
            model: any module; it is copied, never changed.
            inputs: some typical inputs (B, ...), prepared as for `fit`; at most 500 are looked at.
            likelihood: a name or a Likelihood; None is categorical for several outputs, gaussian for one. For real
                targets outputs are judged against standardised ones.
            num_functions: how many functions to draw.
            seed: of the draws.

        Raises:
            UnsupportedError: the prior is improper.
            DataError: fewer than 2 inputs, or inputs that are not finite numbers.
        """
        from bayesify.model.prior_predictive import check_prior

        return check_prior(self, model, inputs, likelihood, num_functions, seed)


class Family(Prior, ABC):
    """One density, up to loc and scale, for every entry or for every group of entries; subclasses are final."""

    is_gaussian: ClassVar[bool] = False
    """Whether one precision per entry says all of it; the flat prior's is 0."""
    is_proper: ClassVar[bool] = True

    def family_of(self, slot: Slot) -> "Family":
        """Itself."""
        del slot
        return self

    @abstractmethod
    def scale_of(self, slot: Slot) -> float:
        """The scale of one named parameter's entries."""

    @abstractmethod
    def standard_log_density(self, z: Tensor) -> Tensor:
        """Log density of z = (θ − loc)/scale (..., n) without the log scale term, its last dimension to be summed.

        It has one entry per parameter, or per group of parameters that depend on each other.
        """

    @abstractmethod
    def standard_score(self, z: Tensor) -> Tensor:
        """d/dz of the sum of `standard_log_density`: (..., n) → (..., n)."""

    @abstractmethod
    def standard_sample(self, shape: tuple[int, ...], rng: torch.Generator) -> Tensor:
        """Draws of z, (..., n)."""


class Part(NamedTuple):
    """Neighbouring entries of one family."""

    family: Family
    start: int
    end: int


class GaussianPrior(NamedTuple):
    """N(center, diag(precision)⁻¹); a precision of 0 is flat."""

    center: Tensor  # (P,)
    precision: Tensor  # (P,)


class BoundPrior:
    """A prior on one concrete vector: P_network entries by their families, L likelihood parameters under N(0, 1)."""

    def __init__(self, parts: list[Part], loc: Tensor, scale: Tensor, num_likelihood: int) -> None:
        self.parts, self.loc, self.scale, self.num_likelihood = parts, loc, scale, num_likelihood
        own = loc.new_zeros(num_likelihood)
        self.center = torch.cat([loc, own])
        """Of all P entries, the likelihood's own included."""
        self.scales = torch.cat([scale, own + LIKELIHOOD_LOG_SCALE])
        """Of all P entries."""
        self._is_gaussian = all(part.family.is_gaussian for part in parts)
        self._precision = torch.cat([self._network_precision(), own + LIKELIHOOD_LOG_SCALE**-2])

    def log_density(self, theta: Tensor) -> Tensor:
        """(..., P) → (...); normalised, except for the flat prior."""
        network, own = self._split(theta)
        z = (network - self.loc) / self.scale
        value = torch.zeros_like(theta[..., 0])
        for family, start, end in self.parts:
            value = value + family.standard_log_density(z[..., start:end]).sum(-1)
            if family.is_proper:
                value = value - self.scale[start:end].log().sum()
        z = own / LIKELIHOOD_LOG_SCALE
        noise = -0.5 * z.square() - math.log(LIKELIHOOD_LOG_SCALE) - 0.5 * math.log(2 * math.pi)
        return value + noise.sum(-1)

    def score(self, theta: Tensor) -> Tensor:
        """Gradient of `log_density`: (..., P) → (..., P)."""
        if self._is_gaussian:  # at every step of every training: two operations instead of ten
            return (self.center - theta) * self._precision
        network, own = self._split(theta)
        z = (network - self.loc) / self.scale
        parts = [f.standard_score(z[..., start:end]) / self.scale[start:end] for f, start, end in self.parts]
        return torch.cat([*parts, -own / LIKELIHOOD_LOG_SCALE**2], dim=-1)

    def sample(self, num_samples: int, rng: torch.Generator) -> Tensor:
        """(num_samples, P) draws."""
        parts = [f.standard_sample((num_samples, end - start), rng).to(self.loc) for f, start, end in self.parts]
        own = torch.randn(num_samples, self.num_likelihood, generator=rng, device=rng.device).to(self.loc)
        return torch.cat([self.loc + self.scale * torch.cat(parts, dim=-1), LIKELIHOOD_LOG_SCALE * own], dim=-1)

    def precision(self) -> Tensor:
        """Precision (P_network,) of a Gaussian prior.

        Raises:
            UnsupportedError: the prior is not Gaussian.
        """
        if not self._is_gaussian:
            name = next(part.family.name for part in self.parts if not part.family.is_gaussian)
            raise UnsupportedError(
                f"this method needs a Gaussian prior, independent over parameters (its precision enters the update), "
                f"but the prior is {name}: use priors.Normal(), or a method that works from gradients (hmc, map, swag)."
            )
        return self._network_precision()

    @property
    def is_gaussian(self) -> bool:
        """Whether `gaussian` has an answer."""
        return self._is_gaussian

    def gaussian(self) -> "GaussianPrior":
        """A Gaussian prior of all P entries, the likelihood's own included.

        Raises:
            UnsupportedError: the prior is not Gaussian.
        """
        self.precision()
        return GaussianPrior(self.center, self._precision)

    def _network_precision(self) -> Tensor:
        proper = [self.scale.new_full((end - start,), float(f.is_proper)) for f, start, end in self.parts]
        return torch.cat(proper) * self.scale**-2

    def _split(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        size = len(self.loc)
        return theta[..., :size], theta[..., size:]
