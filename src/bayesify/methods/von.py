"""Variational online Newton with the full Hessian (Khan et al., ICML 2018; Lin, Schmidt & Khan, ICML 2020).

A Gaussian q = N(m, S⁻¹) with any precision S is fitted to the posterior by natural-gradient steps. With pairs
θ± = m ± δ drawn from q, g± the gradient of the tempered log posterior there, estimated from one batch,

    r = −(g₊ − g₋)/2 − S δ,        G = average of ½ (S δ rᵀ + r δᵀ S),                                           (1)
    S ← S + ρ G + ½ ρ² G S⁻¹ G,                                                                                 (2)
    m ← m + α S⁻¹ (momentum of (g₊ + g₋)/2).                                                                    (3)

E[S δ (g₋ − g₊)ᵀ]/2 is Stein's estimate of the Hessian; subtracting E[S δ (S δ)ᵀ] = S before averaging changes no
expectation, and on a quadratic target r vanishes where S is its Hessian: (1) is then without noise, and q converges to
a Gaussian posterior to rounding, with correlations. The last term of (2), Lin et al.'s, keeps S positive definite, as
2 S⁺ = S + (S + ρG) S⁻¹ (S + ρG). ρ is at most K/(K + P/2 + 1) for K pairs: more would amplify what one pair sees.

Only gradients of the log posterior enter, so that any prior and likelihood will do. Cost: `num_samples` gradients of
the batch, P³/3 + O(P² K) operations per step, and matrices of P² numbers: for small networks, or subset(von, last);
ivon is the same with a diagonal. Not here: the Gauss–Newton matrix in the place of (1).
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from bayesify.covariance import Full
from bayesify.engine.optimise import cosine
from bayesify.engine.run import Run
from bayesify.errors import UnsupportedError
from bayesify.methods.base import Exactness, Method, MethodInfo, Range, require, require_positive
from bayesify.methods.ivon import fisher_trace
from bayesify.methods.variational import draws_with_statistics, gaussian_posterior
from bayesify.model.network import Mode
from bayesify.model.problem import Problem
from bayesify.posterior.base import Posterior
from bayesify.posterior.gaussian import DEFAULT_SAMPLES

MAX_PARAMETERS = 2000
"""P beyond which a step's Cholesky factor takes longer than training by other methods altogether."""


class State(NamedTuple):
    """What the next step needs; float64."""

    mean: Tensor  # (P,) m
    precision: Tensor  # (P, P) S
    momentum: Tensor  # (P,)
    steps: Tensor  # ()


class Rates(NamedTuple):
    """How fast a step moves."""

    mean: float  # α
    precision: float  # ρ
    beta1: float


