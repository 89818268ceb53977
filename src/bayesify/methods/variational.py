"""The frame of methods that fit a Gaussian q by stochastic gradients of the evidence lower bound.

With N examples, minibatches of B, temperature T and θ = m + δ(ε) drawn from q by reparameterisation (Kingma & Welling,
ICLR 2014), the bound is

    F(q) = (1/T) E_q[ log p(D | θ) + log p(θ) ] + H(q),                                                         (1)

the evidence lower bound at T = 1, and its gradient is estimated from S particles θ_s,

    ∇F = (1/T) (1/S) Σ_s (∂θ_s/∂φ)ᵀ (N/B) ∇ log p(batch | θ_s)  +  ∇ { (1/T) E_q[log p(θ)] + H(q) }.            (2)

Everything is a sum: over parameters in the second term, over all N examples in the first; there is no weight between
them to set. The second term is in closed form for Gaussian priors; for others log p(θ) is averaged over the particles.
Particles come in pairs m ± δ, so that what is odd in δ cancels: on a quadratic log likelihood the gradient in m is that
at m, without noise. Every particle is one network for its whole batch: no noise is drawn per example.
"""

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from bayesify.covariance import Covariance
from bayesify.engine.budget import FORWARD_COST
from bayesify.engine.optimise import cosine, moved, step_size
from bayesify.engine.run import Run
from bayesify.methods.base import Method, require_positive
from bayesify.model.network import Mode
from bayesify.model.prior import GaussianPrior
from bayesify.model.priors import Normal
from bayesify.model.problem import Problem
from bayesify.posterior.base import Particles, Posterior
from bayesify.posterior.draws import Draws
from bayesify.posterior.gaussian import DEFAULT_SAMPLES, Gaussian, gaussian_particles

STATISTICS_SHARE = 0.1
"""At most this share of the budget goes to statistics of draws, where the network normalises by batch."""
BOUND_SHARE, BOUND_SAMPLES = 0.02, 16
"""The bound that is reported is estimated from so many draws, as far as this share of the budget pays for them."""
PRIOR_SAMPLES = 256
"""Draws for the expectation of a log prior that has no closed form; they need no network."""
FINAL_FRACTION = 0.01
"""The cosine ends at this fraction of the learning rate."""


class State(NamedTuple):
    """What the next step needs."""

    phi: Tensor  # (V,) the parameters of q
    first: Tensor  # (V,) Adam's averages
    second: Tensor  # (V,)
    steps: Tensor  # ()


class Sampled(NamedTuple):
    """S particles, and what they were made from."""

    white: Tensor  # (S, W)
    deviation: Tensor  # (S, P) θ − m
    gradient: Tensor  # (S, P) of (1/T) log p(D | θ) [+ log p(θ)] at each


