"""ChEES-HMC: Hamiltonian Monte Carlo whose many chains find one trajectory length together (Hoffman et al. 2021).

Hoffman, Radul & Sountsov, AISTATS 2021. Chains move as in `hmc`, in units z = θ/s of a scale s of each parameter, all
with the same step size ε and the same number of steps. The length τ of trajectories climbs the change in the estimator
of the expected square,

    ChEES(τ) = ¼ E[(‖z' − E z'‖² − ‖z − E z‖²)²],                                                            (1)

so that the slowest directions lose their memory quickest. Expectations are over the chains. Lengths are h τ with h from
a van der Corput sequence in (0, 1), so that no period resonates; for a proposal after time t = h τ with velocity v'

    ∂/∂log τ = t (‖z' − E z'‖² − ‖z − E z‖²) ⟨z' − E z', v'⟩,                                                (2)

averaged with acceptance probabilities as weights. Adam climbs log τ. ε aims at a harmonic mean of the acceptance of
0.651, which no chain that rejects everything can hide from; s is learned from the variances within chains, pooled.

Every gradient is one step of all chains, none of which waits: many chains at the price of few, as long as a gradient is
cheap. Each chain starts from a network of its own, trained on a part of the budget.

Cost: one gradient of all the data per chain and step. Not here: minibatches; masses of each chain's own (hmc, nuts).
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from bayesify.engine import chains
from bayesify.engine.chains import Info
from bayesify.engine.hamiltonian import Kernel, Point, Proposal, announce, evaluate, kernel_of, propose, settle
from bayesify.engine.run import Run
from bayesify.engine.trajectories import ADAPTATION_SHARE, FIRST_STEP, affordable, sampling_bound, tuning_bound
from bayesify.engine.warm_up import Aims, warm_up
from bayesify.methods.base import Exactness, MethodInfo, Range, require, require_positive
from bayesify.methods.sampler import Sampled, Sampler
from bayesify.model.problem import Problem
from bayesify.posterior.mixing import Plan

TIMED_TRAJECTORY = 64
"""Steps per trajectory, at most, where the budget is time and a gradient's cost is not yet known."""
LEARNING_RATE, DECAY, TINY = 0.025, 0.95, 1e-30
"""Of Adam on log τ, without momentum (the authors')."""
AVERAGING = -0.5
"""The average of log τ gives the m-th iterate the weight m to this power."""


class Flock(NamedTuple):
    """All chains and their common trajectory length."""

    theta: Tensor  # (K, P)
    gradient: Tensor  # (K, P)
    log_likelihood: Tensor  # (K,)
    log_prior: Tensor  # (K,)
    log_length: Tensor  # () log τ being tried
    log_mean: Tensor  # () log τ averaged, used afterwards
    square: Tensor  # () Adam's running mean of squared derivatives
    moves: Tensor  # () transitions


@dataclass(frozen=True)
class ChEESHMC(Sampler):
    """Hamiltonian Monte Carlo for many short chains, which tune one trajectory length together.

    Attributes:
        num_chains: chains run as one; they start independently.
        num_draws: kept per chain, spread evenly over the sampling.
        warm_start_epochs: training of each chain's start, at most and never more than 0.4 of the budget.
        learning_rate: Adam's in that training.
        batch_size: its batches.
        step_size: ε; None tunes it.
        target_acceptance: what tuning aims at, as a harmonic mean over chains.
        mass: 'diagonal' to learn s, 'prior' for s from the prior.
    """

    num_chains: int = 16
    num_draws: int = 50
    step_size: float | None = None
    target_acceptance: float = 0.651
    mass: str = "diagonal"

    info = MethodInfo(
        name="chees_hmc",
        family="mcmc",
        exactness=Exactness.ASYMPTOTIC,
        reference="Hoffman, Radul & Sountsov, AISTATS 2021",
        summary="Hamiltonian Monte Carlo with all data, many chains that tune one trajectory length together",
        bias="none in the long run; chains that have not mixed describe the surroundings of their starts",
        search_space={"target_acceptance": Range(0.5, 0.9)},
    )

    def check(self) -> None:  # noqa: D102
        require(self.num_chains > 1, self, "num_chains", "2 or more: the criterion compares chains")
        require(0 < self.target_acceptance < 1, self, "target_acceptance", "between 0 and 1")
        require(self.mass in ("prior", "diagonal"), self, "mass", "'prior' or 'diagonal'")
        require_positive(self, optional=("step_size",))

    def sample(self, problem: Problem, run: Run, theta: Tensor, plan: Plan) -> Sampled:
        """Tunes step size, length and masses, then samples."""
        sweep = float(problem.num_examples * self.num_chains)  # gradient evaluations of one step of all chains
        announce(problem, run, sweep)
        kernel = kernel_of(problem)
        phase = run.phase("adaptation", ADAPTATION_SHARE, reserve=plan.reserve)
        longest = tuning_bound(phase, sweep, TIMED_TRAJECTORY)

        def move(kernel: Kernel, flock: Flock, log_step: Tensor, run: Run) -> tuple[Flock, Info]:
            steps, step_size, time = _plan(flock, flock.log_length, log_step, longest, run, sweep)
            point = _point(flock)
            proposal = propose(kernel, point, step_size, steps, run.rng)
            flock = _lengthen(kernel, flock, proposal, time, float(step_size[0]), longest)
            return _moved(flock, settle(point, proposal, run.rng)), _shared(proposal.info)

        root = math.sqrt(problem.temperature)
        first = self.step_size or FIRST_STEP * root
        masses = self.mass == "diagonal"
        aims = Aims(first, self.target_acceptance, step=self.step_size is None, masses=masses, pooled=True)
        start = _flock(evaluate(kernel, theta), 0.5 * math.pi * (1.0 if masses else root))
        tuned = warm_up(kernel, phase, start, move, aims, sweep)
        kernel, log_step = kernel._replace(scale=tuned.scale), tuned.averaging.log_mean
        longest = sampling_bound(phase, sweep)

        def step(flock: Flock, run: Run) -> tuple[Flock, Info]:
            steps, step_size, _ = _plan(flock, flock.log_mean, log_step, longest, run, sweep)
            point = _point(flock)
            proposal = propose(kernel, point, step_size, steps, run.rng)
            return _moved(flock, settle(point, proposal, run.rng)), proposal.info

        trace = chains.sample(step, run.phase("sampling", reserve=plan.reserve), tuned.point, plan.num_draws, sweep)
        found = {"step_size": float(log_step.mean().exp()), "trajectory_length": float(tuned.point.log_mean.exp())}
        return Sampled(trace, found)


