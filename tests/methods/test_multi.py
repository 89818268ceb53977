from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from small_problems import fitted, normalised, plain, problem_of, regression_data, run_of

import bayesify as bay
from bayesify.engine.rng import seed_of, seeded
from bayesify.engine.run import Run
from bayesify.errors import MethodError
from bayesify.methods import HMC, MAP, SWAG, MCDropout, Multi, Subset, Tempered
from bayesify.methods.base import Exactness, Method, MethodInfo, describe
from bayesify.methods.registry import get_method
from bayesify.model.problem import Problem
from bayesify.posterior.base import Particles, Posterior
from bayesify.posterior.draws import Draws
from bayesify.posterior.mixture import Mixture


def same(first: Posterior, second: Posterior) -> bool:
    one, other = first.tensors(), second.tensors()
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("method", [SWAG(), MCDropout(rate=0.3), MAP()])
def test_modes_are_what_the_method_gives_alone(method: Method) -> None:
    data = regression_data()
    mixture = fitted(problem_of(normalised(), data), Multi(method, 3), 24)
    assert isinstance(mixture, Mixture)
    spent = 0.0
    for mode, component in enumerate(mixture.components):
        problem = problem_of(normalised(), data)
        run = Run(problem.meter, limit=(24 * 200 - spent) / (3 - mode), name=f"fit/mode-{mode}")
        with seeded(seed_of(0, "fit")):
            alone = method.fit(problem, run)
        spent += problem.meter.total
        assert same(component, alone)
    assert mixture.cost.total == pytest.approx(spent)


def test_modes_differ() -> None:
    mixture = fitted(problem_of(plain(), regression_data()), Multi(SWAG(), 4), 24)
    means = torch.stack([component.mean for component in mixture.components])
    assert torch.pdist(means).min() > 0.1


@dataclass(frozen=True)
class Probe(Method):
    """Reports the name and limit of its run."""

    info = MethodInfo("probe", "point", Exactness.EXACT, "none", "tells what it was given")

    @property
    def num_particles(self) -> int:
        return 2

    def fit(self, problem: Problem, run: Run) -> Posterior:
        problem.meter.gradient(round(run.limit))
        run.notes["name"] = run.name
        run.notes["spent"] = run.spent
        run.notes["log_evidence"] = -1.0
        run.notes.setdefault("warnings", []).append(f"seen in {run.name}")
        theta = torch.rand(1, problem.num_parameters, generator=run.rng)
        return Draws(problem.model, Particles(theta, problem.network.buffers(1)))


def test_every_mode_has_its_own_phase_share_and_notes() -> None:
    problem = problem_of(plain(), regression_data())
    posterior = fitted(problem, Multi(Multi(Probe(), 2), 3), 6)
    values = posterior.diagnostics.values
    found = [inner for outer in values["modes"] for inner in outer["modes"]]
    names = [f"fit/mode-{i}/mode-{j}" for i in range(3) for j in range(2)]
    assert [own["name"] for own in found] == names
    assert [own["spent"] for own in found] == [200.0] * 6
    assert posterior.diagnostics.warnings[-1] == "mode 2: mode 1: seen in fit/mode-2/mode-1"
    assert len(posterior.diagnostics.warnings) == 6
    thetas = posterior.particles().theta
    assert len(thetas.unique(dim=0)) == 6
    # Evidences are the modes' own: the mixture has none.
    assert posterior.record.log_evidence is None
    assert found[0]["log_evidence"] == -1.0


def test_sizes_are_those_of_all_modes() -> None:
    assert Multi(Multi(Probe(), 2), 3).num_particles == 12
    assert describe(Multi(SWAG(), 3)) == "multi(swag, num_modes=3)"
    assert Multi(MAP()).uses_validation
    assert not Multi(HMC()).uses_validation
    assert not Multi(SWAG()).is_post_hoc


def test_prediction_is_the_equal_mixture() -> None:
    data = regression_data()
    mixture = fitted(problem_of(plain(), data), Multi(MAP(), 3), 12)
    each = [component.predict(data[0]) for component in mixture.components]
    expected = torch.stack([one.log_prob(data[1]) for one in each]).exp().mean(0)
    torch.testing.assert_close(mixture.predict(data[0]).log_prob(data[1]).exp(), expected)


def test_temperature_is_reported_once() -> None:
    posterior = fitted(problem_of(plain(), regression_data()), Multi(Tempered(SWAG(), 0.5), 2), 12)
    assert posterior.record.temperature == 0.5
    assert [set(own) for own in posterior.diagnostics.values["modes"]] == [{"num_snapshots"}] * 2


def test_pretrained_weights_are_one_mode() -> None:
    posterior = fitted(problem_of(plain(), regression_data(), pretrained=True), Multi(SWAG(), 2), 12)
    assert "they are one mode" in posterior.diagnostics.warnings[0]


@pytest.mark.parametrize("method", [Subset(SWAG(), "last"), MCDropout(), SWAG(num_samples=3)])
def test_modes_with_frozen_parts_of_their_own_are_saved(method: Method, tmp_path: Path) -> None:
    data = regression_data()
    mixture = fitted(problem_of(normalised(), data), Multi(Multi(method, 2), 2), 48)
    mixture.save(tmp_path / "net.bayes")
    loaded = bay.load(tmp_path / "net.bayes", normalised())
    assert torch.equal(loaded.predict(data[0]).mean, mixture.predict(data[0]).mean)
    for seed in range(4):
        torch.testing.assert_close(loaded.draw(seed)(data[0]), mixture.draw(seed)(data[0]))


def test_a_frozen_part_shared_by_modes_is_saved_once(tmp_path: Path) -> None:
    from safetensors import safe_open

    data = regression_data()
    mixture = fitted(problem_of(plain(), data), Subset(Multi(SWAG(), 3), "last"), 24)
    mixture.save(tmp_path / "net.bayes")
    with safe_open(tmp_path / "net.bayes", framework="pt") as file:
        assert [name for name in file.keys() if name.startswith("frozen.")] == ["frozen.0.bias", "frozen.0.weight"]  # noqa: SIM118
    loaded = bay.load(tmp_path / "net.bayes", plain())
    assert torch.equal(loaded.predict(data[0]).mean, mixture.predict(data[0]).mean)


@pytest.mark.parametrize("num_modes", [0, -1, 2.5, True])
def test_number_of_modes_is_checked(num_modes: float) -> None:
    with pytest.raises(MethodError) as error:
        Multi(SWAG(), num_modes)  # type: ignore[arg-type]
    assert str(error.value) == f"Multi(num_modes={num_modes!r}): num_modes must be a positive integer."


def test_budget_is_divided_equally() -> None:
    problem = problem_of(plain(), regression_data())
    run = run_of(problem, 60)
    Multi(SWAG(), 4).fit(problem, run)
    assert 0.98 * run.limit <= problem.meter.total <= run.limit


def test_modes_are_not_calibrated_one_by_one() -> None:
    with pytest.raises(MethodError, match=r"temperature_scaled\(multi\(METHOD, 3\)\)"):
        get_method("multi(temperature_scaled(map), 3)")
    assert get_method("temperature_scaled(multi(map, 3))").needs_validation
