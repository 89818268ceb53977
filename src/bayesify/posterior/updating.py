"""A Gaussian posterior over linearised functions, conditioned on more data.

The log likelihood of new data D' at θ is, linearised where the posterior is (θ₀) and to second order, with gradient g'
and Gauss–Newton matrix H' there, ℓ' + g'ᵀ(θ − θ₀) − ½ (θ − θ₀)ᵀ H' (θ − θ₀). With N(μ, Σ) as the prior of D',

    Σ' = (Σ⁻¹ + H'/T)⁻¹,      μ' = μ + δ,      δ = Σ' (g' − H' (μ − θ₀))/T,                                      (1)

a Newton step; at T = 1 log p(D' | D) ≈ log p(D' | μ) + ½ δᵀ Σ'⁻¹ δ − ½ log |I + Σ H'|. Under Gaussian noise of known
scale (1) is exact for the linearised functions of any network, and for a linear network exact altogether: any order
and division of the data gives the posterior of all of them. Elsewhere it is approximate: for other likelihoods Fisher
information stays that at θ₀, and a diagonal or Kronecker Σ keeps its axes and takes of H' what lies along them. The
step is therefore shortened, by halves, to where log p(D' | θ)/T − ½ (θ − μ)ᵀ Σ⁻¹ (θ − μ) of these functions is highest.

The prior and the noise stay as they were tuned, and features are not learned: data that matter much are better fitted
anew. Cost: that of the curvature of the new data, and two forward passes.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bayesify.covariance import Covariance, Diagonal, Full, Kronecker, KroneckerBasis, Spiked
from bayesify.curvature.ekfac import rotated_squares
from bayesify.curvature.fisher import Vectors, usual_vectors
from bayesify.curvature.ggn import Expansion, expand_diagonal, expand_full
from bayesify.curvature.kron import expand_kronecker
from bayesify.curvature.low_rank import expand_low_rank
from bayesify.curvature.spectrum import FullSpectrum, LowRankSpectrum, eigen
from bayesify.data import as_data
from bayesify.engine.rng import generator
from bayesify.errors import UnsupportedError
from bayesify.model.network import Buffers
from bayesify.model.priors import Normal
from bayesify.model.problem import Problem, check_model
from bayesify.posterior.base import Posterior
from bayesify.posterior.linearised import Linearised

NEW_RANK = 100
"""Directions of the new data's curvature that a low-rank Σ takes up."""


HALVINGS = 6
"""Of the step."""
NO_PART = 1e-9
"""Share of the largest singular value that is rounding."""
SLACK = 1e-3
"""Nats by which a shorter step must be better: float32 is that much off."""


class _Change(NamedTuple):
    """Σ', δ and the evidence."""

    covariance: Covariance
    step: Tensor  # (P_network,)
    squared: float
    """The step's length in Σ⁻¹, squared."""
    log_evidence: float
    """log p(D' | D), of the untempered quadratic."""


class _Point(NamedTuple):
    """Where the new data are expanded, and how."""

    problem: Problem
    theta: Tensor
    buffers: Buffers
    vectors: Vectors
    rng: torch.Generator
    temperature: float
    shift: Tensor
    """μ − θ₀, (P_network,), float64."""


def update(posterior: Posterior, data: Any) -> Posterior:
    """The posterior given `data` as well, as a new object; the old one stays as it is.

    Args:
        posterior: of Laplace, linearised.
        data: more of what it was fitted to, in any form `fit` takes.

    Raises:
        UnsupportedError: the posterior is of another form.
        DataError, ModelError: as `fit`.
    """
    if not isinstance(posterior, Linearised):
        raise UnsupportedError(
            f"{posterior.record.method or posterior.form} cannot be updated: call fit on the old and new data, or use "
            "laplace, which can."
        )
    point = _point(posterior, data)
    change = _changed(posterior.covariance, point)
    result = Linearised(
        posterior.model,
        posterior.mean,
        change.covariance,
        posterior.buffers,
        posterior.num_samples,
        posterior.predictive,
        _shift(posterior, point, change),
    )
    evidence = posterior.record.log_evidence
    if evidence is not None:
        evidence += change.log_evidence
    known = evidence if point.temperature == 1 else None  # of a tempered posterior it would be another quantity
    result.record = dataclasses.replace(posterior.record, log_evidence=known)
    return result


