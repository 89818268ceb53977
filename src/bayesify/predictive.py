"""What a posterior says about y: an equally weighted mixture of the draws' likelihoods, as a torch Distribution.

The mixture (1/S) Σ_s p(y | f_s(x)) *is* the Monte Carlo estimate of the posterior predictive; its moments, density,
distribution function and quantiles are those of the mixture, not of a Gaussian matched to it.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution, Normal, StudentT

from bayesify.errors import DataError, UnsupportedError
from bayesify.model.components import cdf_of, entropy_of, mean_of, sample_of, variance_of
from bayesify.model.likelihoods import Gaussian, Likelihood

BISECTIONS = 60
"""Halvings of a quantile's bracket: to rounding in float64."""
DOUBLINGS = 200
"""Of a bracket that is too narrow, at most: beyond all that float32 can hold."""


class Interval(NamedTuple):
    """Central interval: low and high, each (B,) or (B, D)."""

    low: Tensor
    high: Tensor


@dataclass(frozen=True, eq=False)
class _Mixture:
    """The raw material: S draws of the outputs and of the likelihood's own parameters."""

    likelihood: Likelihood
    outputs: Tensor  # (S, B, C)
    parameters: Tensor  # (S, L)
    output_variance: Tensor | None = None  # (S, B, C): Gaussian uncertainty of the outputs left in closed form
    joint: Callable[[Tensor, Tensor], Tensor] | None = None  # closed form: real targets (B, D), blocks (M, τ) → (M,)
    drawn: Callable[[], "Predictive"] | None = None  # functions behind class probabilities in closed form
    temperature: float = 1.0  # calibration: classification logits are divided, regression spread multiplied
    loc: float = 0.0  # y = loc + scale · (what the network models)
    scale: float = 1.0


