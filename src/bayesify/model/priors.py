"""Priors p(θ) over the flat parameter vector, and a check of what functions they believe in.

A prior is bound to a module's layout before use (`prior.bind(layout)`), which turns "fan-in scaling" or per-group
scales into one scale per parameter. All are factorised over parameters. Normalisation scales are centred on 1, their
neutral value; everything else on 0.
"""

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from bayesify.errors import MethodError, UnsupportedError, suggest
from bayesify.model.parameters import Layout, Slot

if TYPE_CHECKING:
    from bayesify.model.likelihoods import Likelihood
    from bayesify.model.prior_predictive import PriorCheck

LIKELIHOOD_LOG_SCALE = 1.0
"""Prior standard deviation of a likelihood's own parameters (log noise scales): a factor e either way is ordinary."""

Scale = float | str | Mapping[str, float]


class Prior(ABC):
    """The interface; subclasses are final and immutable."""

    name: ClassVar[str]

    @abstractmethod
    def scale_of(self, slot: Slot) -> float:
        """The scale of one named parameter's entries."""

    @abstractmethod
    def standard_log_density(self, z: Tensor) -> Tensor:
        """Log density of z = (θ − loc)/scale, elementwise, without the log scale term."""

    @abstractmethod
    def standard_score(self, z: Tensor) -> Tensor:
        """d/dz of `standard_log_density`."""

    @abstractmethod
    def standard_sample(self, shape: tuple[int, ...], rng: torch.Generator) -> Tensor:
        """Draws of z."""

    def bind(self, layout: Layout, num_likelihood: int, like: Tensor) -> "BoundPrior":
        """Fixes loc and scale for every parameter of a layout, in the dtype and device of `like`."""
        scale = torch.ones(layout.num_parameters + num_likelihood, dtype=like.dtype, device=like.device)
        loc = torch.zeros_like(scale)
        for slot in layout.slots:
            scale[slot.offset : slot.offset + slot.size] = self.scale_of(slot)
            loc[slot.offset : slot.offset + slot.size] = 1.0 if slot.role == "scale" else 0.0
        return BoundPrior(self, loc[: layout.num_parameters], scale[: layout.num_parameters], num_likelihood)

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


