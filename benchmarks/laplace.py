"""Laplace approximations against laplace-torch: seconds and peak memory of fits and linearised predictions.

Every run is a process of its own, so that its peak memory is its own; processes of ours and of the peer alternate, and
the ratio is the median over pairs. The peer needs an environment of its own, because it depends on torchvision:

    python -m venv PEER && PEER/bin/pip install torch laplace-torch
    python benchmarks/laplace.py --peer-python PEER/bin/python [--pairs 3] [--threads 2]

Without it the peer's seconds are those once measured elsewhere, and labelled so. Every process first fits a tiny
network, so that libraries are loaded. The peer's `fit` leaves the prior precision alone and so does ours in the pairs;
what finding it by the evidence adds is shown below them. Ours include everything that `bayesify.fit` does.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

CLASSES, FEATURES, LAST_ROWS = 3_100, 512, 2_000
CNN_PARAMETERS, CNN_ROWS, PREDICTED = 215_370, 2_000, 100
GIGABYTE = 1e9
REFERENCE = {"fit": 7.4, "predict": 61.0}
"""Seconds of laplace-torch on the convolutional network, on a quiet machine of two cores."""
FIT_RATIO, PREDICT_RATIO = 3.0, 50.0
MAX_SECONDS, MAX_PER_EXAMPLE, MAX_BYTES = 10.0, 0.05, 2 * GIGABYTE
SCRIPT = Path(__file__).resolve()


class Measured(NamedTuple):
    """One process."""

    fit: float
    predict: float
    peak: float
    """Bytes, of the whole process with its libraries."""
    fit_peak: float = 0.0


class Work(NamedTuple):
    """What a process of ours does."""

    method: str
    make: Callable[[], tuple[nn.Module, Tensor, Tensor]]


def cnn() -> tuple[nn.Module, Tensor, Tensor]:
    """28 × 28 images, made up: neither time nor memory depends on what they show."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(1, 16, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(1_568, 128), nn.ReLU(), nn.Linear(128, 10),
    )  # fmt: skip
    assert sum(parameter.numel() for parameter in network.parameters()) == CNN_PARAMETERS
    return network, torch.randn(CNN_ROWS, 1, 28, 28), torch.randint(10, (CNN_ROWS,))


def many_classes() -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(64, FEATURES), nn.ReLU(), nn.Linear(FEATURES, CLASSES))
    return network, torch.randn(LAST_ROWS, 64), torch.randint(CLASSES, (LAST_ROWS,))


WORK = {
    "kron": Work("laplace(structure=kron, prior_precision=fixed)", cnn),
    "kron-evidence": Work("laplace(structure=kron)", cnn),
    "diag": Work("laplace(structure=diag)", cnn),
    "last-kron": Work("subset(laplace(structure=kron), last)", many_classes),
    "last-diag": Work("subset(laplace(structure=diag), last)", many_classes),
}


def run_ours(name: str) -> Measured:
    import bayesify as bay

    work = WORK[name]
    tiny = torch.randn(8, 2), torch.arange(8) % 2
    bay.fit(nn.Linear(2, 2), tiny, method="laplace", pretrained=True, progress=False).predict(tiny[0])
    network, x, y = work.make()
    start = time.perf_counter()
    posterior = bay.fit(network, (x, y), method=work.method, pretrained=True, progress=False)
    fitted, peak = time.perf_counter(), peak_memory()
    assert torch.isfinite(posterior.predict(x[:PREDICTED]).probs).all()
    return Measured(fitted - start, time.perf_counter() - fitted, peak_memory(), peak)


def run_peer(name: str, predicted: int) -> Measured:
    from laplace import Laplace

    def loader(x: Tensor, y: Tensor) -> Any:
        return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=100)

    def approximate(network: nn.Module) -> Any:
        return Laplace(network, "classification", subset_of_weights="all", hessian_structure=name)

    tiny = torch.randn(8, 2), torch.arange(8) % 2
    warm = approximate(nn.Sequential(nn.Linear(2, 2)))
    warm.fit(loader(*tiny))
    warm(tiny[0], pred_type="glm", link_approx="probit")
    network, x, y = WORK[name].make()
    approximation = approximate(network)
    start = time.perf_counter()
    approximation.fit(loader(x, y))
    fitted, peak = time.perf_counter(), peak_memory()
    approximation(x[:predicted], pred_type="glm", link_approx="probit")
    return Measured(fitted - start, time.perf_counter() - fitted, peak_memory(), peak)


def peak_memory() -> float:
    unit = 1 if sys.platform == "darwin" else 1024
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)


