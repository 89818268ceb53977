"""A Gaussian posterior conditioned on more data: one Newton step in the linearised model.

With N(μ, Σ) as the prior of new data D' and H', g' the Gauss–Newton matrix and gradient of their log likelihood at μ,

    Σ' = (Σ⁻¹ + H'/T)⁻¹,      μ' = μ + Σ' g'/T,                                                                  (1)

and at T = 1, by the evidence of a quadratic log joint, log p(D' | D) ≈ log p(D' | μ) + ½ g'ᵀ Σ' g' − ½ log |I + Σ H'|.
In a linear model under Gaussian noise of fixed scale all three are exact: any order and division of the data gives the
posterior of all of them. Elsewhere (1) is the extended Kalman filter's step (Ritter, Botev & Barber 2018 do the same
with Kronecker factors): old data are remembered by Σ alone, at the mode they had, and a diagonal or Kronecker Σ keeps
its axes and takes of H' what lies along them, which is exact only where H' has the same ones.

There the step is also shortened, μ + t Σ' g'/T with t = 1, ½, ¼, …, to where log p(D' | θ)/T − ½ (θ−μ)ᵀ Σ⁻¹ (θ−μ) is
highest: t = 1 in a linear model.

The prior and the noise stay as they were tuned. Cost: that of the curvature of the new data, and a few forward passes.
"""

import dataclasses
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bayesify.covariance import Covariance, Diagonal, Full, Kronecker, Spiked
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
SLACK = 1e-3
"""Nats by which a shorter step must be better: float32 is that much off."""


class _Change(NamedTuple):
    """Σ', Σ' g'/T and log |I + Σ H'/T|, from one expansion of the new data's log likelihood."""

    covariance: Covariance
    step: Tensor  # (P_network,)
    squared: float
    """The step's length in Σ⁻¹, squared."""
    log_determinant: float
    expansion: Expansion


class _Point(NamedTuple):
    """Where the new data are expanded, and how."""

    problem: Problem
    theta: Tensor
    buffers: Buffers
    vectors: Vectors
    rng: torch.Generator
    temperature: float


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
    mean = _moved(posterior, point, change)
    result = Linearised(
        posterior.model, mean, change.covariance, posterior.buffers, posterior.num_samples, posterior.predictive
    )
    evidence = posterior.record.log_evidence
    if evidence is not None:
        assert change.expansion.gradient is not None
        more = change.expansion.log_likelihood + 0.5 * (change.expansion.gradient * change.step).sum()
        evidence += float(more) - 0.5 * change.log_determinant
    known = evidence if point.temperature == 1 else None  # of a tempered posterior it would be another quantity
    result.record = dataclasses.replace(posterior.record, log_evidence=known)
    return result


def _moved(posterior: Linearised, point: _Point, change: _Change) -> Tensor:
    best, highest = posterior.mean, -torch.inf
    for halvings in range(HALVINGS):
        share = 0.5**halvings
        mean = posterior.mean.clone()
        mean[: len(change.step)] += share * change.step.to(mean)
        value = float(point.problem.log_likelihood(mean[None], point.problem.data, posterior.buffers))
        value = value / point.temperature - 0.5 * share**2 * change.squared
        if value > highest + SLACK:
            best, highest = mean, value
    return best


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
    return _Point(problem, mean, buffers, vectors, rng, posterior.record.temperature)


def _changed(covariance: Covariance, point: _Point) -> _Change:
    if isinstance(covariance, Diagonal):
        return _diagonal(covariance, point)
    if isinstance(covariance, Kronecker):
        return _kronecker(covariance, point)
    if isinstance(covariance, Spiked):
        return _spiked(covariance, point)
    assert isinstance(covariance, Full)
    return _full(covariance, point)


def _gradient(expansion: Expansion, point: _Point) -> Tensor:
    assert expansion.gradient is not None
    return expansion.gradient / point.temperature


def _diagonal(covariance: Diagonal, point: _Point) -> _Change:
    before = covariance.diagonal.double()
    expansion = expand_diagonal(*point[:3], before.sqrt().to(covariance.diagonal), *point[3:5])
    ratio = 1 + expansion.spectrum.eigenvalues / point.temperature
    after = before / ratio
    step = after * _gradient(expansion, point)
    squared = float((step.square() / before).sum())
    return _Change(Diagonal(after.to(covariance.diagonal)), step, squared, float(ratio.log().sum()), expansion)


def _kronecker(covariance: Kronecker, point: _Point) -> _Change:
    expansion = expand_kronecker(*point[:3], covariance.scale, *point[3:5])
    along = point.vectors._replace(gradient=False)
    curvature = rotated_squares(*point[:3], covariance.scale, along, point.rng, covariance.basis)
    before = covariance.eigenvariance.double()
    ratio = 1 + before * curvature / point.temperature
    after = before / ratio
    scale = covariance.scale.double()
    basis = covariance.basis
    turned = basis.into((scale * _gradient(expansion, point)).to(covariance.scale)).double()
    step = scale * basis.out_of((after * turned).to(covariance.scale)).double()
    changed = Kronecker(covariance.scale, after.to(covariance.scale), basis.order, **basis.named_factors())
    squared = float(((after * turned).square() / before).sum())
    return _Change(changed, step, squared, float(ratio.log().sum()), expansion)


def _full(covariance: Full, point: _Point) -> _Change:
    root = covariance.root.double()
    expansion = expand_full(*point[:3], torch.ones_like(covariance.root[:, 0]), *point[3:5])
    spectrum = expansion.spectrum
    assert isinstance(spectrum, FullSpectrum)
    half = (spectrum.vectors * spectrum.eigenvalues.sqrt()).mT @ root
    values, vectors = eigen(half.mT @ half / point.temperature)
    after = root @ (vectors / (1 + values).sqrt())
    along = after.mT @ _gradient(expansion, point)
    changed = Full(after.to(covariance.root).contiguous())
    squared = float((along.square() / (1 + values)).sum())
    return _Change(changed, after @ along, squared, float(torch.log1p(values).sum()), expansion)


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
    new = spectrum.vectors * (spectrum.eigenvalues[:-1] / point.temperature).sqrt()
    vectors, values, _ = torch.linalg.svd(torch.cat([old, new], dim=1), full_matrices=False)
    known = (values > 1e-7 * values.max()).nonzero().squeeze(-1)
    vectors, ratio = vectors[:, known].contiguous(), 1 + values[known].square()
    scaled = scale * _gradient(expansion, point)
    step = scaled + vectors @ ((1 / ratio - 1) * (vectors.mT @ scaled))
    squared = float(step.square().sum() + (old.mT @ step).square().sum())
    like = covariance.scale
    changed = Spiked(like, vectors.to(like), (rest / ratio).to(like), covariance.rest)
    log_determinant = float(ratio.log().sum() - torch.log1p(before).sum())
    return _Change(changed, scale * step, squared, log_determinant, expansion)
