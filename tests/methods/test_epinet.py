"""Epinets: the prior function where nothing is learned, Bayesian linear regression where all is linear."""

import math
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from small_problems import (
    convolutional,
    critical_value,
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
from bayesify.data import Data
from bayesify.engine.rng import generator, seeded
from bayesify.errors import MethodError, ModelError
from bayesify.fitting import fit_problem
from bayesify.methods import Epinet
from bayesify.methods.epinet import training_data
from bayesify.model.epinet import place_of, with_signals
from bayesify.model.likelihoods import Gaussian
from bayesify.model.network import Mode, Network
from bayesify.model.parameters import Slot
from bayesify.model.problem import Batch, Problem
from bayesify.posterior.base import Posterior
from bayesify.posterior.draws import Draws


def prepared(problem: Problem, **settings: Any) -> Problem:
    return Epinet(**settings).prepared(problem, generator("cpu", "epinet"))


def zeroed(problem: Problem) -> Tensor:
    """The initial particle with σ_L at zero, (1, P)."""
    theta = problem.initial().clone()
    for slot in problem.network.layout.slots:
        if slot.name.startswith("learned."):
            theta[slot.offset : slot.offset + slot.size] = 0
    return theta[None]


def outputs_at(problem: Problem, theta: Tensor, x: Tensor, z: Tensor) -> Tensor:
    """(S, B, C) for z (S, Dz)."""
    buffers = {name: value.expand(len(z), *value.shape[1:]) for name, value in problem.network.buffers(1).items()}
    return problem.model.outputs(theta.expand(len(z), -1), x, buffers | {"z": z})


@pytest.mark.parametrize("module", [plain(), normalised()])
def test_with_nothing_learned_it_is_the_network_plus_the_prior_function(module: nn.Module) -> None:
    x = regression_data()[0][:7]
    problem = prepared(problem_of(module, regression_data()), index_dim=3, prior_scale=0.5)
    z = torch.randn(5, 3, generator=generator("cpu", "z"))
    found = outputs_at(problem, zeroed(problem), x, z)[..., 0]
    features = module[:-1].eval()(x)
    prior = problem.network.module.prior
    hidden = torch.cat([features, x], 1)
    for number in range(3):
        hidden = hidden @ prior.get_buffer(f"weight{number}") + prior.get_buffer(f"bias{number}")
        hidden = hidden.relu() if number < 2 else hidden
    expected = module(x)[:, 0] + 0.5 / math.sqrt(3) * torch.einsum("sd,dbc->sb", z, hidden)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(outputs_at(problem, zeroed(problem), x, torch.zeros(1, 3))[0], module(x))
    module.train()


def test_prior_functions_have_the_default_priors_law() -> None:
    problem = prepared(problem_of(plain(), regression_data()), index_dim=400)
    prior = problem.network.module.prior
    assert prior.weight0.shape == (400, 12, 5)
    for values, variance in ((prior.weight0, 2 / 12), (prior.weight1, 2 / 5), (prior.bias0, 1.0)):
        assert abs(float(values.square().mean()) / variance - 1) < critical_value(3) * math.sqrt(2 / values.numel())
    assert not torch.equal(prior.weight0, prepared(problem_of(plain(), regression_data())).network.module.prior.weight0)


def test_gradients_do_not_flow_into_the_features() -> None:
    """Where the network's last layer is nought, only σ_L could send a gradient to what comes before."""
    data = regression_data()
    problem = prepared(problem_of(plain(), data))
    theta = problem.initial().clone()
    spans = {s.name: slice(s.offset, s.offset + s.size) for s in problem.network.layout.slots}
    theta[spans["base.2.layer.weight"]] = 0
    batch = Batch(Data(with_signals(problem.data.inputs, torch.zeros(200, 0)), problem.data.targets))
    gradient = problem.likelihood_gradient(theta[None], batch)[0][0]
    assert not gradient[spans["base.0.weight"]].any()
    assert gradient[spans["base.2.layer.weight"]].abs().max() > 1
    assert gradient[spans["learned.layers.0.weight"]].abs().max() > 0


def test_training_examples_draw_indices_of_their_own_and_signals_move_them() -> None:
    problem = prepared(problem_of(plain(), regression_data()), index_dim=2, hidden=0, prior_hidden=0)
    x = torch.ones(4000, 4)
    none, signals = (with_signals(x, value) for value in (torch.zeros(4000, 0), torch.full((4000, 2), 30.0)))
    with seeded(0), torch.no_grad():
        network, theta = problem.network, problem.network.initial
        plainly, moved = (network(theta, {}, inputs, Mode.PREDICT)[:, 0] for inputs in (none, signals))
    assert len(plainly.unique()) > 3900
    mean = network(theta, {}, x[:1], Mode.PREDICT)
    error = plainly.std() / math.sqrt(4000)
    assert (plainly.mean() - mean).abs() < critical_value() * error
    assert float(moved.std()) == pytest.approx(30 * math.sqrt(2), rel=0.15)


def linear(num_examples: int = 40) -> Problem:
    """Two inputs and a bias, of which prior and data say about as much."""
    rng = generator("cpu", "linear")
    x = 0.15 * torch.randn(num_examples, 2, generator=rng, dtype=torch.float64)
    y = x.sum(1) + 0.3 + 0.5 * torch.randn(num_examples, generator=rng, dtype=torch.float64)
    return problem_of(nn.Linear(2, 1).double(), (x, y), likelihood=Gaussian(scale=0.5))


class Solved(NamedTuple):
    """The minimum of the expected loss of a linear epinet, Wᵀφ + (V + W₀)ᵀφ · z with W₀ frozen and signals c."""

    theta: Tensor  # (1, P)
    total: Tensor  # (3, Dz): V + W₀
    design: Tensor  # (N, 3)
    precision: Tensor  # (3, 3): A, of the posterior at temperature 1


def solved(problem: Problem, learning: Problem) -> Solved:
    """A W = Φᵀy/σ² and A (V + W₀) = ΦᵀC/σ² + S⁻² W₀, where the default prior has S = 1 for both inputs and the bias."""
    prior, noise = problem.network.module.prior, 0.5
    design = torch.cat([problem.data.inputs, torch.ones(problem.num_examples, 1)], 1)
    frozen = problem.network.module.prior_scale * torch.cat([prior.weight0[:, :, 0], prior.bias0[:, 0]], 1).T
    frozen = frozen / math.sqrt(frozen.shape[1])
    signals = learning.data.inputs["signal"]
    precision = design.T @ design / noise**2 + torch.eye(3)
    total = torch.linalg.solve(precision, design.T @ signals / noise**2 + frozen)
    mean = torch.linalg.solve(precision, design.T @ problem.data.targets / noise**2)
    named = {
        "base.layer.weight": mean[None, :2],
        "base.layer.bias": mean[2:],
        "learned.layers.0.weight": (total - frozen).T[:, :2],
        "learned.layers.0.bias": (total - frozen)[2],
    }
    return Solved(problem.network.layout.flatten(named)[None], total, design, precision)


@pytest.mark.parametrize("temperature", [1.0, 0.3])
def test_a_linear_epinets_minimum_is_bayesian_linear_regression(temperature: float) -> None:
    size = 4000
    method = Epinet(index_dim=size, hidden=0, prior_hidden=0)
    rng = generator("cpu", "linear epinet")
    problem = method.prepared(linear().with_changes(temperature=temperature), rng)
    found = solved(problem, problem.with_changes(data=training_data(problem, size, rng)))
    basis = torch.linalg.inv(torch.linalg.cholesky(found.precision))  # makes the posterior's covariance T I
    covariance = torch.linalg.inv(basis.T) @ found.total @ found.total.T @ torch.linalg.inv(basis)
    error = (1 + torch.eye(3)).sqrt() * temperature / math.sqrt(size)
    z = (covariance - temperature * torch.eye(3)) / error
    assert z.abs().max() < critical_value(6)
    # The network at that minimum has that covariance: its values at unit vectors of z are the columns.
    x = torch.eye(2, dtype=torch.float64)
    values = outputs_at(problem, found.theta, x, torch.eye(size, dtype=torch.float64)[:50])[..., 0]
    mean = outputs_at(problem, found.theta, x, torch.zeros(1, size, dtype=torch.float64))[..., 0]
    expected = torch.cat([x, torch.ones(2, 1)], 1) @ found.total[:, :50]
    torch.testing.assert_close((values - mean).T, expected)


@pytest.mark.parametrize(("moved", "is_minimum"), [(1.0, True), (0.8, False)])
def test_the_expected_gradient_is_nought_there(moved: float, is_minimum: bool) -> None:
    method = Epinet(index_dim=3, hidden=0, prior_hidden=0)
    rng = generator("cpu", "gradient")
    problem = method.prepared(linear().with_changes(temperature=0.3), rng)
    learning = problem.with_changes(data=training_data(problem, 3, rng))
    theta = solved(problem, learning).theta * moved
    with seeded(1):
        gradients = learning.full_gradient(theta.expand(4000, -1)).gradient
    z = gradients.mean(0) / (gradients.std(0) / math.sqrt(4000))
    assert (z.abs().max() < critical_value(len(z))) == is_minimum


def test_training_ends_at_the_minimum() -> None:
    method = Epinet(index_dim=2, hidden=0, prior_hidden=0, num_samples=2, batch_size=40, learning_rate=0.02)
    problem = linear()
    run = run_of(problem, 4000)
    posterior = fit_problem(problem, method, run)
    rng = run_of(problem, 4000).phase("indices").rng
    again = method.prepared(problem, rng)
    found = solved(again, again.with_changes(data=training_data(again, 2, rng)))
    scale = found.precision.diagonal().rsqrt()  # posterior standard deviations of each weight
    total = torch.stack([posterior.kept.theta[0, s.offset : s.offset + s.size].norm() for s in slots(posterior)])
    expected = torch.stack([found.theta[0, s.offset : s.offset + s.size].norm() for s in slots(posterior)])
    assert ((total - expected).abs() / scale.max()).max() < 0.1


def slots(posterior: Posterior) -> tuple[Slot, ...]:
    return posterior.model.network.layout.slots


def test_without_signals_the_spread_is_the_priors_only() -> None:
    """The same with a noise scale that has to be learned: (1 − shrinkage) of the prior functions is left."""
    problem = problem_of(nn.Linear(2, 1).double(), tuple(linear().data))
    method = Epinet(index_dim=20, hidden=0, prior_hidden=0, num_samples=400, batch_size=40)
    known = fitted(linear(), method, 1500).functions(torch.eye(2)).outputs.var(0)
    assert (fitted(problem, method, 1500).functions(torch.eye(2)).outputs.var(0) < 0.7 * known).all()


@pytest.mark.parametrize("pretrained", [False, True])
def test_draws_are_functions_and_survive_saving(pretrained: bool, tmp_path: Path) -> None:
    x, y = regression_data()
    module = normalised()
    with torch.no_grad():
        module[1].running_mean.fill_(0.2)
    posterior = bay.fit(
        module,
        (x, y),
        method=Epinet(num_samples=20),
        budget=bay.Budget(epochs=5),
        pretrained=pretrained,
        progress=False,
    )
    function = posterior.draw(seed=1)
    whole = function(x)
    torch.testing.assert_close(torch.cat([function(x[:9]), function(x[9:])]), whole)
    assert posterior.predict(x).epistemic.min() > 0
    assert isinstance(posterior, Draws)
    assert posterior.kept.theta.stride(0) == 0
    posterior.save(tmp_path / "net.bayes")
    loaded = bay.load(tmp_path / "net.bayes", normalised())
    torch.testing.assert_close(loaded.predict(x).outputs, posterior.predict(x).outputs)
    torch.testing.assert_close(loaded.draw(1)(x), whole)


def test_a_pretrained_network_stays_as_it_is() -> None:
    x, y = regression_data()
    module = normalised()
    posterior = fitted(problem_of(module, (x, y), pretrained=True), Epinet(num_samples=3), 20)
    problem_names = posterior.model.network.layout.names
    assert problem_names
    assert all(name.startswith("learned.") for name in problem_names)
    zero = {name: value[:1] for name, value in posterior.kept.buffers.items()} | {"z": torch.zeros(1, 8)}
    found = posterior.model.outputs(posterior.kept.theta[:1], x, zero)[0]
    torch.testing.assert_close(found, module.eval()(x))
    before = prepared(problem_of(module.train(), (x, y), pretrained=True)).network.initial
    assert (posterior.kept.theta[0, :-1] - before).abs().max() > 0.01  # and the epinet has learned


def test_images_take_the_last_layers_features_only() -> None:
    problem = problem_of(convolutional(), image_data())
    assert place_of(problem.network, problem.data.inputs[:2]) == ("6", 0)
    posterior = fitted(problem, Epinet(), 3)
    assert posterior.predict(image_data()[0][:5]).epistemic.min() > 0


class Named(nn.Module):
    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.a, self.b = nn.Linear(2, 3), nn.Linear(2, 2)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return self.b(self.a(left).tanh()[:, :2] + right)


def test_inputs_by_name_and_layers_out_of_order() -> None:
    rng = generator("cpu", "named")
    x = {"left": torch.randn(50, 2, generator=rng), "right": torch.randn(50, 2, generator=rng)}
    problem = problem_of(seeded_module(Named), (x, (x["left"][:, 0] > 0).long()))
    assert place_of(problem.network, problem.data.inputs) == ("b", 0)
    assert fitted(problem, Epinet(), 4).predict(x).epistemic.min() > 0


def test_networks_that_do_not_end_with_a_linear_layer_are_refused() -> None:
    module = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1), nn.Tanh())
    with pytest.raises(ModelError, match=r"no nn\.Linear whose output"):
        fitted(problem_of(module, regression_data()), Epinet(), 4)
    assert place_of(Network(plain()), torch.ones(3, 4)).last == "2"


@pytest.mark.parametrize("settings", [{"index_dim": 0}, {"hidden": -1}, {"prior_hidden": 2.5}, {"prior_scale": 0.0}])
def test_bad_settings_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(MethodError, match=next(iter(settings))):
        Epinet(**settings)
