"""Likelihoods p(y | f): how a network's outputs become a distribution over targets.

Shapes: outputs (..., C), targets (...) or (..., D), own parameters (L,). `log_prob` is written for one particle and
is vectorised over K by the engine; `components` is written for S draws at once and feeds the predictive mixture.
Every likelihood gives its Fisher information with respect to the outputs: the Λ of the generalised Gauss–Newton matrix
Jᵀ Λ J (Martens 2020, section 8), positive semi-definite by construction.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.distributions import Categorical as CategoricalDistribution
from torch.distributions import (
    Distribution,
    Normal,
)
from torch.distributions import (
    Poisson as PoissonDistribution,
)
from torch.distributions import (
    StudentT as StudentTDistribution,
)
from torch.nn import functional as F

from bayesify.errors import DataError, MethodError, ModelError, UnsupportedError, suggest

MIN_SCALE = 1e-4
"""Smallest standard deviation a learned noise can take: one ten-thousandth of a standardised target."""


class Likelihood(ABC):
    """The interface; subclasses are final."""

    name: ClassVar[str]
    kind: ClassVar[str]
    """'classification', 'regression', 'count' or 'loss'."""
    num_parameters: int = 0
    """L, the likelihood's own learned parameters (for example a log noise scale), appended to theta."""

    def initial_parameters(self) -> Tensor:
        """Starting values (L,)."""
        return torch.zeros(self.num_parameters)

    @abstractmethod
    def log_prob(self, outputs: Tensor, targets: Tensor, parameters: Tensor) -> Tensor:
        """Log p(y | f) per example: outputs (B, C), targets (B,) or (B, D), parameters (L,) → (B,)."""

    @abstractmethod
    def components(self, outputs: Tensor, parameters: Tensor) -> Distribution:
        """The distribution of each draw: outputs (S, B, C), parameters (S, L) → batch shape (S, B) or (S, B, D)."""

    @abstractmethod
    def fisher(self, outputs: Tensor, parameters: Tensor) -> Tensor:
        """Fisher information in the outputs: (B, C), (L,) → (B, C, C), positive semi-definite."""

    @abstractmethod
    def check(self, outputs: Tensor, targets: Tensor) -> None:
        """Raises DataError or ModelError if targets (N,), or outputs (B, C) of the first rows, cannot belong to it."""

    def prepare(self, targets: Tensor, dtype: torch.dtype) -> Tensor:
        """Targets in the type `log_prob` wants."""
        return targets.to(dtype)


def _columns(targets: Tensor) -> Tensor:
    """(B,) or (B, D) as (B, D)."""
    return targets.unsqueeze(-1) if targets.dim() == 1 else targets


def _require_outputs(outputs: Tensor, expected: int, why: str) -> None:
    if outputs.shape[-1] != expected:
        raise ModelError(
            f"the model gives {outputs.shape[-1]} outputs per example but {why} needs {expected}: change the last "
            "layer or choose another likelihood."
        )


@dataclass(frozen=True)
class Categorical(Likelihood):
    """Softmax over C classes; targets are integers 0 … C−1."""

    name = "categorical"
    kind = "classification"

    def log_prob(self, outputs: Tensor, targets: Tensor, parameters: Tensor) -> Tensor:  # noqa: D102
        return -F.cross_entropy(outputs, targets, reduction="none")

    def components(self, outputs: Tensor, parameters: Tensor) -> Distribution:  # noqa: D102
        return CategoricalDistribution(logits=outputs, validate_args=False)

    def fisher(self, outputs: Tensor, parameters: Tensor) -> Tensor:
        """diag(p) − p pᵀ."""
        p = outputs.softmax(-1)
        return torch.diag_embed(p) - p.unsqueeze(-1) * p.unsqueeze(-2)

    def check(self, outputs: Tensor, targets: Tensor) -> None:  # noqa: D102
        low, high = int(targets.min()), int(targets.max())
        if low < 0 or high >= outputs.shape[-1]:
            raise DataError(
                f"class labels run from {low} to {high} but the model has {outputs.shape[-1]} outputs: labels must be "
                f"0 … {outputs.shape[-1] - 1}; encode them as consecutive integers or widen the last layer."
            )

    def prepare(self, targets: Tensor, dtype: torch.dtype) -> Tensor:
        """Integer labels."""
        return targets.reshape(len(targets)).long()


