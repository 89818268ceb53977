"""K networks as one: however they are evaluated, the numbers are the same to rounding."""

from typing import Any

import pytest
import torch
from small_problems import convolutional, image_data, normalised, plain, problem_of, regression_data, seeded_module
from torch import Tensor, nn

from bayesify.data import Data
from bayesify.engine import vectorise
from bayesify.engine.vectorise import Vectorised, Way
from bayesify.model.network import Mode
from bayesify.model.problem import Batch, Problem

FORCED = [Way.TRACED, Way.EAGER, Way.LOOPED]


class Attention(nn.Module):
    """Embedding, attention and layer normalisation on token ids."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 8)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.output = nn.Linear(8, 2)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.output(self.layer(self.embedding(tokens)).mean(1))


def tokens() -> tuple[Tensor, Tensor]:
    x = torch.randint(11, (24, 5), generator=torch.Generator().manual_seed(0))
    return x, (x.sum(1) % 2).long()


CASES: dict[str, tuple[Any, Any]] = {
    "mlp": (plain, regression_data),
    "normalised": (normalised, regression_data),
    "convolutional": (convolutional, image_data),
    "attention": (lambda: seeded_module(Attention), tokens),
}


def results(case: str, way: Way, *, per_particle: bool, calls: int = 1) -> tuple[Tensor, ...]:
    """Gradients, densities, outputs and statistics of three particles, in float64."""
    build, load = CASES[case]
    problem: Problem = problem_of(build().double(), load(), way=way.value)
    theta = problem.random(3, torch.Generator().manual_seed(0))
    rows = torch.stack([torch.arange(i, i + 16) for i in range(3)]) if per_particle else torch.arange(16)
    batch = Batch(problem.data.select(rows), per_particle)
    for _ in range(calls):
        gradient = problem.gradient(theta, batch, Mode.DENSITY)
        buffers = problem.buffers(theta)
        outputs = problem.outputs(theta, problem.data.inputs, buffers)
    statistics = [buffers[name] for name in sorted(buffers)]
    return (gradient.gradient, gradient.log_density, gradient.log_likelihood, outputs, *statistics)


@pytest.mark.parametrize("per_particle", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_all_ways_agree(case: str, per_particle: bool) -> None:
    reference = results(case, Way.LOOPED, per_particle=per_particle)
    for way in (Way.TRACED, Way.EAGER):
        torch.testing.assert_close(results(case, way, per_particle=per_particle), reference, rtol=1e-9, atol=1e-9)
    switched = results(case, Way.AUTO, per_particle=per_particle, calls=5)  # eager first, traced from the third call
    torch.testing.assert_close(switched, reference, rtol=1e-9, atol=1e-9)


def test_gradients_are_those_of_plain_autograd() -> None:
    x, y = regression_data()
    model = plain().double()
    problem = problem_of(model, (x, y), likelihood="gaussian", prior="flat", way="traced")
    theta = problem.initial()[None]
    log_noise = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    scale = log_noise.exp() + 1e-4
    value = torch.distributions.Normal(model(x.double())[:, 0], scale).log_prob(y.double()).sum()
    expected = torch.autograd.grad(value, [*model.parameters(), log_noise])
    found = problem.full_gradient(theta)
    flat = torch.cat([part.flatten() for part in expected])
    flat[-1] -= 0.0  # the prior of log noise is N(0, 1), whose score at 0 is 0
    torch.testing.assert_close(found.gradient[0], flat, rtol=1e-9, atol=1e-9)
    constant = -0.5 * torch.log(torch.tensor(2 * torch.pi, dtype=torch.float64))
    torch.testing.assert_close(found.log_density[0], (value + constant).detach(), rtol=1e-12, atol=1e-9)


class Refusing(nn.Module):
    """Data-dependent control flow, which vmap cannot batch."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer(x)
        return out if out.sum().item() > -1e9 else -out


def test_refusal_falls_back_to_loops() -> None:
    model = seeded_module(Refusing)
    plain_layer = nn.Sequential(model.layer)
    refused, reference = problem_of(model, regression_data()), problem_of(plain_layer, regression_data())
    theta = reference.random(3, torch.Generator().manual_seed(0))
    for _ in range(4):
        found = refused.gradient(theta, Batch(refused.data))
        expected = reference.gradient(theta, Batch(reference.data))
        torch.testing.assert_close(found.gradient, expected.gradient, rtol=1e-4, atol=1e-3)
    assert refused.meter.gradient_evaluations == reference.meter.gradient_evaluations == 4 * 3 * 200