def in_process(python: str, options: list[str], arguments: argparse.Namespace) -> Measured | str:
    """A run of this file as a child; the reason where it gives no answer."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(arguments.threads)}
    command = [python, "-P", str(SCRIPT), *options]  # this file has the name of the peer's package
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=arguments.limit, check=False
        )
    except subprocess.TimeoutExpired:
        return f"no answer in {arguments.limit:.0f} s"
    if done.returncode != 0:
        return (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1][:100]
    return Measured(**json.loads(done.stdout.splitlines()[-1]))


def show(label: str, found: Measured | str) -> None:
    if isinstance(found, str):
        print(f"  {label:<24} {found}", flush=True)
        return
    sizes = f"{found.fit_peak / GIGABYTE:.2f} GB, then {found.peak / GIGABYTE:.2f} GB"
    print(f"  {label:<24} fit {found.fit:8.2f} s   predict {found.predict:8.2f} s   {sizes}", flush=True)


def verdict(text: str, reached: bool) -> None:
    print(f"  => {text}: {'yes' if reached else 'NO'}", flush=True)


def compare_kron(arguments: argparse.Namespace) -> None:
    print(f"\nkron, all layers: {CNN_PARAMETERS} parameters, {CNN_ROWS} images, {PREDICTED} predicted", flush=True)
    ours, peers = [], []
    for pair in range(arguments.pairs):
        children: list[tuple[str, list[str]]] = [("ours", [sys.executable, "--ours", "kron"])]
        if arguments.peer_python:
            peer = [arguments.peer_python, "--peer", "kron", "--predicted", str(arguments.peer_predicted)]
            children = [*children, ("peer", peer)][:: 1 if pair % 2 == 0 else -1]
        for who, (python, *options) in children:
            found = in_process(python, options, arguments)
            show(who if who == "ours" else f"laplace-torch ({arguments.peer_predicted} predicted)", found)
            if isinstance(found, Measured):
                (ours if who == "ours" else peers).append(found)
    show("ours, by the evidence", in_process(sys.executable, ["--ours", "kron-evidence"], arguments))
    if not ours:
        return
    fits = statistics.median(run.fit for run in ours)
    predicts = statistics.median(run.predict for run in ours)
    if peers and len(peers) == len(ours):
        share = PREDICTED / arguments.peer_predicted
        fit = statistics.median(peer.fit / own.fit for own, peer in zip(ours, peers, strict=True))
        predict = statistics.median(share * peer.predict / own.predict for own, peer in zip(ours, peers, strict=True))
        source = "laplace-torch in this run"
        if share != 1:
            source += f", its prediction of {arguments.peer_predicted} times {share:g}"
    else:
        fit, predict = REFERENCE["fit"] / fits, REFERENCE["predict"] / predicts
        source = "laplace-torch as once measured on another machine: a guide only"
    peak = max(run.peak for run in ours)
    print(f"  peer: {source}")
    verdict(f"fit at least {FIT_RATIO:g} times as fast ({fit:.1f})", fit >= FIT_RATIO)
    verdict(f"prediction at least {PREDICT_RATIO:g} times as fast ({predict:.0f})", predict >= PREDICT_RATIO)
    verdict(f"at most {MAX_BYTES / GIGABYTE:g} GB ({peak / GIGABYTE:.2f})", peak <= MAX_BYTES)


def alone(name: str, title: str, arguments: argparse.Namespace) -> list[Measured]:
    """What is measured against a bound, not against a peer."""
    print(f"\n{title}", flush=True)
    found = [in_process(sys.executable, ["--ours", name], arguments) for _ in range(arguments.pairs)]
    for run in found:
        show("ours", run)
    return [run for run in found if isinstance(run, Measured)]


def bounded_memory(runs: list[Measured]) -> None:
    peak = max(run.peak for run in runs)
    verdict(f"at most {MAX_BYTES / GIGABYTE:g} GB ({peak / GIGABYTE:.2f})", peak <= MAX_BYTES)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--peer-python", help="the interpreter of an environment with laplace-torch")
    parser.add_argument(
        "--peer-predicted", type=int, default=PREDICTED, help="fewer where 100 images need too much memory"
    )
    parser.add_argument("--limit", type=float, default=600.0, help="seconds after which a process is given up")
    parser.add_argument("--only", choices=["kron", "diag", "last"], help="one row of the table")
    parser.add_argument("--ours", choices=list(WORK), help=argparse.SUPPRESS)
    parser.add_argument("--peer", choices=list(WORK), help=argparse.SUPPRESS)
    parser.add_argument("--predicted", type=int, default=PREDICTED, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.ours or arguments.peer:
        found = run_ours(arguments.ours) if arguments.ours else run_peer(arguments.peer, arguments.predicted)
        print(json.dumps(found._asdict()))
        return
    print(f"torch {torch.__version__}, {arguments.threads} thread(s), {arguments.pairs} run(s) each")
    if not arguments.peer_python:
        print("laplace-torch is not run: no --peer-python with it was given")
    report(arguments)


def report(arguments: argparse.Namespace) -> None:
    if arguments.only in (None, "kron"):
        compare_kron(arguments)
    if arguments.only in (None, "diag"):
        runs = alone("diag", "diag, the same network (laplace-torch: no answer in 10 minutes)", arguments)
        seconds = statistics.median(run.fit + run.predict for run in runs)
        verdict(f"fit and prediction in at most {MAX_SECONDS:g} s ({seconds:.2f})", seconds <= MAX_SECONDS)
        bounded_memory(runs)
    for structure in ("kron", "diag") if arguments.only in (None, "last") else ():
        title = (
            f"{structure}, last layer: {CLASSES} classes, {FEATURES} features, {LAST_ROWS} rows, {PREDICTED} predicted"
        )
        runs = alone(f"last-{structure}", title, arguments)
        each = statistics.median(run.predict for run in runs) / PREDICTED
        verdict(f"at most {1e3 * MAX_PER_EXAMPLE:g} ms per example ({1e3 * each:.1f})", each <= MAX_PER_EXAMPLE)
        bounded_memory(runs)


if __name__ == "__main__":
    main()
