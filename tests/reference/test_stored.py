"""References are found again: by folder, and by the name of the data."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bayesify.datasets import Task, make_task
from bayesify.engine.budget import Budget
from bayesify.errors import DataError, SaveError
from bayesify.reference import Reference, Setup, cached_folders, cached_reference, make_reference, read_reference


def csv(folder: Path, name: str, seed: int = 0) -> Task:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(40, 2))
    folder.mkdir(exist_ok=True)
    frame = pd.DataFrame({"a": x[:, 0], "b": x[:, 1], "y": x[:, 0] - x[:, 1] + rng.normal(size=40)})
    frame.to_csv(folder / f"{name}.csv", index=False)
    return make_task(folder / f"{name}.csv")


def made(task: Task, gradients: int, folder: Path | None = None, **settings: object) -> Reference:
    setup = Setup(**{"network": (), "method": "hmc(warm_start_epochs=5)", "chains": 4, "draws": 20} | settings)  # type: ignore[arg-type]
    return make_reference(task, setup, budget=Budget(gradient_evaluations=36 * 4 * gradients), folder=folder)


def test_read_from_a_folder(tmp_path: Path) -> None:
    """Network, likelihood, prior, sampler and split are the reference's own."""
    task = csv(tmp_path, "small")
    settings = {"network": (3,), "likelihood": "student_t", "prior": "laplace", "split": 1, "seed": 4}
    reference = made(task, 1200, tmp_path / "out", **settings)
    found = read_reference(task, tmp_path / "out")
    assert found.setup.as_dict() == reference.setup.as_dict()
    assert (found.key, found.ceiling, found.end) == (reference.key, reference.ceiling, reference.end)
    assert found.draws.outputs.equal(reference.draws.outputs)


def test_the_longest_of_that_name_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BAYESIFY_CACHE", str(tmp_path / "cache"))
    task, other = csv(tmp_path, "small"), csv(tmp_path, "small-too", seed=1)
    made(other, 1200)
    with pytest.raises(DataError, match="bayesify reference small"):
        cached_reference(task)
    made(task, 800)
    longer = made(task, 1200, seed=1)
    damaged = cached_folders("small")[0].parent / "small--0" / "reference.json"
    damaged.parent.mkdir()
    damaged.write_text("{")
    assert len(cached_folders("small")) == 4
    assert cached_reference(task).key == longer.key
    assert cached_reference(other).setup.seed == 0


def test_what_cannot_be_read_is_told(tmp_path: Path) -> None:
    task = csv(tmp_path, "small")
    with pytest.raises(DataError, match="bayesify reference DATA --out"):
        read_reference(task, tmp_path / "nowhere")
    made(task, 800, tmp_path / "out")
    with pytest.raises(SaveError, match="other data"):
        read_reference(csv(tmp_path / "changed", "small", seed=1), tmp_path / "out")
    path = tmp_path / "out" / "reference.json"
    path.write_text(path.read_text().replace("Normal(", "Unheard("))
    with pytest.raises(SaveError, match="has no name"):
        read_reference(task, tmp_path / "out")
    path.write_text("[]")
    with pytest.raises(SaveError, match="damaged"):
        read_reference(task, tmp_path / "out")