class Predictive(Distribution):
    """The posterior predictive of B examples.

    Attributes:
        mean: (B,), or (B, D) for D targets; for classification the class probabilities' argmax has no mean: use probs.
        stddev: total standard deviation.
        probs: class probabilities (B, C), classification only.
        epistemic: what more data would remove: mutual information (nats) for classification, the variance of the
            draws' means for regression.
        aleatoric: the rest: expected entropy (nats), or the mean of the draws' variances.
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012 - torch's own class attribute

    def __init__(self, likelihood: Likelihood, outputs: Tensor, parameters: Tensor, **options: Any) -> None:
        self._m = _Mixture(likelihood, outputs, parameters, **options)
        Distribution.__init__(self, torch.Size([outputs.shape[1]]), validate_args=False)

    def _changed(self, **changes: Any) -> "Predictive":
        mixture = replace(self._m, **changes)
        options = {name: getattr(mixture, name) for name in _OPTIONS}
        return Predictive(mixture.likelihood, mixture.outputs, mixture.parameters, **options)

    # ---- what it is made of --------------------------------------------------------------------------------------

    @property
    def likelihood(self) -> Likelihood:
        """The likelihood."""
        return self._m.likelihood

    @property
    def outputs(self) -> Tensor:
        """The draws' outputs (S, B, C), in the network's units."""
        return self._m.outputs

    @property
    def num_draws(self) -> int:
        """S."""
        return len(self._m.outputs)

    @property
    def kind(self) -> str:
        """'classification', 'regression', 'count' or 'loss'."""
        return self._m.likelihood.kind

    def rescaled(self, loc: float, scale: float) -> "Predictive":
        """The predictive of loc + scale · y: back from standardised targets to the user's units."""
        if self.kind != "regression":
            raise UnsupportedError(f"only real-valued targets can be rescaled, not those of a {self.kind} likelihood.")
        return self._changed(loc=loc + scale * self._m.loc, scale=scale * self._m.scale)

    def calibrated(self, temperature: float) -> "Predictive":
        """Temperature-scaled: pooled class log probabilities divided by T, or the spread about the mean times T."""
        if self.kind not in ("classification", "regression"):
            raise UnsupportedError(f"temperature scaling is not defined for a {self.kind} likelihood.")
        return self._changed(temperature=self._m.temperature * temperature)

    @staticmethod
    def pooled(parts: list["Predictive"]) -> "Predictive":
        """An equal mixture of predictives of the same examples, of equally many draws and one calibration."""
        first = parts[0]
        counts = {part.num_draws for part in parts}
        if len(counts) > 1:
            raise DataError(f"predictives with different numbers of draws {sorted(counts)} cannot be pooled equally.")
        if len({(part._m.temperature, part._m.loc, part._m.scale) for part in parts}) > 1:
            raise UnsupportedError(
                "predictives at different temperatures or in different units cannot be pooled: calibrate the mixture "
                "and not its parts, as temperature_scaled(multi(METHOD, 5)) does."
            )
        variances = [part._m.output_variance for part in parts]
        joints = [part._m.joint for part in parts]

        def joint(targets: Tensor, blocks: Tensor) -> Tensor:
            values = torch.stack([j(targets, blocks) for j in joints if j is not None])
            return torch.logsumexp(values, 0) - math.log(len(parts))

        drawn = [part._m.drawn for part in parts]
        closed = all(v is not None for v in variances)
        return first._changed(
            outputs=torch.cat([part._m.outputs for part in parts]),
            parameters=torch.cat([part._m.parameters for part in parts]),
            output_variance=torch.cat([v for v in variances if v is not None]) if closed else None,
            joint=joint if all(j is not None for j in joints) else None,
            drawn=None if None in drawn else lambda: Predictive.pooled([d() for d in drawn if d is not None]),
        )

    # ---- classification ------------------------------------------------------------------------------------------

    @property
    def _draw_log_probs(self) -> Tensor:
        if self.kind != "classification":
            raise UnsupportedError(
                f"class probabilities do not exist for a {self.kind} likelihood: use mean and stddev."
            )
        components: Any = self._m.likelihood.components(self._m.outputs, self._m.parameters)
        logits: Tensor = components.logits  # (S, B, C), normalised
        return logits

    @property
    def logits(self) -> Tensor:
        """Log class probabilities (B, C) of the mixture, after calibration."""
        pooled = torch.logsumexp(self._draw_log_probs, 0) - math.log(self.num_draws)
        return torch.log_softmax(pooled / self._m.temperature, -1)

    @property
    def probs(self) -> Tensor:
        """Class probabilities (B, C)."""
        return self.logits.exp()

    # ---- regression ----------------------------------------------------------------------------------------------

    @property
    def _components(self) -> Distribution:
        m = self._m
        components = m.likelihood.components(m.outputs, m.parameters)
        if m.output_variance is None:
            return components
        assert isinstance(m.likelihood, Gaussian)  # the only likelihood whose predictive has this closed form
        return Normal(components.mean, (components.variance + m.output_variance).sqrt(), validate_args=False)

    def normal_mixture(self) -> tuple[Tensor, Tensor] | None:
        """Means and scales (S, B, D) of the mixture in the user's units, where its components are Gaussian."""
        if self.kind != "regression" or not isinstance(self._components, Normal):
            return None
        m, centre = self._m, self._centre
        means = m.loc + m.scale * (centre + m.temperature * (self._components.mean - centre))
        return means, m.scale * m.temperature * self._components.stddev

    @property
    def _centre(self) -> Tensor:  # (B, D), in the network's units: the mean, also where the tails leave none
        if self.kind == "loss":
            return self._m.outputs.mean(0)
        components = self._components
        return (components.loc if isinstance(components, StudentT) else components.mean).mean(0)

    def _to_standard(self, value: Tensor) -> Tensor:
        """A target in the user's units (..., B, D) → the mixture's own units, undoing scale and calibration."""
        m = self._m
        centre = self._centre
        return centre + ((value - m.loc) / m.scale - centre) / m.temperature

    def _shape(self, value: Tensor) -> Tensor:
        return value.squeeze(-1) if value.shape[-1] == 1 else value

    @property
    def mean(self) -> Tensor:
        """(B,) or (B, D); NaN where the tails are so heavy that there is none; for classes see `probs`."""
        if self.kind == "classification":
            raise UnsupportedError("class labels have no mean: use predictive.probs or predictive.mode.")
        mean = self._centre if self.kind == "loss" else mean_of(self._components).mean(0)
        return self._shape(self._m.loc + self._m.scale * mean)

    @property
    def mode(self) -> Tensor:
        """The most probable class (B,); for regression the mean."""
        return self.logits.argmax(-1) if self.kind == "classification" else self.mean

    @property
    def variance(self) -> Tensor:
        """Law of total variance: aleatoric + epistemic."""
        if self.kind == "loss":
            return self.epistemic
        return self.aleatoric + self.epistemic

    @property
    def stddev(self) -> Tensor:
        """Square root of the variance."""
        return self.variance.sqrt()

    @property
    def epistemic(self) -> Tensor:
        """Mutual information of y and θ in nats, or the variance of the draws' means."""
        if self._m.drawn is not None:
            return self._m.drawn().epistemic
        if self.kind == "classification":
            log_probs = self._draw_log_probs
            pooled = torch.logsumexp(log_probs, 0) - math.log(self.num_draws)
            return (entropy_of(pooled) - entropy_of(log_probs).mean(0)).clamp_min(0)
        if self.kind == "loss":
            return self._shape(self._m.outputs.var(0, unbiased=False))
        m = self._m
        spread = mean_of(m.likelihood.components(m.outputs, m.parameters)).var(0, unbiased=False)
        if m.output_variance is not None:
            spread = spread + m.output_variance.mean(0)
        return self._shape(spread * (m.scale * m.temperature) ** 2)

    @property
    def aleatoric(self) -> Tensor:
        """Expected entropy of the draws in nats, or the mean of their variances."""
        if self._m.drawn is not None:
            return self._m.drawn().aleatoric
        if self.kind == "classification":
            return entropy_of(self._draw_log_probs).mean(0)
        m = self._m
        noise = variance_of(m.likelihood.components(m.outputs, m.parameters)).mean(0)
        return self._shape(noise * (m.scale * m.temperature) ** 2)

    def entropy(self) -> Tensor:
        """Entropy (B,) of the class probabilities, in nats."""
        return entropy_of(self.logits)

    # ---- densities -----------------------------------------------------------------------------------------------

    def _targets(self, value: Any) -> Tensor:
        value = torch.as_tensor(value, device=self._m.outputs.device)
        if len(value) != self.batch_shape[0]:
            raise DataError(f"{len(value)} targets were given for {self.batch_shape[0]} predictions: they must match.")
        targets = self._m.likelihood.prepare(value, self._m.outputs.dtype)
        if self.kind == "classification":
            self._m.likelihood.check(self._m.outputs[0], targets)
        return targets

    def _component_log_prob(self, targets: Tensor) -> Tensor:
        """(S, B) log densities of each draw, calibrated and in the user's units."""
        m = self._m
        if self.kind == "loss":
            pairs = zip(m.outputs, m.parameters, strict=True)
            return torch.stack([m.likelihood.log_prob(f, targets, p) for f, p in pairs])
        if self.kind == "classification":
            log_probs = torch.log_softmax(self._draw_log_probs / m.temperature, -1)
            index = targets.long().expand(self.num_draws, -1).unsqueeze(-1)
            return log_probs.gather(-1, index).squeeze(-1)
        columns = targets.unsqueeze(-1) if targets.dim() == 1 else targets
        if self.kind == "count":
            return self._components.log_prob(columns).sum(-1)
        log_density = self._components.log_prob(self._to_standard(columns)).sum(-1)
        return log_density - columns.shape[-1] * math.log(m.scale * m.temperature)

    def log_prob(self, value: Any) -> Tensor:
        """Log p(y | x, D) per example, (B,)."""
        targets = self._targets(value)
        if self.kind == "classification":
            return self.logits.gather(-1, targets.long().unsqueeze(-1)).squeeze(-1)
        return torch.logsumexp(self._component_log_prob(targets), 0) - math.log(self.num_draws)

    def draw_log_prob(self, value: Any) -> Tensor:
        """Log p(y | x, θ) of every draw and example, (S, B): what leave-one-out cross-validation starts from."""
        return self._component_log_prob(self._targets(value))

    def joint_log_prob(self, value: Any, blocks: Any = None) -> Tensor:
        """Log (1/S) Σ_s Π_t p_s(y_t | x_t): the draws are whole functions, so dependence between examples counts.

        In log space and float64. With S draws of a larger posterior it is too low on average, by about the relative
        variance of Π_t p_s over 2 S, more for longer blocks; closed forms, and ensembles (S members by definition), are
        not biased. Temperature scaling acts on each draw's logits: a joint of pooled marginals has no dependence.

        Args:
            value: targets of all B examples.
            blocks: numbers (M, τ) of the examples that belong together, where an example may come repeatedly, from
                `metrics.dyadic_blocks` or `random_blocks`, (M,) values; None takes all B together, ().
        """
        if self._m.drawn is not None:
            return self._m.drawn().calibrated(self._m.temperature).joint_log_prob(value, blocks)
        targets = self._targets(value)
        chosen = self._blocks(blocks)
        m = self._m
        if m.joint is not None and self.kind == "regression":
            columns = targets.unsqueeze(-1) if targets.dim() == 1 else targets
            jacobian = chosen.shape[1] * columns.shape[-1] * math.log(m.scale * m.temperature)
            joint = m.joint(self._to_standard(columns), chosen) - jacobian
        else:
            each = self._component_log_prob(targets).double()  # (S, B)
            if blocks is None:
                total = each.sum(1, keepdim=True)
            else:  # column by column, (S, M): gathering all at once would take S M τ numbers
                total = sum((each[:, rows] for rows in chosen.T[1:]), start=each[:, chosen[:, 0]])
            joint = (torch.logsumexp(total, 0) - math.log(self.num_draws)).to(m.outputs)
        return joint[0] if blocks is None else joint

    def _blocks(self, blocks: Any) -> Tensor:
        count, device = self.batch_shape[0], self._m.outputs.device
        if blocks is None:
            return torch.arange(count, device=device)[None]
        found = torch.as_tensor(blocks, device=device)
        is_index = found.dim() == 2 and found.numel() > 0 and not found.is_floating_point()
        if not is_index or found.min() < 0 or found.max() >= count:
            raise DataError(
                f"blocks of shape {tuple(found.shape)} and type {found.dtype} are not (M, τ) numbers of the {count} "
                f"examples, from 0 to {count - 1}: take them from metrics.dyadic_blocks."
            )
        return found.long()

    def cdf(self, value: Any) -> Tensor:
        """P(y ≤ value), shaped like the mean; `value` is broadcast against it."""
        if self.kind not in ("regression", "count"):
            raise UnsupportedError(f"a {self.kind} likelihood has no distribution function: use probs.")
        value = torch.as_tensor(value, dtype=self._m.outputs.dtype, device=self._m.outputs.device)
        centre = self._centre
        if centre.shape[-1] == 1 and value.dim() <= 1:
            value = value.unsqueeze(-1)
        return self._shape(self._cdf(value.expand_as(centre)))

    def _cdf(self, value: Tensor) -> Tensor:
        if self.kind == "regression":
            value = self._to_standard(value)
        return cdf_of(self._components, value).mean(0)

    def quantile(self, level: float) -> Tensor:
        """The level-quantile of the mixture, shaped like the mean, by bisection."""
        _require_level("quantile", level)
        if self.kind not in ("regression", "count"):
            raise UnsupportedError(f"a {self.kind} likelihood has no quantiles: use probs.")
        low, high = self._bracket(level)
        for _ in range(BISECTIONS):
            middle = 0.5 * (low + high)
            below = self._cdf(middle) < level
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return self._shape(high.floor() if self.kind == "count" else 0.5 * (low + high))

    def _bracket(self, level: float) -> Interval:
        """Values (B, D) below and above the level-quantile."""
        m = self._m
        centre = m.loc + m.scale * self._centre
        # Chebyshev: no quantile lies further than this many standard deviations from the mean.
        reach = self.stddev.reshape(centre.shape) * math.sqrt(1 / min(level, 1 - level)) + 1e-9
        if bool(torch.isfinite(reach).all()):
            return Interval(centre - reach, centre + reach)
        reach = torch.full_like(reach, m.scale * m.temperature)
        for _ in range(DOUBLINGS):
            outside = (self._cdf(centre - reach) > level) | (self._cdf(centre + reach) < level)
            if not bool(outside.any()):
                break
            reach = torch.where(outside, 2 * reach, reach)
        return Interval(centre - reach, centre + reach)

    def interval(self, level: float = 0.9) -> Interval:
        """The central interval holding y with the given probability."""
        _require_level("interval", level)
        return Interval(self.quantile(0.5 - level / 2), self.quantile(0.5 + level / 2))

    def sample(self, sample_shape: Any = torch.Size(), seed: int = 0) -> Tensor:  # noqa: B008 - torch's signature
        """Draws of y, (*sample_shape, B) or (*sample_shape, B, D), from an own generator."""
        rng = torch.Generator(self._m.outputs.device).manual_seed(seed)
        count = math.prod(sample_shape)
        if self.kind == "classification":
            draws = torch.multinomial(self.probs, count, replacement=True, generator=rng).T
            return draws.reshape(*sample_shape, *self.batch_shape)
        which = torch.randint(self.num_draws, (count, self.batch_shape[0]), generator=rng, device=rng.device)
        rows = torch.arange(self.batch_shape[0], device=rng.device)
        value = sample_of(self._components, which, rows, rng)
        if self.kind == "regression":
            m, centre = self._m, self._centre
            value = m.loc + m.scale * (centre + m.temperature * (value - centre))
        value = self._shape(value)
        return value.reshape(*sample_shape, *value.shape[1:])


_OPTIONS = ("output_variance", "joint", "drawn", "temperature", "loc", "scale")


def _require_level(what: str, level: float) -> None:
    if not 0 < level < 1:
        raise DataError(f"{what}({level}): the level must lie between 0 and 1, for example 0.9.")
