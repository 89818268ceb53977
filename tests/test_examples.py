"""Every example runs as a user would run it, and is short."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("*.py"))
MAX_LINES = 40
OPTIONAL = ("lightning",)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example_runs(path, tmp_path):
    needed = [package for package in OPTIONAL if f"import {package}\n" in path.read_text()]
    for package in needed:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed: it comes with the extra of that name")
    warnings = [] if needed else ["-W", "error::FutureWarning"]  # such packages' own deprecations are not ours
    found = subprocess.run(
        [sys.executable, *warnings, str(path)],
        capture_output=True, text=True, cwd=tmp_path, timeout=300, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    assert found.stdout.strip()


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example_is_short(path):
    assert len(path.read_text().splitlines()) < MAX_LINES
