"""How the rooms of the house fit together: who imports whom, what an import costs, what is documented.

Every rule has a control that it must refuse: a rule that refuses nothing proves nothing.
"""

import importlib
import inspect
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from types import FunctionType, ModuleType

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "bayesify"

# The extras of pyproject.toml: a module that needs one of them cannot be imported without it.
OPTIONAL_PACKAGES = {"arviz", "lightning", "mlflow", "peft", "ray", "transformers"}


def modules() -> Iterator[ModuleType]:
    """Every module of the package, except those whose optional dependency is not installed."""
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        try:
            yield importlib.import_module(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
        except ModuleNotFoundError as error:
            if error.name not in OPTIONAL_PACKAGES:
                raise


def undocumented_methods(module: ModuleType) -> Iterator[str]:
    """Public methods of the module's public classes that neither say nor inherit what they are."""
    kinds = (FunctionType, property, cached_property, classmethod, staticmethod)
    for owner in vars(module).values():
        if not inspect.isclass(owner) or owner.__module__ != module.__name__ or owner.__name__.startswith("_"):
            continue
        for name, member in vars(owner).items():
            is_public_method = isinstance(member, kinds) and not name.startswith("_")
            if is_public_method and not any(vars(base)[name].__doc__ for base in owner.__mro__ if name in vars(base)):
                yield f"{owner.__module__}.{owner.__name__}.{name}"


def test_methods_are_documented() -> None:
    found = [name for module in modules() for name in undocumented_methods(module)]
    assert not found, "\n" + "\n".join(found)


def test_undocumented_methods_are_found() -> None:
    module = ModuleType("made_up")
    source = """
class Base:
    def said(self): "Words."
    def unsaid(self): ...
class Child(Base):
    def said(self): ...
    @property
    def size(self): ...
    def _private(self): ...
"""
    exec(source, vars(module))
    assert list(undocumented_methods(module)) == ["made_up.Base.unsaid", "made_up.Child.size"]


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the contracts of pyproject.toml on the package in `folder`/src."""
    return subprocess.run(
        [
            sys.executable,
            "-c",
            "from importlinter.cli import lint_imports as l; raise SystemExit(l(no_cache=True))",
        ],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder / "src")},
        capture_output=True,
        text=True,
        check=False,
    )


def test_rooms_import_only_what_they_may() -> None:
    result = lint_imports(ROOT)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("methods/__init__.py", "import bayesify.arena"),
        ("model/__init__.py", "from bayesify import methods"),
        ("metrics/__init__.py", "def later():\n    import bayesify.arena.report"),
        ("errors.py", "import bayesify.model"),
        ("arena/statistics/__init__.py", "import torch"),
        ("arena/statistics/__init__.py", "import bayesify.model, torch"),
        ("arena/execute/__init__.py", "import ray"),
        ("arena/__init__.py", "import bayesify.integrations"),
        ("newroom.py", "import bayesify.errors"),
    ],
)
def test_contracts_refuse(file: str, line: str, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "src", tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    with (tmp_path / "src" / "bayesify" / file).open("a", encoding="utf-8") as stream:
        stream.write(f"\n{line}\n")
    result = lint_imports(tmp_path)
    assert result.returncode == 1, result.stdout + result.stderr
    assert "BROKEN" in result.stdout, result.stdout + result.stderr


def printed_by(program: str) -> str:
    """What a fresh interpreter prints."""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_import_is_light() -> None:
    heavy = ["altair", "duckdb", "mapie", "matplotlib", "optuna", "pandas", "pyarrow", "ray", "scipy.stats"]
    heavy += ["skrub", "sklearn", "transformers"]
    program = (
        "import torch, sys; before = set(sys.modules); import bayesify;"
        f"print(*[name for name in {heavy} if name in set(sys.modules) - before])"
    )
    assert not (loaded := printed_by(program)), f"`import bayesify` loads {loaded}: import it where it is used"


def test_public_functions_survive_the_import_of_their_modules() -> None:
    # Importing a submodule binds its name in the package: a function of that name is then gone.
    program = """
import importlib, pkgutil
import bayesify as bay
for module in pkgutil.iter_modules(bay.__path__):
    if module.name != "__main__":
        importlib.import_module(f"bayesify.{module.name}")
functions = {"fit", "estimate", "evaluate", "load", "compare"} & set(bay.__all__)
print(*sorted(name for name in functions if not callable(getattr(bay, name))))
"""
    assert not (hidden := printed_by(program)), f"bay.{hidden} is hidden by the module of that name"
