"""What a method is: frozen hyperparameters, a description, and `fit(problem, run) → Posterior`."""

import dataclasses
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, ClassVar, NamedTuple

from bayesify.engine.preflight import Work
from bayesify.engine.run import Run
from bayesify.errors import MethodError
from bayesify.model.problem import Problem
from bayesify.posterior.base import Posterior

SECONDS_FOR_TRAINING = 0.8
"""Share of a budget of seconds that training gets where something follows whose cost in seconds is not known."""


class Exactness(StrEnum):
    """What a method's result is, compared to the posterior."""

    EXACT = "exact"
    ASYMPTOTIC = "asymptotically exact"
    APPROXIMATE = "approximate"
    NOT_A_POSTERIOR = "not a posterior"


class Range(NamedTuple):
    """A hyperparameter's search space for tuning."""

    low: float
    high: float
    log: bool = False
    integer: bool = False


@dataclass(frozen=True)
class MethodInfo:
    """The method's card."""

    name: str
    family: str
    exactness: Exactness
    reference: str
    summary: str
    bias: str = ""
    """In words: how the result differs from the posterior, where it does."""
    uses_validation: bool = False
    """Whether held-out data are used for early stopping or calibration; otherwise everything is trained on."""
    post_hoc: bool = False
    """Whether it describes the neighbourhood of a mode found before, so that a pretrained model is fitted at once."""
    search_space: dict[str, Range] = dataclasses.field(default_factory=dict)


class Method(ABC):
    """Base of all methods; subclasses are frozen dataclasses with an `info`."""

    info: ClassVar[MethodInfo]

    @abstractmethod
    def fit(self, problem: Problem, run: Run) -> Posterior:
        """Spends the run's budget on the problem and returns a posterior."""

    @property
    @abstractmethod
    def num_particles(self) -> int:
        """How many networks are trained at a time: what `Budget(epochs=...)` is multiplied by."""

    @property
    def num_predictions(self) -> int:
        """Forward passes per example of the posterior's default prediction: what calibration has to reserve."""
        return self.num_particles

    @property
    def uses_validation(self) -> bool:
        """Whether `fit` sets held-out data aside."""
        return self.info.uses_validation

    @property
    def needs_validation(self) -> bool:
        """Whether there is nothing to calibrate or to tune without held-out data."""
        return False

    @property
    def exactness(self) -> Exactness:
        """What it declares itself; combinators are at most as exact as what they hold."""
        return self.info.exactness

    @property
    def is_post_hoc(self) -> bool:
        """Whether `fit` on a pretrained problem trains nothing; combinators answer for what they hold."""
        return self.info.post_hoc

    def post_hoc_cost(self, problem: Problem) -> float:
        """Gradient evaluations that a post-hoc method needs once the mode is known: by default one per example."""
        return float(problem.num_examples)

    def training(self, problem: Problem, limit: float) -> float:
        """Of `limit` gradient evaluations, those that training by minibatches would use: by default all."""
        del problem
        return limit

    def stages(self, problem: Problem, limit: float, after: float | None = None) -> list[Work]:
        """What most of a fit within `limit` gradient evaluations consists of, for estimates of its cost.

        Args:
            problem: what is fitted.
            limit: the budget.
            after: what follows training, with all the data; None is the post-hoc cost where there is any.
        """
        if after is None:
            after = self.post_hoc_cost(problem) if self.is_post_hoc else 0.0
        finished = self.is_post_hoc and problem.pretrained
        training = 0.0 if finished else self.training(problem, max(0.0, limit - after))
        return stages_of(self, problem, training, after)

    def memory(self, problem: Problem) -> float:
        """Predicted peak bytes beyond the data and the model: by default eight vectors per particle."""
        return 8.0 * self.num_particles * problem.num_parameters * problem.network.initial.element_size()


@dataclass(frozen=True)
class Wrapper(Method):
    """Base of methods around another: they answer as it does, except where they say otherwise."""

    method: Method

    @property
    def num_particles(self) -> int:
        """Those of the method."""
        return self.method.num_particles

    @property
    def num_predictions(self) -> int:
        """The method's."""
        return self.method.num_predictions

    @property
    def uses_validation(self) -> bool:
        """Where the method does, or the wrapper by itself."""
        return self.info.uses_validation or self.method.uses_validation

    @property
    def needs_validation(self) -> bool:
        """As the method."""
        return self.method.needs_validation

    @property
    def exactness(self) -> Exactness:
        """The method's, or the wrapper's where that is worse."""
        return max(self.info.exactness, self.method.exactness, key=list(Exactness).index)

    @property
    def is_post_hoc(self) -> bool:
        """As the method."""
        return self.method.is_post_hoc

    def post_hoc_cost(self, problem: Problem) -> float:
        """The method's."""
        return self.method.post_hoc_cost(problem)

    def training(self, problem: Problem, limit: float) -> float:
        """The method's."""
        return self.method.training(problem, limit)

    def stages(self, problem: Problem, limit: float, after: float | None = None) -> list[Work]:
        """The method's, with what the wrapper does after it."""
        own = self.post_hoc_cost(problem) if self.is_post_hoc else 0.0
        return self.method.stages(problem, limit, own if after is None else after)

    def memory(self, problem: Problem) -> float:
        """The method's."""
        return self.method.memory(problem)


def stages_of(method: Method, problem: Problem, training: float, after: float) -> list[Work]:
    """Training by the method's minibatches, then work with blocks of all the data; stages of no work are left out."""
    size, count = problem.num_examples, method.num_particles
    batch = dataclasses.asdict(method)["batch_size"]  # type: ignore[call-overload]
    block = min(size, problem.model.rows_at_once(count))
    stages = [Work(count, min(batch, size), training), Work(count, block, after)]
    return [stage for stage in stages if stage.evaluations > 0]


def require(condition: bool, owner: Method, field: str, allowed: str) -> None:
    """One message for every hyperparameter out of range.

    Raises:
        MethodError: the condition does not hold.
    """
    if not condition:
        value = getattr(owner, field)
        raise MethodError(f"{type(owner).__name__}({field}={value!r}): {field} must be {allowed}.")


def require_positive(owner: Method, *fields: str, optional: tuple[str, ...] = ()) -> None:
    """All named hyperparameters are positive finite numbers; the optional ones may be None."""
    for field in (*fields, *(name for name in optional if getattr(owner, name) is not None)):
        value = getattr(owner, field)
        good = not isinstance(value, (str, bool)) and value > 0 and math.isfinite(value)
        require(good, owner, field, "a positive number")


def describe(method: Method) -> str:
    """The method as one would write it on the command line: name and non-default settings, e.g. 'multi(swag, 5)'."""
    parts = []
    for field in dataclasses.fields(method):  # type: ignore[arg-type]
        value = getattr(method, field.name)
        if isinstance(value, Method):
            parts.append(describe(value))
        elif field.default is dataclasses.MISSING or value != field.default:
            positional = field.default is dataclasses.MISSING
            parts.append(_written(value) if positional else f"{field.name}={_written(value)}")
    return f"{method.info.name}({', '.join(parts)})" if parts else method.info.name


def _written(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return str(value) if not isinstance(value, str) or value.isidentifier() else repr(value)
