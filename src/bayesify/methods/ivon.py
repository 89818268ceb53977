"""Improved variational online Newton (Shen et al., ICML 2024).

A Gaussian q = N(m, diag σ²), σ² = 1/(λ (h + δ)), is fitted to the posterior by natural-gradient steps that cost what
Adam's cost. With N examples, temperature T and prior precision p per parameter, λ = N/T and δ = p/N follow from the
model and are no knobs. One step samples θ ~ q, takes the gradient ĝ of the batch's mean negative log likelihood at θ,

    ĥ = ĝ (θ − m) / σ²                                                                                          (1)
    g ← β₁ g + (1 − β₁) ĝ                                                                                       (2)
    h ← β₂ h + (1 − β₂) ĥ + ½ (1 − β₂)² (h − ĥ)² / (h + δ)                                                      (3)
    m ← m − α clip( (g / (1 − β₁ᵗ) + δ (m − loc)) / (h + δ) )                                                   (4)

(1) is Stein's estimate of the Hessian's diagonal; the last term of (3) keeps h + δ positive. The paper's rescaled
learning rate is α/(h₀ + δ). Where the posterior is Gaussian, σ² ends at T/diag(precision): correlations are ignored.

Cost: `num_samples` gradients of the batch per step. Not here: several modes (multi(ivon, 5)), full covariance.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from bayesify.covariance import Diagonal
from bayesify.engine.optimise import cosine
from bayesify.engine.run import Run
from bayesify.errors import BudgetError
from bayesify.methods.base import Exactness, Method, MethodInfo, Range, require, require_positive
from bayesify.methods.variational import draws_with_statistics, gaussian_posterior
from bayesify.model.network import Mode
from bayesify.model.problem import Batch, Problem
from bayesify.posterior.base import Posterior
from bayesify.posterior.gaussian import DEFAULT_SAMPLES
from bayesify.predictive import Predictive

MEMORY = 5.0
"""Time constants of the Hessian's average in one run: e⁻⁵ < 1% of its start is left at the end, for any length."""
UNKNOWN_LENGTH_BETA2 = 0.999
"""β₂ where the budget is time and the number of steps is not known beforehand."""
START_BATCHES = 16
"""How many batches, at most, the Hessian's start is estimated from."""


class State(NamedTuple):
    """What the next step needs."""

    mean: Tensor  # (P,) m
    hessian: Tensor  # (P,) h, of the negative log likelihood per example
    momentum: Tensor  # (P,) g
    steps: Tensor  # () t


class Seen(NamedTuple):
    """Averages over samples of θ, of which there may be several in a step, each with a batch of its own."""

    gradient: Tensor  # (P,) ĝ
    product: Tensor  # (P,) ĝ (θ − m)


class Target(NamedTuple):
    """The posterior as the update knows it."""

    ess: float  # λ = N / T
    decay: Tensor  # (P,) δ, the prior's precision per example
    loc: Tensor  # (P,) the prior's mean


class Rates(NamedTuple):
    """How fast a step moves."""

    learning_rate: float  # α
    beta1: float
    beta2: float
    clip_radius: float = math.inf