def _shift(posterior: Linearised, point: _Point, change: _Change) -> Tensor:
    """μ' − θ₀, (P_network,)."""
    step = change.step.to(posterior.mean)
    inputs, targets = point.problem.data
    own = posterior.model.split(posterior.mean)[1]
    start = posterior.means(inputs)
    along = posterior.means(inputs, step) - start

    def value(share: float) -> float:
        log_prob = posterior.model.likelihood.log_prob(start + share * along, targets, own)
        return float(log_prob.double().sum()) / point.temperature - 0.5 * share**2 * change.squared

    best, highest = 0.0, -math.inf
    for share in (*(0.5**halvings for halvings in range(HALVINGS)), 0.0):
        found = value(share)
        if found > highest + SLACK:
            best, highest = share, found
    return best * step if posterior.shift is None else posterior.shift + best * step


def _point(posterior: Linearised, data: Any) -> _Point:
    model, mean = posterior.model, posterior.mean
    own = model.split(mean)[1]
    problem = Problem(model.network, model.likelihood, Normal(), as_data(data), pretrained=True, likelihood_start=own)
    check_model(problem)
    buffers = {name: value[0] for name, value in posterior.buffers.items()}
    first = problem.data.select(slice(0, 1)).inputs
    num_outputs = problem.outputs(mean[None], first, posterior.buffers).shape[-1]
    rng = generator(mean.device, "update")
    vectors = usual_vectors(model.likelihood, num_outputs, gradient=True)
    shift = torch.zeros(problem.num_network_parameters, dtype=torch.float64, device=mean.device)
    if posterior.shift is not None:
        shift = posterior.shift.double()
    return _Point(problem, mean, buffers, vectors, rng, posterior.record.temperature, shift)


def _changed(covariance: Covariance, point: _Point) -> _Change:
    if isinstance(covariance, Diagonal):
        return _diagonal(covariance, point)
    if isinstance(covariance, Kronecker):
        return _kronecker(covariance, point)
    if isinstance(covariance, Spiked):
        return _spiked(covariance, point)
    if not isinstance(covariance, Full):
        raise UnsupportedError(
            f"a posterior with {covariance.name} covariance cannot be updated: fit laplace(structure=full), or kron."
        )
    return _full(covariance, point)


def _finished(
    covariance: Covariance, point: _Point, expansion: Expansion, solved: "_Solved", pushed: Tensor
) -> _Change:
    """From what every structure works out for itself.

    Args:
        covariance: Σ'.
        point: of the expansion.
        expansion: of the new data.
        solved: see there.
        pushed: H' (μ − θ₀), (P_network,).
    """
    assert expansion.gradient is not None
    right = (expansion.gradient - pushed) / point.temperature
    step, squared = solved.step(right)
    here = expansion.log_likelihood + (point.shift * (expansion.gradient - 0.5 * pushed)).sum()
    more = float(here) + 0.5 * float((right * step).sum()) - 0.5 * solved.log_determinant
    return _Change(covariance, step, squared, more)


class _Solved(NamedTuple):
    """Linear algebra of one structure."""

    step: Callable[[Tensor], tuple[Tensor, float]]
    """v → Σ' v, and its squared length in Σ⁻¹."""
    log_determinant: float
    """log |I + Σ H'/T|."""


def _diagonal(covariance: Diagonal, point: _Point) -> _Change:
    before = covariance.diagonal.double()
    expansion = expand_diagonal(*point[:3], before.sqrt().to(covariance.diagonal), *point[3:5])
    curvature = expansion.spectrum.eigenvalues
    ratio = 1 + curvature / point.temperature
    after = before / ratio

    def step(right: Tensor) -> tuple[Tensor, float]:
        change = after * right
        return change, float((change.square() / before).sum())

    changed = Diagonal(after.to(covariance.diagonal))
    solved = _Solved(step, float(ratio.log().sum()))
    return _finished(changed, point, expansion, solved, curvature / before * point.shift)


