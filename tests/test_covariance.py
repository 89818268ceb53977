"""Every covariance against the P × P matrix it stands for."""

import math

import pytest
import torch
from small_problems import critical_value
from torch import Tensor

from bayesify.covariance import Covariance, Diagonal, Full, Kronecker, LowRank, PerOutput, Spiked
from bayesify.posterior.gaussian import COVARIANCES

P = 9


def rotation(size: int, rng: torch.Generator) -> Tensor:
    return torch.linalg.qr(torch.randn(size, size, generator=rng, dtype=torch.float64)).Q


def examples() -> dict[str, tuple[Covariance, Tensor]]:
    """One of each structure with its dense matrix, none of them symmetric under transposition of its root."""
    rng = torch.Generator().manual_seed(2)
    positive = torch.rand(P, generator=rng, dtype=torch.float64) + 0.1
    tall = torch.randn(P, 2, generator=rng, dtype=torch.float64)
    square = torch.randn(P, P, generator=rng, dtype=torch.float64)
    scale = torch.rand(P, generator=rng, dtype=torch.float64) + 0.5
    order = torch.randperm(P, generator=rng)
    left, right, lone = rotation(2, rng), rotation(3, rng), rotation(1, rng)
    factors = {"left_0": left, "right_0": right, "left_1": lone, "right_1": lone}
    blocks = torch.block_diag(torch.kron(left, right), torch.kron(lone, lone), torch.eye(2, dtype=torch.float64))
    permutation = torch.eye(P, dtype=torch.float64)[order]  # θ[order] = permutation @ θ
    root = scale[:, None] * (permutation.mT @ blocks) * positive.sqrt()
    bases = torch.randn(3, 3, 3, generator=rng, dtype=torch.float64)
    rows = torch.block_diag(*(basis * value.sqrt() for basis, value in zip(bases, positive.reshape(3, 3), strict=True)))
    rows = permutation.mT @ rows
    vectors, rest = rotation(P, rng)[:, :2], torch.tensor([0.7], dtype=torch.float64)
    spiked = 0.7 * torch.eye(P, dtype=torch.float64) + (vectors * (positive[:2] - 0.7)) @ vectors.mT
    return {
        "diagonal": (Diagonal(positive), torch.diag(positive)),
        "low_rank": (LowRank(positive, tall), torch.diag(positive) + tall @ tall.mT),
        "spiked": (Spiked(scale, vectors, positive[:2], rest), scale[:, None] * spiked * scale),
        "full": (Full(square), square @ square.mT),
        "kronecker": (Kronecker(scale, positive, order, **factors), root @ root.mT),
        "per_output": (PerOutput(order, positive.reshape(3, 3), bases), rows @ rows.mT),
    }


def error_in_standard_errors(covariance: Covariance, dense: Tensor, num_samples: int = 20_000) -> float:
    """The largest deviation of the sampled second moments from `dense`."""
    draws = covariance.sample(num_samples, torch.Generator().manual_seed(11))
    assert draws.shape == (num_samples, P)
    variance = dense.diagonal()
    error = ((torch.outer(variance, variance) + dense.square()) / num_samples).sqrt()
    return float(((draws.mT @ draws / num_samples - dense) / error).abs().max())


@pytest.mark.parametrize("name", examples())
def test_samples_have_the_stated_covariance(name: str) -> None:
    assert error_in_standard_errors(*examples()[name]) < critical_value(P * (P + 1) // 2)


def test_a_transposed_root_would_be_found() -> None:
    covariance, dense = examples()["full"]
    assert isinstance(covariance, Full)
    assert error_in_standard_errors(Full(covariance.root.mT), dense) > critical_value(P * (P + 1) // 2)


@pytest.mark.parametrize("name", examples())
def test_samples_have_mean_zero(name: str) -> None:
    covariance, dense = examples()[name]
    draws = covariance.sample(20_000, torch.Generator().manual_seed(12))
    assert float((draws.mean(0) / (dense.diagonal() / 20_000).sqrt()).abs().max()) < critical_value(P)


@pytest.mark.parametrize("name", examples())
def test_variance_and_projection(name: str) -> None:
    covariance, dense = examples()[name]
    torch.testing.assert_close(covariance.variance(), dense.diagonal())
    jacobian = torch.randn(4, 2, P, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    torch.testing.assert_close(covariance.project(jacobian), jacobian @ dense @ jacobian.mT)
    torch.testing.assert_close(covariance.project(jacobian[0]), jacobian[0] @ dense @ jacobian[0].mT)


@pytest.mark.parametrize("name", examples())
def test_tensors_are_all_there_is(name: str) -> None:
    covariance, dense = examples()[name]
    assert covariance.name == name
    again = COVARIANCES[name](**covariance.tensors())
    torch.testing.assert_close(again.project(torch.eye(P, dtype=torch.float64)), dense)


def test_kronecker_takes_memory_of_its_factors() -> None:
    """A layer of 10⁶ parameters: P × P would be 4 terabytes."""
    size = 1000
    identity = torch.eye(size)
    covariance = Kronecker(
        torch.ones(size**2), torch.full((size**2,), 4.0), torch.arange(size**2), left_0=identity, right_0=identity
    )
    draws = covariance.sample(1, torch.Generator().manual_seed(0))
    assert abs(float(draws.std()) - 2.0) < 2.0 * critical_value() / math.sqrt(2 * size**2)


@pytest.mark.parametrize("shape", [(3, 7), (1, 15), (3, 65_536), (1, 131_077), (2, 65_543), (2, 81_920), (1, 65_553)])
def test_noise_made_in_pieces_is_the_noise_made_at_once(shape: tuple[int, int]) -> None:
    covariance = Diagonal(torch.ones(shape[1]))
    found = covariance.white(shape[0], torch.Generator().manual_seed(3))
    assert torch.equal(found, torch.randn(shape, generator=torch.Generator().manual_seed(3)))
