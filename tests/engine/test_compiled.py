"""Compiled graphs give what traced ones give, and where none can be made the traced one goes on."""

import shutil
from pathlib import Path

import pytest
import torch
from small_problems import convolutional, image_data, normalised, plain, problem_of, regression_data
from torch import Tensor, nn

import bayesify as bay
from bayesify.engine import compiled as module
from bayesify.engine.rng import seeded
from bayesify.engine.vectorise import COMPILE_SHARED, Vectorised, Way
from bayesify.methods import MAP
from bayesify.model.network import Mode
from bayesify.model.problem import Batch, Gradient

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="there is no C++ compiler")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BAYESIFY_CACHE", str(tmp_path))
    return tmp_path / "compiled"


def flops(way: Way) -> float:
    problem = problem_of(plain(), regression_data(), way=way.value)
    problem.expect(COMPILE_SHARED, Mode.TRAIN)
    for _ in range(4):
        problem.gradient(problem.initial()[None], Batch(problem.data))
    return problem.meter.flops


def gradient(build: object, data: tuple[Tensor, Tensor], way: Way, per_particle: bool) -> Gradient:
    problem = problem_of(build().double(), data, way=way.value)
    theta = problem.random(3, torch.Generator().manual_seed(0))
    rows = torch.stack([torch.arange(i, i + 16) for i in range(3)]) if per_particle else torch.arange(16)
    problem.expect(COMPILE_SHARED, Mode.DENSITY)
    for _ in range(2):
        found = problem.gradient(theta, Batch(problem.data.select(rows), per_particle), Mode.DENSITY)
    assert problem._gradients[Mode.DENSITY].way_used(theta) == way
    return found


@needs_compiler
@pytest.mark.parametrize(
    ("build", "data", "per_particle"),
    [(plain, regression_data(), True), (normalised, regression_data(), False), (convolutional, image_data(), False)],
    ids=["mlp", "normalised", "convolutional"],
)
def test_compiled_gradients_are_the_looped(build: object, data: tuple[Tensor, Tensor], per_particle: bool) -> None:
    found = gradient(build, data, Way.COMPILED, per_particle)
    expected = gradient(build, data, Way.LOOPED, per_particle)
    torch.testing.assert_close(found.gradient, expected.gradient, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found.log_likelihood, expected.log_likelihood, rtol=1e-9, atol=1e-9)


@needs_compiler
def test_operations_are_counted_as_when_nothing_is_compiled(cache: Path) -> None:
    assert flops(Way.COMPILED) == flops(Way.EAGER) > 0
    assert len(list(cache.glob("*.pt2"))) == 1


def squares(theta: Tensor, x: Tensor) -> Tensor:
    return (x @ theta).square()


@needs_compiler
def test_strides_do_not_matter_and_the_disk_is_used_again(cache: Path) -> None:
    theta = torch.arange(6.0).reshape(3, 2).T  # not contiguous
    x = torch.arange(12.0).reshape(3, 4).T
    seconds: list[float] = []
    for _ in range(2):
        function = Vectorised(squares, gradient=False, way=Way.COMPILED, on_compile=lambda s, _: seconds.append(s))
        function.expected_calls = COMPILE_SHARED
        for _ in range(2):
            torch.testing.assert_close(function((None,), theta, x).result, (theta @ x.T).square())
        assert function.way_used(theta) == Way.COMPILED
        wide = torch.arange(24.0).reshape(6, 4).T[:, ::2]
        torch.testing.assert_close(function((None,), theta, wide).result, (theta @ wide.T).square())
    assert len(list(cache.glob("*.pt2"))) == 1
    assert len(seconds) == 2
    assert seconds[1] < seconds[0]


def test_few_expected_calls_are_not_compiled(cache: Path) -> None:
    for way, expected in [(Way.AUTO, 1000), (Way.COMPILED, COMPILE_SHARED - 1)]:
        function = Vectorised(squares, gradient=False, way=way)
        function.expected_calls = expected
        for _ in range(4):
            function((None,), torch.ones(2, 3), torch.ones(4, 3))
        assert function.way_used(torch.ones(2, 3)) == Way.TRACED
    assert not cache.exists()


@needs_compiler
def test_dropout_draws_what_the_traced_graph_draws() -> None:
    data = regression_data()
    network = nn.Sequential(
        nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 8), nn.Dropout(0.2), nn.Linear(8, 1)
    )
    found = {}
    for way in (Way.TRACED, Way.COMPILED):
        problem = problem_of(network, data, way=way.value)
        problem.expect(COMPILE_SHARED, Mode.TRAIN)
        theta = problem.random(3, torch.Generator().manual_seed(0))
        problem.gradient(theta, Batch(problem.data))  # counts operations, traced or not
        with seeded(1):
            found[way] = [problem.gradient(theta, Batch(problem.data)).gradient for _ in range(3)]
        assert problem._gradients[Mode.TRAIN].way_used(theta) == way
    torch.testing.assert_close(found[Way.COMPILED], found[Way.TRACED], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(found[Way.COMPILED][0], found[Way.COMPILED][1])


def test_without_a_compiler_the_traced_graph_goes_on(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("no C++ compiler")

    monkeypatch.setattr(module, "_compile", broken)
    data = regression_data()
    posterior = bay.fit(plain(), data, method=MAP(), budget=bay.Budget(epochs=300), way="compiled", progress=False)
    same = bay.fit(plain(), data, method=MAP(), budget=bay.Budget(epochs=300), way="auto", progress=False)
    torch.testing.assert_close(posterior.predict(data[0]).mean, same.predict(data[0]).mean)
    assert "no C++ compiler" in posterior.diagnostics.values["not_compiled"]


@needs_compiler
def test_a_long_fit_says_what_compiling_took() -> None:
    data = regression_data()
    method = MAP(batch_size=20)
    posterior = bay.fit(plain(), data, method=method, budget=bay.Budget(epochs=300), way="compiled", progress=False)
    assert 0 < posterior.cost.compile_seconds < posterior.cost.seconds
