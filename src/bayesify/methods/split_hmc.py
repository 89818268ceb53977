"""Hamiltonian Monte Carlo with a symmetric splitting of the data (Cobb & Jalaian, UAI 2021).

The data are cut into M parts, log p = Σ_m log p_m with the m-th part's likelihood and an Mth of the prior. One step of
size ε kicks the velocity with one part's gradient at a time and moves in between, there and back again:

    for m = 1 … M:   v ← v + ½ ε s ∇ log p_m,    θ ← θ + ε/(2(M − 1)) s v   (but for m = M)                      (1)
    for m = M … 1:   θ ← θ + ε/(2(M − 1)) s v   (but for m = M),    v ← v + ½ ε s ∇ log p_m

(1) keeps volume and can be run backwards, unlike minibatches at random, so a Metropolis test of the whole energy makes
the chain exact whatever ε is. Its energy error is smaller than a leapfrog's, and no gradient is of more than a part.

Cost: 2(M − 1)/M gradients of all data per step, and a forward pass of them per trajectory. Step sizes are tuned as for
hmc. Not here: parts that change along the chain.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from bayesify.data import Data
from bayesify.engine.budget import FORWARD_COST
from bayesify.engine.chains import Info
from bayesify.engine.hamiltonian import Kernel, Point, judge, kernel_of, settle
from bayesify.engine.rng import generator
from bayesify.engine.run import Run
from bayesify.engine.trajectories import FIRST_STEP, Trajectories, sample
from bayesify.engine.warm_up import Aims
from bayesify.errors import MethodError
from bayesify.methods.base import Exactness, MethodInfo, Range, require, require_positive
from bayesify.methods.sampler import Sampled, Sampler
from bayesify.model.problem import Batch, Problem
from bayesify.posterior.mixing import Plan


@dataclass(frozen=True)
class SplitHMC(Sampler):
    """Metropolis-corrected Hamiltonian dynamics whose gradients are of one part of the data at a time.

    Attributes:
        num_splits: M.
        trajectory_length: in units of the prior's scales; None is π√T/2, cut where the budget is short.
        step_size: ε; None tunes it per chain.
        target_acceptance: what tuning aims at.
    """

    num_splits: int = 4
    trajectory_length: float | None = None
    step_size: float | None = None
    target_acceptance: float = 0.8

    info = MethodInfo(
        name="split_hmc",
        family="mcmc",
        exactness=Exactness.ASYMPTOTIC,
        reference="Cobb & Jalaian, UAI 2021",
        summary="Metropolis-corrected sampling with gradients of one part of the data at a time",
        bias="none in the long run; chains that have not mixed describe the surroundings of their starts",
        search_space={"target_acceptance": Range(0.6, 0.9)},
    )

    def check(self) -> None:  # noqa: D102
        good = isinstance(self.num_splits, int) and not isinstance(self.num_splits, bool) and self.num_splits >= 2
        require(good, self, "num_splits", "an integer of 2 or more (hmc does not split)")
        require(0 < self.target_acceptance < 1, self, "target_acceptance", "between 0 and 1")
        require_positive(self, optional=("trajectory_length", "step_size"))

    def sample(self, problem: Problem, run: Run, theta: Tensor, plan: Plan) -> Sampled:
        """Tunes step sizes, then samples."""
        parts = split(problem, self.num_splits, run.seed)
        # The dearest a step can be, in a trajectory of one: two of all the data, and the energy.
        sweep = (2 + FORWARD_COST) * problem.num_examples * self.num_chains

        def move(
            kernel: Kernel, point: Point, step_size: Tensor, num_steps: int, rng: torch.Generator
        ) -> tuple[Point, Info]:
            return transition(kernel, parts, point, step_size, num_steps, rng)

        root = math.sqrt(problem.temperature)
        first = self.step_size or FIRST_STEP * root
        aims = Aims(first, self.target_acceptance, step=self.step_size is None)
        length = self.trajectory_length or 0.5 * math.pi * root
        wanted = Trajectories(length, aims, plan.num_draws, plan.reserve)
        found = sample(kernel_of(problem), run, theta, move, wanted, sweep)
        return Sampled(found.trace, {"step_size": found.step_size.tolist(), "leapfrog_steps": found.mean_steps})


def split(problem: Problem, num_splits: int, seed: int) -> list[Data]:
    """M random parts of the data, of sizes that differ by one at most.

    Raises:
        MethodError: there are fewer examples than parts.
    """
    if problem.num_examples < num_splits:
        raise MethodError(
            f"split_hmc cannot cut {problem.num_examples} examples into {num_splits} parts: lower num_splits."
        )
    rng = generator("cpu", seed, "split_hmc")
    order = torch.randperm(problem.num_examples, generator=rng).to(problem.network.device)
    return [problem.data.select(rows) for rows in order.tensor_split(num_splits)]


def transition(
    kernel: Kernel, parts: list[Data], point: Point, step_size: Tensor, num_steps: int, rng: torch.Generator
) -> tuple[Point, Info]:
    """One trajectory and its Metropolis test, for each chain by itself."""
    theta = point.theta
    velocity = torch.randn(theta.shape, generator=rng, dtype=theta.dtype, device=theta.device)
    end, end_velocity = trajectory(kernel, parts, theta, velocity, step_size, num_steps)
    reached = Point(end, point.gradient, log_likelihood(kernel, parts, end), _log_prior(kernel, end))
    proposal = judge(kernel, point, velocity, reached, end_velocity)
    return settle(point, proposal, rng), proposal.info


def trajectory(
    kernel: Kernel, parts: list[Data], theta: Tensor, velocity: Tensor, step_size: Tensor, num_steps: int
) -> tuple[Tensor, Tensor]:
    """Equation (1), `num_steps` times: position and velocity (K, P)."""
    step = step_size.to(velocity)[:, None] * kernel.scale
    drift = step / (2 * (len(parts) - 1))
    inner, last = parts[1:-1], parts[-1]
    first = _gradient(kernel, parts, parts[0], theta)
    for _ in range(num_steps):
        velocity = velocity + 0.5 * step * first
        theta = theta + drift * velocity
        for part in inner:
            velocity = velocity + 0.5 * step * _gradient(kernel, parts, part, theta)
            theta = theta + drift * velocity
        velocity = velocity + step * _gradient(kernel, parts, last, theta)  # there and back, at the same place
        theta = theta + drift * velocity
        for part in reversed(inner):
            velocity = velocity + 0.5 * step * _gradient(kernel, parts, part, theta)
            theta = theta + drift * velocity
        first = _gradient(kernel, parts, parts[0], theta)  # which the next step begins with
        velocity = velocity + 0.5 * step * first
    return theta, velocity


def log_likelihood(kernel: Kernel, parts: list[Data], theta: Tensor) -> Tensor:
    """Of all parts, (K,) in double precision."""
    buffers = kernel.problem.network.buffers(len(theta))
    return sum(
        (kernel.problem.log_likelihood(theta, part, buffers, kernel.mode).double() for part in parts),
        start=torch.zeros(len(theta), dtype=torch.float64, device=theta.device),
    )


def _log_prior(kernel: Kernel, theta: Tensor) -> Tensor:
    return kernel.problem.prior.log_density(theta.double())


def _gradient(kernel: Kernel, parts: list[Data], part: Data, theta: Tensor) -> Tensor:
    """Of one part's log density, tempered, (K, P)."""
    likelihood, _ = kernel.problem.likelihood_gradient(theta, Batch(part), kernel.mode)
    return (likelihood + kernel.problem.prior.score(theta) / len(parts)) / kernel.problem.temperature
