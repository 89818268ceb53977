"""The leading eigenvectors of H: all of it where the rank suffices, and the best part of it where it does not."""

import pytest
import torch
from curvature_cases import NAMES, Parts, problem_of
from torch import Tensor

from bayesify.curvature import low_rank
from bayesify.curvature.fisher import Vectors
from bayesify.curvature.ggn import Expansion
from bayesify.curvature.low_rank import PASSES, expand_low_rank
from bayesify.curvature.spectrum import FullSpectrum, LowRankSpectrum, eigen
from bayesify.model.problem import Problem

EXACT = Vectors(2, 2, True, True)


def expand(problem: Problem, rank: int, vectors: Vectors = EXACT) -> Expansion:
    buffers = {key: value[0] for key, value in problem.network.buffers(1).items()}
    scale = problem.prior.precision().rsqrt()
    rng = torch.Generator().manual_seed(0)
    return expand_low_rank(problem, problem.initial(), buffers, scale, vectors, rng, rank)


def in_prior_units(problem: Problem) -> Tensor:
    scale = problem.prior.precision().rsqrt()
    return scale[:, None] * Parts(problem).ggn * scale


def matrix(expansion: Expansion) -> Tensor:
    spectrum = expansion.spectrum
    assert isinstance(spectrum, LowRankSpectrum)
    return (spectrum.vectors * spectrum.eigenvalues[:-1]) @ spectrum.vectors.mT


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("likelihood", ["categorical", "gaussian"])
def test_enough_rank_is_all_of_it(name: str, likelihood: str) -> None:
    """7 examples with 1 or 2 directions each: rank 14 at most."""
    problem = problem_of(name, likelihood)
    found, expected = expand(problem, 14), Parts(problem)
    torch.testing.assert_close(matrix(found), in_prior_units(problem), rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(found.gradient, expected.gradient)
    torch.testing.assert_close(found.log_likelihood, expected.log_likelihood)


def test_less_rank_is_the_best_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(low_rank, "OVERSAMPLING", 6)
    problem = problem_of("conv")
    values, vectors = eigen(in_prior_units(problem))
    best = (vectors[:, -3:] * values[-3:]) @ vectors[:, -3:].mT
    torch.testing.assert_close(matrix(expand(problem, 3)), best, rtol=1e-3, atol=1e-4 * float(values.max()))


def test_the_meter_counts_every_pass() -> None:
    problem = problem_of("conv")
    expand(problem, 2)
    assert problem.meter.gradient_evaluations == problem.num_examples * (2 * PASSES + 1)


def test_random_vectors_stand_for_one_matrix() -> None:
    """The passes see the same H: its eigenvectors are those of one draw."""
    problem = problem_of("conv")
    found = expand(problem, 14, Vectors(2, 1, False, False))
    assert float(found.spectrum.eigenvalues[7:].max()) < 1e-9 * float(found.spectrum.eigenvalues.max())


@pytest.mark.parametrize("rank", [2, 5])
def test_a_spectrum_in_new_units_is_that_of_the_matrix_there(rank: int) -> None:
    rng = torch.Generator().manual_seed(1)
    half = torch.randn(5, rank, generator=rng, dtype=torch.float64)
    values, vectors = eigen(half @ half.mT)
    factor = torch.tensor([0.5, 2.0, 1.0, 3.0, 0.1], dtype=torch.float64)
    expected = factor[:, None] * (half @ half.mT) * factor
    low = LowRankSpectrum(values[-rank:], vectors[:, -rank:]).rescaled(factor)
    assert isinstance(low, LowRankSpectrum)
    torch.testing.assert_close((low.vectors * low.eigenvalues[:-1]) @ low.vectors.mT, expected)
    full = FullSpectrum(values, vectors).rescaled(factor)
    assert isinstance(full, FullSpectrum)
    torch.testing.assert_close((full.vectors * full.eigenvalues) @ full.vectors.mT, expected)


def test_it_holds_vectors_that_are_not_in_its_span() -> None:
    rng = torch.Generator().manual_seed(2)
    half, given = torch.randn(6, 2, generator=rng, dtype=torch.float64), torch.randn(6, generator=rng).double()
    values, vectors = eigen(half @ half.mT)
    spectrum = LowRankSpectrum(values[-2:], vectors[:, -2:]).holding([given, half[:, 0]])
    for vector in (given, half[:, 0]):
        torch.testing.assert_close(spectrum.out_of(spectrum.into(vector)), vector)
        torch.testing.assert_close(spectrum.into(vector).norm(), vector.norm())
    assert len(spectrum.eigenvalues) == 2 + 1 + 1  # one direction was missing, and the last is the rest
