"""Sequential anchored ensembles (Delaunoy & Louppe, arXiv 2201.00649).

A member is the minimum of a randomised loss: with an anchor a ~ N(μ, T S²) from the prior N(μ, S²) and, for targets
with Gaussian noise σ, targets moved by e ~ N(0, T σ²),

    θ = argmin  Σ_i (y_i + e_i − f(x_i; θ))² / 2σ² + ½ |(θ − a)/S|².                                             (1)

For a linear model with known σ the minimum is linear in (a, e), and its law is exactly the posterior at temperature T,
if (1) is solved; the draws are as correlated as the anchors are. A σ that is learned stays what the first members of
all chains found, their geometric mean: with e of its own size it would grow without end. Without e the variance would
be too small, by what the data's noise contributes: other likelihoods have no e here, so for them it is (on logistic
regression of 200 examples the minima are 6.5 times too narrow). For networks (1) gives an ensemble whose members lie
near many modes, spread as the posterior is where the data say nothing.

The anchors of a chain follow a guided walk (Gustafson 1998) that leaves the prior unchanged, so that consecutive
members differ little: each is trained from the last one for a few epochs. Here the walk is of each coordinate by
itself, with steps of `walk` prior scales, |n| in the present direction, which turns round where a step is refused;
e follows e ← √(1 − walk²) e + walk n.

Cost: gradients of batches, as any training. Not here: priors that are not Gaussian.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from bayesify.data import Data
from bayesify.engine import optimise
from bayesify.engine.chains import Info, Trace, advance, keep, start_trace
from bayesify.engine.hamiltonian import mode_of
from bayesify.engine.run import Run
from bayesify.methods.base import Exactness, MethodInfo, Range, require, require_positive
from bayesify.methods.sampler import Sampled, Sampler
from bayesify.model.likelihoods import Gaussian
from bayesify.model.problem import Batch, Problem
from bayesify.posterior.mixing import Plan

FINAL_FRACTION = 0.05
"""Of a member's learning rate, at its end (the paper's 2.1e-3 to 1e-4)."""
NEVER = -1.0
"""Share of the draws that are due: members are kept when they are trained."""


@dataclass(frozen=True)
class SAE(Sampler):
    """Chains of members, each trained towards an anchor from the prior.

    Attributes:
        num_draws: members of each chain, at most: as many as get `member_epochs` each.
        member_epochs: training of each member after the first.
        member_learning_rate: Adam's at the start of each member; it falls to a twentieth of that.
        walk: steps of the anchors' walk in units of the prior's scale; 1 makes members nearly independent, and needs
            long training.
    """

    member_epochs: float = 2.0
    member_learning_rate: float = 2e-3
    walk: float = 0.1

    info = MethodInfo(
        name="sae",
        family="ensemble",
        exactness=Exactness.NOT_A_POSTERIOR,
        reference="Delaunoy & Louppe, arXiv 2201.00649; Pearce et al., AISTATS 2020",
        summary="members trained one after the other towards anchors that walk through the prior",
        bias="exact for linear models with known Gaussian noise if trained to the end; targets of other likelihoods "
        "cannot be moved: 85% too narrow on logistic regression",
        search_space={"walk": Range(0.02, 1.0, log=True), "member_learning_rate": Range(1e-4, 1e-2, log=True)},
    )

    def check(self) -> None:  # noqa: D102
        require_positive(self, "member_epochs", "member_learning_rate")
        require(0 < self.walk <= 1, self, "walk", "above 0 and at most 1")

    def minimum(self, problem: Problem) -> float:
        """Two members."""
        return 2 * self.member_epochs * problem.num_examples * self.num_chains

    def sample(self, problem: Problem, run: Run, theta: Tensor, plan: Plan) -> Sampled:
        """Members at equal shares of what is left."""
        problem.prior.precision()  # refuses priors that (1) is not of
        phase = run.phase("members", reserve=plan.reserve)
        members = plan.num_draws
        if math.isfinite(phase.limit):
            affordable = phase.limit / (self.member_epochs * problem.num_examples * self.num_chains)
            members = max(1, min(members, int(affordable)))
        if moves_targets(problem):
            theta = theta.clone()
            theta[:, problem.num_network_parameters :] = theta[:, problem.num_network_parameters :].mean(0)
        trace = self._members(problem, phase, start(problem, theta, phase.rng), members)
        return Sampled(trace, {})

    def _members(self, problem: Problem, run: Run, first: "State", members: int) -> Trace:
        trace = run.restore(start_trace(first, members))
        if run.finished:
            return trace
        size, chains = min(self.batch_size, problem.num_examples), len(first.theta)
        numbers = torch.arange(problem.num_examples, device=first.theta.device)
        indexed = Data(problem.data.inputs, numbers)  # batches then say which rows they are of
        problem.expect(run.num_batches(problem.data, size, chains), mode_of(problem))
        one = torch.ones_like(trace.acceptance)
        for batch in run.batches(indexed, size, chains, independent=True):
            state = trace.state
            if run.fraction * members >= int(trace.kept) + 1 and int(trace.kept) < members - 1:
                trace = keep(trace)
                state = next_member(state, self.walk, run.rng)
            within = min(1.0, max(0.0, run.fraction * members - int(trace.kept)))
            rate = optimise.cosine(within, self.member_learning_rate, FINAL_FRACTION)
            info = Info(one, torch.zeros_like(one), torch.zeros_like(one, dtype=torch.bool))
            trace = advance(trace, train(problem, state, batch, rate), info, run, NEVER)
            run.save(trace)
        trace = keep(trace)
        run.finish(trace)
        return trace


class State(NamedTuple):
    """The members in training, and what they are drawn to."""

    theta: Tensor  # (K, P)
    first: Tensor  # (K, P) Adam's running mean of gradients
    second: Tensor  # (K, P) of their squares
    steps: Tensor  # ()
    anchor: Tensor  # (K, P) (a − μ)/(√T S)
    direction: Tensor  # (K, P) of the walk, 1 or −1
    moved: Tensor  # (K, N, ...) e/(√T σ); (K, 0) where targets are not moved


def start(problem: Problem, theta: Tensor, rng: torch.Generator) -> State:
    """The first anchors, draws from the prior, and the first noise."""

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=rng, dtype=theta.dtype, device=theta.device)

    shape = tuple(problem.data.targets.shape) if moves_targets(problem) else (0,)
    zeros, none = torch.zeros_like(theta), torch.zeros((), dtype=torch.int64, device=theta.device)
    direction = torch.where(normal(*theta.shape) > 0, 1.0, -1.0).to(theta)
    return State(theta, zeros, zeros.clone(), none, normal(*theta.shape), direction, normal(len(theta), *shape))


def next_member(state: State, walk: float, rng: torch.Generator) -> State:
    """The next anchor of the guided walk, and the next noise; Adam starts afresh."""

    def normal(like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=rng, dtype=like.dtype, device=like.device)

    proposal = state.anchor + walk * state.direction * normal(state.anchor).abs()
    uniform = torch.rand(proposal.shape, generator=rng, dtype=proposal.dtype, device=proposal.device)
    accepted = uniform.log() < 0.5 * (state.anchor.square() - proposal.square())
    return state._replace(
        first=torch.zeros_like(state.first),
        second=torch.zeros_like(state.second),
        steps=torch.zeros_like(state.steps),
        anchor=torch.where(accepted, proposal, state.anchor),
        direction=torch.where(accepted, state.direction, -state.direction),
        moved=math.sqrt(1 - walk**2) * state.moved + walk * normal(state.moved),
    )


def train(problem: Problem, state: State, batch: Batch, rate: float) -> State:
    """One step of Adam on (1), per example; the batch's targets are row numbers, (B,) or (K, B)."""
    rows = batch.data.targets
    targets, per_particle = problem.data.targets[rows], batch.per_particle
    inputs = batch.data.inputs
    if moves_targets(problem):
        chain = torch.arange(len(state.theta), device=rows.device)[:, None]
        noise = state.moved[chain, rows if per_particle else rows[None]]  # (K, B) or (K, B, D)
        scale = _noise(problem, state.theta)  # (K, D)
        scale = scale if noise.dim() == 2 else scale[:, None]
        targets = targets + math.sqrt(problem.temperature) * scale * noise
        if not per_particle:
            inputs = pytree.tree_map(lambda leaf: leaf.expand(len(chain), *leaf.shape), inputs)
        per_particle = True
    likelihood, _ = problem.likelihood_gradient(
        state.theta, Batch(Data(inputs, targets), per_particle), mode_of(problem)
    )
    gradient = likelihood / batch.size + anchored_score(problem, state) / problem.num_examples
    if moves_targets(problem):
        gradient[:, problem.num_network_parameters :] = 0.0
    steps = state.steps + 1
    size = state.theta.new_tensor(optimise.step_size(float(steps), rate))
    theta, first, second = optimise.moved(state.theta, state.first, state.second, gradient, size)
    return state._replace(theta=theta, first=first, second=second, steps=steps)


def anchored_score(problem: Problem, state: State) -> Tensor:
    """Gradient of −½ |(θ − a)/S|², (K, P); of the prior itself for the likelihood's own parameters."""
    pull = math.sqrt(problem.temperature) * problem.prior.precision().sqrt()
    score = problem.prior.score(state.theta)
    score[:, : len(pull)] += pull * state.anchor[:, : len(pull)]
    return score


def moves_targets(problem: Problem) -> bool:
    """Whether targets have Gaussian noise of one scale."""
    return isinstance(problem.likelihood, Gaussian)


def _noise(problem: Problem, theta: Tensor) -> Tensor:
    assert isinstance(problem.likelihood, Gaussian)
    return problem.likelihood.noise(problem.model.split(theta)[1])
