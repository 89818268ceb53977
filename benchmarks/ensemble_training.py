"""Training a deep ensemble as one batched model, against one plain PyTorch loop per member and against JAX.

Ten 8-50-50-1 networks, 1,000 rows, batches of 100, Adam, 200 epochs, a learned noise scale. "Cold" includes reading the
data, checks, tracing and building the posterior, and compiles nothing; "steady" finds its networks compiled. Runs are
interleaved in pairs, so that a machine that gets busier slows both; the ratio is the median over pairs.

    python benchmarks/ensemble_training.py [--pairs 5] [--threads 2] [--peer-python .venv-peers/bin/python]
"""

import time
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

import bayesify as bay
from _peer import Peer, asked, header, pairs, peer_python, row
from bayesify.engine.rng import generator, seeded

MEMBERS, EPOCHS, BATCH, ROWS, INPUTS, LEARNING_RATE = 10, 200, 100, 1_000, 8, 1e-2


class Measured(NamedTuple):
    """One run: wall time, and how good the ensemble's mean is on the training data, so that work is comparable."""

    seconds: float
    rmse: float


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(INPUTS, 50), nn.ReLU(), nn.Linear(50, 50), nn.ReLU(), nn.Linear(50, 1))


def make_data(rows: int = ROWS) -> tuple[Tensor, Tensor]:
    rng = generator("cpu", "benchmark")
    x = torch.randn(rows, INPUTS, generator=rng)
    y = torch.sin(2 * x[:, 0]) + x[:, 1] * x[:, 2] + 0.1 * torch.randn(rows, generator=rng)
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


def run_plain(x: Tensor, y: Tensor) -> Measured:
    start = time.perf_counter()
    with seeded(0):
        members = [plain_member(x, y) for _ in range(MEMBERS)]
    seconds = time.perf_counter() - start
    with torch.no_grad():
        return Measured(seconds, rmse(torch.stack([member(x).squeeze(-1) for member in members]).mean(0), y))


def run_ours(x: Tensor, y: Tensor, way: str) -> Measured:
    method = bay.methods.DeepEnsemble(num_members=MEMBERS, batch_size=BATCH, learning_rate=LEARNING_RATE)
    start = time.perf_counter()
    posterior = bay.fit(
        network(), (x, y), method=method, budget=bay.Budget(epochs=EPOCHS), validation=0, progress=False, way=way
    )
    seconds = time.perf_counter() - start
    assert posterior.cost.gradient_evaluations == MEMBERS * EPOCHS * ROWS
    return Measured(seconds, rmse(posterior.predict(x).mean, y))


def main() -> None:
    options = asked(__doc__, 5)
    x, y = make_data()
    print(f"{MEMBERS} members, {ROWS} rows, {EPOCHS} epochs, batch {BATCH}; torch {torch.__version__}", flush=True)
    quality = {"plain": run_plain(x, y).rmse} | {way: run_ours(x, y, way).rmse for way in ("auto", "compiled")}
    print("training RMSE:", ", ".join(f"{name} {value:.3f}" for name, value in quality.items()), "\n", flush=True)
    header()
    plain = partial(_seconds, run_plain, x, y)
    cold, steady = partial(_seconds, run_ours, x, y, "auto"), partial(_seconds, run_ours, x, y, "compiled")
    row("ensemble of 10, cold", "ten plain loops", *pairs(cold, plain, options.pairs), target=6)
    row("ensemble of 10, steady", "ten plain loops", *pairs(steady, plain, options.pairs), target=12)
    python = peer_python(options.peer_python)
    if python is not None:
        peer = Peer("ensemble_jax.py", [f"--members={MEMBERS}", f"--epochs={EPOCHS}"], python, options.threads)
        row("ensemble of 10, steady", "JAX jit(vmap(scan))", *pairs(steady, peer.run, options.pairs), target=1.3)
        peer.close()


def _seconds(run, *arguments) -> float:
    return run(*arguments).seconds


if __name__ == "__main__":
    main()
