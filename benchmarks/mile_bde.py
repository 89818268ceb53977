"""MILE against the package sklearn-contrib-bde, and against a deep ensemble at the same gradient evaluations.

The network has four hidden layers of 16 (ReLU) and two outputs, mean and noise; inputs and targets are standardised;
the prior is N(0, 1). Both fit the same training rows with the same numbers of members and steps, each fit in a process
of its own, and are charged its user and system time. The settings of bde's paper are the default; --steps-share 0.01
tries everything with a hundredth of the steps.

    python benchmarks/mile_bde.py [--seeds 1] [--steps-share 1] [--peer-python .venv-peers/bin/python]
    python benchmarks/mile_bde.py --equal-compute --epochs 1000 [--splits 3]

Data are looked for in the folder BAYESIFY_DATA (uci_regression/airfoil.npz, bikesharing.npz).
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

import bayesify as bay
from _peer import PEERS, peer_python

HIDDEN, WIDE = (16, 16, 16, 16), (64, 64, 64, 64)
MEMBERS, WARMUP, STEPS, THINNING = 10, 50_000, 1_000, 10  # bde's paper
TEST_SHARE = 0.2
SETS = ("airfoil", "bikesharing")


def table(name: str) -> tuple[np.ndarray, np.ndarray]:
    with np.load(Path(os.environ["BAYESIFY_DATA"]) / "uci_regression" / f"{name}.npz", allow_pickle=False) as file:
        return file["X"].astype(np.float32), file["y"].astype(np.float32)


def write_split(name: str, path: Path) -> None:
    """One fixed split; everything standardised by the training rows."""
    x, y = table(name)
    order = np.random.default_rng(0).permutation(len(y))
    test, train = np.split(order, [round(TEST_SHARE * len(y))])

    def standardised(values: np.ndarray) -> np.ndarray:
        deviation = values[train].std(0)
        return (values - values[train].mean(0)) / np.where(deviation > 0, deviation, 1)

    x, y = standardised(x), standardised(y)
    np.savez(path, x=x[train], y=y[train], x_test=x[test], y_test=y[test])


def fit_ours(options: argparse.Namespace) -> None:
    """What the child process does."""
    torch.set_num_threads(options.threads)
    with np.load(options.fit) as file:
        x, y, x_test, y_test = (torch.from_numpy(file[key]) for key in ("x", "y", "x_test", "y_test"))
    method = bay.methods.MILE(
        num_chains=MEMBERS,
        num_draws=options.steps // THINNING,
        warmup_steps=options.warmup,
        num_steps=options.steps,
    )
    used = resource.getrusage(resource.RUSAGE_SELF)
    began = used.ru_utime + used.ru_stime
    posterior = bay.fit(
        bay.models.mlp(x.shape[1], 2, HIDDEN),
        (x, y),
        likelihood="heteroscedastic_gaussian",
        method=method,
        prior=bay.priors.Normal(scale=1.0),
        budget=bay.Budget(epochs=2 * (options.warmup + options.steps) + 1000),
        validation=0.15,
        seed=options.seed,
        progress=False,
        way="compiled",
    )
    used = resource.getrusage(resource.RUSAGE_SELF)
    spent = used.ru_utime + used.ru_stime - began
    predictive = posterior.predict(x_test)
    error = float((predictive.mean - y_test).square().mean().sqrt())
    found = {"nll": -float(predictive.log_prob(y_test).mean()), "rmse": error, "core_seconds": spent}
    print(json.dumps(found | {"compile_seconds": posterior.cost.compile_seconds}))


def run_child(arguments: list[str], threads: int) -> dict[str, float]:
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "JAX_PLATFORMS": "cpu"}
    if threads == 1:
        environment["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    done = subprocess.run(arguments, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment)
    if done.returncode:
        raise SystemExit(f"{arguments[:2]} ended with {done.returncode}")
    return json.loads(done.stdout.splitlines()[-1])


def compare_with_bde(options: argparse.Namespace) -> None:
    python = peer_python(options.peer_python)
    warmup, steps = round(WARMUP * options.steps_share), max(THINNING, round(STEPS * options.steps_share))
    print(f"{MEMBERS} members, {warmup} + {steps} steps, {options.threads} threads; medians of {options.seeds} seeds")
    print(f"{'set':<14}{'who':<12}{'NLL':>9}{'RMSE':>9}{'core s':>10}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for name in options.sets.split(","):
            path = Path(folder) / f"{name}.npz"
            write_split(name, path)
            found: dict[str, list[dict[str, float]]] = {}
            for seed in range(options.seeds):
                same = [f"--seed={seed}", f"--warmup={warmup}", f"--steps={steps}"]
                ours = [sys.executable, __file__, f"--fit={path}", f"--threads={options.threads}", *same]
                found.setdefault("bayesify", []).append(run_child(ours, options.threads))
                if python is not None:
                    theirs = [str(python), str(PEERS / "mile_bde.py"), f"--data={path}", *same]
                    theirs += [f"--members={MEMBERS}", f"--thinning={THINNING}"]
                    found.setdefault("bde", []).append(run_child(theirs, options.threads))
            for who, runs in found.items():
                nll, rmse, spent = (statistics.median(r[key] for r in runs) for key in ("nll", "rmse", "core_seconds"))
                print(f"{name:<14}{who:<12}{nll:>9.4f}{rmse:>9.4f}{spent:>10.1f}", flush=True)


def compare_with_ensembles(options: argparse.Namespace) -> None:
    """An arena run: MILE and deep ensembles of more, longer and wider members, at equal gradient evaluations."""
    longer, more = f"deep_ensemble({MEMBERS})", "deep_ensemble(10, epochs=100)"
    for name in options.sets.split(","):
        x, y = table(name)
        for hidden, methods in ((HIDDEN, ["mile", longer, more]), (WIDE, [longer, more])):
            result = bay.compare(
                bay.models.mlp(x.shape[1], 2, hidden),
                (x, y),
                kind="regression",
                methods=methods,
                splits=options.splits,
                test_fraction=TEST_SHARE,
                epochs=options.epochs,
                likelihood="heteroscedastic_gaussian",
                out=Path(options.out) / f"{name}-{hidden[0]}",
                workers=options.workers,
            )
            print(f"== {name}, 4 × {hidden[0]}, {options.epochs:g} epochs per member of the control")
            print(result)
            print(result.report().markdown, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", default=",".join(SETS))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--steps-share", type=float, default=1.0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--peer-python", type=Path)
    parser.add_argument("--equal-compute", action="store_true")
    parser.add_argument("--epochs", type=float, default=1000)
    parser.add_argument("--splits", type=int, default=3)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--out", default="bayesify-results/mile")
    for name in ("fit", "seed", "warmup", "steps"):  # of the child process
        parser.add_argument(f"--{name}", type=str if name == "fit" else int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.fit is not None:
        fit_ours(options)
    elif "BAYESIFY_DATA" not in os.environ:
        print("no data: BAYESIFY_DATA does not say where they are")
    elif options.equal_compute:
        compare_with_ensembles(options)
    else:
        compare_with_bde(options)


if __name__ == "__main__":
    main()