@dataclass(frozen=True)
class Variational(Method):
    """Base of Gaussian variational inference by reparameterised gradients.

    Attributes:
        learning_rate: Adam's, at the start of a cosine.
        num_samples: particles per step; an even number comes in antithetic pairs.
        initial_scale: q's standard deviations at the start, in units of the prior's scales, or of those of the default
            prior where that is narrower: far wider ones than the data allow drive a network to give its weights up.
        batch_size: examples per step.
    """

    learning_rate: float = 3e-2
    num_samples: int = 2
    initial_scale: float = 0.01
    batch_size: int = 32

    @abstractmethod
    def check(self) -> None:
        """Refuses own settings that are out of range."""

    @abstractmethod
    def start(self, mean: Tensor, scale: Tensor, rng: torch.Generator) -> Tensor:
        """The parameters of q (V,) with that mean (P,) and standard deviations (P,)."""

    @abstractmethod
    def covariance(self, phi: Tensor) -> Covariance:
        """Σ of q; the mean is the first P of `phi`."""

    @abstractmethod
    def pull(self, phi: Tensor, sampled: Sampled) -> Tensor:
        """(∂θ/∂φ)ᵀ gradient, averaged over particles: (V,)."""

    @abstractmethod
    def entropy(self, phi: Tensor) -> Tensor:
        """H(q), ()."""

    @abstractmethod
    def inward(self, phi: Tensor, prior: GaussianPrior | None, temperature: float) -> Tensor:
        """Gradient (V,) of (1/T) E_q[log p(θ)] + H(q); of H(q) alone where the prior is None."""

    def __post_init__(self) -> None:
        require_positive(self, "learning_rate", "num_samples", "initial_scale", "batch_size")
        self.check()

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
        num_bound = _bound_samples(problem, run)
        reserve = problem.statistics_cost(num_draws) + FORWARD_COST * problem.num_examples * num_bound
        phase = run.phase(self.info.name, reserve=reserve)
        phi = self._train(problem, phase).phi
        mean, covariance = phi[: problem.num_parameters], self.covariance(phi)
        if num_bound:
            run.notes["elbo"] = self.bound(problem, phi, num_bound, phase.rng)
        return gaussian_posterior(problem, mean, covariance, num_draws, phase.rng)

    def _train(self, problem: Problem, run: Run) -> State:
        prior = problem.prior.gaussian() if problem.prior.is_gaussian else None
        mean = problem.start(1, run.rng)[0]
        usual = Normal().bind(problem.network.layout, problem.likelihood.num_parameters, mean).scales
        scale = torch.minimum(problem.prior.scales, usual) * self.initial_scale
        phi = self.start(mean, scale, run.rng)
        zero = torch.zeros((), dtype=torch.int64, device=phi.device)
        state = run.restore(State(phi, torch.zeros_like(phi), torch.zeros_like(phi), zero))
        if run.finished:
            return state
        mode = Mode.PREDICT if problem.pretrained else Mode.TRAIN
        problem.expect(run.num_batches(problem.data, self.batch_size, self.num_samples), mode)
        for batch in run.batches(problem.data, self.batch_size, self.num_samples):
            covariance = self.covariance(state.phi)
            white = antithetic(covariance, self.num_samples, run.rng)
            deviation = covariance.coloured(white)
            theta = state.phi[: len(mean)] + deviation
            gradient, _ = problem.likelihood_gradient(theta, batch, mode)
            gradient = gradient * (problem.num_examples / batch.size)
            if prior is None:
                gradient = gradient + problem.prior.score(theta)
            sampled = Sampled(white, deviation, gradient / problem.temperature)
            rate = cosine(run.fraction, self.learning_rate, FINAL_FRACTION)
            state = self.step(state, sampled, prior, problem.temperature, problem.num_examples, rate)
            run.save(state)
        run.finish(state)
        return state

    def step(
        self, state: State, sampled: Sampled, prior: GaussianPrior | None, temperature: float, size: int, rate: float
    ) -> State:
        """Adam along (2) per example, so that one learning rate serves all data sizes."""
        gradient = self.pull(state.phi, sampled) + self.inward(state.phi, prior, temperature)
        steps = state.steps + 1
        length = state.phi.new_tensor(step_size(float(steps), rate))
        return State(*moved(state.phi, state.first, state.second, gradient * (temperature / size), length), steps)

    def bound(self, problem: Problem, phi: Tensor, num_samples: int, rng: torch.Generator) -> float:
        """F(q) of (1), the log likelihood averaged over draws of all data."""
        mean, covariance = phi[: problem.num_parameters], self.covariance(phi)
        theta = mean + antithetic(covariance, num_samples, rng, coloured=True)
        fit = problem.log_likelihood(theta, problem.data, problem.network.buffers(num_samples)).mean()
        if problem.prior.is_gaussian:
            prior = problem.prior.log_density(mean) - 0.5 * problem.prior.gaussian().precision @ covariance.variance()
        else:
            draws = mean + antithetic(covariance, PRIOR_SAMPLES, rng, coloured=True)
            prior = problem.prior.log_density(draws).mean()
        return float((fit + prior) / problem.temperature + self.entropy(phi))


def antithetic(covariance: Covariance, num_samples: int, rng: torch.Generator, *, coloured: bool = False) -> Tensor:
    """White noise (S, W), or with `coloured` the draws (S, P) it stands for; the second half is minus the first."""
    half = covariance.white((num_samples + 1) // 2, rng)
    white = torch.cat([half, -half])[:num_samples]
    return covariance.coloured(white) if coloured else white


def draws_with_statistics(problem: Problem, run: Run) -> int:
    """How many draws get normalisation statistics of their own: none where there are none to estimate."""
    cost = problem.statistics_cost(1)
    if cost == 0:
        return 0
    return max(1, int(min(DEFAULT_SAMPLES, STATISTICS_SHARE * run.remaining / cost)))


def gaussian_posterior(
    problem: Problem, mean: Tensor, covariance: Covariance, num_draws: int, rng: torch.Generator
) -> Posterior:
    """N(mean, Σ), or with `num_draws` that many draws of it with statistics of their own."""
    if num_draws == 0:
        return Gaussian(problem.model, mean, covariance)
    theta = gaussian_particles(mean, covariance, {}, num_draws, rng).theta
    return Draws(problem.model, Particles(theta, problem.buffers(theta)))


def _bound_samples(problem: Problem, run: Run) -> int:
    """Even, for pairs; none where outputs depend on statistics of a batch."""
    if problem.network.running:
        return 0
    affordable = BOUND_SHARE * run.remaining / (FORWARD_COST * problem.num_examples)
    return 2 * (int(min(BOUND_SAMPLES, affordable if math.isfinite(affordable) else BOUND_SAMPLES)) // 2)
