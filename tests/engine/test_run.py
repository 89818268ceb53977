"""A run: phases and their budgets, batches as a function of the seed, and a resume that changes nothing."""

import math
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import bayesify as bay
from bayesify import fitting
from bayesify.data import Data
from bayesify.engine import run as run_module
from bayesify.engine.budget import Meter
from bayesify.engine.run import Checkpoints, Run
from bayesify.errors import BudgetError, SaveError
from bayesify.methods import MAP, DeepEnsemble
from bayesify.methods.base import Method
from bayesify.models import mlp
from bayesify.posterior import Posterior

DATA = Data(torch.arange(10.0)[:, None], torch.arange(10.0))


def new_run(limit: float = 1000.0, seed: int = 0, name: str = "fit", checkpoints: Checkpoints | None = None) -> Run:
    return Run(Meter(), limit=limit, seed=seed, name=name, checkpoints=checkpoints)


def rows(run: Run, batch_size: int, count: int, *, independent: bool = False, particles: int = 1) -> list[Tensor]:
    found = []
    for batch in run.batches(DATA, batch_size, particles, independent=independent):
        found.append(batch.data.targets.long())
        run.meter.gradient(batch.size * particles)
        if len(found) == count:
            break
    return found


def test_an_epoch_is_a_permutation() -> None:
    parts = rows(new_run(), 5, 6)
    for epoch in range(3):
        assert sorted(torch.cat(parts[2 * epoch : 2 * epoch + 2]).tolist()) == list(range(10))
    assert not torch.equal(torch.cat(parts[:2]), torch.cat(parts[2:4]))


def test_a_remainder_is_left_out() -> None:
    parts = rows(new_run(), 4, 20)
    assert {len(part) for part in parts} == {4}
    left_out = [set(range(10)) - set(torch.cat(parts[2 * e : 2 * e + 2]).tolist()) for e in range(10)]
    assert all(len(each) == 2 for each in left_out)
    assert len({frozenset(each) for each in left_out}) > 3  # others every time


def test_a_batch_as_large_as_the_data_is_the_data() -> None:
    for size in (10, 11, 1000):
        assert torch.equal(rows(new_run(), size, 1)[0], torch.arange(10))


def test_batches_are_a_function_of_seed_phase_and_epoch() -> None:
    def order(**options: object) -> list[list[int]]:
        return [part.tolist() for part in rows(new_run(**options), 3, 7)]  # type: ignore[arg-type]

    assert order(seed=1) == order(seed=1)
    assert order(seed=1) == order(seed=1, limit=50_000.0)
    assert order(seed=1) != order(seed=2)
    assert order(name="a") != order(name="b")


def test_independent_particles_have_their_own_order() -> None:
    parts = rows(new_run(), 5, 2, independent=True, particles=3)
    assert parts[0].shape == (3, 5)
    epoch = torch.cat(parts, dim=1)
    assert all(sorted(order.tolist()) == list(range(10)) for order in epoch)
    assert not torch.equal(epoch[0], epoch[1])


@pytest.mark.parametrize("particles", [1, 4])
def test_batches_end_with_the_budget(particles: int) -> None:
    run = new_run(limit=103.0)
    count = sum(1 for _ in _spending(run, 5, particles))
    assert count == 103 // (5 * particles)
    assert run.spent == count * 5 * particles
    assert run.remaining == 103 - run.spent
    assert not run.affords(5 * particles)


def _spending(run: Run, batch_size: int, particles: int, reserve: float = 0.0) -> list[int]:
    sizes = []
    for batch in run.batches(DATA, batch_size, particles, reserve=reserve):
        run.meter.gradient(batch.size * particles)
        sizes.append(batch.size)
    return sizes


def test_a_reserve_is_left() -> None:
    run = new_run(limit=100.0)
    _spending(run, 5, 1, reserve=31.0)
    assert 31 <= run.remaining < 36


def test_not_one_step() -> None:
    with pytest.raises(BudgetError, match=r"leaves 9 gradient evaluations for 'fit' but one step .* costs 10"):
        _spending(new_run(limit=9.0), 5, 2)


def test_phases_share_what_remains() -> None:
    run = new_run(limit=1000.0)
    first = run.phase("first", 0.25)
    assert first.limit == 250
    _spending(first, 5, 1)
    assert (first.spent, run.spent) == (250, 250)
    second = run.phase("second", 0.5)
    assert second.limit == 375
    run.meter.forward(30)  # forward passes count a third
    assert second.spent == pytest.approx(10)
    third = run.phase("third", cost=1e9)
    assert third.limit == pytest.approx(1000 - 250 - 10)
    assert third.phase("deeper").name == "fit/third/deeper"
    third.notes["said"] = 1
    assert run.notes == {"said": 1}


def test_phases_have_their_own_streams() -> None:
    run = new_run()

    def draw(name: str, seed: int = 0) -> float:
        phase = (run if seed == 0 else new_run(seed=seed)).phase(name)
        return float(torch.rand((), generator=phase.rng))

    assert draw("a") == draw("a")
    assert len({draw("a"), draw("b"), draw("a", seed=1), float(torch.rand((), generator=run.rng))}) == 4


