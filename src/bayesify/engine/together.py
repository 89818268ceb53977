"""Fits side by side whose trainings are one batch.

Each fit is a coroutine (a greenlet) that runs until it hands over a training (`optimise.BESIDE`) or ends. When all that
are left wait, the trainings that can be joined are computed as one and their fits go on, each with its own result.
Methods need not know. Torch's global random state belongs to the fit that runs. Not threads: each would bring OpenMP
threads of its own, and OpenMP with more threads than cores puts them to sleep between operations.
"""

from collections.abc import Callable, Sequence
from contextvars import copy_context
from typing import Generic, NamedTuple, TypeVar, cast

from greenlet import greenlet

from bayesify.engine.denormals import denormals_flushed
from bayesify.engine.optimise import BESIDE, Training, can_join, train
from bayesify.engine.rng import GlobalState

T = TypeVar("T")


class Ended(NamedTuple, Generic[T]):
    """How a fit ended: exactly one of the two is set."""

    result: T | None
    error: BaseException | None

    def value(self) -> T:
        """The result.

        Raises:
            the error.
        """
        if self.error is not None:
            raise self.error
        return cast(T, self.result)


class _Abandoned(BaseException):
    """Ends a fit that nobody waits for any more."""


class _Fit(Generic[T]):
    """A function that runs only while `resume` waits for it."""

    def __init__(self, function: Callable[[], T]) -> None:
        self._function = function
        self._random: GlobalState | None = None
        self.waiting: Training | None = None
        """What it wants trained, if it waits for that."""
        self.error: BaseException | None = None
        self.ended: Ended[T] | None = None
        self._greenlet = greenlet(self._run)
        self._greenlet.gr_context = copy_context()

    def resume(self) -> None:
        """Lets it run until it waits or has ended."""
        outside = GlobalState.now()
        (self._random or outside).restore()
        try:
            self._greenlet.switch()
        finally:
            self._random = GlobalState.now()
            outside.restore()

    def abandon(self) -> None:
        """Ends it where it waits."""
        if self._greenlet:  # has begun and not ended
            self._greenlet.throw(_Abandoned)

    def _run(self) -> None:
        BESIDE.set(self._hand_over)
        try:
            self.ended = Ended(self._function(), None)
        except Exception as error:  # whoever waits for the result gets it
            self.ended = Ended(None, error)
        except _Abandoned:
            return

    def _hand_over(self, training: Training) -> None:
        self.waiting = training
        training.run.meter.share_time(0.0)
        outside = self._greenlet.parent
        assert outside is not None
        outside.switch()
        training.run.meter.share_time(1.0)
        self.waiting = None
        if self.error is not None:
            raise self.error
        if not training.finished:  # it could not be joined
            train([training])


def together(
    functions: Sequence[Callable[[], T]], on_end: Callable[[int, Ended[T]], object] | None = None
) -> list[Ended[T]]:
    """Runs functions that call `fit`, their trainings as one where they can be joined.

    Args:
        functions: in the order in which they take turns.
        on_end: told the number of each function that ended, and how; what it raises ends all the others.
    """
    fits = [_Fit(function) for function in functions]
    try:
        live = list(fits)
        while live:
            for fit in live:
                fit.resume()
                if fit.ended is not None and on_end is not None:
                    on_end(fits.index(fit), fit.ended)
            live = [fit for fit in live if fit.ended is None]
            _train_waiting(live)
    finally:
        for fit in fits:
            fit.abandon()
    return [fit.ended for fit in fits if fit.ended is not None]


def _train_waiting(fits: list[_Fit[T]]) -> None:
    """Joins what can be joined; what stands alone is left to its own fit, whose random state it may need."""
    rest = [(fit, fit.waiting) for fit in fits if fit.waiting is not None]
    while rest:
        _, first = rest[0]
        chosen = [rest[0]] + [pair for pair in rest[1:] if can_join(first, pair[1])]
        rest = [pair for pair in rest if pair not in chosen]
        if len(chosen) > 1:
            _train_joined(chosen)


def _train_joined(chosen: list[tuple[_Fit[T], Training]]) -> None:
    try:
        with denormals_flushed():
            train([training for _, training in chosen])
    except Exception as error:  # as it would have come out of each fit's own training
        for fit, _ in chosen:
            fit.error = error
