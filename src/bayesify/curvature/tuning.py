"""The prior precision and noise that the evidence of a problem's expansion prefers, and where its mode then is.

One factor α on all of the prior's precisions ("evidence"), one per layer ("layerwise") or one per parameter
("diagonal"), and where Gaussian noise is learned a factor s on its variance. The mode of the linearised model moves
with them: it is moved if the true log likelihood then changes as H promises, which in a linear network it does.
Otherwise it stays, the noise is that of its residuals, and the evidence at a fixed mode gives the precisions.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bayesify.covariance import Covariance
from bayesify.curvature.evidence import (
    LOG_BOUNDS,
    Quadratic,
    effective_parameters,
    log_likelihood,
    maximise_fixed,
    maximise_moving,
    step,
    untuned,
)
from bayesify.curvature.ggn import Expansion
from bayesify.curvature.noise import Residuals, residuals, with_noise_factor
from bayesify.curvature.precisions import Grouped, maximise, move
from bayesify.model.network import Buffers
from bayesify.model.problem import Problem

SCALAR, LAYERWISE, DIAGONAL = "evidence", "layerwise", "diagonal"
TUNED = (SCALAR, LAYERWISE, DIAGONAL)
TRUST = 0.25
"""θ* moves if the rise of the log likelihood is what H promises up to this share of H's own part in it: the usual test
of a trust region (Nocedal & Wright 2006, section 4.1) on the part that is not known to be exact."""
SLACK = 0.01
"""Nats by which the rise may miss in any case: that little does not matter, and float32 misses by as much."""


class Values(NamedTuple):
    """What was chosen, and what follows from it."""

    factors: Tensor  # (G,) on the prior's precisions
    of_each: Tensor  # (P_network,) the same by parameter
    noise: float  # on the noise variance
    log_evidence: float
    effective: float
    """How many directions the data determine."""


class Fitted(NamedTuple):
    """The mode and the values."""

    theta: Tensor  # (P,)
    values: Values
    moved: bool


class _Way(NamedTuple):
    """Where the mode would go."""

    change: Tensor  # (P_network,) in prior units
    rise: float
    curvature: float


class Landscape:
    """The quadratic log joint around one parameter vector, for the evidence."""

    def __init__(
        self, problem: Problem, theta: Tensor, expansion: Expansion, scale: Tensor, noise_scales: bool = True
    ) -> None:
        """Reads the expansion.

        Args:
            problem: model and data.
            theta: (P,), where it was expanded.
            expansion: of the log likelihood.
            scale: D (P_network,), the prior's standard deviations.
            noise_scales: whether multiplying the noise variance divides H, as it does unless H is made of residuals.
        """
        self._problem, self._theta, self._scale = problem, theta, scale
        network = problem.model.split(theta)[0]
        position = ((network - problem.prior.loc) / scale).double()
        gradient = torch.zeros_like(position)
        if expansion.gradient is not None:
            gradient = expansion.gradient * scale.double()
        found = residuals(problem, theta, float(expansion.log_likelihood)) if noise_scales else Residuals()
        self._spectrum = spectrum = expansion.spectrum.holding([position, gradient])
        self._position, self._gradient = position, gradient
        self._quadratic = Quadratic(
            expansion.log_likelihood, spectrum.eigenvalues, spectrum.into(position), spectrum.into(gradient), found
        )

    def untuned(self) -> Fitted:
        """The prior and the noise as they are."""
        tuned = untuned(self._quadratic)
        effective = effective_parameters(self._quadratic, tuned)
        return Fitted(self._theta, self._scalar(1.0, 1.0, tuned.log_evidence, effective), moved=False)

    def tune(self, how: str, buffers: Buffers) -> Fitted:
        """The best values, with the mode they imply where that mode can be trusted.

        Args:
            how: one of `TUNED`.
            buffers: {name: (1, ...)} of the particle.
        """
        values, way = self._best(how, moving=True)
        moved = self._theta.clone()
        moved[: len(self._scale)] += self._scale * way.change.to(moved)
        moved = with_noise_factor(self._problem, moved, values.noise)
        before = float(log_likelihood(self._quadratic, torch.tensor(values.noise, dtype=torch.float64).log()))
        rise = float(self._problem.log_likelihood(moved[None], self._problem.data, buffers)) - before
        if not at_bound(values) and abs(rise - way.rise) <= TRUST * way.curvature + SLACK:
            return Fitted(moved, values, moved=True)
        values, _ = self._best(how, moving=False)
        return Fitted(with_noise_factor(self._problem, self._theta, values.noise), values, moved=False)

    def covariance(self, values: Values, temperature: float) -> Covariance:
        """Σ = T (H/s + A)⁻¹ in the parameters' own units."""
        if len(values.factors) == 1:
            variance = temperature / (self._spectrum.eigenvalues / values.noise + float(values.factors))
            return self._spectrum.covariance(self._scale, variance)
        factor = values.of_each.rsqrt()
        spectrum = self._spectrum.rescaled(factor)
        variance = temperature / (spectrum.eigenvalues / values.noise + 1)
        return spectrum.covariance((self._scale.double() * factor).to(self._scale), variance)

    def _best(self, how: str, moving: bool) -> tuple[Values, _Way]:
        tuned = maximise_moving(self._quadratic) if moving else maximise_fixed(self._quadratic)
        if how == SCALAR:
            effective = effective_parameters(self._quadratic, tuned)
            way = step(self._quadratic, tuned)
            values = self._scalar(tuned.alpha, tuned.noise, tuned.log_evidence, effective)
            return values, _Way(self._spectrum.out_of(way.change), way.rise, way.curvature)
        spectrum, groups = self._spectrum, groups_of(self._problem, how)
        index = groups.of_each.to(self._position.device)
        grouped = Grouped(
            self._quadratic.log_likelihood,
            spectrum.apart(self._position),
            spectrum.apart(self._gradient),
            spectrum.places(index),
            spectrum.system(),
            self._quadratic.residuals,
        )
        best = maximise(grouped, tuned.alpha, tuned.noise, moving)
        change = move(grouped, best)
        values = Values(best.precision, best.precision[index], best.noise, best.log_evidence, best.effective)
        return values, _Way(spectrum.joined(change.change), change.rise, change.curvature)

    def _scalar(self, alpha: float, noise: float, log_evidence: float, effective: float) -> Values:
        factors = self._position.new_full((1,), alpha)
        return Values(factors, factors.expand(len(self._position)), noise, log_evidence, effective)