@dataclass(frozen=True)
class Bernoulli(Likelihood):
    """One logit per example; targets are 0 or 1."""

    name = "bernoulli"
    kind = "classification"

    def log_prob(self, outputs: Tensor, targets: Tensor, parameters: Tensor) -> Tensor:  # noqa: D102
        return -F.binary_cross_entropy_with_logits(outputs.squeeze(-1), targets, reduction="none")

    def components(self, outputs: Tensor, parameters: Tensor) -> Distribution:
        """Two-class categorical with logits (0, f), so that `probs` has one shape for every classifier."""
        return CategoricalDistribution(
            logits=torch.cat([torch.zeros_like(outputs), outputs], dim=-1), validate_args=False
        )

    def fisher(self, outputs: Tensor, parameters: Tensor) -> Tensor:
        """P (1 − p)."""
        p = outputs.sigmoid()
        return (p * (1 - p)).unsqueeze(-1)

    def check(self, outputs: Tensor, targets: Tensor) -> None:  # noqa: D102
        _require_outputs(outputs, 1, "the Bernoulli likelihood")
        values = torch.unique(targets)
        if not bool(((values == 0) | (values == 1)).all()):
            raise DataError(
                f"the Bernoulli likelihood needs targets 0 and 1, got {values[:5].tolist()}: encode the two classes as "
                "0 and 1, or use likelihood='categorical'."
            )

    def prepare(self, targets: Tensor, dtype: torch.dtype) -> Tensor:
        """A vector of 0.0 and 1.0."""
        return targets.reshape(len(targets)).to(dtype)


@dataclass(frozen=True)
class Gaussian(Likelihood):
    """y ~ N(f, scale²) with one noise scale per target: learned when `scale` is None, fixed otherwise.

    Attributes:
        scale: standard deviation of the noise, in the units of the targets; None learns log scale with the network.
        num_targets: D, the number of target columns.
    """

    scale: float | None = None
    num_targets: int = 1

    name = "gaussian"
    kind = "regression"

    def __post_init__(self) -> None:
        if self.scale is not None and not 0 < self.scale < math.inf:
            raise MethodError(f"Gaussian(scale={self.scale}): the noise scale must be positive, or None to learn it.")

    @property
    def num_parameters(self) -> int:  # type: ignore[override]
        """D log scales when learned."""
        return self.num_targets if self.scale is None else 0

    def noise(self, parameters: Tensor) -> Tensor:
        """Standard deviations (..., D) from parameters (..., L)."""
        if self.scale is not None:
            return parameters.new_full((*parameters.shape[:-1], self.num_targets), self.scale)
        return parameters.exp() + MIN_SCALE

    def log_prob(self, outputs: Tensor, targets: Tensor, parameters: Tensor) -> Tensor:  # noqa: D102
        noise = self.noise(parameters)
        z = (_columns(targets) - outputs) / noise
        return (-0.5 * z.square() - noise.log() - 0.5 * math.log(2 * math.pi)).sum(-1)

    def components(self, outputs: Tensor, parameters: Tensor) -> Distribution:  # noqa: D102
        return Normal(outputs, self.noise(parameters).unsqueeze(-2).expand_as(outputs), validate_args=False)

    def fisher(self, outputs: Tensor, parameters: Tensor) -> Tensor:
        """I / scale²."""
        return torch.diag_embed(self.noise(parameters).square().reciprocal().expand_as(outputs))

    def check(self, outputs: Tensor, targets: Tensor) -> None:  # noqa: D102
        _require_outputs(outputs, self.num_targets, f"Gaussian(num_targets={self.num_targets})")
        _check_columns(targets, self.num_targets, "Gaussian")


def _check_columns(targets: Tensor, num_targets: int, name: str) -> None:
    columns = 1 if targets.dim() == 1 else targets.shape[-1]
    if columns != num_targets:
        raise DataError(
            f"the targets have {columns} columns but the likelihood is {name}(num_targets={num_targets}): pass "
            f"{name}(num_targets={columns})."
        )


