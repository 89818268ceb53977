"""One IVON step of a network with a million parameters, against ivon-opt, the authors' own optimiser.

Both sample the weights once, go forward and backward on one batch of 128 with cross entropy, and update mean and
Hessian. Steps are interleaved; the ratio is the median over pairs of blocks of steps. ivon-opt lies in its own folder:

    pip install --no-deps --target FOLDER ivon-opt
    python benchmarks/ivon_step.py --peers FOLDER [--pairs 15] [--threads 2]
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from bayesify.engine.rng import generator, seeded
from bayesify.fitting import make_problem
from bayesify.methods import ivon
from bayesify.model.problem import Batch

INPUTS, WIDTH, CLASSES, BATCH, ROWS = 512, 800, 10, 128, 1_000
LEARNING_RATE, HESS_INIT, STEPS = 0.1, 0.1, 5
TARGET_RATIO = 1.0


def network() -> nn.Sequential:
    with seeded(0):
        return nn.Sequential(
            nn.Linear(INPUTS, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, CLASSES)
        )


def make_data() -> tuple[Tensor, Tensor]:
    rng = generator("cpu", "benchmark")
    return torch.randn(ROWS, INPUTS, generator=rng), torch.randint(CLASSES, (ROWS,), generator=rng)


def ours(x: Tensor, y: Tensor) -> Callable[[], None]:
    problem = make_problem(network(), (x, y))
    target = ivon.target_of(problem)
    state = ivon.init(problem.initial(), HESS_INIT)
    rates = ivon.Rates(LEARNING_RATE, beta1=0.9, beta2=0.999)
    rng = generator("cpu", "steps")
    batch = Batch(problem.data.select(slice(0, BATCH)))

    def step() -> None:
        nonlocal state
        state, _ = ivon.step(problem, state, batch, rng, target, rates)

    return step


def theirs(module: Any, x: Tensor, y: Tensor) -> Callable[[], None]:
    model = network()
    optimiser = module.IVON(model.parameters(), lr=LEARNING_RATE, ess=ROWS, hess_init=HESS_INIT, beta2=0.999)
    batch, labels = x[:BATCH], y[:BATCH]

    def step() -> None:
        with optimiser.sampled_params(train=True):
            optimiser.zero_grad()
            nn.functional.cross_entropy(model(batch), labels).backward()
        optimiser.step()

    return step


def timed(step: Callable[[], None]) -> float:
    start = time.perf_counter()
    for _ in range(STEPS):
        step()
    return (time.perf_counter() - start) / STEPS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", default="", help="folder that ivon-opt was installed into")
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.peers:
        sys.path.append(arguments.peers)
    try:
        import ivon as peer
    except ImportError:
        print("skipped: ivon-opt is not installed (pip install --no-deps --target FOLDER ivon-opt; --peers FOLDER)")
        return
    x, y = make_data()
    steps = {"bayesify": ours(x, y), "ivon-opt": theirs(peer, x, y)}
    for step in steps.values():
        timed(step)  # traced, and caches filled
    pairs = []
    for number in range(arguments.pairs):
        order = list(steps) if number % 2 == 0 else list(reversed(steps))
        found = {name: timed(steps[name]) for name in order}
        pairs.append((found["ivon-opt"], found["bayesify"]))
    size = sum(p.numel() for p in network().parameters())
    print(f"{size} parameters, batch {BATCH}, {arguments.threads} thread(s), torch {torch.__version__}")
    for name, column in zip(("ivon-opt", "bayesify"), zip(*pairs, strict=True), strict=True):
        print(f"{name:>10} {1e3 * statistics.median(column):8.2f} ms per step")
    ratio = statistics.median(peer_time / own for peer_time, own in pairs)
    print(f"ratio {ratio:.2f}, at least {TARGET_RATIO:g}: {'yes' if ratio >= TARGET_RATIO else 'NO'}")


if __name__ == "__main__":
    main()
