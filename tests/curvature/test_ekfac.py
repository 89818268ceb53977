"""EKFAC: the diagonal of H in the basis of its Kronecker factors, and nearer to H than their eigenvalues."""

from typing import Any

import pytest
import torch
from curvature_cases import NAMES, Parts, problem_of
from torch import Tensor

from bayesify.curvature.ekfac import expand_ekfac
from bayesify.curvature.fisher import Vectors
from bayesify.curvature.ggn import Expansion
from bayesify.curvature.kron import expand_kronecker
from bayesify.curvature.spectrum import KroneckerSpectrum
from bayesify.model.problem import Problem

EXACT = Vectors(2, 2, True, True)


def expand(problem: Problem, function: Any) -> Expansion:
    buffers = {key: value[0] for key, value in problem.network.buffers(1).items()}
    scale = problem.prior.precision().rsqrt()
    rng = torch.Generator().manual_seed(0)
    found: Expansion = function(problem, problem.initial(), buffers, scale, EXACT, rng)
    return found


def basis_of(problem: Problem, expansion: Expansion) -> Tensor:
    """Q (P, P)."""
    spectrum = expansion.spectrum
    assert isinstance(spectrum, KroneckerSpectrum)
    units = torch.eye(problem.num_network_parameters, dtype=torch.float64)
    return torch.stack([spectrum.out_of(unit) for unit in units], dim=1)


def in_prior_units(problem: Problem) -> Tensor:
    scale = problem.prior.precision().rsqrt()
    return scale[:, None] * Parts(problem).ggn * scale


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("likelihood", ["categorical", "gaussian"])
def test_it_is_the_diagonal_in_the_basis_of_the_factors(name: str, likelihood: str) -> None:
    problem = problem_of(name, likelihood)
    found, plain = expand(problem, expand_ekfac), expand(problem, expand_kronecker)
    basis, exact = basis_of(problem, plain), in_prior_units(problem)
    torch.testing.assert_close(basis_of(problem, found), basis)
    expected = (basis.mT @ exact @ basis).diagonal()
    torch.testing.assert_close(found.spectrum.eigenvalues, expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found.gradient, plain.gradient)
    torch.testing.assert_close(found.spectrum.eigenvalues.sum(), exact.trace())


@pytest.mark.parametrize("name", ["mlp", "conv"])
def test_one_at_a_time_is_the_same(name: str) -> None:
    batched, single = (expand(problem_of(name, way=way), expand_ekfac) for way in ("auto", "traced"))
    torch.testing.assert_close(batched.spectrum.eigenvalues, single.spectrum.eigenvalues)


def test_it_is_nearer_to_the_truth() -> None:
    """In the Frobenius norm, within the layers, whose blocks are all that both have."""
    problem = problem_of("mlp")
    exact, distances, first = in_prior_units(problem), [], 3 * 4 + 4
    for function in (expand_ekfac, expand_kronecker):
        expansion = expand(problem, function)
        basis = basis_of(problem, expansion)
        error = (basis * expansion.spectrum.eigenvalues) @ basis.mT - exact
        distances.append(float(error[:first, :first].norm() + error[first:, first:].norm()))
    assert distances[0] < 0.99 * distances[1]


@pytest.mark.parametrize("likelihood", ["categorical", "gaussian"])
def test_one_example_is_exact_in_every_layer(likelihood: str) -> None:
    problem = problem_of("mlp", likelihood, count=1)
    expansion = expand(problem, expand_ekfac)
    basis, exact = basis_of(problem, expansion), in_prior_units(problem)
    found = (basis * expansion.spectrum.eigenvalues) @ basis.mT
    first = 3 * 4 + 4
    torch.testing.assert_close(found[:first, :first], exact[:first, :first])
    torch.testing.assert_close(found[first:, first:], exact[first:, first:])
