"""One cell after the other in this process: the debugger's friend."""

from bayesify.arena.cell import Context, run_cell
from bayesify.arena.execute.events import Watcher
from bayesify.arena.plan import Cell


def run_local(cells: list[Cell], context: Context, watch: Watcher) -> None:
    """Runs the cells in order."""
    for cell in cells:
        watch(run_cell(cell, context))
