"""How the time of one gradient grows with members, rows, chains and parameters, above the arithmetic floor.

The floor is the gradient's FLOPs over the rate of a large matrix product on this machine: what it would take if nothing
but arithmetic cost time. Medians of repeated calls; networks 8-W-W-1, each sweep changes one thing.

    python benchmarks/scaling.py [--threads 2] [--out docs/images/scaling.svg]
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from bayesify.engine.denormals import denormals_flushed
from bayesify.engine.rng import generator
from bayesify.fitting import make_problem
from bayesify.model.network import Mode
from bayesify.model.problem import Batch

SECONDS = 0.5
"""How long each point is repeated."""


class Case(NamedTuple):
    """One gradient: K networks of width W on B rows."""

    members: int = 10
    rows: int = 100
    width: int = 50


SWEEPS = {
    "ensemble members (100 rows each)": ("members", [Case(members=k) for k in (1, 4, 16, 64)]),
    "HMC chains (500 shared rows)": ("members", [Case(members=k, rows=500) for k in (1, 4, 16, 64)]),
    "rows (8 chains)": ("rows", [Case(members=8, rows=n) for n in (128, 512, 2048, 8192)]),
    "parameters (10 members, 100 rows)": ("width", [Case(width=w) for w in (16, 64, 256, 512)]),
}


def matrix_rate() -> float:
    """FLOPs per second of a large product."""
    a, b = torch.randn(1024, 1024), torch.randn(1024, 1024)
    return 2 * 1024**3 / repeated(lambda: a @ b)


def repeated(call: Callable[[], object]) -> float:
    """The median seconds of one call."""
    for _ in range(3):
        call()
    found, until = [], time.perf_counter() + SECONDS
    while time.perf_counter() < until or len(found) < 5:
        start = time.perf_counter()
        call()
        found.append(time.perf_counter() - start)
    return statistics.median(found)


def measured(case: Case, shared: bool, way: str) -> tuple[float, float, int]:
    """Seconds and FLOPs of one gradient, and P."""
    rng = generator("cpu", "scaling")
    x = torch.randn(case.rows, 8, generator=rng)
    width = case.width
    network = nn.Sequential(nn.Linear(8, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 1))
    problem = make_problem(network, (x, x[:, 0]), likelihood="gaussian", way=way)
    problem.expect(1e9 if way == "compiled" else 0, Mode.DENSITY)
    theta = problem.random(case.members, rng)
    rows = torch.arange(case.rows).expand(case.members, -1)
    batch = Batch(problem.data.select(rows), True)

    def call() -> object:
        return problem.full_gradient(theta) if shared else problem.gradient(theta, batch, Mode.DENSITY)

    with denormals_flushed():
        call()
        before = problem.meter.flops
        call()
        flops = problem.meter.flops - before
        return repeated(call), flops, problem.num_parameters


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rate = matrix_rate()
    print(f"torch {torch.__version__}, {options.threads} threads, matrix products at {rate / 1e9:.0f} GFLOP/s\n")
    print("| sweep | value | floor (ms) | compiled (ms) | traced (ms) | compiled / floor |\n|---|---|---|---|---|---|")
    points = []
    for name, (axis, cases) in SWEEPS.items():
        for case in cases:
            shared = "chains" in name
            compiled, flops, size = measured(case, shared, "compiled")
            traced, _, _ = measured(case, shared, "auto")
            value = size if axis == "width" else getattr(case, axis)
            floor = flops / rate
            cells = f"{1e3 * floor:.3f} | {1e3 * compiled:.3f} | {1e3 * traced:.3f} | {compiled / floor:.1f}"
            print(f"| {name} | {value} | {cells} |", flush=True)
            for way, seconds in [("arithmetic floor", floor), ("compiled", compiled), ("traced", traced)]:
                points.append({"sweep": name, "value": value, "milliseconds": 1e3 * seconds, "way": way})
    if options.out is not None:
        chart(points).save(str(options.out))


def chart(points: list[dict]):
    """One panel per sweep, log axes."""
    import altair as alt

    panels = []
    for name in SWEEPS:
        data = alt.Data(values=[point for point in points if point["sweep"] == name])
        encoding = {
            "x": alt.X("value:Q", scale=alt.Scale(type="log"), title=name),
            "y": alt.Y("milliseconds:Q", scale=alt.Scale(type="log"), title="ms per gradient"),
            "color": alt.Color("way:N", title=None),
            "strokeDash": alt.StrokeDash("way:N", title=None),
        }
        panels.append(alt.Chart(data, width=260, height=200).mark_line(point=True).encode(**encoding))
    return alt.concat(*panels, columns=2).configure(background="white")


if __name__ == "__main__":
    main()
