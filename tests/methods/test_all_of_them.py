"""What holds for SWAG, MC dropout and the combinators alike."""

import copy
import json
from pathlib import Path

import pytest
import torch
from small_problems import fitted, normalised, plain, problem_of, regression_data, run_of
from torch import nn

import bayesify as bay
from bayesify.engine.rng import seed_of, seeded
from bayesify.methods import SWAG, Laplace, MCDropout, Multi, Subset, Tempered
from bayesify.methods.base import Method, describe
from bayesify.posterior.base import Posterior

METHODS = [
    SWAG(num_samples=6),
    MCDropout(num_samples=10),
    Multi(SWAG(num_samples=4), 2),
    Subset(Multi(SWAG(), 2), "last"),
    Tempered(MCDropout(num_samples=10), 0.5),
    Multi(Subset(Laplace(structure="full"), "last"), 2),
]
EPOCHS = 24

methods = pytest.mark.parametrize("method", METHODS, ids=describe)


def numbers(posterior: Posterior) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in posterior.tensors().items()}


@methods
def test_same_seed_same_result_and_another_seed_another(method: Method) -> None:
    data = regression_data()
    one = numbers(fitted(problem_of(normalised(), data), method, EPOCHS))
    torch.manual_seed(99)  # the global state has no influence
    two = numbers(fitted(problem_of(normalised(), data), method, EPOCHS))
    other = numbers(fitted(problem_of(normalised(), data), method, EPOCHS, seed=1))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)


@methods
def test_user_objects_and_global_randomness_are_left_alone(method: Method) -> None:
    data = regression_data()
    module = normalised().eval()
    before, inputs, state = copy.deepcopy(module), data[0].clone(), torch.get_rng_state()
    fitted(problem_of(module, data), method, EPOCHS).predict(data[0])
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(data[0], inputs)
    assert str(module) == str(before)
    assert [m.training for m in module.modules()] == [m.training for m in before.modules()]
    assert all(torch.equal(v, before.state_dict()[k]) for k, v in module.state_dict().items())
    assert all(p.grad is None for p in module.parameters())


@methods
@pytest.mark.parametrize("build", [plain, normalised])
@pytest.mark.parametrize("with_validation", [False, True])
def test_budget_is_used_and_kept(method: Method, build: object, with_validation: bool) -> None:
    problem = problem_of(build(), regression_data(), validation=0.1 if with_validation else None)  # type: ignore[operator]
    posterior = fitted(problem, method, 60)
    assert 0.98 * 60 * problem.num_examples <= posterior.cost.total <= 60 * problem.num_examples
    assert "unspent" not in posterior.diagnostics.values


@methods
def test_float64_stays(method: Method) -> None:
    x, y = regression_data()
    posterior = fitted(problem_of(normalised().double(), (x.double(), y.double())), method, EPOCHS)
    assert {value.dtype for value in posterior.tensors().values()} == {torch.float64}
    assert posterior.predict(x.double()).mean.dtype == torch.float64


@methods
def test_saved_and_loaded(method: Method, tmp_path: Path) -> None:
    data = regression_data()
    posterior = fitted(problem_of(normalised(), data), method, EPOCHS)
    posterior.save(tmp_path / "net.bayes")
    loaded = bay.load(tmp_path / "net.bayes", normalised())
    assert torch.equal(loaded.predict(data[0]).mean, posterior.predict(data[0]).mean)
    assert torch.equal(loaded.predict(data[0]).stddev, posterior.predict(data[0]).stddev)
    torch.testing.assert_close(loaded.draw(3)(data[0]), posterior.draw(3)(data[0]))
    assert (loaded.cost, loaded.diagnostics, repr(loaded)) == (posterior.cost, posterior.diagnostics, repr(posterior))


@methods
@pytest.mark.parametrize("killed_after", [0.2, 0.7])
def test_killed_and_resumed_is_the_same_to_the_bit(method: Method, killed_after: float, tmp_path: Path) -> None:
    data = regression_data()
    undisturbed = fitted(problem_of(normalised(), data, validation=0.1), method, EPOCHS)
    problem = problem_of(normalised(), data, validation=0.1)

    def kill(_: float) -> None:
        if problem.meter.total > killed_after * EPOCHS * problem.num_examples:
            raise KeyboardInterrupt

    with seeded(seed_of(0, "fit")), pytest.raises(KeyboardInterrupt):
        method.fit(problem, run_of(problem, EPOCHS, folder=tmp_path, progress=kill))
    problem = problem_of(normalised(), data, validation=0.1)
    resumed = fitted(problem, method, EPOCHS, folder=tmp_path)
    expected, found = numbers(undisturbed), numbers(resumed)
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert resumed.cost.total == undisturbed.cost.total
    assert resumed.diagnostics == undisturbed.diagnostics
    again = fitted(
        problem_of(normalised(), data, validation=0.1), method, EPOCHS, folder=tmp_path
    )  # nothing left to do
    assert all(torch.equal(expected[name], again.tensors()[name]) for name in expected)


@methods
def test_predictions_belong_to_their_rows(method: Method) -> None:
    data = regression_data()
    posterior = fitted(problem_of(normalised(), data), method, EPOCHS)
    whole = posterior.predict(data[0]).mean
    order = torch.arange(len(whole)).flip(0)
    torch.testing.assert_close(posterior.predict(data[0][order]).mean, whole[order])
    torch.testing.assert_close(posterior.predict(data[0][:5]).mean, whole[:5])


@methods
def test_diagnostics_are_json(method: Method) -> None:
    posterior = fitted(problem_of(plain(), regression_data()), method, EPOCHS)
    values = posterior.diagnostics.values
    assert json.loads(json.dumps(values)) == values


@methods
def test_tied_and_frozen_parameters(method: Method) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            nn.Module.__init__(self)
            self.first, self.second, self.act = nn.Linear(4, 4), nn.Linear(4, 4), nn.ReLU()
            self.head = nn.Linear(4, 1)
            self.second.weight = self.first.weight
            self.first.bias.requires_grad_(False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.act(self.second(self.act(self.first(x)))))

    with seeded(0):
        module = Tied()
    posterior = fitted(problem_of(module, regression_data()), method, EPOCHS)
    assert "first.bias" not in posterior.sample(1)
    assert "second.weight" not in posterior.sample(1)
    assert torch.isfinite(posterior.predict(regression_data()[0]).log_prob(regression_data()[1])).all()