@dataclass(frozen=True)
class IVON(Method):
    """A diagonal Gaussian over all parameters, fitted at the cost of Adam.

    Attributes:
        learning_rate: α at the start of a cosine that ends at 0. Steps are Newton's: 1 would jump to the minimum of a
            parabola.
        beta1: β₁, the memory of the gradient.
        beta2: β₂, the memory of the Hessian; None is 1 − 2 / (number of steps), so that runs of any length forget
            `hess_init` alike (13 % of it is left at the end) and average over as many steps as they can.
        hess_init: h at the start; None is the trace of the Fisher information of one example there. It bounds the
            largest eigenvalue, so that no direction is overstepped, and starts with a narrow q: one wider than the
            data allow would drive the network to give its weights up.
        clip_radius: bound on each coordinate of the Newton step before α.
        num_samples: draws of θ per batch.
        batch_size: examples per batch.
        accumulation: batches per step, one after the other, each with θ of its own: as many samples and examples more
            at the memory of one.
    """

    learning_rate: float = 0.5
    beta1: float = 0.9
    beta2: float | None = None
    hess_init: float | None = None
    clip_radius: float = math.inf
    num_samples: int = 1
    batch_size: int = 64
    accumulation: int = 1

    info = MethodInfo(
        name="ivon",
        family="variational",
        exactness=Exactness.APPROXIMATE,
        reference="Shen et al., ICML 2024",
        summary="a diagonal Gaussian fitted by natural gradients at the cost of Adam",
        bias="one mode; ignores correlations between parameters, so variances are too small",
        search_space={
            "learning_rate": Range(0.1, 1.0, log=True),
            "batch_size": Range(16, 128, log=True, integer=True),
        },
    )

    def __post_init__(self) -> None:
        require_positive(self, "learning_rate", "num_samples", "batch_size", "accumulation", optional=("hess_init",))
        require(0 <= self.beta1 < 1, self, "beta1", "at least 0 and below 1")
        require(self.beta2 is None or 0 < self.beta2 < 1, self, "beta2", "above 0 and below 1, or None")
        require(self.clip_radius > 0, self, "clip_radius", "positive")

    @property
    def num_particles(self) -> int:
        """Networks evaluated at a time: the samples of a step."""
        return self.num_samples

    @property
    def num_predictions(self) -> int:
        """Draws from the Gaussian, or those kept."""
        return DEFAULT_SAMPLES

    def fit(self, problem: Problem, run: Run) -> Posterior:
        """One Gaussian; draws with statistics of their own where the network normalises by batch."""
        num_draws = draws_with_statistics(problem, run)
        phase = run.phase("ivon", reserve=problem.statistics_cost(num_draws))
        target = target_of(problem)
        state = self._train(problem, phase, target)
        covariance = Diagonal(variance(state, target))
        run.notes["ess_over_n"] = target.ess / problem.num_examples
        return gaussian_posterior(problem, state.mean, covariance, num_draws, phase.rng)

    def _train(self, problem: Problem, run: Run, target: Target) -> State:
        state = run.restore(init(problem.start(1, run.rng)[0], self.hess_init or 1.0))
        if run.finished:
            return state
        beta2 = self._beta2(problem, run)
        mode = Mode.PREDICT if problem.pretrained else Mode.TRAIN
        problem.expect(run.num_batches(problem.data, self.batch_size, self.num_samples), mode)
        waiting: list[Seen] = []
        for batch in run.batches(problem.data, self.batch_size, self.num_samples):
            if int(state.steps) == 0 and not waiting and self.hess_init is None:
                state = init(state.mean, fisher_trace(problem, state.mean, self.batch_size, run.rng, mode))
            waiting.append(observe(problem, state, batch, run.rng, target, self.num_samples, mode))
            if len(waiting) == self.accumulation:
                rate = Rates(cosine(run.fraction, self.learning_rate, 0.0), self.beta1, beta2, self.clip_radius)
                state, waiting = update(state, target, rate, together(waiting)), []
                run.save(state)
        if int(state.steps) == 0:
            raise BudgetError(
                f"the budget ends after {len(waiting)} batches but a step takes accumulation={self.accumulation}: "
                "raise the budget, or lower accumulation or batch_size."
            )
        run.finish(state)
        return state

    def _beta2(self, problem: Problem, run: Run) -> float:
        if self.beta2 is not None:
            return self.beta2
        if not math.isfinite(run.limit):
            return UNKNOWN_LENGTH_BETA2
        num_steps = run.limit / (min(self.batch_size, problem.num_examples) * self.num_samples * self.accumulation)
        return math.exp(-MEMORY / num_steps)


def target_of(problem: Problem) -> Target:
    """λ, δ and the prior's mean, from the model.

    Raises:
        UnsupportedError: the prior is not Gaussian.
    """
    prior = problem.prior.gaussian()
    size = problem.num_examples
    return Target(size / problem.temperature, prior.precision / size, prior.center)


def init(theta: Tensor, hess_init: float) -> State:
    """Starts at theta (P,) with one Hessian for all parameters."""
    steps = torch.zeros((), dtype=torch.int64, device=theta.device)
    return State(theta, torch.full_like(theta, hess_init), torch.zeros_like(theta), steps)


def variance(state: State, target: Target) -> Tensor:
    """σ² (P,)."""
    return 1 / (target.ess * (state.hessian + target.decay))


def together(parts: list[Seen]) -> Seen:
    """The average of several."""
    if len(parts) == 1:
        return parts[0]
    gradients, products = zip(*parts, strict=True)
    return Seen(torch.stack(gradients).mean(0), torch.stack(products).mean(0))


def averages(deviation: Tensor, gradient: Tensor) -> Seen:
    """From θ − m (S, P) and the gradient (S, P) of a batch's mean negative log likelihood at each θ."""
    return Seen(_average(gradient), _average(gradient * deviation))


