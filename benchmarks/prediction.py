"""Predicting: one example through an ensemble, and the average of 100 draws against a loop of forward passes.

The network is an 8-50-50-1 MLP. The loops are those that users write: `functional_call` with each draw's weights, or
`load_state_dict` and a forward pass, under no_grad. Ours is `posterior.predict(x).mean`, input checks included. Runs
are interleaved; a ratio is the median over pairs. The floor is what the matrix products alone would take at this
machine's rate for large ones, in the same run.

    python benchmarks/prediction.py [--pairs 31] [--threads 2]
"""

import argparse
import copy
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import functional_call

from bayesify.engine.rng import generator, seeded
from bayesify.likelihoods import Gaussian
from bayesify.model.model import Model
from bayesify.model.network import Network
from bayesify.posterior.base import Particles
from bayesify.posterior.draws import Draws

INPUTS, WIDTH, MEMBERS, DRAWS, ROWS, SIZE = 8, 50, 10, 100, 1_000, 1_024
MAX_MILLISECONDS, TARGET_RATIO = 2.0, 5.0
FLOPS = 2.0 * DRAWS * ROWS * (INPUTS * WIDTH + WIDTH * WIDTH + WIDTH)


def network() -> nn.Sequential:
    with seeded(0):
        return nn.Sequential(
            nn.Linear(INPUTS, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 1)
        )


def posterior_of(count: int) -> Draws:
    model = Model(Network(network()), Gaussian())
    rng = generator("cpu", "benchmark", count)
    theta = 0.3 * torch.randn(count, model.network.layout.num_parameters + 1, generator=rng)
    return Draws(model, Particles(theta, {}))


def milliseconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return 1e3 * (time.perf_counter() - start)


def one_example(runs: int) -> None:
    posterior = posterior_of(MEMBERS)
    x = torch.randn(1, INPUTS, generator=generator("cpu", "one"))

    def ours() -> tuple[Tensor, Tensor]:
        predictive = posterior.predict(x)
        return predictive.mean, predictive.stddev

    first = milliseconds(ours)
    found = sorted(milliseconds(ours) for _ in range(10 * runs))
    middle = statistics.median(found)
    print(
        f"one example, {MEMBERS} members, mean and stddev: {middle:.3f} ms (fastest {found[0]:.3f}, first {first:.1f})"
    )
    print(f"  at most {MAX_MILLISECONDS:g} ms: {'yes' if middle <= MAX_MILLISECONDS else 'NO'}\n")


def contenders(posterior: Draws, x: Tensor) -> dict[str, Callable[[], Tensor]]:
    weights = posterior.model.network.layout.unflatten(posterior.model.split(posterior.kept.theta)[0])
    states = [{name: value[s].clone() for name, value in weights.items()} for s in range(DRAWS)]
    plain = copy.deepcopy(network())

    @torch.no_grad()
    def called() -> Tensor:
        return torch.stack([functional_call(plain, state, (x,)) for state in states]).mean(0).squeeze(-1)

    @torch.no_grad()
    def loaded() -> Tensor:
        outputs = []
        for state in states:
            plain.load_state_dict(state)
            outputs.append(plain(x))
        return torch.stack(outputs).mean(0).squeeze(-1)

    return {
        "bayesify": lambda: posterior.predict(x).mean,
        "functional_call loop": called,
        "load_state_dict loop": loaded,
        "floor": products,
    }


def products() -> Tensor:
    """One large product; scaled to the network's by `floor`."""
    return SQUARE @ SQUARE


SQUARE = torch.randn(SIZE, SIZE, generator=generator("cpu", "square"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=31)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(f"{arguments.threads} thread(s), torch {torch.__version__}\n")
    one_example(arguments.pairs)
    x = torch.randn(ROWS, INPUTS, generator=generator("cpu", "many"))
    runs = contenders(posterior_of(DRAWS), x)
    torch.testing.assert_close(runs["bayesify"](), runs["functional_call loop"](), rtol=1e-4, atol=1e-5)
    for run in runs.values():
        for _ in range(3):
            run()
    found: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(arguments.pairs):
        for name in list(runs) if number % 2 == 0 else reversed(runs):
            found[name].append(milliseconds(runs[name]))
    scale = FLOPS / (2.0 * SIZE**3)
    found["floor"] = [scale * value for value in found["floor"]]
    print(f"{DRAWS} draws, {ROWS} rows: milliseconds (fastest), and as a multiple of ours")
    for name, values in found.items():
        ratio = statistics.median(other / own for other, own in zip(values, found["bayesify"], strict=True))
        print(f"{name:>22} {statistics.median(values):8.2f} ({min(values):.2f}) {ratio:8.2f}")
    loop = zip(found["functional_call loop"], found["bayesify"], strict=True)
    ratio = statistics.median(other / own for other, own in loop)
    print(f"\nratio {ratio:.2f}, at least {TARGET_RATIO:g}: {'yes' if ratio >= TARGET_RATIO else 'NO'}")


if __name__ == "__main__":
    main()
