"""Peers run in an environment of their own, one process that stays: it warms up, then runs on demand.

A peer is a script in benchmarks/peers/ that calls `serve(run)` of benchmarks/peers/_serve.py. Ours and the peer's runs
can so be interleaved, and nothing of the peer's is installed beside ours.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch

PEERS = Path(__file__).parent / "peers"
DEFAULT_PYTHON = Path(__file__).parents[1] / ".venv-peers" / "bin" / "python"


def limited(threads: int) -> dict[str, str]:
    """The environment of a process that may use so many threads."""
    several = "true" if threads > 1 else "false"
    flags = f"--xla_cpu_multi_thread_eigen={several} intra_op_parallelism_threads={threads}"
    return {**os.environ, "OMP_NUM_THREADS": str(threads), "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}


class Peer:
    """A running peer."""

    def __init__(self, script: str, arguments: list[str], python: Path, threads: int) -> None:
        self._process = subprocess.Popen(
            [str(python), str(PEERS / script), *arguments],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=limited(threads),
        )  # fmt: skip
        self.note = self._read()["note"]

    def run(self) -> float:
        """Seconds of one run, measured by the peer."""
        print("run", file=self._process.stdin, flush=True)
        return float(self._read()["seconds"])

    def close(self) -> None:
        self._process.terminate()
        self._process.wait()

    def _read(self) -> dict:
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"the peer stopped: {self._process.wait()}")
        return json.loads(line)


def asked(description: str, count: int) -> argparse.Namespace:
    """What every comparison with a peer is asked; torch gets its threads."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=count)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--peer-python", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    return options


def peer_python(asked: Path | None) -> Path | None:
    """The peers' interpreter, or None with a word on how to get one."""
    python = asked or DEFAULT_PYTHON
    if python.exists():
        return python
    print(f"no peers: {python} is missing; `make peers` installs them (benchmarks/requirements-peers.txt)\n")
    return None


def pairs(ours: Callable[[], float], theirs: Callable[[], float], count: int) -> tuple[float, float, float]:
    """Medians of seconds of both and of their ratio (theirs / ours), from interleaved runs."""
    found = []
    for number in range(count):
        first, second = (ours, theirs) if number % 2 else (theirs, ours)
        a, b = first(), second()
        found.append((a, b) if number % 2 else (b, a))
    own, other = zip(*found, strict=True)
    return statistics.median(own), statistics.median(other), statistics.median(b / a for a, b in found)


def row(work: str, peer: str, ours: float, theirs: float, ratio: float, target: float) -> None:
    """One line of the table."""
    mark = "reached" if ratio >= target else "NOT reached"
    print(f"{work:<46} {peer:<20} {theirs:>9.3f} {ours:>9.3f} {ratio:>7.2f}  >= {target:g} {mark}", flush=True)


def header() -> None:
    print(f"{'work':<46} {'peer':<20} {'peer s':>9} {'ours s':>9} {'ratio':>7}", file=sys.stdout, flush=True)
