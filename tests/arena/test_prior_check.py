"""The prior of a comparison is checked once per run, kept in its folder, and shown in its report."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import nn

import bayesify as bay
from bayesify.arena import prior_check
from bayesify.arena.compare import Result
from bayesify.arena.prior_check import FILE, stored_prior_check
from bayesify.arena.resume import result_of
from bayesify.errors import SaveError

RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 3))
Y = X.sum(1) + 0.1 * RNG.normal(size=60)


def compared(folder: Path, prior: str | None = None, targets: Any = Y, **settings: Any) -> Result:
    return bay.compare(
        "default", (X, targets), methods=["map"], control="map(epochs=1)", splits=1, epochs=1, prior=prior, out=folder,
        **settings,
    )  # fmt: skip


def test_it_is_kept_and_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = compared(tmp_path).data["prior_check"]
    assert found["prior"] == "Normal(scale='fan_in', gain=3.0)"
    assert (found["kind"], found["num_functions"], found["reason"]) == ("regression", 100, None)
    assert found == json.loads((tmp_path / FILE).read_text())["check"]
    monkeypatch.setattr(prior_check, "_check", lambda context: pytest.fail("checked again"))
    assert compared(tmp_path).data["prior_check"] == found
    assert result_of(tmp_path).data["prior_check"] == found
    assert "What the prior believes" in result_of(tmp_path).report().markdown.read_text(encoding="utf-8")


def test_another_prior_in_the_same_folder_is_checked_anew(tmp_path: Path) -> None:
    compared(tmp_path)
    labels = np.where(Y > 0, "yes", "no")
    found = compared(tmp_path, "student_t", labels).data["prior_check"]
    assert found["prior"].startswith("StudentT(")
    assert 0 <= found["one_class"] <= 1
    assert 0 < found["entropy"] < 1


def test_what_cannot_be_checked_has_a_reason(tmp_path: Path) -> None:
    assert "improper" in compared(tmp_path, "flat").data["prior_check"]["reason"]
    broken = bay.compare(
        nn.Linear(7, 1), (X, Y), methods=["map"], control="map(epochs=1)", splits=1, epochs=1, out=tmp_path / "broken"
    )
    assert broken.data["prior_check"]["reason"]


def test_damage_is_named(tmp_path: Path) -> None:
    assert stored_prior_check(tmp_path) is None
    for text in ("{", "[]", '{"key": "a"}'):
        (tmp_path / FILE).write_text(text)
        with pytest.raises(SaveError, match="delete it"):
            stored_prior_check(tmp_path)
