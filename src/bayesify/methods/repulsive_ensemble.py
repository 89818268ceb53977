"""Repulsive ensembles (D'Angelo & Fortuin, NeurIPS 2021) and Stein variational gradient descent (Liu & Wang 2016).

K particles climb the log posterior and keep apart, with a kernel k(a, b) = exp(−|a − b|²/2h²):

    θ_i ← θ_i + ε (∇ log p(θ_i | D)^(1/T) − Σ_j ∇_i k(θ_i, θ_j) / Σ_j k(θ_i, θ_j))                    "weights"   (1)
    θ_i ← θ_i + ε/K Σ_j (k(θ_j, θ_i) ∇ log p(θ_j | D)^(1/T) + ∇_j k(θ_j, θ_i))                        "stein"     (2)
    θ_i ← θ_i + ε (∇ log p(θ_i | D)^(1/T) − J_iᵀ Σ_j ∇_i k(f_i, f_j) / Σ_j k(f_i, f_j))               "functions" (3)

f_i are the outputs on the batch and J_i their Jacobian: (3) keeps functions apart, as (1) does weights, of which many
give one function. h² is the median squared distance / (2 log (K + 1)) at every step, unless it is given. (1) and (3)
estimate the particles' own density by its smoothed version, so that for a Gaussian posterior and many particles the
variance is σ² − h² in each direction, not σ². With few particles in many dimensions all three are too narrow. Particles
that start at one pretrained network are first moved by a hundredth of the prior's scale: equal ones cannot part.

Cost: K gradients of the batch per step, for (3) also K forward passes and K gradients. Not here: density estimates by
Stein's identity, priors over functions.
"""

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import vjp, vmap

from bayesify.engine import optimise
from bayesify.engine.run import Run
from bayesify.errors import UnsupportedError
from bayesify.methods.base import Exactness, Method, MethodInfo, Range, require, require_positive
from bayesify.model.network import Mode
from bayesify.model.problem import Batch, Problem
from bayesify.posterior.base import Particles, Posterior
from bayesify.posterior.draws import Draws

FINAL_FRACTION = 0.01
"""Of the learning rate, at the end of the cosine."""
START_SPREAD = 0.01
"""Of the prior's scale, between particles that start from one network."""


class Repulsion(StrEnum):
    """What keeps apart, and how."""

    WEIGHTS = "weights"
    STEIN = "stein"
    FUNCTIONS = "functions"


@dataclass(frozen=True)
class RepulsiveEnsemble(Method):
    """Networks trained together that keep apart.

    Attributes:
        num_members: K.
        repulsion: "weights" (1), "stein" (2) or "functions" (3).
        bandwidth: h; None follows the median distance.
        learning_rate: Adam's, at the start of the cosine.
        batch_size: examples per step, the same for all members.
    """

    num_members: int = 10
    repulsion: str = "weights"
    bandwidth: float | None = None
    learning_rate: float = 1e-2
    batch_size: int = 64

    info = MethodInfo(
        name="repulsive_ensemble",
        family="ensemble",
        exactness=Exactness.APPROXIMATE,
        reference="D'Angelo & Fortuin, NeurIPS 2021; Liu & Wang, NeurIPS 2016",
        summary="networks trained together that keep apart, as weights or as functions",
        bias="with 10 members in 3 or 4 dimensions standard deviations up to 46% too small; far too narrow in as many "
        "dimensions as a network has",
        search_space={
            "learning_rate": Range(1e-3, 3e-2, log=True),
            "batch_size": Range(16, 256, log=True, integer=True),
        },
    )

    def __post_init__(self) -> None:
        require_positive(self, "num_members", "learning_rate", "batch_size")
        require(self.num_members >= 2, self, "num_members", "at least 2: one has nothing to keep apart from")
        require(self.repulsion in list(Repulsion), self, "repulsion", "one of " + ", ".join(Repulsion))
        if self.bandwidth is not None:
            require_positive(self, "bandwidth")

    @property
    def num_particles(self) -> int:
        """The members."""
        return self.num_members

    def fit(self, problem: Problem, run: Run) -> Posterior:
        """All members together."""
        if self.repulsion == Repulsion.FUNCTIONS and problem.network.running:
            raise UnsupportedError(
                "repulsive_ensemble(repulsion=functions) cannot compare functions that depend on the batch: use a "
                "network without batch normalisation, or repulsion=weights."
            )
        phase = run.phase("train", reserve=problem.statistics_cost(self.num_members))
        theta = self._train(problem, phase)
        return Draws(problem.model, Particles(theta, problem.buffers(theta)))

    def _start(self, problem: Problem, rng: torch.Generator) -> Tensor:
        theta = problem.start(self.num_members, rng)
        if problem.pretrained:
            noise = torch.randn(theta.shape, generator=rng, dtype=theta.dtype, device=theta.device)
            size = problem.num_network_parameters
            theta[:, :size] += START_SPREAD * problem.prior.scale * noise[:, :size]
        return theta

    def _train(self, problem: Problem, run: Run) -> Tensor:
        state = run.restore(start(self._start(problem, run.rng)))
        if run.finished:
            return state.theta
        mode = Mode.PREDICT if problem.pretrained else Mode.TRAIN
        passes = 2.0 + 1 / 3 if self.repulsion == Repulsion.FUNCTIONS else 1.0
        rows = run.rows(problem.num_examples, self.batch_size, self.num_members, each=passes)
        for chosen in rows:
            batch = problem.batch(chosen)
            rate = optimise.cosine(run.fraction, self.learning_rate, FINAL_FRACTION)
            state = step(problem, state, batch, Repulsion(self.repulsion), self.bandwidth, rate, mode)
            run.save(state)
        run.finish(state)
        return state.theta


