"""What an executor tells whoever watches."""

from collections.abc import Callable
from typing import Protocol

from bayesify.arena.cell import Context, Outcome
from bayesify.arena.plan import Cell

Watcher = Callable[[Outcome], None]


class Executor(Protocol):
    """Runs cells, in any order, and reports each as it ends."""

    def __call__(self, cells: list[Cell], context: Context, watch: Watcher) -> None:
        """Returns when all cells are recorded; KeyboardInterrupt leaves finished cells recorded."""
