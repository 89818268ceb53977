"""The rules of the house for every file, checked on the source itself.

Every rule has a control that it must refuse: a rule that refuses nothing proves nothing.
"""

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "bayesify"
FILES = sorted(PACKAGE.rglob("*.py"))

MAX_LINES = 400
MAX_FUNCTION_LINES = 60

# Whatever these load can run code while it is being read.
CODE_RUNNING_MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
CODE_RUNNING_CALLS = {"torch.load", "torch.save", "pandas.read_pickle", "eval", "exec"}
# Not in the dependencies, and for the processor-only torch they do not exist.
UNAVAILABLE_MODULES = {"torchvision", "torchaudio"}

NUMPY_GENERATORS = {
    "default_rng",
    "Generator",
    "BitGenerator",
    "SeedSequence",
    "PCG64",
    "PCG64DXSM",
    "Philox",
    "SFC64",
    "MT19937",
    "RandomState",
}
# These draw from torch's global state unless they are handed a generator.
TORCH_DRAWS = {
    "bernoulli",
    "multinomial",
    "normal",
    "poisson",
    "rand",
    "rand_like",
    "randint",
    "randint_like",
    "randn",
    "randn_like",
    "randperm",
}
IN_PLACE_DRAWS = {
    "bernoulli_",
    "cauchy_",
    "exponential_",
    "geometric_",
    "kaiming_normal_",
    "kaiming_uniform_",
    "log_normal_",
    "normal_",
    "orthogonal_",
    "random_",
    "trunc_normal_",
    "uniform_",
    "xavier_normal_",
    "xavier_uniform_",
}
TORCH_GLOBAL_STATE = {
    "torch.nn.functional.alpha_dropout",
    "torch.nn.functional.dropout",
    "torch.manual_seed",
    "torch.seed",
    "torch.set_rng_state",
    "torch.random.manual_seed",
    "torch.random.seed",
    "torch.random.set_rng_state",
    "torch.random.fork_rng",
    "torch.cuda.manual_seed",
    "torch.cuda.manual_seed_all",
    "torch.cuda.set_rng_state",
}
# (file below src/bayesify, what is called) → why it is right there. An entry that is no longer needed fails.
GLOBAL_RANDOMNESS_ALLOWED = {
    ("engine/rng.py", "torch.random.fork_rng"): "users' dropout layers and initialisers take no generator",
    ("engine/rng.py", "torch.manual_seed"): "inside that fork, which gives the caller's state back",
    ("engine/rng.py", "torch.set_rng_state"): "between fits that take turns: each finds its own state",
    (
        "engine/run.py",
        "torch.manual_seed",
    ): "inside that fork: every phase has its own stream for such layers",
    ("engine/run.py", "torch.set_rng_state"): "inside that fork: a resumed phase continues its stream",
    ("model/dropout.py", "torch.nn.functional.dropout"): "inside that fork: as in users' dropout layers",
    ("model/epinet.py", "torch.randn_like"): "inside that fork: an index for every training example",
    ("model/rank_one.py", "torch.randint"): "inside that fork: a member for every training example",
    ("model/rank_one.py", "torch.nn.init.normal_"): "inside that fork: as in users' initialisers",
    ("model/network.py", "torch.nn.init.uniform_"): "inside that fork: as in users' initialisers",
}


class Finding(NamedTuple):
    """One breach of a rule: the line it is in, and what stands there."""

    line: int
    what: str


Rule = Callable[[ast.Module], Iterator[Finding]]


def imported_names(tree: ast.Module) -> dict[str, str]:
    """Local name → full dotted name, for every import anywhere in the file."""
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                root = alias.name.split(".")[0]
                names[alias.asname or root] = alias.name if alias.asname else root
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return names


def dotted(node: ast.expr, names: dict[str, str]) -> str:
    """`np.random.rand` → "numpy.random.rand"; a name that was not imported stays; anything else is ""."""
    if isinstance(node, ast.Name):
        return names.get(node.id, node.id)
    if isinstance(node, ast.Attribute) and (base := dotted(node.value, names)):
        return f"{base}.{node.attr}"
    return ""


