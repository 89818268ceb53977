"""Predicting in chunks: results do not depend on them, and what is held at a time stays below the stated numbers."""

import itertools

import pytest
import torch
from small_problems import convolutional, normalised, plain
from torch import nn

from bayesify.engine.budget import Meter
from bayesify.engine.rng import generator
from bayesify.likelihoods import Loss
from bayesify.model import chunks as chunking
from bayesify.model.chunks import CACHE_ELEMENTS, MEMORY_ELEMENTS, Chunk, Watched, chunk_of, pieces
from bayesify.model.model import Model
from bayesify.model.network import Network

SIZES = (1, 3, 100, 5_000, 10**6)


@pytest.mark.parametrize("elements", [1, 50, 9_216, 10**6, 10**8])
@pytest.mark.parametrize(("draws", "rows"), list(itertools.product(SIZES, SIZES)))
def test_chunks_stay_below_the_limit(elements: int, draws: int, rows: int) -> None:
    chunk = chunk_of(elements, draws, rows, CACHE_ELEMENTS, MEMORY_ELEMENTS)
    assert 1 <= chunk.draws <= draws
    assert 1 <= chunk.rows <= rows
    assert chunk.draws * chunk.rows * elements <= MEMORY_ELEMENTS or chunk == Chunk(1, 1)
    if draws * rows * elements <= CACHE_ELEMENTS:
        assert chunk == Chunk(draws, rows)


@pytest.mark.parametrize(("total", "size"), [(1, 1), (10, 3), (10, 10), (11, 20), (1000, 7)])
def test_pieces_cover_everything_once_in_two_lengths_at_most(total: int, size: int) -> None:
    found = list(pieces(total, size))
    assert [i for part in found for i in range(part.start, part.stop)] == list(range(total))
    lengths = {part.stop - part.start for part in found}
    assert max(lengths) <= size
    assert len(lengths) <= 2


def model_of(module: nn.Module) -> Model:
    return Model(Network(module), Loss(lambda outputs, targets: outputs[:, 0]))


@pytest.mark.parametrize(("module", "shape"), [(plain(), (4,)), (normalised(), (4,)), (convolutional(), (1, 6, 6))])
def test_results_do_not_depend_on_chunks(
    module: nn.Module, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    draws, rows = 7, 90
    rng = generator("cpu", "chunks")
    network = Network(module)
    theta = torch.randn(draws, network.layout.num_parameters, generator=rng)
    inputs = torch.randn(rows, *shape, generator=rng)
    buffers = {name: value + torch.rand(value.shape, generator=rng) for name, value in network.buffers(draws).items()}
    expected = model_of(module).outputs(theta, inputs, buffers)
    for aim, limit in ((1, 1), (1_000, 3_000), (20_000, 20_000)):
        monkeypatch.setattr(chunking, "CACHE_ELEMENTS", aim)
        monkeypatch.setattr(chunking, "MEMORY_ELEMENTS", limit)
        model, meter = model_of(module), Meter()
        for _ in range(2):  # before and after activations are measured
            torch.testing.assert_close(model.outputs(theta, inputs, buffers, meter), expected, rtol=1e-4, atol=1e-5)
        assert meter.forward_evaluations == 2 * draws * rows


@pytest.mark.parametrize(("module", "shape"), [(plain(), (4,)), (convolutional(), (1, 6, 6))])
def test_no_result_of_a_layer_exceeds_the_limit(
    module: nn.Module, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    draws, rows, limit = 8, 400, 4_000
    monkeypatch.setattr(chunking, "CACHE_ELEMENTS", limit)
    monkeypatch.setattr(chunking, "MEMORY_ELEMENTS", limit)
    model = model_of(module)
    rng = generator("cpu", "limit")
    theta = torch.randn(draws, model.network.layout.num_parameters, generator=rng)
    inputs = torch.randn(rows, *shape, generator=rng)
    for _ in range(2):
        with Watched() as watched:
            result = model.outputs(theta, inputs, model.network.buffers(draws))
        assert watched.peak <= max(limit, result.numel())
    with Watched() as watched:  # the control: at once
        monkeypatch.setattr(chunking, "CACHE_ELEMENTS", MEMORY_ELEMENTS)
        monkeypatch.setattr(chunking, "MEMORY_ELEMENTS", MEMORY_ELEMENTS)
        result = model.outputs(theta, inputs, model.network.buffers(draws))
    assert watched.peak > 2 * max(limit, result.numel())
