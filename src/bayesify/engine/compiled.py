"""Traced graphs → machine code, by torch's ahead-of-time compiler, kept on disk.

A compile takes 5–30 s. What it gives is loaded in milliseconds ever after, by any process of this user with this
version of torch, and called without Python between a graph's operations: a small network's gradient takes 40 µs in
place of 300. Packages are named by all that their code follows from: the graph, shapes, torch, the processor's
vector instructions and the number of threads, which the compiler builds in.
"""

import hashlib
import logging
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from filelock import FileLock
from torch import Tensor
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree

from bayesify.files import cache_folder, replacing

FORMAT = 1
"""Goes up when graphs of one text come to mean something else."""


class Package(NamedTuple):
    """A compiled graph, or why there is none."""

    function: Callable[..., Any] | None
    seconds: float
    """Spent on compiling or loading."""
    refused: str | None = None


def compiled(graph: GraphModule, arguments: tuple[Tensor, ...]) -> Package:
    """The graph compiled for tensors like `arguments`, from the disk if it was compiled before.

    Args:
        graph: traced, without Python effects.
        arguments: example tensors; the function takes tensors of their shapes and dtypes, whatever the strides.
    """
    start = time.perf_counter()
    if any(value.device.type != "cpu" for value in arguments):
        return Package(None, 0.0, "only the CPU's graphs are compiled")
    path = cache_folder("compiled") / f"{_key(graph, arguments)}.pt2"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):  # processes side by side want the same graphs: one compiles
            if not path.exists():
                _compile(graph, arguments, path)
        function = _function(torch._inductor.aoti_load_package(str(path)), graph)
    except Exception as error:  # a compiler may fail in any way, and the traced graph still works
        reason = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
        return Package(None, time.perf_counter() - start, reason)
    return Package(function, time.perf_counter() - start)


class Fused:
    """A function of tensors, all small operations, that becomes one compiled call where that is wanted."""

    def __init__(
        self, function: Callable[..., Any], *, wanted: bool, on_compile: Callable[[float, str | None], None]
    ) -> None:
        self._function, self._wanted, self._on_compile = function, wanted, on_compile

    def __call__(self, *arguments: Tensor) -> Any:
        """The function's result; all calls have tensors of the same shapes."""
        if self._wanted:
            self._wanted = False
            package = compiled(make_fx(self._function)(*arguments), arguments)
            self._on_compile(package.seconds, package.refused)
            self._function = package.function or self._function
        return self._function(*arguments)


def _function(package: Any, graph: GraphModule) -> Callable[..., Any]:
    outputs = next(node for node in reversed(graph.graph.nodes) if node.op == "output").args[0]
    spec = pytree.tree_structure(pytree.tree_map(str, outputs))
    # The package's own call flattens and checks what is known to be flat and right: longer than the work.
    run = package.loader.boxed_run
    if spec == pytree.tree_structure((0,) * spec.num_leaves):
        return lambda *arguments: tuple(run([value.contiguous() for value in arguments]))
    return lambda *arguments: pytree.tree_unflatten(run([value.contiguous() for value in arguments]), spec)


def _compile(graph: GraphModule, arguments: tuple[Tensor, ...], path: Path) -> None:
    # Random numbers by torch's own generator, so that dropout draws what the traced graph would.
    settings = torch._inductor.config.patch(fallback_random=True)
    with settings, warnings.catch_warnings(), _quiet("torch._inductor", "torch._export", "torch.export"):
        warnings.simplefilter("ignore")  # torch's own deprecations
        program = torch.export.export(graph, tuple(value.contiguous() for value in arguments))
        with replacing(path) as partial:
            torch._inductor.aoti_compile_and_package(program, package_path=str(partial))


@contextmanager
def _quiet(*names: str) -> Iterator[None]:
    """Silences loggers within a block."""
    levels = {name: logging.getLogger(name).level for name in names}
    for name in names:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


def _key(graph: GraphModule, arguments: tuple[Tensor, ...]) -> str:
    machine = (FORMAT, torch.__version__, torch.backends.cpu.get_cpu_capability(), torch.get_num_threads())
    shapes = [(tuple(value.shape), str(value.dtype)) for value in arguments]
    digest = hashlib.blake2b(repr((machine, shapes, graph.code)).encode(), digest_size=16)
    for node in graph.graph.nodes:
        if node.op == "get_attr":  # numbers that were in scope when the graph was traced
            value = getattr(graph, node.target)
            digest.update(repr((node.target, tuple(value.shape), str(value.dtype))).encode())
            digest.update(value.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
