"""Effective samples per second of samplers on posteriors of small networks, against NUTS of blackjax and numpyro.

Function space: an effective sample size is that of the worst of 50 test points (and the noise), rank-normalised, over
all chains. Everybody has the same rows, prior, likelihood and number of chains, starts from the same trained networks
and has one thread unless told otherwise. Ours get as many gradients per chain as the peers took on the mean, tuning
included: chains that have not mixed are worth a handful of draws however long they are, so that a shorter run would
look like a faster one. Seconds are tuning and sampling together; compiling is told apart. Peers run both side by side
and one after the other; the better of the two is the peer. Where chains have not mixed (R-hat), the number says how
soon they would agree, hardly how fast they move: for that there is the sum of each chain's own.

    python benchmarks/sampler_ess.py [--sets yacht energy] [--nets 16-16 50-50] [--samples 100] [--ways map]
        [--gradients 40000] [--chains 4] [--threads 1] [--only nuts] [--peer-python .venv-peers/bin/python]
"""

import argparse
import json
import math
import subprocess
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from _peer import PEERS, limited, peer_python
from bayesify.datasets import make_splits, make_task, prepare
from bayesify.engine.convergence import convergence, effective_sample_size
from bayesify.engine.denormals import denormals_flushed
from bayesify.engine.hamiltonian import mode_of
from bayesify.engine.optimise import Schedule, optimise
from bayesify.engine.rng import generator
from bayesify.engine.run import Run
from bayesify.fitting import make_problem
from bayesify.methods import get_method
from bayesify.model.problem import Problem
from bayesify.models import mlp
from bayesify.posterior.mixing import Plan

OURS = ["nuts", "hmc(mass=diagonal)", "chees_hmc", "mclmc", "adjusted_mclmc"]
"""Written as on the command line; the number of chains and draws is filled in."""
PEER_LIBRARIES, WAYS = ("blackjax", "numpyro"), ("vmap", "map")
POINTS, KEPT = 50, 1000
WARM_START_EPOCHS = 200
GRADIENTS = 40_000
SHORT = 400
"""Gradients per chain of the run that compiles: a shape first asked for fewer would stay traced in the next run too."""


class Measured(NamedTuple):
    """One run."""

    name: str
    values: np.ndarray  # (K, S, 51) function values at the test points, log noise
    tuning: float  # seconds
    sampling: float
    compiling: float
    steps: float  # gradients per transition
    gradients: float  # per chain, in all

    @property
    def ess(self) -> float:
        return float(convergence(self.values).ess.min())

    @property
    def within(self) -> float:
        """The worst point's sum of each chain's own effective size."""
        return float(sum(effective_sample_size(chain[None]) for chain in self.values).min())

    @property
    def rate(self) -> float:
        return self.ess / (self.tuning + self.sampling)

    @property
    def within_rate(self) -> float:
        return self.within / (self.tuning + self.sampling)


class Case(NamedTuple):
    """A posterior."""

    problem: Problem
    points: Tensor  # (50, d)
    sizes: list[int]
    starts: Tensor  # (K, P)


def make_case(name: str, net: str, chains: int) -> Case:
    task = make_task(name)
    arrays = prepare(task, make_splits(task, 1)[0])
    hidden = [int(width) for width in net.split("-")]
    module = mlp(arrays.X_train.shape[1], 1, hidden)
    problem = make_problem(
        module, (arrays.X_train, arrays.y_train), likelihood="gaussian", device="cpu", way="compiled"
    )
    rows = np.linspace(0, len(arrays.X_test) - 1, min(POINTS, len(arrays.X_test))).astype(int)
    limit = WARM_START_EPOCHS * problem.num_examples * chains
    run = Run(problem.meter, limit=float(limit))
    starts = optimise(problem, run, problem.random(chains, generator("cpu", "starts")), Schedule(1e-2, 64))
    return Case(problem, torch.from_numpy(arrays.X_test[rows]), [arrays.X_train.shape[1], *hidden, 1], starts)


class Phases:
    """Told a run's progress, notes when the last phase began."""

    def __init__(self) -> None:
        self.began, self._last = time.perf_counter(), 0.0

    def __call__(self, fraction: float) -> None:
        if fraction < self._last:
            self.began = time.perf_counter()
        self._last = fraction


