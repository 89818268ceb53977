"""Gradient throughput of HMC on an MLP 8-50-50-1 posterior, against blackjax.

The same number of trajectories of the same length from the same kind of start; the step size is small, so that all are
accepted and both do nothing but integrate. Steady state: both compiled before the clock starts.

    python benchmarks/hmc_throughput.py [--pairs 7] [--threads 2] [--peer-python .venv-peers/bin/python]
"""

import time

import torch

from _peer import Peer, asked, header, pairs, peer_python, row
from bayesify.engine.denormals import denormals_flushed
from bayesify.engine.hamiltonian import evaluate, kernel_of, mode_of, transition
from bayesify.engine.rng import generator
from bayesify.fitting import make_problem
from ensemble_training import make_data, network

STEPS = 20
CASES = [(500, 1, 50, 0.9), (500, 8, 25, 1.5), (1_500, 8, 10, 1.5), (500, 64, 4, 1.5), (1_500, 64, 2, 1.5)]
"""Rows, chains, trajectories, the ratio to reach."""


def ours(rows: int, chains: int, trajectories: int):
    problem = make_problem(network(), make_data(rows), likelihood="gaussian", prior="normal", way="compiled")
    problem.expect(1e9, mode_of(problem))
    kernel = kernel_of(problem)
    rng = generator("cpu", "chains")
    start = 0.1 * torch.randn(chains, problem.num_parameters, generator=rng)
    step_size = torch.full((chains,), 1e-4, dtype=torch.float64)

    def run() -> float:
        began = time.perf_counter()
        with denormals_flushed():
            point = evaluate(kernel, start)
            for _ in range(trajectories):
                point, _ = transition(kernel, point, step_size, STEPS, rng)
        return time.perf_counter() - began

    run()
    return run


def main() -> None:
    options = asked(__doc__, 7)
    python = peer_python(options.peer_python)
    if python is None:
        return
    header()
    for rows, chains, trajectories, target in CASES:
        arguments = [f"--rows={rows}", f"--chains={chains}", f"--trajectories={trajectories}", f"--steps={STEPS}"]
        peer = Peer("hmc_blackjax.py", arguments, python, options.threads)
        own, other, ratio = pairs(ours(rows, chains, trajectories), peer.run, options.pairs)
        peer.close()
        gradients = trajectories * STEPS
        work = f"HMC, N={rows}, {chains} chains: {1e6 * own / gradients:.0f} us per leapfrog"
        row(work, "blackjax", own, other, ratio, target)


if __name__ == "__main__":
    main()
