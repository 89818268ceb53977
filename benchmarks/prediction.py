"""Predicting: one example through an ensemble, and the average of 100 draws against a loop of forward passes.

The network is an 8-50-50-1 MLP. The loops are those that users write: `functional_call` with each draw's weights, or
`load_state_dict` and a forward pass, under no_grad. Ours is `posterior.predict(x).mean`, input checks included. Runs
are interleaved; a ratio is the median over pairs. Two bounds from the same run say what is left: the network's matrix
products alone, in the blocks that prediction uses, with the next layer's addition and activation left out; and the
floor, the same arithmetic at this machine's rate for large products.

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
AT_ONCE = 5
"""Draws that prediction evaluates at a time on 1,000 rows of this network: 1 MB of activations per layer."""
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
        "products alone": products_of(weights, x),
        "floor": large_product,
    }


def products_of(weights: dict[str, Tensor], x: Tensor) -> Callable[[], Tensor]:
    """The products of all layers, a block of draws at a time, into memory that stays in cache."""
    blocks = list(zip(*(weights[f"{layer}.weight"].split(AT_ONCE) for layer in (0, 2, 4)), strict=True))
    inputs = x.T.expand(AT_ONCE, INPUTS, ROWS)
    first, second = (torch.empty(AT_ONCE, WIDTH, ROWS) for _ in range(2))
    last = torch.empty(AT_ONCE, 1, ROWS)

    @torch.no_grad()
    def run() -> Tensor:
        for one, two, three in blocks:
            torch.bmm(one, inputs, out=first)
            torch.bmm(two, first, out=second)
            torch.bmm(three, second, out=last)
        return last

    return run


def large_product() -> Tensor:
    """Scaled to the network's arithmetic where it is reported."""
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
    most = statistics.median(
        loop / alone for loop, alone in zip(found["functional_call loop"], found["products alone"], strict=True)
    )
    print(f"\nno ratio above {most:.2f} with these products, if all between them cost nothing")
    print(f"ratio {ratio:.2f}, at least {TARGET_RATIO:g}: {'yes' if ratio >= TARGET_RATIO else 'NO'}")


if __name__ == "__main__":
    main()
