"""Statistics of normalisation layers: a function of the parameters and the data, however they are evaluated."""

import pytest
import torch
from small_problems import normalised, problem_of, regression_data
from torch import nn

from bayesify.engine.rng import seeded
from bayesify.model.problem import Batch, Problem


@pytest.mark.parametrize("way", ["auto", "traced", "eager", "looped"])
def test_statistics_are_those_of_a_pass_over_the_data(way: str) -> None:
    data = regression_data()
    problem = problem_of(normalised(), data, way=way)
    theta = problem.random(3, torch.Generator().manual_seed(0))
    named = problem.network.layout.unflatten(problem.model.split(theta)[0])
    hidden = data[0] @ named["0.weight"].mT + named["0.bias"][:, None]  # (3, 200, 8)
    for _ in range(5):  # traced from the third call on
        buffers = problem.buffers(theta)
        torch.testing.assert_close(buffers["1.running_mean"], hidden.mean(1))
        torch.testing.assert_close(buffers["1.running_var"], hidden.var(1))
    assert problem.meter.forward_evaluations == 5 * 3 * 200


def test_one_row_too_many_does_not_make_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    data = regression_data(17)  # a piece of one row would have no variance
    problem = problem_of(normalised(), data)
    monkeypatch.setattr(problem.model, "rows_at_once", lambda _: 16)
    theta = problem.random(1, torch.Generator().manual_seed(0))
    named = problem.network.layout.unflatten(problem.model.split(theta)[0][0])
    pieces = (data[0] @ named["0.weight"].T + named["0.bias"]).tensor_split(2)
    means = torch.stack([piece.mean(0) for piece in pieces])
    variances = torch.stack([piece.var(0) for piece in pieces])
    buffers = problem.buffers(theta)
    torch.testing.assert_close(buffers["1.running_mean"][0], means.mean(0))
    torch.testing.assert_close(buffers["1.running_var"][0], variances.mean(0) + means.var(0, unbiased=False))


def test_normalisation_layers_can_be_initialised_afresh() -> None:
    problem: Problem = problem_of(nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 1)), regression_data())
    named = problem.network.layout.unflatten(problem.network.reinitialised(2, torch.Generator().manual_seed(0)))
    assert torch.equal(named["0.weight"], torch.ones(2, 4))
    assert torch.equal(named["0.bias"], torch.zeros(2, 4))
    assert not torch.equal(named["1.weight"][0], named["1.weight"][1])


def test_tracing_leaves_the_stream_of_dropout_layers_alone() -> None:

    problem = problem_of(normalised(), regression_data())
    theta = problem.random(2, torch.Generator().manual_seed(0))
    gradients, following = [], []
    for _ in range(5):  # the third call traces
        with seeded(0):
            gradients.append(problem.gradient(theta, Batch(problem.data)).gradient)
            following.append(torch.get_rng_state())
    assert all(torch.equal(gradients[0], other) for other in gradients)
    assert all(torch.equal(following[0], other) for other in following)