def update(state: State, target: Target, rates: Rates, seen: Seen) -> State:
    """Equations (1) to (4), elementwise: for tensors of any one shape. Uses up the memory of `seen.product`."""
    beta1, beta2, decay = rates.beta1, rates.beta2, target.decay
    curvature = state.hessian + decay
    sampled = seen.product.mul_(curvature).mul_(target.ess)  # (1)
    momentum = torch.lerp(seen.gradient, state.momentum, beta1)  # (2)
    correction = (state.hessian - sampled).square_().div_(curvature)
    hessian = sampled.lerp_(state.hessian, beta2).add_(correction, alpha=0.5 * (1 - beta2) ** 2)  # (3)
    steps = state.steps + 1
    newton = (state.mean - target.loc).mul_(decay).add_(momentum, alpha=1 / (1 - beta1 ** int(steps)))
    newton.div_(torch.add(hessian, decay, out=curvature))
    if rates.clip_radius < math.inf:
        newton.clamp_(-rates.clip_radius, rates.clip_radius)
    return State(torch.sub(state.mean, newton, alpha=rates.learning_rate), hessian, momentum, steps)  # (4)


def _average(values: Tensor) -> Tensor:
    """The mean over samples (S, P) → (P,); of one sample without a pass over it."""
    return values[0] if len(values) == 1 else values.mean(0)


def sample_deviation(state: State, target: Target, noise: Tensor) -> Tensor:
    """θ − m of standard normal noise, which is used up."""
    return noise.mul_(torch.add(state.hessian, target.decay).mul_(target.ess).rsqrt_())


def observe(
    problem: Problem,
    state: State,
    batch: Batch,
    rng: torch.Generator,
    target: Target,
    num_samples: int = 1,
    mode: Mode = Mode.TRAIN,
) -> Seen:
    """Samples θ and takes the batch's gradient there."""
    shape = (num_samples, len(state.mean))
    noise = torch.randn(shape, generator=rng, dtype=state.mean.dtype, device=state.mean.device)
    deviation = sample_deviation(state, target, noise)
    return averages(deviation, loss_gradient(problem, state.mean + deviation, batch, mode))


def loss_gradient(problem: Problem, theta: Tensor, batch: Batch, mode: Mode) -> Tensor:
    """Gradient (S, P) of the batch's mean negative log likelihood at theta (S, P)."""
    return problem.likelihood_gradient(theta, batch, mode)[0].div_(-batch.size)


def fisher_trace(problem: Problem, theta: Tensor, batch_size: int, rng: torch.Generator, mode: Mode) -> float:
    """Trace of one example's Fisher information at theta (P,), estimated from gradients of a few batches.

    Targets are drawn from the model: with the data's, errors of an untrained network would be taken for curvature.
    With batches of B examples the trace is B Σ Var(ĝ) + Σ E[ĝ]², sums over parameters.
    """
    size = max(1, min(batch_size, problem.num_examples // 2))
    order = torch.randperm(problem.num_examples, generator=rng, device=rng.device)
    batches = torch.split(order, size)[: min(START_BATCHES, problem.num_examples // size)]
    mean, squares = torch.zeros_like(theta), theta.new_zeros(())
    for count, rows in enumerate(batches, start=1):  # Welford's sums: all gradients at once would be many vectors
        gradient = loss_gradient(problem, theta[None], _imagined(problem, theta, rows, rng), mode)[0]
        before = gradient - mean
        mean = mean + before / count
        squares = squares + before @ (gradient - mean)
    spread = squares / max(1, len(batches) - 1)
    return float(size * spread + mean.square().sum())


def _imagined(problem: Problem, theta: Tensor, rows: Tensor, rng: torch.Generator) -> Batch:
    """A batch of the data's inputs with targets drawn from the model at theta (P,)."""
    data = problem.data.select(rows)
    if problem.likelihood.kind == "loss":
        return Batch(data)  # a loss is no distribution to draw from
    outputs = problem.outputs(theta[None], data.inputs, problem.network.buffers(1))
    own = problem.model.split(theta[None])[1]
    seed = int(torch.randint(2**62, (), generator=rng, device=rng.device))
    targets = Predictive(problem.likelihood, outputs, own).sample((1,), seed=seed)[0]
    return Batch(data._replace(targets=problem.likelihood.prepare(targets, problem.network.dtype)))
