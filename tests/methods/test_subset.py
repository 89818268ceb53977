import itertools
import math
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from small_problems import (
    convolutional,
    fitted,
    image_data,
    normalised,
    plain,
    problem_of,
    regression_data,
    run_of,
    seeded_module,
)
from torch import Tensor, nn

import bayesify as bay
from bayesify.engine import budget
from bayesify.engine.optimise import Schedule, optimise
from bayesify.engine.rng import seed_of, seeded
from bayesify.engine.run import Run
from bayesify.errors import MethodError
from bayesify.methods import SWAG, MCDropout, Subset
from bayesify.methods.base import Exactness, Method, MethodInfo
from bayesify.methods.subset import selected
from bayesify.model.network import Network
from bayesify.model.problem import Problem
from bayesify.posterior.base import Particles, Posterior
from bayesify.posterior.draws import Draws


@dataclass(frozen=True)
class Here(Method):
    """A post-hoc method: looks at all data once and stays where it was put."""

    info = MethodInfo("here", "point", Exactness.EXACT, "none", "stays where it is put", post_hoc=True)

    @property
    def num_particles(self) -> int:
        return 1

    def fit(self, problem: Problem, run: Run) -> Posterior:
        assert problem.pretrained
        assert run.affords(problem.num_examples)
        problem.full_gradient(problem.initial()[None])
        theta = problem.initial()[None]
        return Draws(problem.model, Particles(theta, problem.buffers(theta)))


def mode_of(problem: Problem, run: Run) -> Tensor:
    """What `Subset` finds first, computed alone."""
    phase = run.phase("map", 0.5, reserve=problem.statistics_cost(1))
    with seeded(seed_of(run.seed, "fit")):
        return optimise(problem, phase, problem.start(1, phase.rng), Schedule(1e-2, 64))


@pytest.mark.parametrize("build", [plain, normalised])
def test_other_parameters_are_exactly_at_the_mode(build: object) -> None:
    data = regression_data()
    module = build()  # type: ignore[operator]
    posterior = fitted(problem_of(module, data), Subset(SWAG(), "last"), 30)
    problem = problem_of(module, data)
    theta = mode_of(problem, run_of(problem, 30))
    buffers = problem.buffers(theta)
    named = problem.network.layout.unflatten(problem.model.split(theta)[0][0])
    last = [name for name in named if name in posterior.sample(2)]
    assert len(last) == 2
    held = posterior.model.network.frozen()
    assert set(held) == (set(named) - set(last)) | set(buffers)
    for name, value in held.items():
        assert torch.equal(value, named[name] if name in named else buffers[name][0])
    assert posterior.covariance.variance().min() > 0
    assert not torch.equal(posterior.mean[:8], named[last[0]].reshape(-1))


def test_noise_goes_on_from_the_mode() -> None:
    data = regression_data()
    posterior = fitted(problem_of(plain(), data), Subset(Here(), "last"), 30)
    (noise,) = posterior.sample()["likelihood"]
    assert noise.abs() > 0.1  # it would start at log scale 0
    assert posterior.particles().theta.shape == (1, 10)  # eight weights, a bias and the noise
    assert posterior.predict(data[0]).stddev.mean() < 0.9


def test_nearly_all_budget_goes_to_the_mode_of_a_post_hoc_method() -> None:
    problem = problem_of(normalised(), regression_data())
    posterior = fitted(problem, Subset(Here(), "last"), 30)
    assert 0.98 * 30 * 200 <= posterior.cost.total <= 30 * 200
    assert Subset(Here()).is_post_hoc
    assert not Subset(SWAG()).is_post_hoc


def test_pretrained_models_keep_everything_else() -> None:
    module = normalised()
    module[1].running_mean.fill_(0.3)
    problem = problem_of(module, regression_data(), pretrained=True)
    posterior = fitted(problem, Subset(Here(), "last"), 30)
    assert posterior.cost.total == 200
    for name, value in posterior.model.network.frozen().items():
        assert torch.equal(value, module.state_dict()[name])


class Tied(nn.Module):
    """The output layer uses the embedding's weight, registered first."""

    def __init__(self, bias: bool) -> None:
        nn.Module.__init__(self)
        self.embed, self.body, self.head = nn.Embedding(6, 4), nn.Linear(4, 4), nn.Linear(4, 6, bias=bias)
        self.head.weight = self.embed.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(self.embed(x)))


