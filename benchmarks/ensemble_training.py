"""Training a deep ensemble as one batched model, against one plain PyTorch loop per member.

Ten 8-50-50-1 networks, 1,000 rows, batches of 100, Adam, 200 epochs, a learned noise scale, nothing compiled. Every run
starts cold: ours includes reading the data, checks, tracing and building the posterior. Pairs of runs are interleaved,
so that a machine that gets busier slows both; the ratio is the median over pairs.

    python benchmarks/ensemble_training.py [--pairs 5] [--threads 1]
"""

import argparse
import statistics
import time
from typing import NamedTuple

import torch
from torch import Tensor, nn

import bayesify as bay
from bayesify.engine.rng import generator, seeded

MEMBERS, EPOCHS, BATCH, ROWS, INPUTS, LEARNING_RATE = 10, 200, 100, 1_000, 8, 1e-2
TARGET_RATIO = 0.25


class Measured(NamedTuple):
    """One run: wall time, and how good the ensemble's mean is on the training data, so that work is comparable."""

    seconds: float
    rmse: float


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(INPUTS, 50), nn.ReLU(), nn.Linear(50, 50), nn.ReLU(), nn.Linear(50, 1))


def make_data() -> tuple[Tensor, Tensor]:
    rng = generator("cpu", "benchmark")
    x = torch.randn(ROWS, INPUTS, generator=rng)
    y = torch.sin(2 * x[:, 0]) + x[:, 1] * x[:, 2] + 0.1 * torch.randn(ROWS, generator=rng)
    return x, y


def rmse(mean: Tensor, y: Tensor) -> float:
    return float((mean - y).square().mean().sqrt())


def plain_member(x: Tensor, y: Tensor) -> nn.Sequential:
    model = network()
    log_noise = nn.Parameter(torch.zeros(()))
    optimiser = torch.optim.Adam([*model.parameters(), log_noise], lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, EPOCHS)
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(x)).split(BATCH):
            optimiser.zero_grad()
            z = (y[rows] - model(x[rows]).squeeze(-1)) / log_noise.exp()
            loss = (0.5 * z.square() + log_noise).mean()
            loss.backward()
            optimiser.step()
        schedule.step()
    return model


def run_plain(x: Tensor, y: Tensor, seed: int) -> Measured:
    start = time.perf_counter()
    with seeded(seed):
        members = [plain_member(x, y) for _ in range(MEMBERS)]
    seconds = time.perf_counter() - start
    with torch.no_grad():
        return Measured(seconds, rmse(torch.stack([member(x).squeeze(-1) for member in members]).mean(0), y))


def run_ours(x: Tensor, y: Tensor, seed: int) -> Measured:
    method = bay.methods.DeepEnsemble(num_members=MEMBERS, batch_size=BATCH, learning_rate=LEARNING_RATE)
    start = time.perf_counter()
    posterior = bay.fit(
        network(), (x, y), method=method, budget=bay.Budget(epochs=EPOCHS), validation=0, seed=seed, progress=False
    )
    seconds = time.perf_counter() - start
    assert posterior.cost.gradient_evaluations == MEMBERS * EPOCHS * ROWS
    return Measured(seconds, rmse(posterior.predict(x).mean, y))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    x, y = make_data()
    print(f"{MEMBERS} members, {ROWS} rows, {EPOCHS} epochs, batch {BATCH}; torch {torch.__version__}", flush=True)
    print(f"{arguments.threads} thread(s); seconds, training RMSE of the ensemble's mean in brackets\n", flush=True)
    print(f"{'pair':>6} {'plain loops':>18} {'bayesify':>18} {'ratio':>8}", flush=True)
    pairs = []
    for number in range(arguments.pairs):
        runs = [run_plain, run_ours] if number % 2 == 0 else [run_ours, run_plain]
        found = {run.__name__: run(x, y, number) for run in runs}
        plain, ours = found["run_plain"], found["run_ours"]
        pairs.append((plain, ours))
        print(f"{number + 1:>6} {_cell(plain)} {_cell(ours)} {ours.seconds / plain.seconds:>8.3f}", flush=True)
    ratio = statistics.median(ours.seconds / plain.seconds for plain, ours in pairs)
    medians = [statistics.median(run.seconds for run in column) for column in zip(*pairs, strict=True)]
    print(f"{'median':>6} {medians[0]:>10.2f} {'':>7} {medians[1]:>10.2f} {'':>7} {ratio:>8.3f}")
    print(f"\nat most {TARGET_RATIO}: {'yes' if ratio <= TARGET_RATIO else 'NO'} ({1 / ratio:.1f} times as fast)")


def _cell(run: Measured) -> str:
    return f"{run.seconds:>10.2f} ({run.rmse:.3f})"


if __name__ == "__main__":
    main()