def ours(written: str, case: Case, gradients: int) -> Measured:
    problem, chains = case.problem, len(case.starts)
    head, _, rest = written.partition("(")
    method = get_method(f"{head}(num_chains={chains}, num_draws={KEPT}{', ' + rest if rest else ')'}")

    def once(count: int) -> tuple[Tensor, float, float, dict]:
        phases = Phases()
        run = Run(problem.meter, limit=float(count * problem.num_examples * chains), progress=phases)
        plan = Plan(KEPT, 1, 0.0)
        began = time.perf_counter()
        with denormals_flushed():
            trace, notes = method.sample(problem, run, case.starts.clone(), plan)
        end = time.perf_counter()
        return trace.theta, phases.began - began, end - phases.began, {**trace.summary(), **notes}

    problem.expect(math.inf, mode_of(problem))
    before = problem.meter.compile_seconds
    once(SHORT)
    middle = problem.meter.compile_seconds
    theta, tuning, sampling, notes = once(gradients)
    loading = problem.meter.compile_seconds - middle  # in the tuning, where the kernels are first used
    outputs = problem.outputs(theta, case.points, problem.buffers(theta))[..., 0]
    values = torch.cat([outputs, theta[:, -1:]], 1).reshape(chains, -1, outputs.shape[1] + 1).double().numpy()
    steps = 0.75 * gradients / notes["steps_per_chain"]
    return Measured(written, values, tuning - loading, sampling, middle - before + loading, steps, float(gradients))


def theirs(library: str, way: str, case: Case, options: argparse.Namespace, python: Path) -> Measured:
    problem = case.problem
    with tempfile.TemporaryDirectory() as folder:
        file, out = Path(folder) / "problem.npz", Path(folder) / "values.npy"
        np.savez(
            file, x=problem.data.inputs.numpy(), y=problem.data.targets.numpy(), points=case.points.numpy(),
            starts=case.starts.numpy(), loc=problem.prior.loc.numpy(), scale=problem.prior.scale.numpy(),
            sizes=np.array(case.sizes),
        )  # fmt: skip
        arguments = [f"--problem={file}", f"--library={library}", f"--way={way}", f"--out={out}"]
        arguments += [f"--warmup={options.samples // 2}", f"--samples={options.samples}"]
        command = [str(python), str(PEERS / "sampler_ess_jax.py"), *arguments]
        done = subprocess.run(command, env=limited(options.threads), stdout=subprocess.PIPE, text=True, check=True)
        told = json.loads(done.stdout)
        values = np.load(out).astype(np.float64)
    name = f"{library} {told['version']} NUTS, {way}"
    times = told["tuning"], told["sampling"], told["compiling"]
    return Measured(name, values, *times, told["steps"], told["gradients"])


def show(measured: Measured, best: dict[str, Measured]) -> None:
    rates = [measured.rate / peer.rate for peer in best.values()]
    rates += [measured.within_rate / peer.within_rate for peer in best.values()]
    r_hat = float(np.nanmax(convergence(measured.values).r_hat))
    print(
        f"  {measured.name:<30} {measured.rate:>8.2f} {measured.within_rate:>8.2f} {r_hat:>6.2f} "
        f"{measured.steps:>7.0f} {measured.gradients:>9.0f} "
        f"{measured.tuning:>7.1f} {measured.sampling:>8.1f} {measured.compiling:>8.1f}  "
        + "  ".join(f"{ratio:>6.2f}" for ratio in rates),
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", default=["yacht", "energy"])
    parser.add_argument("--nets", nargs="+", default=["16-16", "50-50"])
    parser.add_argument("--only", nargs="+", default=OURS)
    parser.add_argument("--gradients", type=int, help=f"per chain, of ours; else the peers', {GRADIENTS} without them")
    parser.add_argument("--samples", type=int, default=100, help="per chain, of peers, after half as many to tune")
    parser.add_argument("--ways", nargs="+", default=WAYS, choices=WAYS)
    parser.add_argument("--chains", type=int, default=4)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--peer-python", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    python = peer_python(options.peer_python)
    for name in options.sets:
        for net in options.nets:
            case = make_case(name, net, options.chains)
            print(f"{name}, {case.problem.num_examples} rows, network {net}, {options.chains} chains")
            print(
                f"  {'':<30} {'ESS/s':>8} {'own/s':>8} {'R-hat':>6} {'steps':>7} {'gradients':>9} "
                f"{'tune s':>7} {'sample s':>8} {'compile':>8}  ratio to {', '.join(PEER_LIBRARIES)}: ESS/s, then own/s"
            )
            best: dict[str, Measured] = {}
            for library in PEER_LIBRARIES if python else ():
                runs = [theirs(library, way, case, options, python) for way in options.ways]
                for run in runs:
                    show(run, {})
                best[library] = max(runs, key=lambda run: run.rate)
            taken = [peer.gradients for peer in best.values()] or [GRADIENTS]
            for written in options.only:
                show(ours(written, case, options.gradients or round(np.mean(taken))), best)


if __name__ == "__main__":
    main()
