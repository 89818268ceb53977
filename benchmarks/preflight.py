"""What `bay.estimate` says before a fit against what the fit then takes: time, memory and FLOPs, for eleven fits.

Memory is the peak of what torch allocates during the fit, by its profiler, in a second, untimed run. The tests hold
FLOPs and memory to a factor of 2; time is measured here, where the machine should be idle.

    python benchmarks/preflight.py [--threads 2]
"""

import argparse
import gc
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

import bayesify as bay
from bayesify.engine.rng import generator, seeded

FACTOR = 2.0


class Case(NamedTuple):
    """One fit."""

    method: str
    width: int
    num_classes: int  # 0: regression
    rows: int
    epochs: int


CASES = (
    Case("map(batch_size=32)", 50, 0, 1000, 200),
    Case("deep_ensemble(num_members=10, batch_size=100)", 50, 0, 1000, 200),
    Case("mc_dropout", 50, 3, 600, 200),
    Case("swag", 200, 0, 500, 300),
    Case("laplace(structure=diag)", 50, 0, 500, 400),
    Case("laplace(structure=kron)", 50, 3, 500, 400),
    Case("laplace(structure=full)", 16, 0, 500, 400),
    Case("ivon", 300, 0, 1000, 50),
    Case("hmc(num_chains=4, num_draws=20)", 50, 0, 300, 2000),
    Case("multi(swag, 3)", 50, 0, 500, 200),
    Case("deep_ensemble(num_members=4, batch_size=32)", 100, 3, 500, 100),
)


def network(width: int, num_classes: int) -> nn.Sequential:
    with seeded(0):
        return nn.Sequential(
            nn.Linear(8, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, num_classes or 1)
        )


def make_data(rows: int, num_classes: int) -> tuple[Tensor, Tensor]:
    rng = generator("cpu", "benchmark")
    x = torch.randn(rows, 8, generator=rng)
    y = torch.sin(2 * x[:, 0]) + 0.1 * torch.randn(rows, generator=rng)
    return x, y if num_classes == 0 else (y > 0).long() + (y > 0.7).long()


def peak_bytes(function: Callable[[], Any]) -> int:
    """The peak of what torch allocated during a call and had not yet freed."""
    gc.collect()  # what was there before must not be freed meanwhile
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        function()
    assert seen.profiler is not None
    events = [event for event in seen.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print("estimated / measured, measured in brackets\n")
    print(f"{'method':<48} {'seconds':>16} {'megabytes':>16} {'gigaflops':>16} {'CPU seconds':>16}")
    within = 0
    for case in CASES:
        model, data = network(case.width, case.num_classes), make_data(case.rows, case.num_classes)
        budget = bay.Budget(epochs=case.epochs)
        expected = bay.estimate(model, data, method=case.method, budget=budget)

        def fit(model: nn.Module = model, data: Any = data, case: Case = case, epochs: int | None = None) -> Any:
            budget = bay.Budget(epochs=epochs or case.epochs)
            return bay.fit(model, data, method=case.method, budget=budget, progress=False)

        start, busy = time.perf_counter(), time.process_time()
        flops = fit().cost.flops
        seconds, busy = time.perf_counter() - start, time.process_time() - busy
        peak = peak_bytes(lambda: fit(epochs=max(5, case.epochs // 20)))  # noqa: B023 - called at once
        pairs = ((expected.seconds, seconds, 1), (expected.memory_bytes, peak, 1e6), (expected.flops, flops, 1e9))
        within += 1 / FACTOR <= expected.seconds / seconds <= FACTOR
        cells = " ".join(f"{guess / found:>6.2f} ({found / unit:>7.2f})" for guess, found, unit in pairs)
        print(f"{case.method:<48} {cells} {expected.seconds / busy:>6.2f} ({busy:>7.2f})", flush=True)
    print(f"\ntime within a factor of {FACTOR:g}: {within} of {len(CASES)}")


if __name__ == "__main__":
    main()