class Groups(NamedTuple):
    """Which parameters share a factor."""

    of_each: Tensor  # (P_network,), 0 … G−1
    names: list[str]
    """Of every group; none where every parameter is one."""


def groups_of(problem: Problem, how: str) -> Groups:
    """Those of `how`: a layer's weight and bias belong together, because they share the curvature's factors."""
    layout = problem.network.layout
    if how == DIAGONAL:
        return Groups(torch.arange(layout.num_parameters), [])
    if how == SCALAR:
        return Groups(torch.zeros(layout.num_parameters, dtype=torch.long), ["all"])
    layers = [slot.name.rpartition(".")[0] or "network" for slot in layout.slots]
    names = list(dict.fromkeys(layers))
    counts = torch.tensor([slot.size for slot in layout.slots])
    return Groups(torch.tensor([names.index(layer) for layer in layers]).repeat_interleave(counts), names)


def at_bound(values: Values) -> bool:
    """Whether one factor for all ran into the edge of what is searched; of many, some may be better left out."""
    if len(values.factors) > 1:
        return False
    return min(abs(math.log(float(values.factors)) - bound) for bound in LOG_BOUNDS) < 1e-3


def described(problem: Problem, how: str, values: Values) -> dict[str, Any]:
    """The factors for `posterior.diagnostics`."""
    if how == SCALAR:
        return {"prior_precision_factor": float(values.factors)}
    if how == LAYERWISE:
        names = groups_of(problem, how).names
        return {"prior_precision_factor": dict(zip(names, values.factors.tolist(), strict=True))}
    low, middle, high = values.factors.quantile(values.factors.new_tensor([0.05, 0.5, 0.95])).tolist()
    return {"prior_precision_factor": {"5%": low, "50%": middle, "95%": high}}