@dataclass(frozen=True)
class VON(Method):
    """A Gaussian with full covariance, by natural gradients; for networks of at most 2,000 parameters.

    Attributes:
        learning_rate: α at the start of a cosine that ends at 0; 1 would jump to the minimum of a parabola.
        beta1: the memory of the gradient.
        precision_rate: ρ at the start of the same cosine, in units of the largest that is stable.
        num_samples: draws of θ per step, in pairs.
        batch_size: examples per step.
    """

    learning_rate: float = 0.5
    beta1: float = 0.9
    precision_rate: float = 0.5
    num_samples: int = 4
    batch_size: int = 32

    info = MethodInfo(
        name="von",
        family="variational",
        exactness=Exactness.APPROXIMATE,
        reference="Khan et al., ICML 2018; Lin, Schmidt & Khan, ICML 2020",
        summary="a Gaussian with full covariance, fitted by natural gradients",
        bias="one mode; exact where the posterior is Gaussian, otherwise the best Gaussian in the sense of KL(q ‖ p)",
        search_space={
            "learning_rate": Range(0.1, 1.0, log=True),
            "batch_size": Range(16, 256, log=True, integer=True),
        },
    )

    def __post_init__(self) -> None:
        require_positive(self, "learning_rate", "precision_rate", "num_samples", "batch_size")
        require(0 <= self.beta1 < 1, self, "beta1", "at least 0 and below 1")
        require(self.num_samples % 2 == 0, self, "num_samples", "even, because draws come in pairs")
        require(self.precision_rate <= 1, self, "precision_rate", "at most 1")

    @property
    def num_particles(self) -> int:
        """Networks evaluated at a time: the samples of a step."""
        return self.num_samples

    @property
    def num_predictions(self) -> int:
        """Draws from the Gaussian, or those kept."""
        return DEFAULT_SAMPLES

    def memory(self, problem: Problem) -> float:
        """S, its factor, and what updates it, in float64; vectors of the particles."""
        return 8.0 * problem.num_parameters * (6 * problem.num_parameters + 10 * self.num_samples)

    def fit(self, problem: Problem, run: Run) -> Posterior:
        """One Gaussian; draws with statistics of their own where the network normalises by batch.

        Raises:
            UnsupportedError: the network is too large.
        """
        if problem.num_parameters > MAX_PARAMETERS:
            raise UnsupportedError(
                f"von factors a matrix of {problem.num_parameters:,} × {problem.num_parameters:,} numbers in every "
                f"step, and takes at most {MAX_PARAMETERS:,} parameters: use subset(von, last), low_rank_vi or ivon."
            )
        num_draws = draws_with_statistics(problem, run)
        phase = run.phase("von", reserve=problem.statistics_cost(num_draws))
        state = self._train(problem, phase)
        like = problem.network.initial
        root = torch.linalg.cholesky(state.precision)
        identity = torch.eye(len(root), dtype=root.dtype, device=root.device)
        covariance = Full(torch.linalg.solve_triangular(root, identity, upper=False).mT.to(like))
        return gaussian_posterior(problem, state.mean.to(like), covariance, num_draws, phase.rng)

    def _train(self, problem: Problem, run: Run) -> State:
        theta = problem.start(1, run.rng)[0]
        state = run.restore(init(theta.double(), torch.ones_like(theta).double()))
        if run.finished:
            return state
        mode = Mode.PREDICT if problem.pretrained else Mode.TRAIN
        problem.expect(run.num_batches(problem.data, self.batch_size, self.num_samples), mode)
        largest = stable_rate(self.num_samples // 2, problem.num_parameters)
        for batch in run.batches(problem.data, self.batch_size, self.num_samples):
            if int(state.steps) == 0:
                state = init(state.mean, self._start(problem, run, theta, mode))
            white = torch.randn(
                self.num_samples // 2, len(theta), generator=run.rng, dtype=torch.float64, device=theta.device
            )
            root = torch.linalg.cholesky(state.precision)
            deviation = torch.linalg.solve_triangular(root.mT, white.mT, upper=True).mT
            drawn = (state.mean + torch.cat([deviation, -deviation])).to(theta)
            gradient = problem.gradient(drawn, batch, mode).gradient.double()
            fraction = cosine(run.fraction, 1.0, 0.0)
            rates = Rates(fraction * self.learning_rate, fraction * self.precision_rate * largest, self.beta1)
            state = update(state, root, white, gradient, rates)
            run.save(state)
        run.finish(state)
        return state

    def _start(self, problem: Problem, run: Run, theta: Tensor, mode: Mode) -> Tensor:
        """The diagonal of S: the prior's, and a bound on the data's curvature, so that q starts narrow."""
        prior = problem.prior.scales.double() ** -2
        trace = fisher_trace(problem, theta, self.batch_size, run.rng, mode)
        return (prior + problem.num_examples * trace) / problem.temperature


def init(mean: Tensor, diagonal: Tensor) -> State:
    """N(mean, diag⁻¹)."""
    steps = torch.zeros((), dtype=torch.int64, device=mean.device)
    return State(mean, diagonal.diag(), torch.zeros_like(mean), steps)


def stable_rate(num_pairs: int, size: int) -> float:
    """The largest ρ."""
    return num_pairs / (num_pairs + size / 2 + 1)


def update(state: State, root: Tensor, white: Tensor, gradient: Tensor, rates: Rates) -> State:
    """Equations (1) to (3).

    Args:
        state: m, S, the momentum and t.
        root: L (P, P) with S = L Lᵀ.
        white: ε (K, P); δ = L⁻ᵀ ε.
        gradient: of the tempered log posterior at m + δ, then at m − δ, (2K, P).
        rates: α, ρ and β₁.
    """
    plus, minus = gradient.chunk(2)
    pushed = white @ root.mT  # S δ
    residual = 0.5 * (minus - plus) - pushed
    # G = W M Wᵀ of rank 2K, with W = [S δ, r]: M exchanges the two halves.
    count = len(white)
    both = torch.cat([pushed, residual]).mT  # (P, 2K)
    exchanged = torch.cat([residual, pushed]).mT / (2 * count)
    change = both @ exchanged.mT
    inner = both.mT @ torch.cholesky_solve(both, root)
    bend = exchanged @ inner @ exchanged.mT
    precision = state.precision + rates.precision * change + 0.5 * rates.precision**2 * bend
    precision = 0.5 * (precision + precision.mT)  # rounding
    momentum = torch.lerp(0.5 * (plus + minus).mean(0), state.momentum, rates.beta1)
    steps = state.steps + 1
    step = torch.cholesky_solve(momentum[:, None], root)[:, 0] / (1 - rates.beta1 ** int(steps))
    return State(state.mean + rates.mean * step, precision, momentum, steps)
