"""How near a prior-data fitted network comes to the posterior it was trained for: a Gaussian process in one dimension.

The mean of KL(exact ‖ network) in nats, over data sets drawn from the prior, of 0 to 20 rows, and new inputs: the
network is trained on one thread, then compared with the exact posterior predictive by quadrature.

    python benchmarks/pfn_gp.py [--steps 4500] [--width 64] [--layers 3] [--batch-size 32] [--save gp.pfn]
"""

import argparse
import math
import time
from pathlib import Path

import torch
from torch import Tensor

from bayesify.engine.rng import generator
from bayesify.pfn import PFN, GPPrior, fit_pfn

LEVELS = 400
"""Points of the quadrature over the exact predictive: the centres of so many parts of equal probability."""


def divergence(net: PFN, prior: GPPrior, size: int, num_sets: int, rng: torch.Generator) -> Tensor:
    """KL(exact ‖ network) (num_sets,) at one new input each, after `size` rows."""
    inputs, targets = prior.sample(num_sets, size + 1, rng)
    seen, known, new = inputs[:, :size], targets[:, :size], inputs[:, size:]
    exact = prior.posterior(seen, known, new)
    z = torch.special.ndtri((torch.arange(LEVELS, dtype=torch.float64) + 0.5) / LEVELS)
    values = exact.mean + exact.stddev * z  # (S, LEVELS)
    density = -0.5 * z.square() - exact.stddev.log() - 0.5 * math.log(2 * math.pi)
    with torch.no_grad():
        logits = net(seen, known, new).double()
    return (density - net.bars.distribution(logits).log_prob(values)).mean(-1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("steps", 4500), ("width", 64), ("layers", 3), ("batch-size", 32), ("sets", 2000)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    parser.add_argument("--save", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    prior = GPPrior()
    started, processor = time.perf_counter(), time.process_time()
    net = fit_pfn(
        prior,
        num_steps=asked.steps,
        width=asked.width,
        num_layers=asked.layers,
        batch_size=asked.batch_size,
        learning_rate=asked.learning_rate,
    )
    print(f"{prior}: {asked.steps} steps, {(time.perf_counter() - started) / 60:.1f} minutes by the clock, ", end="")
    print(f"{(time.process_time() - processor) / 60:.1f} of one core", flush=True)
    if asked.save:
        net.save(asked.save)
    found = []
    for size in range(net.shape.max_context + 1):
        found.append(divergence(net, prior, size, asked.sets, generator("cpu", "divergence", size)))
        if size in (0, 1, 2, 5, 10, 20):
            error = float(found[-1].std()) / math.sqrt(asked.sets)
            print(f"KL after {size:2d} rows: {float(found[-1].mean()):.4f} ± {error:.4f} nat", flush=True)
    means = torch.stack(found).mean(0)
    print(f"mean KL: {float(means.mean()):.4f} ± {float(means.std()) / math.sqrt(asked.sets):.4f} nat")


if __name__ == "__main__":
    main()