def calls(tree: ast.Module) -> Iterator[tuple[ast.Call, str]]:
    """Every call in the file with the full dotted name of what is called."""
    names = imported_names(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield node, dotted(node.func, names)


def imports(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and top-level package of every absolute import."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name.split(".")[0]) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.lineno, node.module.split(".")[0]


def loads_code(tree: ast.Module) -> Iterator[Finding]:
    """Reading a file must never run what is in it."""
    yield from (Finding(line, f"import {name}") for line, name in imports(tree) if name in CODE_RUNNING_MODULES)
    for call, name in calls(tree):
        allows_pickle = any(
            key.arg == "allow_pickle" and not (isinstance(key.value, ast.Constant) and key.value.value is False)
            for key in call.keywords
        )
        if name in CODE_RUNNING_CALLS or name.endswith((".to_pickle", ".read_pickle")) or allows_pickle:
            yield Finding(call.lineno, f"{name}(...)")


def needs_unavailable_package(tree: ast.Module) -> Iterator[Finding]:
    """A package that does not exist for every torch build cannot be relied on."""
    yield from (Finding(line, f"import {name}") for line, name in imports(tree) if name in UNAVAILABLE_MODULES)


def hides_control_flow(tree: ast.Module) -> Iterator[Finding]:
    """Classes are abstract or final: no `super()`. Types say what an object can do: no `hasattr`."""
    yield from (Finding(call.lineno, f"{name}()") for call, name in calls(tree) if name in {"super", "hasattr"})


def imports_relatively(tree: ast.Module) -> Iterator[Finding]:
    """Absolute imports only: a file says where everything comes from, and can be moved."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            yield Finding(node.lineno, "from " + "." * node.level + (node.module or ""))


def uses_global_randomness(tree: ast.Module) -> Iterator[Finding]:
    """Every draw names its generator; nobody reads or sets the state that all code in the process shares."""
    for call, name in calls(tree):
        package, _, function = name.rpartition(".")
        has_generator = any(key.arg == "generator" for key in call.keywords)
        if (
            (package == "numpy.random" and function not in NUMPY_GENERATORS)
            or (package == "random" and function != "Random")
            or name in TORCH_GLOBAL_STATE
            or (package == "torch" and function in TORCH_DRAWS and not has_generator)
            or (isinstance(call.func, ast.Attribute) and call.func.attr in IN_PLACE_DRAWS and not has_generator)
        ):
            yield Finding(call.lineno, name or f"<expression>.{ast.unparse(call.func).rpartition('.')[2]}")


def lacks_docstring(tree: ast.Module) -> Iterator[Finding]:
    """Whatever a user can import says what it is. Methods: tests/test_architecture.py."""
    for node in tree.body:
        if (
            isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
            and not node.name.startswith("_")
            and not ast.get_docstring(node)
            and not any(ast.unparse(mark).endswith("overload") for mark in node.decorator_list)
        ):
            yield Finding(node.lineno, node.name)


def has_long_function(tree: ast.Module) -> Iterator[Finding]:
    """A function fits on a screen; its docstring does not count."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            start = node.body[0].end_lineno if ast.get_docstring(node) else node.lineno - 1
            length = (node.end_lineno or 0) - (start or 0)
            if length > MAX_FUNCTION_LINES:
                yield Finding(node.lineno, f"{node.name} has {length} lines, at most {MAX_FUNCTION_LINES}")


RULES: list[Rule] = [
    loads_code,
    needs_unavailable_package,
    hides_control_flow,
    imports_relatively,
    uses_global_randomness,
    lacks_docstring,
    has_long_function,
]


def breaches(rule: Rule, path: Path) -> list[tuple[str, Finding]]:
    """What the rule finds in one file, as (path below the package, finding)."""
    tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    return [(path.relative_to(PACKAGE).as_posix(), finding) for finding in rule(tree)]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_house_rule(rule: Rule) -> None:
    found = [breach for path in FILES for breach in breaches(rule, path)]
    if rule is uses_global_randomness:
        found = [(file, finding) for file, finding in found if (file, finding.what) not in GLOBAL_RANDOMNESS_ALLOWED]
    assert not found, "\n" + "\n".join(f"{file}:{line}: {what}" for file, (line, what) in found)


def test_every_allowance_is_used() -> None:
    found = {(file, finding.what) for path in FILES for file, finding in breaches(uses_global_randomness, path)}
    assert set(GLOBAL_RANDOMNESS_ALLOWED) <= found


def test_files_are_short_and_finished() -> None:
    found = []
    for path in FILES:
        lines = path.read_text(encoding="utf-8").splitlines()
        if len(lines) > MAX_LINES:
            found.append(f"{path.relative_to(ROOT)} has {len(lines)} lines, at most {MAX_LINES}")
        found += [
            f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
            for number, line in enumerate(lines, start=1)
            if re.search(r"\b(TODO|FIXME|XXX|HACK)\b", line)
        ]
    assert not found, "\n" + "\n".join(found)


@pytest.mark.parametrize(
    ("rule", "source"),
    [
        (loads_code, "import pickle"),
        (loads_code, "from joblib import load"),
        (loads_code, "import torch\ntorch.load('a')"),
        (loads_code, "from torch import load\nload('a')"),
        (loads_code, "import numpy as np\nnp.load('a', allow_pickle=True)"),
        (loads_code, "import pandas as pd\npd.read_pickle('a')"),
        (loads_code, "eval('1')"),
        (needs_unavailable_package, "from torchvision import models"),
        (hides_control_flow, "class A(B):\n    def f(self):\n        super().f()"),
        (hides_control_flow, "hasattr(a, 'b')"),
        (imports_relatively, "from . import a"),
        (imports_relatively, "from ..model import a"),
        (uses_global_randomness, "import numpy as np\nnp.random.rand(3)"),
        (uses_global_randomness, "from numpy.random import seed\nseed(0)"),
        (uses_global_randomness, "import random\nrandom.shuffle(a)"),
        (uses_global_randomness, "import torch\ntorch.manual_seed(0)"),
        (uses_global_randomness, "import torch\ntorch.randn(3)"),
        (uses_global_randomness, "from torch import randperm\nrandperm(3)"),
        (uses_global_randomness, "a.normal_()"),
        (uses_global_randomness, "import torch.nn as nn\nnn.init.xavier_uniform_(a)"),
        (uses_global_randomness, "import torch.nn.functional as F\nF.dropout(a, 0.1)"),
        (uses_global_randomness, "f(a)[0].uniform_(-1, 1)"),
        (lacks_docstring, "def f():\n    pass"),
        (lacks_docstring, "class A:\n    pass"),
        (has_long_function, "def f():\n" + "    a = 1\n" * MAX_FUNCTION_LINES),
    ],
)
def test_rule_refuses(rule: Rule, source: str) -> None:
    assert list(rule(ast.parse(source)))


@pytest.mark.parametrize(
    ("rule", "source"),
    [
        (loads_code, "import numpy as np\nnp.load('a', allow_pickle=False)\nmodel.eval()\nself.load('a')"),
        (imports_relatively, "from bayesify.errors import DataError"),
        (uses_global_randomness, "import numpy as np\nrng = np.random.default_rng(0)\nrng.normal()"),
        (uses_global_randomness, "import torch\ntorch.randn(3, generator=rng)\na.normal_(generator=rng)"),
        (uses_global_randomness, "import random\nrandom.Random(0).shuffle(a)"),
        (lacks_docstring, "def _f():\n    pass\nclass A:\n    '''Said.'''"),
        (has_long_function, "def f():\n" + "    a = 1\n" * (MAX_FUNCTION_LINES - 1)),
        (has_long_function, "def f():\n    '''A\n\n    b.'''\n" + "    a = 1\n" * MAX_FUNCTION_LINES),
    ],
)
def test_rule_permits(rule: Rule, source: str) -> None:
    assert not list(rule(ast.parse(source)))