@pytest.mark.parametrize("way", [Way.EAGER, Way.TRACED])
def test_a_forced_way_refuses_aloud(way: Way) -> None:
    problem = problem_of(seeded_module(Refusing), regression_data(), way=way.value)
    with pytest.raises(RuntimeError, match="vmap"):
        problem.gradient(problem.random(2, torch.Generator().manual_seed(0)), Batch(problem.data))


def test_the_users_own_errors_are_not_hidden() -> None:
    calls = []

    def broken(theta: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        calls.append(1)
        return (x @ theta.reshape(7, 1)).sum(), theta

    function = Vectorised(broken, gradient=True)
    with pytest.raises(RuntimeError, match=r"shape|size"):
        function((None,), torch.zeros(2, 5), torch.zeros(3, 7))
    assert function.refused is None
    assert len(calls) == 1


@pytest.mark.parametrize("way", Way)
def test_flops_are_counted_once_per_call(way: Way) -> None:
    """A linear layer costs 2 B D C forward; the gradient in its weights as much again."""
    problem = problem_of(nn.Sequential(nn.Linear(4, 5)), (torch.zeros(8, 4), torch.zeros(8, 5)), way=way.value)
    theta = problem.random(3, torch.Generator().manual_seed(0))
    forward = 2 * 8 * 4 * 5 * 3
    for count in range(1, 5):
        problem.outputs(theta, problem.data.inputs, {})
        assert problem.meter.flops == count * forward
    for count in range(1, 5):
        problem.gradient(theta, Batch(problem.data))
        assert problem.meter.flops == 4 * forward + count * 2 * forward


def test_large_work_is_looped(monkeypatch: pytest.MonkeyPatch) -> None:
    function = Vectorised(lambda theta: theta.sum(), gradient=False)
    theta = torch.zeros(4, 5)
    assert function.way_used(theta) == Way.EAGER
    monkeypatch.setattr(vectorise, "LOOP_ABOVE", 19)
    assert function.way_used(theta) == Way.LOOPED


def test_a_shape_is_traced_when_it_comes_again() -> None:
    runs = []

    def counted(theta: Tensor, x: Tensor) -> Tensor:
        runs.append(len(x))
        return (theta * x).sum()

    function = Vectorised(counted, gradient=False)
    for _ in range(6):
        function((None,), torch.ones(2, 3), torch.ones(3))
    assert len(runs) == 3  # twice eagerly, once to trace, then the graph alone
    assert function.way_used(torch.ones(2, 3)) == Way.TRACED
    assert function((None,), torch.full((2, 3), 2.0), torch.ones(3)).result.tolist() == [6.0, 6.0]
    function((None,), torch.ones(5, 3), torch.ones(3))
    assert len(runs) == 4  # another shape


@pytest.mark.parametrize("way", FORCED)
def test_dropout_differs_between_particles(way: Way) -> None:
    problem = problem_of(nn.Sequential(nn.Linear(4, 50), nn.Dropout(0.5), nn.Linear(50, 1)), regression_data(),
                         way=way.value)  # fmt: skip
    theta = problem.random(1, torch.Generator().manual_seed(0)).repeat(2, 1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        one, two = problem.gradient(theta, Batch(problem.data), Mode.TRAIN).log_likelihood
    assert one != two


def test_inputs_may_be_a_nest() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 1)

        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return self.layer(a + b)

    x, y = regression_data()
    problem = problem_of(seeded_module(Two), ({"a": x, "b": 2 * x}, y), likelihood="gaussian")
    reference = problem_of(nn.Sequential(nn.Linear(4, 1)), Data(3 * x, y), likelihood="gaussian")
    theta = problem.random(2, torch.Generator().manual_seed(0))
    rows = torch.arange(20).reshape(2, 10)
    found = problem.gradient(theta, Batch(problem.data.select(rows), True))
    expected = reference.gradient(theta, Batch(reference.data.select(rows), True))
    torch.testing.assert_close(found.gradient, expected.gradient, rtol=1e-4, atol=1e-3)
