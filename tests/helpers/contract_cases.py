"""What the contract is checked on: every method on two tasks and five kinds of network, and the declared exceptions."""

import copy
import random
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from functools import cache
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import bayesify as bay
from bayesify.engine.rng import generator, seeded
from bayesify.methods.registry import get_method
from bayesify.posterior.base import Posterior

NUM_EXAMPLES, NUM_INPUTS, NUM_CLASSES = 60, 3, 3
BATCH, EPOCHS, VALIDATION = 16, 18, 0.2
PREFLIGHT_ROWS = 8
"""`fit` evaluates the user's module on so many rows to check it, before anything is metered."""

CHAINS = "num_chains=2, num_draws=5, batch_size=16, sampling_batch_size=16"
METHODS = {
    "map": "map(batch_size=16)",
    "deep_ensemble": "deep_ensemble(num_members=2, batch_size=16)",
    "prior_ensemble": "prior_ensemble(num_members=2, batch_size=16)",
    "epinet": "epinet(num_samples=8, batch_size=16)",
    "packed_ensemble": "packed_ensemble(num_members=2, alpha=1.5, batch_size=16)",
    "batch_ensemble": "batch_ensemble(num_members=3, batch_size=16)",
    "repulsive_ensemble": "repulsive_ensemble(num_members=2, repulsion=weights, batch_size=16)",
    "mc_dropout": "mc_dropout(num_samples=8, batch_size=16)",
    "swag": "swag(num_snapshots=8, max_rank=4, num_samples=4, batch_size=16)",
    "pca_subspace": "pca_subspace(rank=2, num_snapshots=6, num_chains=2, num_draws=5, batch_size=16)",
    "laplace": "laplace(batch_size=16)",
    "sngp": "sngp(num_features=32, batch_size=16)",
    "vbll": "vbll(batch_size=16)",
    "ivon": "ivon(batch_size=16)",
    "mean_field_vi": "mean_field_vi(batch_size=16)",
    "low_rank_vi": "low_rank_vi(batch_size=16)",
    "von": "von(num_samples=2, batch_size=16)",
    "hmc": "hmc(num_chains=2, num_draws=5, batch_size=16)",
    "nuts": "nuts(num_chains=2, num_draws=5, batch_size=16)",
    "chees_hmc": "chees_hmc(num_chains=2, num_draws=5, batch_size=16)",
    "sgld": f"sgld({CHAINS})",
    "sghmc": f"sghmc({CHAINS})",
    "adaptive_sghmc": f"adaptive_sghmc({CHAINS})",
    "sgnht": f"sgnht({CHAINS})",
    "adam_sgld": f"adam_sgld({CHAINS}, preconditioner=rmsprop)",
    "smile": f"smile({CHAINS})",
    "split_hmc": "split_hmc(num_splits=3, num_chains=2, num_draws=5, batch_size=16)",
    "sae": "sae(num_chains=2, num_draws=3, batch_size=16)",
    "cyclical": f"cyclical(sgld({CHAINS}), 2)",
    "mclmc": "mclmc(num_chains=2, num_draws=5, batch_size=16)",
    "mile": "mile(num_chains=2, num_draws=5, batch_size=16)",
    "adjusted_mclmc": "adjusted_mclmc(num_chains=2, num_draws=5, batch_size=16)",
    "multi": "multi(map(batch_size=16), 2)",
    "subset": "subset(laplace(structure=full), last, batch_size=16)",
    "tempered": "tempered(laplace(batch_size=16), 0.5)",
    "temperature_scaled": "temperature_scaled(map(batch_size=16))",
    "tuned": "tuned(map(batch_size=16), 2)",
}
"""Every registered name, in a form that is quick to fit; combinators around something small."""


