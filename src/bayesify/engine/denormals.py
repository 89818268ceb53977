"""Numbers too small for a normal float are zero while networks are trained.

Processors handle them in software, ten to a hundred times slower, and training makes many: a unit that no input
activates gets its gradient from the prior alone and shrinks towards zero, and the square of that gradient falls below
1e-38. Training of a small ensemble took twice as long for it, and with two threads of which one flushes, seven times.

The processor's switch belongs to a thread, and torch sets it in the calling one only. The others are OpenMP's: they are
asked to set it themselves, one parallel region whose body is this module's.
"""

import ctypes
import functools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

_BODY = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


@contextmanager
def denormals_flushed() -> Iterator[None]:
    """Flushes them to zero inside the block, in torch's threads, where the processor can; then as it was before."""
    before = is_flushing()
    _set(True)
    try:
        yield
    finally:
        _set(before)


def is_flushing() -> bool:
    """Whether this thread flushes them now: torch can set it, but does not tell."""
    smallest = torch.full((1,), torch.finfo(torch.float32).tiny)
    return float(smallest * 0.5) == 0.0


def _set(flush: bool) -> None:
    torch.set_flush_denormal(flush)
    openmp = _openmp()
    if openmp is None or torch.get_num_threads() == 1:
        return

    def in_every_thread(_: object) -> None:
        torch.set_flush_denormal(flush)

    openmp.GOMP_parallel(_BODY(in_every_thread), None, torch.get_num_threads(), 0)


@functools.cache
def _openmp() -> "ctypes.CDLL | None":
    """GNU's OpenMP as torch brings and uses it; None where torch runs on another."""
    found = sorted((Path(torch.__file__).parent / "lib").glob("libgomp*.so*"))
    if not found or "OpenMP" not in torch.__config__.parallel_info():
        return None
    library = ctypes.CDLL(str(found[0]))
    library.GOMP_parallel.argtypes = [_BODY, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
    library.GOMP_parallel.restype = None
    return library