def _flock(point: Point, length: float) -> Flock:
    log_length = point.log_prior.new_tensor(math.log(length))
    moves = torch.zeros((), dtype=torch.int64, device=log_length.device)
    return Flock(*point, log_length, log_length.clone(), torch.zeros_like(log_length), moves)


def _point(flock: Flock) -> Point:
    return Point(flock.theta, flock.gradient, flock.log_likelihood, flock.log_prior)


def _moved(flock: Flock, point: Point) -> Flock:
    return flock._replace(**point._asdict(), moves=flock.moves + 1)


def _plan(
    flock: Flock, log_length: Tensor, log_step: Tensor, longest: int, run: Run, sweep: float
) -> tuple[int, Tensor, float]:
    """How many steps, their size (K,), the same for all chains, and the time they take, within what is left."""
    step_size = log_step.mean().exp().expand_as(log_step)
    size = float(step_size[0])
    # Twice the longest where the budget binds: the mean of h is a half.
    length = min(float(log_length.exp()), 2 * longest * size)
    steps = max(1, math.ceil(_van_der_corput(int(flock.moves) + 1) * length / size))
    steps = affordable(steps, run, sweep)
    return steps, step_size, steps * size


def _van_der_corput(number: int) -> float:
    """The bits of a number mirrored at the binary point: 1/2, 1/4, 3/4, 1/8 and so on."""
    return math.ldexp(int(bin(number)[:1:-1], 2), -number.bit_length())


def _shared(info: Info) -> Info:
    """With the harmonic mean of the acceptance for all chains, which makes them tune one step size."""
    mean = len(info.acceptance) / info.acceptance.clamp_min(1e-10).reciprocal().sum()
    return info._replace(acceptance=mean.expand_as(info.acceptance))


def _lengthen(kernel: Kernel, flock: Flock, proposal: Proposal, time: float, step_size: float, longest: int) -> Flock:
    """One step of Adam up the slope (2), averaged over chains."""
    before, after = flock.theta / kernel.scale, proposal.end.theta / kernel.scale
    before, after = (value - value.mean(0) for value in (before, after))
    change = after.square().sum(-1) - before.square().sum(-1)
    slopes = time * (change * (after * proposal.velocity).sum(-1)).double()
    weights = torch.where(torch.isfinite(slopes), proposal.info.acceptance, 0.0)
    slope = (weights * slopes.nan_to_num(0, 0, 0)).sum() / weights.sum().clamp_min(1e-10)
    number = int(flock.moves) + 1
    square = torch.lerp(flock.square, slope.square(), 1 - DECAY)
    rise = LEARNING_RATE * slope / (square / (1 - DECAY**number) + TINY).sqrt()
    low, high = math.log(step_size), math.log(2 * longest * step_size)
    log_length = (flock.log_length + rise).clamp(low, high)
    log_mean = torch.lerp(flock.log_mean, log_length, number**AVERAGING)
    return flock._replace(log_length=log_length, log_mean=log_mean, square=square)
