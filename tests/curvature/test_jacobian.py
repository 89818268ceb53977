"""Jacobians against one example and one output at a time by autograd."""

import pytest
import torch
from curvature_cases import NAMES, Parts, problem_of

from bayesify.curvature import jacobian as module
from bayesify.curvature.jacobian import Jacobian
from bayesify.engine.vectorise import Way


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("rows", [1, 3, 100])
def test_jacobian_is_autograds(name: str, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    problem = problem_of(name)
    size = 2 * problem.num_network_parameters
    monkeypatch.setattr(module, "CHUNK_ELEMENTS", rows * size)
    buffers = {key: value[0] for key, value in problem.network.buffers(1).items()}
    parts = list(Jacobian(problem.model).chunks(problem.initial(), buffers, problem.data.inputs, 2))
    assert len(parts[0].jacobian) == min(rows, 7)
    torch.testing.assert_close(torch.cat([part.jacobian for part in parts]), Parts(problem).jacobian)
    expected = problem.outputs(problem.initial()[None], problem.data.inputs, problem.network.buffers(1))[0]
    torch.testing.assert_close(torch.cat([part.outputs for part in parts]), expected)


def test_looping_gives_the_same() -> None:
    problem = problem_of("mlp")
    batched, looped = (
        next(Jacobian(problem.model, way).chunks(problem.initial(), {}, problem.data.inputs, 2)).jacobian
        for way in (Way.EAGER, Way.LOOPED)
    )
    torch.testing.assert_close(batched, looped)