def _kronecker(covariance: Kronecker, point: _Point) -> _Change:
    expansion = expand_kronecker(*point[:3], covariance.scale, *point[3:5])
    along = point.vectors._replace(gradient=False)
    curvature = rotated_squares(*point[:3], covariance.scale, along, point.rng, covariance.basis)
    before = covariance.eigenvariance.double()
    ratio = 1 + before * curvature / point.temperature
    after, scale = before / ratio, covariance.scale.double()
    factors = [(left.double(), right.double()) for left, right in covariance.basis.factors]
    basis = KroneckerBasis(covariance.basis.order, factors)

    def step(right: Tensor) -> tuple[Tensor, float]:
        turned = after * basis.into(scale * right)
        return scale * basis.out_of(turned), float((turned.square() / before).sum())

    own = covariance.basis.named_factors()
    changed = Kronecker(covariance.scale, after.to(covariance.scale), basis.order, **own)
    pushed = basis.out_of(curvature * basis.into(point.shift / scale)) / scale
    return _finished(changed, point, expansion, _Solved(step, float(ratio.log().sum())), pushed)


def _full(covariance: Full, point: _Point) -> _Change:
    root = covariance.root.double()
    expansion = expand_full(*point[:3], torch.ones_like(covariance.root[:, 0]), *point[3:5])
    spectrum = expansion.spectrum
    assert isinstance(spectrum, FullSpectrum)
    rows = (spectrum.vectors * spectrum.eigenvalues.sqrt()).mT
    half = rows @ root
    values, vectors = eigen(half.mT @ half / point.temperature)
    after = root @ (vectors / (1 + values).sqrt())

    def step(right: Tensor) -> tuple[Tensor, float]:
        along = after.mT @ right
        return after @ along, float((along.square() / (1 + values)).sum())

    changed = Full(after.to(covariance.root).contiguous())
    solved = _Solved(step, float(torch.log1p(values).sum()))
    return _finished(changed, point, expansion, solved, rows.mT @ (rows @ point.shift))


def _spiked(covariance: Spiked, point: _Point) -> _Change:
    """In units of √rest D the precision is I plus a low-rank matrix, before and after."""
    rest = covariance.rest.double()
    scale = covariance.scale.double() * rest.sqrt()
    rank = min(len(scale), NEW_RANK)
    expansion = expand_low_rank(*point[:3], scale.to(covariance.scale), *point[3:5], rank=rank)
    spectrum = expansion.spectrum
    assert isinstance(spectrum, LowRankSpectrum)
    before = (rest / covariance.eigenvariance.double() - 1).clamp_min(0)
    old = covariance.vectors.double() * before.sqrt()
    rows = spectrum.vectors * spectrum.eigenvalues[:-1].sqrt()
    both = torch.cat([old, rows / math.sqrt(point.temperature)], dim=1)
    vectors, values, _ = torch.linalg.svd(both, full_matrices=False)
    known = (values > NO_PART * values.max()).nonzero().squeeze(-1)
    vectors, ratio = vectors[:, known].contiguous(), 1 + values[known].square()

    def step(right: Tensor) -> tuple[Tensor, float]:
        scaled = scale * right
        change = scaled + vectors @ ((1 / ratio - 1) * (vectors.mT @ scaled))
        return scale * change, float(change.square().sum() + (old.mT @ change).square().sum())

    like = covariance.scale
    changed = Spiked(like, vectors.to(like), (rest / ratio).to(like), covariance.rest)
    solved = _Solved(step, float(ratio.log().sum() - torch.log1p(before).sum()))
    return _finished(changed, point, expansion, solved, rows @ (rows.mT @ (point.shift / scale)) / scale)
