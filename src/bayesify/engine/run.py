"""A run: random streams, batches until the budget is spent, checkpoints, progress.

A method's work is divided into named *phases*. Each has its own random stream (seeded by the run's seed and the
phase's name), its share of the budget, and its own checkpoint file, so that a killed fit resumes inside the phase it
was in and gives bit for bit what an undisturbed one gives. Minibatch order is a function of (seed, phase, epoch).
"""

import json
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.utils import _pytree as pytree

from bayesify.data import Data
from bayesify.engine.budget import Meter
from bayesify.engine.rng import generator, seed_of
from bayesify.errors import BudgetError, SaveError
from bayesify.files import replacing
from bayesify.model.problem import Batch

CHECKPOINT_SECONDS = 30.0

StateT = TypeVar("StateT", bound=tuple[Any, ...])
Progress = Callable[[float], None]


class Checkpoints(NamedTuple):
    """Where a run keeps its checkpoints, and what they must belong to."""

    folder: Path
    fingerprint: str
    seconds: float = CHECKPOINT_SECONDS


class Run:
    """The budget, randomness and bookkeeping of one fit, or of one phase of it."""

    def __init__(
        self,
        meter: Meter,
        *,
        limit: float,
        seed: int = 0,
        device: torch.device | str = "cpu",
        seconds: float | None = None,
        checkpoints: Checkpoints | None = None,
        progress: Progress | None = None,
        name: str = "fit",
    ) -> None:
        self.meter = meter
        self.limit = limit
        self.seed = seed
        self.name = name
        self.device = torch.device(device)
        self.rng = generator(self.device, seed, name)
        self.notes: dict[str, Any] = {}
        """What the method wants to report in `posterior.diagnostics`."""
        self._global_seed = seed_of(seed, name, "layers")
        self._seconds = seconds
        self._checkpoints = checkpoints
        self._progress = progress
        self._start = meter.total
        self._start_seconds = meter.seconds
        self.finished = False
        """Whether a restored checkpoint was of a phase already completed."""
        self._step = 0
        self._saved_at = time.monotonic()

    # ---- budget --------------------------------------------------------------------------------------------------

    @property
    def spent(self) -> float:
        """Gradient evaluations spent in this phase."""
        return self.meter.total - self._start

    @property
    def remaining(self) -> float:
        """Gradient evaluations left in this phase."""
        return 0.0 if self._out_of_time() else max(0.0, self.limit - self.spent)

    @property
    def fraction(self) -> float:
        """The share of this phase that is over, in [0, 1]: what schedules are functions of."""
        by_cost = self.spent / self.limit if self.limit > 0 else 1.0
        by_time = (self.meter.seconds - self._start_seconds) / self._seconds if self._seconds else 0.0
        return min(1.0, max(by_cost, by_time))

    def affords(self, cost: float) -> bool:
        """Whether `cost` more gradient evaluations fit (with a millionth to spare for rounding)."""
        return cost <= self.remaining * (1 + 1e-6)

    def phase(self, name: str, share: float = 1.0, *, cost: float | None = None, reserve: float = 0.0) -> "Run":
        """A part of this run with `share` of what remains (or `cost` gradient evaluations) to spend.

        Args:
            name: names the phase's random stream and checkpoint.
            share: of what remains, in [0, 1].
            cost: gradient evaluations; takes the place of `share`.
            reserve: gradient evaluations that are put aside before sharing, for what comes after.
        """
        available = max(0.0, self.remaining - reserve)
        limit = available * share if cost is None else min(cost, available)
        seconds = None
        if self._seconds is not None:
            seconds = max(1e-3, self._seconds - (self.meter.seconds - self._start_seconds)) * share
        child = Run(
            self.meter,
            limit=limit,
            seed=self.seed,
            device=self.device,
            seconds=seconds,
            checkpoints=self._checkpoints,
            progress=self._progress,
            name=f"{self.name}/{name}",
        )
        child.notes = self.notes
        return child

    def _out_of_time(self) -> bool:
        return self._seconds is not None and self.meter.seconds - self._start_seconds >= self._seconds

    # ---- batches -------------------------------------------------------------------------------------------------

    def num_batches(self, data: Data, batch_size: int, num_particles: int) -> float:
        """How many minibatches the whole phase affords, resumed or not; 0 where the budget is time."""
        cost = min(batch_size, data.num_examples) * num_particles
        return self.limit // cost if math.isfinite(self.limit) else 0.0

    def batches(
        self, data: Data, batch_size: int, num_particles: int, *, independent: bool = False, reserve: float = 0.0
    ) -> Iterator[Batch]:
        """Minibatches until the phase's budget is spent; a batch as large as the data is the data.

        Args:
            data: the training data.
            batch_size: B.
            num_particles: K, how many particles each batch is evaluated for: what it costs.
            independent: every particle gets its own order of the data.
            reserve: gradient evaluations to leave for what comes after the loop.

        Raises:
            BudgetError: not even one batch can be afforded.
        """
        for rows in self.rows(data.num_examples, batch_size, num_particles, independent=independent, reserve=reserve):
            yield Batch(data) if isinstance(rows, slice) else Batch(data.select(rows), independent)

    def rows(
        self,
        num_examples: int,
        batch_size: int,
        num_particles: int,
        *,
        independent: bool = False,
        reserve: float = 0.0,
        each: float = 1.0,
    ) -> Iterator[Tensor | slice]:
        """The rows of `batches`: (B,), with `independent` (K, B), or the slice of all; `each` is a row's cost.

        An epoch is a fresh permutation cut into whole batches; the remainder (fewer than B random rows) is left out.
        """
        batch_size = min(batch_size, num_examples)
        per_epoch = num_examples // batch_size
        cost = batch_size * num_particles * each
        if self._step == 0 and not self.affords(cost + reserve):
            raise BudgetError(
                f"the budget leaves {self.remaining:.0f} gradient evaluations for '{self.name}' but one step of "
                f"{num_particles} particles on {batch_size} examples costs {cost:.0f}: raise the budget or lower "
                "batch_size or the number of particles."
            )
        order, epoch = None, -1
        while self.affords(cost + reserve):
            rows: Tensor | slice = slice(None)
            if batch_size < num_examples:
                if epoch != self._step // per_epoch:
                    epoch = self._step // per_epoch
                    order = self._order(num_examples, epoch, num_particles if independent else 0)
                assert order is not None
                start = (self._step % per_epoch) * batch_size
                rows = order[..., start : start + batch_size]
            self._step += 1
            yield rows
            self.show_progress()

    def show_progress(self) -> None:
        """Tells who watches how far this phase is; `batches` does so by itself."""
        if self._progress is not None:
            self._progress(self.fraction)

    def _order(self, num_examples: int, epoch: int, num_particles: int) -> Tensor:
        rng = generator("cpu", self.seed, self.name, "order", epoch)
        if num_particles == 0:
            return torch.randperm(num_examples, generator=rng).to(self.device)
        orders = [torch.randperm(num_examples, generator=rng) for _ in range(num_particles)]
        return torch.stack(orders).to(self.device)

    # ---- checkpoints ---------------------------------------------------------------------------------------------

    def restore(self, state: StateT) -> StateT:
        """The state this phase was last saved in, or `state` if it was never saved. Call it before the phase's loop.

        Raises:
            SaveError: the checkpoint is damaged or belongs to another fit.
        """
        torch.manual_seed(self._global_seed)  # inside fit's seeded() block: layers with randomness of their own
        path = self._path()
        if path is None or not path.exists():
            return state
        try:
            with safe_open(path, framework="pt", device="cpu") as file:
                metadata = json.loads(file.metadata()["bayesify"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            raise SaveError(
                f"the checkpoint {path} cannot be read ({error}): delete it to start this fit again."
            ) from error
        assert self._checkpoints is not None
        if metadata["fingerprint"] != self._checkpoints.fingerprint:
            raise SaveError(
                f"the checkpoint {path} belongs to a fit with other data, model or settings: choose another checkpoint "
                "folder, or delete it to start again."
            )
        self.rng.set_state(tensors.pop("rng"))
        torch.set_rng_state(tensors.pop("layers_rng"))
        self._step = metadata["step"]
        self.meter.restore(metadata["meter"])
        self._start, self._start_seconds = metadata["start"], metadata["start_seconds"]
        self.limit, self.finished = metadata["limit"], metadata["finished"]
        self.notes.update(metadata["notes"])
        named, shape = _named(state)
        restored: StateT = pytree.tree_unflatten([tensors[name].to(self.device) for name in named], shape)
        return restored

    @property
    def is_due(self) -> bool:
        """Whether `save` would save now: for those whose state takes time to put together."""
        if self._checkpoints is None:
            return False
        return self.finished or time.monotonic() - self._saved_at >= self._checkpoints.seconds

    def finish(self, state: tuple[Any, ...]) -> None:
        """Saves the phase's last state; a resumed run will find `finished` true and must not repeat its work."""
        self.finished = True
        self.save(state)

    def save(self, state: tuple[Any, ...]) -> None:
        """Saves a nest of NamedTuples of tensors every half minute; does nothing without a checkpoint folder."""
        path = self._path()
        if path is None or self._checkpoints is None or not self.is_due:
            return
        # Cloned, because fields may share memory, which the file format has no way to say.
        tensors = {name: value.contiguous().clone() for name, value in _named(state)[0].items()}
        tensors |= {"rng": self.rng.get_state(), "layers_rng": torch.get_rng_state()}
        metadata = {
            "fingerprint": self._checkpoints.fingerprint,
            "step": self._step,
            "meter": self.meter.snapshot(),
            "start": self._start,
            "start_seconds": self._start_seconds,
            "limit": self.limit,
            "notes": self.notes,
            "finished": self.finished,
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as partial:
            save_file(tensors, partial, metadata={"bayesify": json.dumps(metadata)})
        self._saved_at = time.monotonic()

    def _path(self) -> Path | None:
        if self._checkpoints is None:
            return None
        return self._checkpoints.folder / (self.name.replace("/", "--") + ".safetensors")


def _named(state: Any) -> tuple[dict[str, Tensor], pytree.TreeSpec]:
    """The tensors by the path that leads to them, and what is needed to put them back."""
    leaves, shape = pytree.tree_flatten_with_path(state)
    return {pytree.keystr(path).lstrip("."): leaf for path, leaf in leaves}, shape
