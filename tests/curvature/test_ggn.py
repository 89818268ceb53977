"""The Gauss–Newton matrix and its diagonal against their definition."""

import math
from statistics import NormalDist

import pytest
import torch
from curvature_cases import NAMES, Parts, problem_of
from torch import Tensor

from bayesify.curvature import jacobian as chunking
from bayesify.curvature.fisher import Vectors, cotangents_of, draw_directions, fisher_root, rank_of
from bayesify.curvature.ggn import Expansion, expand_diagonal, expand_full
from bayesify.curvature.layers import CHECK_COST
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

EXACT = Vectors(2, 2, True, True)


def expand(problem: Problem, structure: str, vectors: Vectors = EXACT, seed: int = 0) -> Expansion:
    function = {"full": expand_full, "diagonal": expand_diagonal}[structure]
    buffers = {key: value[0] for key, value in problem.network.buffers(1).items()}
    scale = problem.prior.precision().rsqrt()
    return function(problem, problem.initial(), buffers, scale, vectors, torch.Generator().manual_seed(seed))


def matrix(problem: Problem, expansion: Expansion) -> Tensor:
    """H, back from prior units."""
    spectrum, root = expansion.spectrum, problem.prior.precision().sqrt()
    assert isinstance(spectrum, FullSpectrum)
    whole = (spectrum.vectors * spectrum.eigenvalues) @ spectrum.vectors.mT
    return root[:, None] * whole * root


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("likelihood", ["categorical", "gaussian"])
def test_full_is_the_definition(name: str, likelihood: str) -> None:
    problem = problem_of(name, likelihood)
    expected, found = Parts(problem), expand(problem, "full")
    torch.testing.assert_close(matrix(problem, found), expected.ggn, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found.gradient, expected.gradient)
    torch.testing.assert_close(found.log_likelihood, expected.log_likelihood)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("likelihood", ["categorical", "gaussian"])
def test_diagonal_is_that_of_the_full(name: str, likelihood: str) -> None:
    problem = problem_of(name, likelihood)
    expected, found = Parts(problem), expand(problem, "diagonal")
    diagonal = found.spectrum.eigenvalues * problem.prior.precision()
    torch.testing.assert_close(diagonal, expected.ggn.diagonal())
    torch.testing.assert_close(found.gradient, expected.gradient)
    torch.testing.assert_close(found.log_likelihood, expected.log_likelihood)


@pytest.mark.parametrize("structure", ["full", "diagonal"])
@pytest.mark.parametrize("rows", [1, 3])
def test_chunks_do_not_matter(structure: str, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    problem = problem_of("mlp")
    whole = expand(problem, structure)
    monkeypatch.setattr(chunking, "CHUNK_ELEMENTS", rows * 3 * problem.num_network_parameters)
    parts = expand(problem, structure)
    torch.testing.assert_close(parts.spectrum.eigenvalues, whole.spectrum.eigenvalues)
    torch.testing.assert_close(parts.gradient, whole.gradient)


@pytest.mark.parametrize("gradient", [True, False])
def test_meter_counts_every_product(gradient: bool) -> None:
    problem = problem_of("mlp")
    found = expand(problem, "diagonal", Vectors(2, 2, True, gradient))
    assert problem.meter.gradient_evaluations == 7 * (2 + gradient) + CHECK_COST
    assert problem.meter.forward_evaluations == 0
    assert (found.gradient is None) != gradient


def test_random_vectors_are_unbiased() -> None:
    """The mean of independent estimates; failure rate 1e-5 over all entries."""
    problem = problem_of("mlp")
    repeats = 400
    estimates = torch.stack(
        [expand(problem, "diagonal", Vectors(2, 1, False, False), seed).spectrum.eigenvalues for seed in range(repeats)]
    )
    exact = expand(problem, "diagonal").spectrum.eigenvalues
    error = estimates.std(0) / math.sqrt(repeats)
    assert float(error.max()) > 0  # a single vector is no exact answer
    z = NormalDist().inv_cdf(1 - 1e-5 / (2 * len(exact)))
    assert bool(((estimates.mean(0) - exact).abs() <= z * error + 1e-12).all())


@pytest.mark.parametrize(
    ("likelihood", "num_outputs"),
    [
        (Categorical(), 4), (Bernoulli(), 1), (Gaussian(num_targets=3), 3), (HeteroscedasticGaussian(num_targets=2), 4),
        (StudentT(num_targets=2), 2), (Poisson(), 1),
    ],
)  # fmt: skip
def test_fisher_root(likelihood: Likelihood, num_outputs: int) -> None:
    rng = torch.Generator().manual_seed(1)
    outputs = torch.randn(num_outputs, generator=rng, dtype=torch.float64)
    own = 0.3 * torch.randn(likelihood.num_parameters, generator=rng, dtype=torch.float64)
    columns = fisher_root(likelihood)(outputs, own, torch.eye(num_outputs, dtype=torch.float64))
    torch.testing.assert_close(columns.mT @ columns, likelihood.fisher(outputs[None], own)[0])


@pytest.mark.parametrize(
    "outputs", [[0.3, -1.0, 2.0, 0.1], [0.0, 0.0, 90.0], [90.0, 0.0, -5.0], [-800.0, 800.0], [1.0]]
)
def test_classes_take_one_vector_less(outputs: list[float]) -> None:
    likelihood, f = Categorical(), torch.tensor(outputs, dtype=torch.float64)
    own, size = torch.zeros(0), len(outputs)
    vectors = Vectors(size, rank_of(likelihood, size), exact=True, gradient=False)
    assert vectors.num_fisher == max(1, size - 1)
    directions = draw_directions(vectors, 1, f, torch.Generator())[0]
    rows, _ = cotangents_of(likelihood, vectors, f, torch.tensor(0), own, directions)
    torch.testing.assert_close(rows.mT @ rows, likelihood.fisher(f[None], own)[0], rtol=1e-12, atol=1e-14)
