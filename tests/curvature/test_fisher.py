"""Curvature from scores: of the observed targets exactly, of drawn ones in expectation."""

from statistics import NormalDist

import pytest
import torch
from curvature_cases import Parts, problem_of
from torch import Tensor

from bayesify.curvature.ekfac import expand_ekfac
from bayesify.curvature.fisher import EMPIRICAL_FISHER, MC_FISHER, Vectors, cotangents_of, sampled_targets
from bayesify.curvature.ggn import expand_diagonal, expand_full
from bayesify.curvature.kron import expand_kronecker
from bayesify.curvature.spectrum import FullSpectrum
from bayesify.model.likelihoods import (
    Bernoulli,
    Categorical,
    Gaussian,
    HeteroscedasticGaussian,
    Likelihood,
    Poisson,
    StudentT,
)
from bayesify.model.problem import Problem

EXPANSIONS = {"full": expand_full, "diag": expand_diagonal, "kron": expand_kronecker, "ekfac": expand_ekfac}
FAILURE_RATE = 1e-5


def scores(problem: Problem) -> Tensor:
    """Per-example gradients (N, P), one at a time."""
    rows = [problem.with_changes(data=problem.data.select(slice(n, n + 1))) for n in range(problem.num_examples)]
    return torch.stack([Parts(row).gradient for row in rows])


def arguments(problem: Problem) -> tuple[Tensor, dict[str, Tensor], Tensor]:
    buffers = {key: value[0] for key, value in problem.network.buffers(1).items()}
    return problem.initial(), buffers, problem.prior.precision().rsqrt()


@pytest.mark.parametrize("name", ["mlp", "batch_norm", "conv", "tied"])
@pytest.mark.parametrize("likelihood", ["categorical", "gaussian"])
def test_the_empirical_fisher_is_the_scores_second_moment(name: str, likelihood: str) -> None:
    problem, rng = problem_of(name, likelihood), torch.Generator()
    theta, buffers, scale = arguments(problem)
    vectors = Vectors(2, 1, True, True, EMPIRICAL_FISHER)
    rows = scores(problem) * scale
    full = expand_full(problem, theta, buffers, scale, vectors, rng)
    assert isinstance(full.spectrum, FullSpectrum)
    found = (full.spectrum.vectors * full.spectrum.eigenvalues) @ full.spectrum.vectors.mT
    torch.testing.assert_close(found, rows.mT @ rows, rtol=1e-8, atol=1e-8)
    diagonal = expand_diagonal(problem, theta, buffers, scale, vectors, rng)
    torch.testing.assert_close(diagonal.spectrum.eigenvalues, rows.square().sum(0))
    for found in (full, diagonal):
        torch.testing.assert_close(found.gradient, scores(problem).sum(0))
    for structure in ("kron", "ekfac"):
        found = EXPANSIONS[structure](problem, theta, buffers, scale, vectors, rng)
        torch.testing.assert_close(found.gradient, scores(problem).sum(0))


@pytest.mark.parametrize(
    ("likelihood", "outputs", "own"),
    [
        (Categorical(), [0.3, -1.0, 0.8], []),
        (Bernoulli(), [0.7], []),
        (Gaussian(num_targets=2), [0.3, 1.0], [-0.5, 0.2]),
        (HeteroscedasticGaussian(), [0.3, -0.4], []),
        (StudentT(df=5.0), [0.3], [0.4]),
        (Poisson(), [0.9], []),
    ],
)
def test_scores_of_drawn_targets_have_the_fisher_information(
    likelihood: Likelihood, outputs: list[float], own: list[float]
) -> None:
    f, parameters = (torch.tensor(value, dtype=torch.float64) for value in (outputs, own))
    rng, number = torch.Generator().manual_seed(3), 4000
    drawn = sampled_targets(likelihood, f[None], parameters, number, rng)[0]
    vectors = Vectors(len(f), number, False, False, MC_FISHER)
    rows, _ = cotangents_of(likelihood, vectors, f, drawn[0], parameters, drawn)
    products = torch.einsum("rc,rd->rcd", rows, rows) * number
    expected = likelihood.fisher(f[None], parameters)[0]
    error = products.std(0) / number**0.5
    z = NormalDist().inv_cdf(1 - FAILURE_RATE / (2 * len(f) ** 2))
    assert bool(((products.mean(0) - expected).abs() <= z * error + 1e-12).all())
    assert bool((error.diagonal() < 0.2 * expected.diagonal()).all())


@pytest.mark.parametrize("structure", EXPANSIONS)
@pytest.mark.parametrize("way", ["auto", "traced"])
def test_drawn_targets_work_in_every_structure(structure: str, way: str) -> None:
    """Whichever way they come about, the trace is that of the Gauss–Newton matrix in expectation."""
    problem, repeats, number = problem_of("mlp", way=way), 300, 2
    rows = torch.arange(problem.num_examples).repeat(repeats)
    problem = problem.with_changes(data=problem.data.select(rows))
    theta, buffers, scale = arguments(problem)
    exact = EXPANSIONS[structure](problem, theta, buffers, scale, Vectors(2, 1, True, False), torch.Generator())
    vectors, rng = Vectors(2, number, False, False, MC_FISHER), torch.Generator().manual_seed(5)
    found = EXPANSIONS[structure](problem, theta, buffers, scale, vectors, rng)
    # Binary classes: a score's square is at most max(p, 1 − p)² / (p (1 − p)) ≈ 3 times its mean here.
    z = NormalDist().inv_cdf(1 - FAILURE_RATE / 2)
    assert float(found.spectrum.eigenvalues.sum() / exact.spectrum.eigenvalues.sum()) == pytest.approx(
        1.0, abs=3 * z / (repeats * number) ** 0.5
    )
