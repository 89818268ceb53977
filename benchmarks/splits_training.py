"""Training ensembles on five splits of one data set as one batch, against one plain PyTorch loop per network.

Five splits of 1,000 rows, ten 8-50-50-1 networks on each, batches of 100, Adam, 200 epochs, a learned noise scale.
Everything is included: reading data, checks, tracing, compiling or loading, building posteriors. "Cold" compiles
nothing; "compile" starts with an empty cache; "compiled before" finds the networks on the disk, as every later call on
this machine does. Ten plain loops are timed and multiplied by five. Runs are interleaved in pairs, so that a machine
that gets busier slows both; the ratio is the median over pairs.

    python benchmarks/splits_training.py [--pairs 5] [--threads 2]
"""

import os
import tempfile
import time

import torch
from torch import Tensor

import bayesify as bay
from _peer import asked, header, pairs, row
from bayesify.engine.rng import generator
from ensemble_training import BATCH, EPOCHS, LEARNING_RATE, MEMBERS, ROWS, make_data, network, rmse, run_plain

SPLITS, ALL_ROWS = 5, 1_250


def make_splits() -> list[Tensor]:
    return [torch.randperm(ALL_ROWS, generator=generator("cpu", "split", s))[:ROWS] for s in range(SPLITS)]


def fit_all(x: Tensor, y: Tensor, splits: list[Tensor], way: str) -> list[bay.Posterior]:
    method = bay.methods.DeepEnsemble(num_members=MEMBERS, batch_size=BATCH, learning_rate=LEARNING_RATE)
    budget = bay.Budget(epochs=EPOCHS)
    return bay.fit_splits(
        network(), (x, y), splits, method=method, budget=budget, validation=0, progress=False, way=way
    )


def main() -> None:
    options = asked(__doc__, 5)
    x, y = make_data(ALL_ROWS)
    splits = make_splits()
    print(
        f"{SPLITS} splits x {MEMBERS} members, {ROWS} rows, {EPOCHS} epochs, batch {BATCH}; torch {torch.__version__}"
    )

    def plain() -> float:
        rows = splits[0]
        return SPLITS * run_plain(x[rows], y[rows]).seconds

    def ours(way: str) -> float:
        start = time.perf_counter()
        posteriors = fit_all(x, y, splits, way)
        seconds = time.perf_counter() - start
        assert all(one.cost.gradient_evaluations == MEMBERS * EPOCHS * ROWS for one in posteriors)
        return seconds

    def compiling() -> float:
        before = os.environ.get("BAYESIFY_CACHE")
        with tempfile.TemporaryDirectory() as folder:
            os.environ["BAYESIFY_CACHE"] = folder
            try:
                return ours("compiled")
            finally:
                os.environ.pop("BAYESIFY_CACHE")
                if before is not None:
                    os.environ["BAYESIFY_CACHE"] = before

    rows = splits[0]
    quality = [rmse(one.predict(x[rows]).mean, y[rows]) for one in fit_all(x, y, splits, "compiled")[:1]]
    print(f"training RMSE of the first split: plain {run_plain(x[rows], y[rows]).rmse:.3f}, ours {quality[0]:.3f}\n")
    header()
    peer = f"{SPLITS * MEMBERS} plain loops"
    row("5 splits x 10, compiled before", peer, *pairs(lambda: ours("compiled"), plain, options.pairs), target=20)
    row("5 splits x 10, cold", peer, *pairs(lambda: ours("auto"), plain, options.pairs), target=20)
    row("5 splits x 10, cold, with the compile", peer, *pairs(compiling, plain, 1), target=20)


if __name__ == "__main__":
    main()
