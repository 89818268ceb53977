"""The blocks of a last layer against the Gauss–Newton matrix they are cut from."""

import pytest
import torch
from curvature_cases import Parts, problem_of

from bayesify.curvature.fisher import Vectors, rank_of
from bayesify.curvature.per_output import expand_per_output
from bayesify.curvature.spectrum import PerOutputSpectrum
from bayesify.errors import UnsupportedError
from bayesify.model.problem import Problem


def last_layer(likelihood: str) -> Problem:
    whole = problem_of("mlp", likelihood)
    return whole.with_changes(
        network=whole.network.restricted(whole.network.initial, {}, {"2.weight", "2.bias"}), pretrained=True
    )


def expand(problem: Problem) -> tuple[PerOutputSpectrum, torch.Tensor | None, torch.Tensor]:
    vectors = Vectors(2, rank_of(problem.likelihood, 2), True, True)
    scale = problem.prior.precision().rsqrt()
    buffers = {key: value[0] for key, value in problem.network.buffers(1).items()}
    found = expand_per_output(problem, problem.initial(), buffers, scale, vectors, torch.Generator())
    assert isinstance(found.spectrum, PerOutputSpectrum)
    return found.spectrum, found.gradient, found.log_likelihood


@pytest.mark.parametrize("likelihood", ["categorical", "gaussian"])
def test_blocks_are_those_of_the_full_matrix(likelihood: str) -> None:
    problem = last_layer(likelihood)
    expected, (spectrum, gradient, log_likelihood) = Parts(problem), expand(problem)
    size = len(spectrum.order)
    inverse = torch.empty_like(spectrum.order)
    inverse[spectrum.order] = torch.arange(size)
    columns = [spectrum.out_of(spectrum.eigenvalues * spectrum.into(unit)) for unit in torch.eye(size).double()]
    root = problem.prior.precision().sqrt()
    found = root[:, None] * torch.stack(columns, dim=1) * root
    owner = inverse // spectrum.vectors.shape[1]  # which output a parameter belongs to
    same = owner[:, None] == owner
    torch.testing.assert_close(found, expected.ggn * same, rtol=1e-9, atol=1e-9)
    assert bool((expected.ggn * ~same).abs().max() > 1e-3) == (likelihood == "categorical")  # what is left out
    torch.testing.assert_close(gradient, expected.gradient)
    torch.testing.assert_close(log_likelihood, expected.log_likelihood)


def test_only_a_last_layer_has_blocks() -> None:
    with pytest.raises(UnsupportedError, match="linear last layer alone"):
        expand(problem_of("mlp", "gaussian"))
