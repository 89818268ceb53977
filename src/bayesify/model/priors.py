"""Families of priors: heavy and light tails, sparsity, dependence, none at all, and different ones by parameter."""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from bayesify.errors import MethodError, UnsupportedError, suggest
from bayesify.model.grouped import KernelNormal, SharedScale
from bayesify.model.parameters import Slot
from bayesify.model.prior import Family, Prior

Scale = float | str | Mapping[str, float]


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
class Normal(Family):
    """N(loc, scale²) for every weight.

    Attributes:
        scale: one number for all; 'fan_in' for gain/√fan_in on weights and 1 on biases (functions then neither die
            out nor explode with width, Neal 1996); or {regex: scale}, the first matching pattern counts.
        gain: the numerator of fan-in scaling; √2 suits ReLU.
    """

    scale: Scale = "fan_in"
    gain: float = math.sqrt(2.0)

    name = "normal"
    is_gaussian = True

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
class Laplace(Family):
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
class StudentT(Family):
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
class Horseshoe(Family):
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
class Flat(Family):
    """An improper uniform prior: MAP becomes maximum likelihood; it has no samples and no evidence."""

    name = "flat"
    is_gaussian = True
    is_proper = False

    def scale_of(self, slot: Slot) -> float:  # noqa: D102
        del slot
        return 1.0

    def standard_log_density(self, z: Tensor) -> Tensor:  # noqa: D102
        return torch.zeros_like(z)

    def standard_score(self, z: Tensor) -> Tensor:  # noqa: D102
        return torch.zeros_like(z)

    def standard_sample(self, shape: tuple[int, ...], rng: torch.Generator) -> Tensor:  # noqa: D102
        raise UnsupportedError("the flat prior is improper and cannot be sampled: choose a proper one, e.g. Normal().")


@dataclass(frozen=True)
class ByName(Prior):
    """Different families for different parameters: heavy tails here, sparsity there.

    Attributes:
        families: {regex: prior}, searched in parameter names; the first matching pattern counts. Given as a mapping.
    """

    families: Mapping[str, Prior]

    name = "by_name"

    def __post_init__(self) -> None:
        for pattern, family in self.families.items():
            if not isinstance(family, Prior):
                raise MethodError(
                    f"ByName({pattern!r}: {family!r}): every pattern needs a prior such as Normal(scale=0.5)."
                )

    def family_of(self, slot: Slot) -> Family:  # noqa: D102
        for pattern, family in self.families.items():
            if re.search(pattern, slot.name):
                return family.family_of(slot)
        raise MethodError(
            f"the priors by name {list(self.families)} have no pattern for parameter {slot.name!r}: add one that "
            "matches it ('.' matches all)."
        )


@dataclass(frozen=True)
class ARD(Prior):
    """Automatic relevance determination (MacKay 1994; Neal 1996, section 4.2): each input has a scale of its own.

    The weights of input i share λᵢ, w ~ N(0, (scale · λᵢ)² I) with λᵢ⁻² ~ Gamma(df/2, rate df/2). Integrated over λᵢ
    they follow one multivariate t: an input is switched off, or kept, as a whole. The posterior then says which.

    Attributes:
        df: degrees of freedom; the fewer, the more inputs are taken for irrelevant or very relevant.
        scale: of those weights, as for Normal. It is that of an irrelevant input: what the data want goes to the tails.
        gain: the numerator of fan-in scaling; 0.1 or less where most inputs are thought to be irrelevant.
        layers: a regex of the weights that it is for, an input being an index of their second dimension; None is the
            first weight of the network.
        rest: prior of all other parameters.
    """

    df: float = 1.0
    scale: Scale = "fan_in"
    gain: float = 0.3
    layers: str | None = None
    rest: Prior = field(default_factory=Normal)

    name = "ard"

    def __post_init__(self) -> None:
        _check_scale("ARD", self.scale)
        _check_scale("ARD(gain=...)", self.gain)
        if not (self.df > 0 and math.isfinite(self.df)):
            raise MethodError(f"ARD(df={self.df}): degrees of freedom must be positive and finite.")

    def family_of(self, slot: Slot) -> Family:  # noqa: D102
        chosen = slot.is_first if self.layers is None else re.search(self.layers, slot.name) is not None
        if not chosen or slot.role != "weight":
            return self.rest.family_of(slot)
        outputs, inputs, *kernel = slot.shape
        return SharedScale(StudentT(self.df, self.scale, self.gain), self.df, (outputs, inputs, math.prod(kernel)))


@dataclass(frozen=True)
class CorrelatedNormal(Prior):
    """Normal, but neighbouring weights of a convolution kernel are alike (Fortuin et al., ICLR 2022, section 4).

    Kernels are independent of each other; within one, the correlation of two positions is exp(−distance/length_scale).
    Weights that do not belong to a convolution follow Normal(scale, gain).

    Attributes:
        length_scale: in pixels.
        scale: standard deviation of one weight, as for Normal.
        gain: the numerator of fan-in scaling.
    """

    length_scale: float = 1.0
    scale: Scale = "fan_in"
    gain: float = math.sqrt(2.0)

    name = "correlated_normal"

    def __post_init__(self) -> None:
        _check_scale("CorrelatedNormal", self.scale)
        _check_scale("CorrelatedNormal(gain=...)", self.gain)
        if not (self.length_scale > 0 and math.isfinite(self.length_scale)):
            raise MethodError(
                f"CorrelatedNormal(length_scale={self.length_scale}): a length in pixels, positive and finite."
            )

    def family_of(self, slot: Slot) -> Family:  # noqa: D102
        marginal, kernel = Normal(self.scale, self.gain), tuple(slot.shape[2:])
        if slot.role != "weight" or math.prod(kernel) == 1:
            return marginal
        return KernelNormal(marginal, self.length_scale, kernel)


_BY_NAME: dict[str, Callable[[], Prior]] = {
    "normal": Normal,
    "laplace": Laplace,
    "student_t": StudentT,
    "horseshoe": Horseshoe,
    "ard": ARD,
    "correlated_normal": CorrelatedNormal,
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