class Headless(nn.Module):
    """Its last layer is frozen."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.first, self.head = nn.Linear(4, 4), nn.Linear(4, 1).requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.first(x))


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        (plain(), {"2.weight", "2.bias"}),
        (convolutional(), {"6.weight", "6.bias"}),
        (Tied(bias=False), {"embed.weight"}),
        (Tied(bias=True), {"embed.weight", "head.bias"}),
        (Headless(), {"first.weight", "first.bias"}),
        (nn.Linear(3, 1), {"weight", "bias"}),
        (nn.Sequential(nn.Linear(3, 1), nn.Sequential(nn.Linear(1, 1, bias=False), nn.ReLU())), {"1.0.weight"}),
    ],
)
def test_last_layer(module: nn.Module, expected: set[str]) -> None:
    assert selected(Network(module), "last") == expected


def test_names_are_searched() -> None:
    network = Network(nn.ModuleDict({"lora_A": nn.Linear(2, 2), "base": nn.Linear(2, 2), "lora_B": nn.Linear(2, 2)}))
    lora = {f"lora_{side}.{leaf}" for side in "AB" for leaf in ("weight", "bias")}
    assert selected(network, "lora") == lora
    assert selected(network, "bias$") == {"lora_A.bias", "base.bias", "lora_B.bias"}


def test_tied_weights_move_together() -> None:
    rng = torch.Generator().manual_seed(0)
    tokens = torch.randint(6, (60,), generator=rng)
    posterior = fitted(problem_of(seeded_module(lambda: Tied(bias=False)), (tokens, tokens)), Subset(SWAG()), 20)
    assert set(posterior.sample(1)) == {"embed.weight"}
    theta, buffers = posterior.particles(1)
    network = posterior.model.network
    weight = network.layout.unflatten(theta[0])["embed.weight"]
    held = network.frozen()
    hidden = weight[tokens] @ held["body.weight"].T + held["body.bias"]
    torch.testing.assert_close(posterior.model.outputs(theta, tokens, buffers)[0], hidden @ weight.T)


@pytest.mark.parametrize("method", [SWAG(), MCDropout(), Subset(SWAG(), "2.weight")])
def test_saved_with_its_frozen_part(method: Method, tmp_path: Path) -> None:
    data = regression_data()
    parts = "2" if isinstance(method, Subset) else "last"
    posterior = fitted(problem_of(plain(), data), Subset(method, parts), 30)
    posterior.save(tmp_path / "net.bayes")
    loaded = bay.load(tmp_path / "net.bayes", seeded_module(lambda: nn.Sequential(*[*plain()])))
    assert torch.equal(loaded.predict(data[0]).mean, posterior.predict(data[0]).mean)


def test_part_of_a_convolutional_network() -> None:
    data = image_data()
    posterior = fitted(problem_of(convolutional(), data), Subset(SWAG(), "last"), 20)
    assert posterior.covariance.variance().shape == (34,)
    assert posterior.predict(data[0]).epistemic.max() > 0


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        (
            "attention",
            "Subset(parameters='attention') matches no trainable parameter: this network has 0.weight, 0.bias, "
            "2.weight, 2.bias.",
        ),
        (
            "lora",
            "Subset(parameters='lora') matches no trainable parameter: this network has 0.weight, 0.bias, 2.weight, "
            "2.bias.",
        ),
    ],
)
def test_no_match_is_an_error_before_anything_is_trained(parameters: str, message: str) -> None:
    problem = problem_of(plain(), regression_data())
    with pytest.raises(MethodError) as error:
        fitted(problem, Subset(SWAG(), parameters), 30)
    assert str(error.value) == message
    assert problem.meter.total == 0


def test_settings_are_checked() -> None:
    with pytest.raises(MethodError, match=r"Subset\(parameters='\('\) is not a regular expression"):
        Subset(SWAG(), "(")
    with pytest.raises(MethodError, match=r"map_share must be between 0 and 1"):
        Subset(SWAG(), map_share=0.0)
    with pytest.raises(MethodError, match=r"parameters must be a non-empty string"):
        Subset(SWAG(), "")


def test_memory_is_that_of_the_part() -> None:
    problem = problem_of(
        seeded_module(lambda: nn.Sequential(nn.Linear(4, 500), nn.ReLU(), nn.Linear(500, 1))), regression_data()
    )
    assert Subset(SWAG(), "2.bias").memory(problem) == 8 * 4 * problem.num_parameters  # finding the mode
    assert Subset(SWAG(), "last").memory(problem) == SWAG().memory(problem) * 502 / problem.num_parameters
    assert problem.meter.total == 0


@pytest.mark.parametrize("method", [SWAG(), Here()])
def test_a_budget_of_seconds_leaves_time_for_the_method(method: Method, monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = itertools.count()
    monkeypatch.setattr(budget, "time", SimpleNamespace(perf_counter=lambda: next(ticks) / 1000))  # nothing is timed
    problem = problem_of(plain(), regression_data())
    run = Run(problem.meter, limit=math.inf, seconds=1.0)
    Subset(method, "last").fit(problem, run)
    assert problem.meter.gradient_evaluations > 200
    assert 0.7 < problem.meter.seconds < 1.1
