"""How many draws and rows are evaluated at a time, so that what a forward pass holds stays in cache and within memory.

A forward pass of D draws on B rows holds activations of D · B · E numbers, E being the largest layer's of one row. E is
measured in the first pass of every kind of input, whose size follows from a bound on it.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from bayesify.data import num_rows
from bayesify.model.parameters import Layout

CACHE_ELEMENTS = 2**18
"""D · B · E aimed at on a processor: 1 MB of float32, which its second-level cache holds beside the weights."""
MEMORY_ELEMENTS = 2**23
"""D · B · E never exceeded, as long as one row of one draw fits: tens of megabytes."""
GPU_ELEMENTS = 2**26
"""Aimed at on other devices, which need more work at a time; also their limit."""
LONG_ROWS = 1024
"""Rows that are not cut for the sake of more draws at a time: each weight read then serves as many."""
FEW_ROWS = 16
"""Rows below which the cache is not worth the calls."""


class Chunk(NamedTuple):
    """Numbers of draws and rows evaluated at a time."""

    draws: int
    rows: int


class Chunking:
    """Chooses chunks for one network, from what earlier forward passes held."""

    def __init__(self, layout: Layout) -> None:
        self._width = max((max(slot.shape) for slot in layout.slots if slot.shape), default=1)
        self._measured: dict[Any, float] = {}

    def choose(self, inputs: Any, num_draws: int) -> Chunk:
        """The chunk for (B, ...) inputs and S draws."""
        measured = self._measured.get(_key(inputs))
        elements = self._bound(inputs) if measured is None else measured
        on_processor = pytree.tree_leaves(inputs)[0].device.type == "cpu"
        aim, limit = (CACHE_ELEMENTS, MEMORY_ELEMENTS) if on_processor else (GPU_ELEMENTS, GPU_ELEMENTS)
        return chunk_of(elements, num_draws, num_rows(inputs), aim, limit)

    def is_measured(self, inputs: Any) -> bool:
        """Whether a forward pass of such inputs has been watched."""
        return _key(inputs) in self._measured

    def learn(self, inputs: Any, peak: float, draws_at_once: int) -> None:
        """Notes the largest result in a forward pass of these inputs."""
        self._measured[_key(inputs)] = max(1.0, peak / (num_rows(inputs) * draws_at_once))

    def _bound(self, inputs: Any) -> float:
        """Of E: the widest weight at every position of the input; vectors are one position."""
        leaves = pytree.tree_leaves(inputs)
        sizes = [leaf[0].numel() if leaf.dim() > 2 or not leaf.is_floating_point() else 1 for leaf in leaves]
        return float(max(self._width * max(sizes), *(leaf[0].numel() for leaf in leaves)))


class Watched(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Within the block, the sizes of results that are not views: the largest's, and of all together."""

    def __init__(self) -> None:
        TorchDispatchMode.__init__(self)  # type: ignore[no-untyped-call]
        self.peak = 0
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        returned = result if isinstance(result, (tuple, list)) else (result,)
        for value, declared in zip(returned, func._schema.returns, strict=False):
            if isinstance(value, Tensor) and declared.alias_info is None:
                self.peak = max(self.peak, value.numel())
                self.total += value.numel()
        return result


def chunk_of(elements: float, num_draws: int, rows: int, aim: int, limit: int) -> Chunk:
    """The chunk of S draws and B rows whose D · B · E is at most `limit`, and near `aim` where that pays."""
    long = min(rows, LONG_ROWS)
    draws = _clamp(aim / (elements * long), num_draws)
    fewest = min(FEW_ROWS, _clamp(limit / (elements * draws), FEW_ROWS))
    return Chunk(draws, _clamp(max(aim / (elements * draws), fewest), rows))


def pieces(total: int, size: int) -> Iterator[slice]:
    """Consecutive slices of at most `size`, of two lengths at most and nearly equal, so that few shapes come."""
    count = -(-total // size)
    short, longer = divmod(total, count)
    start = 0
    for i in range(count):
        end = start + short + (i < longer)
        yield slice(start, end)
        start = end


def _clamp(value: float, most: int) -> int:
    return max(1, min(most, int(value)))


def _key(inputs: Any) -> Any:
    leaves = pytree.tree_leaves(inputs)
    return tuple((leaf.shape[1:], leaf.dtype) for leaf in leaves)