class State(NamedTuple):
    """What the next step needs: Adam's averages."""

    theta: Tensor  # (K, P)
    first: Tensor  # (K, P)
    second: Tensor  # (K, P)
    steps: Tensor  # ()


def start(theta: Tensor) -> State:
    """At theta (K, P)."""
    zeros = torch.zeros_like(theta)
    return State(theta, zeros, zeros.clone(), torch.zeros((), dtype=torch.int64, device=theta.device))


def step(
    problem: Problem, state: State, batch: Batch, repulsion: Repulsion, bandwidth: float | None, rate: float, mode: Mode
) -> State:
    """Adam along (1), (2) or (3), per example."""
    score = problem.gradient(state.theta, batch, mode).gradient
    if repulsion == Repulsion.WEIGHTS:
        direction = score + apart(state.theta, bandwidth)
    elif repulsion == Repulsion.STEIN:
        direction = stein(state.theta, score, bandwidth)
    else:
        direction = score + functions_apart(problem, state.theta, batch, bandwidth, mode)
    steps = state.steps + 1
    size = state.theta.new_tensor(optimise.step_size(float(steps), rate))
    moved = optimise.moved(state.theta, state.first, state.second, direction / problem.num_examples, size)
    return State(*moved, steps)


class Kernel(NamedTuple):
    """Values of the kernel and its gradients."""

    values: Tensor  # (K, K)
    gradient: Tensor  # (K, D): Σ_j ∇_i k(a_i, a_j)


def kernel(points: Tensor, bandwidth: float | None) -> Kernel:
    """Of K points (K, D)."""
    square = torch.cdist(points, points).square()
    if bandwidth is None:
        count = len(points)
        pairs = square[*torch.triu_indices(count, count, offset=1)]
        width = (pairs.median() / (2 * math.log(count + 1))).clamp_min(torch.finfo(points.dtype).tiny)
    else:
        width = points.new_tensor(bandwidth**2)
    values = torch.exp(-square / (2 * width))
    gradient = (values @ points - values.sum(1, keepdim=True) * points) / width
    return Kernel(values, gradient)


def apart(points: Tensor, bandwidth: float | None) -> Tensor:
    """Minus the score of the points' smoothed density, (K, D): the repulsion of (1) and (3)."""
    found = kernel(points, bandwidth)
    return -found.gradient / found.values.sum(1, keepdim=True)


def stein(points: Tensor, score: Tensor, bandwidth: float | None) -> Tensor:
    """The direction of (2), (K, D)."""
    found = kernel(points, bandwidth)
    # k depends on the difference: Σ_j ∇_j k(θ_j, θ_i) = −Σ_j ∇_i k(θ_i, θ_j).
    return (found.values @ score - found.gradient) / len(points)


def functions_apart(problem: Problem, theta: Tensor, batch: Batch, bandwidth: float | None, mode: Mode) -> Tensor:
    """J_iᵀ times the repulsion between outputs on the batch, (K, P)."""
    network, _ = problem.model.split(theta)

    def outputs(own: Tensor) -> Tensor:
        return problem.network(own, {}, batch.data.inputs, mode).flatten()

    def pulled(own: Tensor, push: Tensor) -> Tensor:
        back = vjp(outputs, own)[1]
        result: Tensor = back(push)[0]
        return result

    with torch.no_grad():
        values = vmap(outputs, randomness="different")(network)  # (K, B C)
    problem.meter.forward(batch.size * len(theta))
    pushed = vmap(pulled, randomness="different")(network, apart(values, bandwidth))
    problem.meter.gradient(batch.size * len(theta))
    rest = theta.new_zeros(len(theta), theta.shape[1] - network.shape[1])
    return torch.cat([pushed, rest], dim=1)
