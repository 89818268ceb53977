"""A progress bar on a terminal, nothing elsewhere."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from bayesify.engine.run import Progress


@contextmanager
def progress_bar(wanted: str | bool | Progress, title: str) -> Iterator[Progress | None]:
    """Yields the function a run reports its fraction to, or None.

    Args:
        wanted: 'auto' (a bar if standard error is a terminal), True, False, or the user's own function.
        title: shown beside the bar.
    """
    if callable(wanted):
        yield wanted
        return
    if wanted is False or (wanted == "auto" and not sys.stderr.isatty()):
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress as Bar

    with Bar(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=1.0)
        yield lambda fraction: bar.update(task, completed=fraction)