@dataclass(frozen=True)
class HeteroscedasticGaussian(Likelihood):
    """y ~ N(f₁, softplus(f₂)²): the network gives mean and noise; outputs are D means followed by D raw scales."""

    num_targets: int = 1

    name = "heteroscedastic_gaussian"
    kind = "regression"

    def split(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """(..., 2 D) → mean (..., D), scale (..., D)."""
        mean, raw = outputs.chunk(2, dim=-1)
        return mean, F.softplus(raw) + MIN_SCALE

    def log_prob(self, outputs: Tensor, targets: Tensor, parameters: Tensor) -> Tensor:  # noqa: D102
        mean, scale = self.split(outputs)
        z = (_columns(targets) - mean) / scale
        return (-0.5 * z.square() - scale.log() - 0.5 * math.log(2 * math.pi)).sum(-1)

    def components(self, outputs: Tensor, parameters: Tensor) -> Distribution:  # noqa: D102
        return Normal(*self.split(outputs), validate_args=False)

    def fisher(self, outputs: Tensor, parameters: Tensor) -> Tensor:
        """Diagonal: 1/σ² for the mean, 2 (dσ/df₂)² / σ² for the raw scale."""
        _, scale = self.split(outputs)
        slope = outputs.chunk(2, dim=-1)[1].sigmoid()
        return torch.diag_embed(torch.cat([scale.square().reciprocal(), 2 * (slope / scale).square()], dim=-1))

    def check(self, outputs: Tensor, targets: Tensor) -> None:  # noqa: D102
        _require_outputs(outputs, 2 * self.num_targets, "a heteroscedastic Gaussian (a mean and a scale per target)")
        _check_columns(targets, self.num_targets, "HeteroscedasticGaussian")


@dataclass(frozen=True)
class StudentT(Likelihood):
    """Heavy-tailed noise: y ~ f + scale · t(df), with a learned scale unless one is given.

    Attributes:
        df: degrees of freedom; 4 keeps the variance finite and tolerates outliers.
        scale: fixed scale, or None to learn log scale.
    """

    df: float = 4.0
    scale: float | None = None
    num_targets: int = 1

    name = "student_t"
    kind = "regression"

    def __post_init__(self) -> None:
        if not 0 < self.df < math.inf or (self.scale is not None and not 0 < self.scale < math.inf):
            raise MethodError(f"StudentT(df={self.df}, scale={self.scale}): both must be positive and finite.")

    @property
    def num_parameters(self) -> int:  # type: ignore[override]
        """D log scales when learned."""
        return self.num_targets if self.scale is None else 0

    def noise(self, parameters: Tensor) -> Tensor:
        """Scales (..., D) from parameters (..., L)."""
        return Gaussian(self.scale, self.num_targets).noise(parameters)

    def log_prob(self, outputs: Tensor, targets: Tensor, parameters: Tensor) -> Tensor:  # noqa: D102
        scale, df = self.noise(parameters), self.df
        z = (_columns(targets) - outputs) / scale
        constant = math.lgamma((df + 1) / 2) - math.lgamma(df / 2) - 0.5 * math.log(df * math.pi)
        return (constant - scale.log() - (df + 1) / 2 * torch.log1p(z.square() / df)).sum(-1)

    def components(self, outputs: Tensor, parameters: Tensor) -> Distribution:  # noqa: D102
        scale = self.noise(parameters).unsqueeze(-2).expand_as(outputs)
        return StudentTDistribution(torch.full_like(outputs, self.df), outputs, scale, validate_args=False)

    def fisher(self, outputs: Tensor, parameters: Tensor) -> Tensor:
        """(df + 1) / ((df + 3) scale²)."""
        information = (self.df + 1) / ((self.df + 3) * self.noise(parameters).square())
        return torch.diag_embed(information.expand_as(outputs))

    def check(self, outputs: Tensor, targets: Tensor) -> None:  # noqa: D102
        _require_outputs(outputs, self.num_targets, f"StudentT(num_targets={self.num_targets})")
        _check_columns(targets, self.num_targets, "StudentT")


@dataclass(frozen=True)
class Poisson(Likelihood):
    """Counts: y ~ Poisson(exp f)."""

    name = "poisson"
    kind = "count"

    def log_prob(self, outputs: Tensor, targets: Tensor, parameters: Tensor) -> Tensor:  # noqa: D102
        f = outputs.squeeze(-1)
        return targets * f - f.exp() - torch.lgamma(targets + 1)

    def components(self, outputs: Tensor, parameters: Tensor) -> Distribution:  # noqa: D102
        return PoissonDistribution(outputs.exp(), validate_args=False)

    def fisher(self, outputs: Tensor, parameters: Tensor) -> Tensor:
        """The rate exp f."""
        return outputs.exp().unsqueeze(-1)

    def check(self, outputs: Tensor, targets: Tensor) -> None:  # noqa: D102
        _require_outputs(outputs, 1, "the Poisson likelihood")
        wrong = targets[(targets < 0) | (targets != targets.round())]
        if len(wrong):
            raise DataError(
                f"the Poisson likelihood needs counts 0, 1, 2, …, got {float(wrong[0]):.4g} among the targets: "
                "use likelihood='gaussian' for real numbers."
            )


@dataclass(frozen=True)
class Loss(Likelihood):
    """Generalised Bayes (Bissiri et al. 2016): exp(−loss/temperature) stands in for the likelihood.

    The result is a Gibbs posterior, not a posterior of a generative model: predictions are outputs, and `log_prob`
    is minus the loss divided by the temperature.

    Attributes:
        function: (outputs (B, C), targets (B, ...)) → loss per example (B,), from differentiable torch operations.
        temperature: how many units of loss count as one nat.
    """

    function: Callable[[Tensor, Tensor], Tensor]
    temperature: float = 1.0

    name = "loss"
    kind = "loss"

    def __post_init__(self) -> None:
        if not 0 < self.temperature < math.inf:
            raise MethodError(f"Loss(temperature={self.temperature}): the temperature must be positive and finite.")

    def log_prob(self, outputs: Tensor, targets: Tensor, parameters: Tensor) -> Tensor:  # noqa: D102
        return -self.function(outputs, targets) / self.temperature

    def components(self, outputs: Tensor, parameters: Tensor) -> Distribution:  # noqa: D102
        raise UnsupportedError(
            "a loss defines no distribution over targets, so there is no density, interval or sample of y: use "
            "predictive.mean and predictive.epistemic, or choose a likelihood."
        )

    def fisher(self, outputs: Tensor, parameters: Tensor) -> Tensor:  # noqa: D102
        raise UnsupportedError(
            "a loss has no Fisher information, so Laplace cannot use it: choose a likelihood, or a method that needs "
            "only gradients (ivon, swag, hmc)."
        )

    def check(self, outputs: Tensor, targets: Tensor) -> None:  # noqa: D102
        losses = self.function(outputs, targets[: len(outputs)])  # outputs are of the first rows only
        if losses.shape != (len(outputs),):
            raise ModelError(
                f"the loss function returned shape {tuple(losses.shape)} for {len(outputs)} examples: return one loss "
                "per example (reduction='none')."
            )

    def prepare(self, targets: Tensor, dtype: torch.dtype) -> Tensor:
        """Integers stay integers: only the loss knows what they mean."""
        return targets.to(dtype) if targets.is_floating_point() else targets


_NAMED = (Categorical, Bernoulli, Gaussian, HeteroscedasticGaussian, StudentT, Poisson)
_BY_NAME: dict[str, Callable[..., Likelihood]] = {one.name: one for one in _NAMED}

LIKELIHOOD_NAMES = tuple(_BY_NAME)


def get_likelihood(likelihood: str | Likelihood) -> Likelihood:
    """A likelihood by name, or the one given.

    Raises:
        MethodError: the name is unknown.
    """
    if isinstance(likelihood, Likelihood):
        return likelihood
    if likelihood not in _BY_NAME:
        raise MethodError(f"unknown likelihood {likelihood!r}. {suggest(likelihood, _BY_NAME)}")
    return _BY_NAME[likelihood]()


def likelihood_settings(likelihood: Likelihood) -> dict[str, object]:
    """JSON-ready name and fields: what a saved posterior holds."""
    assert is_dataclass(likelihood)
    return {"name": likelihood.name, "fields": {f.name: getattr(likelihood, f.name) for f in fields(likelihood)}}


def likelihood_from_settings(settings: Mapping[str, Any]) -> Likelihood:
    """The inverse of `likelihood_settings`."""
    return _BY_NAME[settings["name"]](**settings["fields"])
