"""What an executor tells whoever watches."""

from collections.abc import Callable

from bayesify.arena.cell import Outcome

Watcher = Callable[[Outcome], None]
"""Called with every cell as it ends."""