class BoundPrior:
    """A prior on one concrete vector: P_network entries under the prior, L likelihood parameters under N(0, 1)."""

    def __init__(self, prior: Prior, loc: Tensor, scale: Tensor, num_likelihood: int) -> None:
        self.prior, self.loc, self.scale, self.num_likelihood = prior, loc, scale, num_likelihood
        own = loc.new_zeros(num_likelihood)
        self._center = torch.cat([loc, own])
        self._precision = torch.cat([scale**-2, own + LIKELIHOOD_LOG_SCALE**-2])

    def log_density(self, theta: Tensor) -> Tensor:
        """(..., P) → (...); normalised, except for the flat prior."""
        network, own = self._split(theta)
        value = self.prior.standard_log_density((network - self.loc) / self.scale)
        if self.prior.name != "flat":
            value = value - self.scale.log()
        z = own / LIKELIHOOD_LOG_SCALE
        noise = -0.5 * z.square() - math.log(LIKELIHOOD_LOG_SCALE) - 0.5 * math.log(2 * math.pi)
        return value.sum(-1) + noise.sum(-1)

    def score(self, theta: Tensor) -> Tensor:
        """Gradient of `log_density`: (..., P) → (..., P)."""
        if isinstance(self.prior, Normal):  # at every step of every training: two operations instead of ten
            return (self._center - theta) * self._precision
        network, own = self._split(theta)
        return torch.cat(
            [
                self.prior.standard_score((network - self.loc) / self.scale) / self.scale,
                -own / LIKELIHOOD_LOG_SCALE**2,
            ],
            dim=-1,
        )

    def sample(self, num_samples: int, rng: torch.Generator) -> Tensor:
        """(num_samples, P) draws."""
        z = self.prior.standard_sample((num_samples, len(self.loc)), rng).to(self.loc)
        own = torch.randn(num_samples, self.num_likelihood, generator=rng, device=rng.device).to(self.loc)
        return torch.cat([self.loc + self.scale * z, LIKELIHOOD_LOG_SCALE * own], dim=-1)

    def precision(self) -> Tensor:
        """Precision (P_network,) of a Gaussian prior.

        Raises:
            UnsupportedError: the prior is not Gaussian.
        """
        if not isinstance(self.prior, (Normal, Flat)):
            raise UnsupportedError(
                f"this method needs a Gaussian prior (its precision enters the update) but the prior is "
                f"{self.prior.name}: use priors.Normal(), or a method that works from gradients (hmc, map, swag)."
            )
        return torch.zeros_like(self.scale) if isinstance(self.prior, Flat) else self.scale.square().reciprocal()

    def likelihood_precision(self) -> float:
        """Precision of the likelihood's own parameters."""
        return LIKELIHOOD_LOG_SCALE**-2

    def _split(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        size = len(self.loc)
        return theta[..., :size], theta[..., size:]


def _resolve(scale: Scale, slot: Slot, gain: float) -> float:
    if isinstance(scale, str):
        return gain / math.sqrt(slot.fan_in) if slot.role == "weight" else 1.0
    if isinstance(scale, Mapping):
        for pattern, value in scale.items():
            if re.search(pattern, slot.name):
                return float(value)
        raise MethodError(
            f"the per-group prior scales {dict(scale)} name no group for parameter {slot.name!r}: add a pattern that "
            "matches it ('.' matches all)."
        )
    return float(scale)


def _check_scale(owner: str, scale: Scale) -> None:
    if isinstance(scale, str):
        if scale != "fan_in":
            raise MethodError(
                f"{owner}(scale={scale!r}): a scale is a positive number, 'fan_in', or {{pattern: number}}."
            )
        return
    values = scale.values() if isinstance(scale, Mapping) else [scale]
    for value in values:
        if not (value > 0 and math.isfinite(value)):
            raise MethodError(f"{owner}(scale={value}): prior scales must be positive and finite.")


@dataclass(frozen=True)
class Normal(Prior):
    """N(loc, scale²) for every weight.

    Attributes:
        scale: one number for all; 'fan_in' for gain/√fan_in on weights and 1 on biases (functions then neither die
            out nor explode with width, Neal 1996); or {regex: scale}, the first matching pattern counts.
        gain: the numerator of fan-in scaling; √2 suits ReLU.
    """

    scale: Scale = "fan_in"
    gain: float = math.sqrt(2.0)

    name = "normal"

    def __post_init__(self) -> None:
        _check_scale("Normal", self.scale)
        _check_scale("Normal(gain=...)", self.gain)

    def scale_of(self, slot: Slot) -> float:  # noqa: D102
        return _resolve(self.scale, slot, self.gain)

    def standard_log_density(self, z: Tensor) -> Tensor:  # noqa: D102
        return -0.5 * z.square() - 0.5 * math.log(2 * math.pi)

    def standard_score(self, z: Tensor) -> Tensor:  # noqa: D102
        return -z

    def standard_sample(self, shape: tuple[int, ...], rng: torch.Generator) -> Tensor:  # noqa: D102
        return torch.randn(shape, generator=rng, device=rng.device)


@dataclass(frozen=True)
class Laplace(Prior):
    """Double exponential with the given scale: lighter than Student's t, prefers small weights (L1)."""

    scale: Scale = "fan_in"
    gain: float = 1.0

    name = "laplace"

    def __post_init__(self) -> None:
        _check_scale("Laplace", self.scale)
        _check_scale("Laplace(gain=...)", self.gain)

    def scale_of(self, slot: Slot) -> float:  # noqa: D102
        return _resolve(self.scale, slot, self.gain)

    def standard_log_density(self, z: Tensor) -> Tensor:  # noqa: D102
        return -z.abs() - math.log(2.0)

    def standard_score(self, z: Tensor) -> Tensor:  # noqa: D102
        return -z.sign()

    def standard_sample(self, shape: tuple[int, ...], rng: torch.Generator) -> Tensor:
        """Inverse of the distribution function at a uniform."""
        u = torch.rand(shape, generator=rng, device=rng.device, dtype=torch.float64) - 0.5
        return -u.sign() * torch.log1p(-2 * u.abs())


@dataclass(frozen=True)
class StudentT(Prior):
    """Student's t with `df` degrees of freedom: heavy tails let single weights be large."""

    df: float = 3.0
    scale: Scale = "fan_in"
    gain: float = 1.0

    name = "student_t"

    def __post_init__(self) -> None:
        _check_scale("StudentT", self.scale)
        _check_scale("StudentT(gain=...)", self.gain)
        if not self.df > 0:
            raise MethodError(f"StudentT(df={self.df}): degrees of freedom must be positive.")

    def scale_of(self, slot: Slot) -> float:  # noqa: D102
        return _resolve(self.scale, slot, self.gain)

    def standard_log_density(self, z: Tensor) -> Tensor:  # noqa: D102
        df = self.df
        constant = math.lgamma((df + 1) / 2) - math.lgamma(df / 2) - 0.5 * math.log(df * math.pi)
        return constant - (df + 1) / 2 * torch.log1p(z.square() / df)

    def standard_score(self, z: Tensor) -> Tensor:  # noqa: D102
        return -(self.df + 1) * z / (self.df + z.square())

    def standard_sample(self, shape: tuple[int, ...], rng: torch.Generator) -> Tensor:
        """Normal over the root of a scaled chi-squared (a gamma, drawn by torch's own sampler)."""
        normal = torch.randn(shape, generator=rng, device=rng.device, dtype=torch.float64)
        concentration = torch.full(shape, self.df / 2, device=rng.device, dtype=torch.float64)
        gamma = torch._standard_gamma(concentration, generator=rng)
        return normal * torch.sqrt(self.df / 2 / gamma)


@dataclass(frozen=True)
class Horseshoe(Prior):
    """The horseshoe with fixed global scale τ: z | λ ~ N(0, λ²), λ ~ half-Cauchy(0, 1) (Carvalho et al. 2010).

    Its marginal is p(z) = (2π³)^(−1/2) exp(u) E₁(u), u = z²/2: an infinite (integrable) spike at 0 and Cauchy-like
    tails. Methods that look for the mode collapse weights onto the spike; it is meant for samplers.
    """

    scale: Scale = "fan_in"
    gain: float = 1.0

    name = "horseshoe"

    def __post_init__(self) -> None:
        _check_scale("Horseshoe", self.scale)
        _check_scale("Horseshoe(gain=...)", self.gain)

    def scale_of(self, slot: Slot) -> float:  # noqa: D102
        return _resolve(self.scale, slot, self.gain)

    def standard_log_density(self, z: Tensor) -> Tensor:  # noqa: D102
        u = (0.5 * z.square()).clamp_min(torch.finfo(z.dtype).tiny)
        return _scaled_exp1(u).log() - 0.5 * math.log(2 * math.pi**3)

    def standard_score(self, z: Tensor) -> Tensor:
        """d/dz log(e^u E₁(u)) = z (1 − 1 / (u e^u E₁(u)))."""
        u = (0.5 * z.square()).clamp_min(torch.finfo(z.dtype).tiny)
        return z * (1 - 1 / (u * _scaled_exp1(u)))

    def standard_sample(self, shape: tuple[int, ...], rng: torch.Generator) -> Tensor:  # noqa: D102
        normal = torch.randn(shape, generator=rng, device=rng.device, dtype=torch.float64)
        uniform = torch.rand(shape, generator=rng, device=rng.device, dtype=torch.float64)
        return normal * torch.tan(0.5 * math.pi * uniform)


def _scaled_exp1(u: Tensor) -> Tensor:
    """exp(u) E₁(u) for u > 0: power series below 1, Lentz continued fraction above (Abramowitz & Stegun 5.1)."""
    small = u.clamp_max(1.0)
    term, series = torch.ones_like(u), torch.zeros_like(u)
    for k in range(1, 21):  # the 20th term is below 1e-18 for u ≤ 1
        term = -term * small / k
        series = series - term / k
    near = small.exp() * (series - small.log() - 0.5772156649015329)
    large = u.clamp_min(1.0)
    fraction = large + 2 * 60 + 1  # backward evaluation of 1/(u+1−1/(u+3−4/(u+5−…))), 60 levels: 1e-9 at u = 1
    for k in range(60, 0, -1):
        fraction = large + 2 * k - 1 - k * k / fraction
    return torch.where(u < 1.0, near, 1 / fraction)


@dataclass(frozen=True)
class Flat(Prior):
    """An improper uniform prior: MAP becomes maximum likelihood; it has no samples and no evidence."""

    name = "flat"

    def scale_of(self, slot: Slot) -> float:  # noqa: D102
        del slot
        return 1.0

    def standard_log_density(self, z: Tensor) -> Tensor:  # noqa: D102
        return torch.zeros_like(z)

    def standard_score(self, z: Tensor) -> Tensor:  # noqa: D102
        return torch.zeros_like(z)

    def standard_sample(self, shape: tuple[int, ...], rng: torch.Generator) -> Tensor:  # noqa: D102
        raise UnsupportedError("the flat prior is improper and cannot be sampled: choose a proper one, e.g. Normal().")


_BY_NAME: dict[str, Callable[[], Prior]] = {
    "normal": Normal,
    "laplace": Laplace,
    "student_t": StudentT,
    "horseshoe": Horseshoe,
    "flat": Flat,
}

PRIOR_NAMES = tuple(_BY_NAME)


def get_prior(prior: str | Prior | None) -> Prior:
    """A prior by name, the one given, or the default: Normal with fan-in scaling.

    Raises:
        MethodError: the name is unknown.
    """
    if prior is None:
        return Normal()
    if isinstance(prior, Prior):
        return prior
    if prior not in _BY_NAME:
        raise MethodError(f"unknown prior {prior!r}. {suggest(prior, _BY_NAME)}")
    return _BY_NAME[prior]()
