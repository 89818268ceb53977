"""The currency: what a fit may spend, and what it has spent.

One *gradient evaluation* is one gradient of one example's log likelihood for one particle. A forward-only pass of one
example for one particle counts one third of that (a backward pass costs about two forward passes). Several
vector–Jacobian products through one forward pass count one gradient evaluation each.
"""

import math
import time
from dataclasses import asdict, dataclass

from bayesify.errors import BudgetError

FORWARD_COST = 1 / 3
"""A forward pass in gradient evaluations."""


@dataclass(frozen=True)
class Budget:
    """How much a fit may spend; exactly one of the three is set.

    Attributes:
        gradient_evaluations: the total over all particles, tuning included.
        epochs: passes over the training data per particle (per ensemble member, per chain).
        seconds: wall time; results then depend on the machine.
    """

    gradient_evaluations: float | None = None
    epochs: float | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        given = {name: value for name, value in asdict(self).items() if value is not None}
        if len(given) != 1:
            raise BudgetError(
                f"a budget sets exactly one of gradient_evaluations, epochs, seconds; got {given or 'none'}: "
                "for example Budget(epochs=50)."
            )
        name, value = next(iter(given.items()))
        if isinstance(value, (str, bool)) or not 0 < value < math.inf:
            raise BudgetError(f"Budget({name}={value!r}): a budget must be positive, and a finite number.")

    def limit(self, num_examples: int, num_particles: int) -> float:
        """Gradient evaluations this budget allows; infinite for a budget of seconds."""
        if self.gradient_evaluations is not None:
            return float(self.gradient_evaluations)
        if self.epochs is not None:
            return float(self.epochs) * num_examples * num_particles
        return float("inf")


@dataclass(frozen=True)
class Cost:
    """What was spent. `total` is in gradient evaluations."""

    gradient_evaluations: int = 0
    forward_evaluations: int = 0
    flops: float = 0.0
    seconds: float = 0.0
    peak_memory_bytes: int = 0
    compile_seconds: float = 0.0
    """Of `seconds`, what compiling networks took, or loading them compiled."""

    @property
    def total(self) -> float:
        """Gradient evaluations plus forward passes at one third."""
        return self.gradient_evaluations + FORWARD_COST * self.forward_evaluations

    def as_dict(self) -> dict[str, float]:
        """JSON-ready."""
        return asdict(self)


class Meter:
    """Counts inside the problem, where no method can forget to."""

    def __init__(self) -> None:
        self.gradient_evaluations = 0
        self.forward_evaluations = 0
        self.flops = 0.0
        self.compile_seconds = 0.0
        self.not_compiled: str | None = None
        """Why a network whose many evaluations would repay it was not compiled."""
        self._seconds_before = 0.0
        self._started = time.perf_counter()
        self._pace = 1.0

    @property
    def total(self) -> float:
        """Gradient evaluations plus forward passes at one third."""
        return self.gradient_evaluations + FORWARD_COST * self.forward_evaluations

    @property
    def seconds(self) -> float:
        """Wall time of this fit, including the time before a resume."""
        return self._seconds_before + self._pace * (time.perf_counter() - self._started)

    def share_time(self, pace: float) -> None:
        """From now on a second counts as `pace`: 1 alone, 1/S where S fits are computed as one, 0 while others are."""
        self._seconds_before = self.seconds
        self._started = time.perf_counter()
        self._pace = pace

    def gradient(self, examples: int, flops: float = 0.0) -> None:
        """Counts gradients of `examples` example–particle pairs."""
        self.gradient_evaluations += examples
        self.flops += flops

    def forward(self, examples: int, flops: float = 0.0) -> None:
        """Counts forward-only passes of `examples` example–particle pairs."""
        self.forward_evaluations += examples
        self.flops += flops

    def compiled(self, seconds: float, refused: str | None) -> None:
        """Notes the time of a compile, and why it was for nothing if it was."""
        self.compile_seconds += seconds
        self.not_compiled = self.not_compiled or refused

    def snapshot(self) -> dict[str, float]:
        """The counts, for a checkpoint."""
        return {
            "gradient_evaluations": self.gradient_evaluations,
            "forward_evaluations": self.forward_evaluations,
            "flops": self.flops,
            "seconds": self.seconds,
        }

    def restore(self, snapshot: dict[str, float]) -> None:
        """Goes back to a snapshot: work repeated after a resume is not counted twice."""
        self.gradient_evaluations = int(snapshot["gradient_evaluations"])
        self.forward_evaluations = int(snapshot["forward_evaluations"])
        self.flops = float(snapshot["flops"])
        self._seconds_before = float(snapshot["seconds"])
        self._started = time.perf_counter()

    def cost(self, peak_memory_bytes: int = 0) -> Cost:
        """The final bill."""
        return Cost(
            self.gradient_evaluations,
            self.forward_evaluations,
            self.flops,
            self.seconds,
            peak_memory_bytes,
            self.compile_seconds,
        )