class Tied(nn.Module):
    """Two layers that share their weights, but not their biases."""

    def __init__(self, num_outputs: int) -> None:
        nn.Module.__init__(self)
        self.first, self.second, self.third = nn.Linear(NUM_INPUTS, 6), nn.Linear(6, 6), nn.Linear(6, 6)
        self.third.weight = self.second.weight
        self.activation = nn.Tanh()
        self.last = nn.Linear(6, num_outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = self.activation(self.first(x))
        return self.last(self.activation(self.third(self.activation(self.second(x)))))


def linear(num_outputs: int) -> nn.Module:
    return nn.Linear(NUM_INPUTS, num_outputs)


def mlp(num_outputs: int) -> nn.Module:
    return nn.Sequential(nn.Linear(NUM_INPUTS, 8), nn.ReLU(), nn.Linear(8, num_outputs))


def normalised(num_outputs: int) -> nn.Module:
    head = nn.Linear(8, num_outputs)
    return nn.Sequential(nn.Linear(NUM_INPUTS, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), head)


def frozen(num_outputs: int) -> nn.Module:
    module = nn.Sequential(nn.Linear(NUM_INPUTS, 8), nn.Tanh(), nn.Linear(8, 5), nn.Tanh(), nn.Linear(5, num_outputs))
    module[0].requires_grad_(False)
    return module


NETWORKS: dict[str, Callable[[int], nn.Module]] = {
    "linear": linear,
    "mlp": mlp,
    "normalised": normalised,
    "tied": Tied,
    "frozen": frozen,
}
TASKS = ("regression", "classification")


class Cell(NamedTuple):
    """One method on one task and one kind of network."""

    method: str
    task: str
    network: str

    def __str__(self) -> str:
        return "-".join(self)


class Declared(NamedTuple):
    """An exception from the contract; patterns as in file names."""

    test: str
    method: str
    task: str
    network: str
    reason: str


EXCEPTIONS = (
    Declared("*", "mc_dropout", "*", "linear", "a linear model has neither dropout nor an activation to put it after"),
)
"""All exceptions from the contract. Each is expected to fail: one that holds again is an error."""


def cells(test: str) -> list[Any]:
    """All cells as parameters of the named test, the declared exceptions expected to fail."""
    found = []
    for cell in (Cell(*parts) for parts in product(METHODS, TASKS, NETWORKS)):
        reasons = [e.reason for e in EXCEPTIONS if all(map(fnmatch, (test, *cell), e[:4]))]
        marks = [pytest.mark.xfail(reason=reason, strict=True) for reason in reasons]
        found.append(pytest.param(cell, marks=marks, id=str(cell)))
    return found


def task_data(task: str) -> tuple[Tensor, Tensor]:
    """Inputs (N, 3) and targets."""
    rng = generator("cpu", "contract")
    x = torch.randn(NUM_EXAMPLES, NUM_INPUTS, generator=rng)
    y = torch.sin(2 * x[:, 0]) + 0.5 * x[:, 1] + 0.3 * torch.randn(NUM_EXAMPLES, generator=rng)
    if task == "regression":
        return x, y
    return x, torch.bucketize(y, torch.tensor([-0.5, 0.5]))


def build(cell: Cell) -> nn.Module:
    """The cell's network, the same one every time."""
    with seeded(7):
        return NETWORKS[cell.network](1 if cell.task == "regression" else NUM_CLASSES)


def num_training(cell: Cell) -> int:
    """N: what is left where the method holds data out."""
    held_out = round(VALIDATION * NUM_EXAMPLES) if get_method(METHODS[cell.method]).uses_validation else 0
    return NUM_EXAMPLES - held_out


class Global(NamedTuple):
    """The global random states of all libraries."""

    torch: bytes
    numpy: tuple[Any, ...]
    python: object

    @staticmethod
    def now() -> "Global":
        name, keys, *rest = np.random.get_state(legacy=True)  # noqa: NPY002 - it is the global state that is watched
        return Global(torch.get_rng_state().numpy().tobytes(), (name, keys.tobytes(), *rest), random.getstate())


class Count:
    """Examples that passed forward through a module, and backward. Copies of the module share it."""

    def __init__(self) -> None:
        self.forward = 0
        self.backward = 0

    def __deepcopy__(self, memo: object) -> "Count":
        return self


class _Counting(torch.autograd.Function):
    """The identity on outputs (B, C), which counts B when it is evaluated and when it is differentiated."""

    @staticmethod
    def forward(outputs: Tensor, count: Count) -> Tensor:
        count.forward += len(outputs)
        return outputs.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Count], output: Tensor) -> None:
        ctx.count = inputs[1]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        ctx.count.backward += len(gradient)
        return gradient.clone(), None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, _: None) -> Tensor:
        return tangent.clone()


class Counted(nn.Module):
    """A module whose every use is counted, from outside all of our code."""

    def __init__(self, inner: nn.Module, count: Count) -> None:
        nn.Module.__init__(self)
        self.inner = inner
        self.count = count

    def forward(self, x: Tensor) -> Tensor:
        return _Counting.apply(self.inner(x), self.count)  # type: ignore[no-any-return, no-untyped-call]


class Fitted(NamedTuple):
    """A fit, and what was there before it."""

    posterior: Posterior
    module: nn.Module
    before: nn.Module
    data: tuple[Tensor, Tensor]
    random_state_kept: bool


class Counting(NamedTuple):
    """A fit, and what its module had counted when it ended."""

    posterior: Posterior
    forward: int
    backward: int


@cache
def fitted(
    cell: Cell, *, seed: int = 0, dtype: torch.dtype = torch.float32, way: str = "auto", global_seed: int = 1
) -> Fitted:
    """Fits a cell; the same call gives the same object, which no test may change."""
    module = build(cell).to(dtype)
    data = task_data(cell.task)
    before = copy.deepcopy(module)
    with seeded(global_seed):
        random_state = Global.now()
        posterior = bay.fit(module, data, **options(cell), seed=seed, way=way)
        kept = Global.now() == random_state
    return Fitted(posterior, module, before, data, kept)


def exact(cell: Cell) -> Posterior:
    """The cell in float64, where tolerances can be tight."""
    return fitted(cell, dtype=torch.float64, way="looped").posterior


@cache
def counted(cell: Cell, method: str | None = None, pretrained: bool = False) -> Counting:
    """Fits a cell (or another method in its place) with another seed, counting; only loops really call the module."""
    count = Count()
    module = Counted(build(cell), count)
    chosen = options(cell) | ({} if method is None else {"method": method})
    posterior = bay.fit(module, task_data(cell.task), **chosen, seed=1, way="looped", pretrained=pretrained)
    return Counting(posterior, count.forward, count.backward)


def options(cell: Cell) -> dict[str, Any]:
    """How all fits of a cell are called."""
    return {
        "method": METHODS[cell.method],
        "budget": bay.Budget(epochs=EPOCHS),
        "validation": VALIDATION,
        "device": "cpu",
        "progress": False,
    }


def floats(posterior: Posterior) -> Iterator[Tensor]:
    """All floating numbers that a posterior holds."""
    return (value for value in posterior.tensors().values() if value.is_floating_point())