def test_fraction_goes_from_zero_to_one() -> None:
    run = new_run(limit=100.0)
    seen = []
    watched = Run(run.meter, limit=100.0, progress=seen.append)
    assert watched.fraction == 0.0
    for batch in watched.batches(DATA, 10, 1):
        watched.meter.gradient(batch.size)
    assert seen == [pytest.approx(i / 10) for i in range(1, 11)]


def test_seconds_end_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    meter = Meter()
    clock = [0.0]
    monkeypatch.setattr(Meter, "seconds", property(lambda _: clock[0]))
    run = Run(meter, limit=math.inf, seconds=5.0)
    count = 0
    for _ in run.batches(DATA, 5, 1):
        count += 1
        clock[0] += 1.0
    assert count == 5
    assert run.fraction == 1.0
    assert run.remaining == 0.0


# ---- checkpoints -----------------------------------------------------------------------------------------------------


class State(NamedTuple):
    value: Tensor
    other: Tensor


class Killed(Exception):
    """Stands for kill -9."""


def work(run: Run, die_after: int | None = None) -> State:
    """A random walk that also uses the layers' stream, and meters itself."""
    state = run.restore(State(torch.zeros(3), torch.zeros((), dtype=torch.int64)))
    if run.finished:
        return state
    for batch in run.batches(DATA, 4, 1):
        run.meter.gradient(batch.size, flops=7.0)
        noise = torch.randn(3, generator=run.rng) + torch.nn.functional.dropout(torch.ones(3), 0.5)
        state = State(state.value * 0.9 + noise + batch.data.targets.sum(), state.other + 1)
        run.save(state)
        if die_after is not None and int(state.other) == die_after:
            raise Killed
    run.notes["walked"] = int(state.other)
    run.finish(state)
    return state


@pytest.mark.parametrize("die_after", [1, 2, 7, 24])
def test_resume_is_bit_for_bit(die_after: int, tmp_path: Path) -> None:
    with torch.random.fork_rng():
        whole = new_run(limit=100.0)
        expected = work(whole)
        keep = Checkpoints(tmp_path, "mine", seconds=0.0)
        with pytest.raises(Killed):
            work(new_run(limit=100.0, checkpoints=keep), die_after)
        resumed = new_run(limit=100.0, checkpoints=keep)
        found = work(resumed)
        assert torch.equal(found.value, expected.value)
        assert int(found.other) == int(expected.other) == 25
        assert resumed.meter.gradient_evaluations == whole.meter.gradient_evaluations == 100
        assert resumed.meter.flops == whole.meter.flops
        again = new_run(limit=100.0, checkpoints=keep)  # finished: nothing is repeated
        assert torch.equal(work(again).value, expected.value)
        assert again.finished
        assert again.meter.gradient_evaluations == 100
        assert again.notes == {"walked": 25}


def test_saves_are_not_made_at_every_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(run_module.time, "monotonic", lambda: clock[0])
    run = new_run(checkpoints=Checkpoints(tmp_path, "mine", seconds=30.0))
    state = State(torch.zeros(3), torch.zeros(()))
    for after, saved in ((29.0, False), (31.0, True)):
        clock[0] = 100.0 + after
        run.save(state)
        assert bool(list(tmp_path.glob("*.safetensors"))) == saved
    assert not list(tmp_path.glob("*.partial"))


def test_foreign_and_broken_checkpoints(tmp_path: Path) -> None:
    state = State(torch.zeros(3), torch.zeros(()))
    new_run(checkpoints=Checkpoints(tmp_path, "theirs")).finish(state)
    with pytest.raises(SaveError, match="other data, model or settings"):
        new_run(checkpoints=Checkpoints(tmp_path, "mine")).restore(state)
    (path,) = tmp_path.glob("*.safetensors")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SaveError, match="cannot be read"):
        new_run(checkpoints=Checkpoints(tmp_path, "theirs")).restore(state)
    save_file({"value": torch.zeros(3)}, path)
    with pytest.raises(SaveError, match="cannot be read"):
        new_run(checkpoints=Checkpoints(tmp_path, "theirs")).restore(state)


@pytest.mark.parametrize("method", [MAP(batch_size=16), DeepEnsemble(3, batch_size=16)], ids=["map", "deep_ensemble"])
def test_a_killed_fit_resumes_to_the_same_posterior(
    method: Method, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fitting, "Checkpoints", lambda folder, mark: Checkpoints(folder, mark, seconds=0.0))
    x = torch.randn(60, 3, generator=torch.Generator().manual_seed(0))
    model = mlp(3, 1, (8,))

    def fit(folder: Path | None, stop_at: float | None = None) -> Posterior:
        def watch(fraction: float) -> None:
            if stop_at is not None and fraction >= stop_at:
                raise Killed

        return bay.fit(
            model,
            (x, x.sum(1)),
            method=method,
            budget=bay.Budget(epochs=6),
            checkpoint=folder,
            progress=watch if stop_at else False,
        )

    expected = fit(None)
    for count, stop_at in enumerate((0.2, 0.5, 0.8)):
        folder = tmp_path / str(count)
        with pytest.raises(Killed):
            fit(folder, stop_at)
        assert list(folder.glob("*.safetensors"))
        found = fit(folder)
        assert all(torch.equal(v, expected.tensors()[name]) for name, v in found.tensors().items())
        assert found.cost.gradient_evaluations == expected.cost.gradient_evaluations
        assert found.cost.forward_evaluations == expected.cost.forward_evaluations
