"""Hamiltonian Monte Carlo with all the data in every gradient (Neal 2011).

A chain at θ draws a velocity v ~ N(0, I), follows Hamilton's equations for L leapfrog steps of size ε,

    v ← v + ½ ε s ∇ log p,    θ ← θ + ε s v,    v ← v + ½ ε s ∇ log p,      p = p(θ | D)^(1/T)                   (1)

and accepts the end with probability min(1, exp(−ΔH)), H = −log p(θ) + ½ |v|². (1) keeps volume and can be run
backwards, so the chain's law is exactly p whatever ε is; the draws are correlated, and few of them are few.

s is the prior's scale of each parameter, a diagonal mass matrix 1/s². In units of s the prior is N(0, I): layers whose
weights differ in scale by construction (fan-in) move alike, and the data can only narrow directions. The widest one
oscillates with period 2π√T, a quarter of which, π√T/2, is the trajectory (Izmailov et al. 2021); longer returns.

Each chain starts from a network of its own, trained on a part of the budget; ε is then tuned per chain by dual
averaging (Hoffman & Gelman 2014) towards a given acceptance; both are burn-in. Trajectories are cut short where the
budget could not pay for a few of them (`engine.trajectories`).

With `mass="diagonal"` s is learned per chain in the warm-up (`engine.warm_up`), and π/2 of its units is a quarter
period of every direction of an uncorrelated Gaussian.

Cost: L gradients of all the data per chain and trajectory. Not here: minibatches, U-turn criteria (nuts).
"""

import math
from dataclasses import dataclass

from torch import Tensor

from bayesify.engine.hamiltonian import announce, kernel_of, transition
from bayesify.engine.run import Run
from bayesify.engine.trajectories import FIRST_STEP, Trajectories, sample
from bayesify.engine.warm_up import Aims
from bayesify.methods.base import Exactness, MethodInfo, Range, require, require_positive
from bayesify.methods.sampler import Sampled, Sampler
from bayesify.model.problem import Problem
from bayesify.posterior.mixing import Plan


@dataclass(frozen=True)
class HMC(Sampler):
    """Hamiltonian Monte Carlo: several chains, all data, Metropolis-corrected.

    Attributes:
        num_chains: chains run as one; they start independently.
        num_draws: kept per chain, spread evenly over the sampling.
        warm_start_epochs: training of each chain's start, at most and never more than 0.4 of the budget.
        learning_rate: Adam's in that training.
        batch_size: its batches.
        trajectory_length: ε L in units of s; None is π√T/2 (π/2 for learned masses), cut where the budget is short.
        step_size: ε; None tunes it per chain.
        target_acceptance: what tuning aims at.
        mass: 'prior' for s from the prior, 'diagonal' to learn it.
    """

    trajectory_length: float | None = None
    step_size: float | None = None
    target_acceptance: float = 0.8
    mass: str = "prior"

    info = MethodInfo(
        name="hmc",
        family="mcmc",
        exactness=Exactness.ASYMPTOTIC,
        reference="Neal 2011; Izmailov et al., ICML 2021",
        summary="Metropolis-corrected sampling of the posterior with all data",
        bias="none in the long run; chains that have not mixed describe the surroundings of their starts",
        search_space={"target_acceptance": Range(0.6, 0.9)},
    )

    def check(self) -> None:  # noqa: D102
        require(0 < self.target_acceptance < 1, self, "target_acceptance", "between 0 and 1")
        require(self.mass in ("prior", "diagonal"), self, "mass", "'prior' or 'diagonal'")
        require_positive(self, optional=("trajectory_length", "step_size"))

    def sample(self, problem: Problem, run: Run, theta: Tensor, plan: Plan) -> Sampled:
        """Tunes step sizes, then samples."""
        sweep = float(problem.num_examples * self.num_chains)  # gradient evaluations of one step of all chains
        announce(problem, run, sweep)
        root = math.sqrt(problem.temperature)
        length = self.trajectory_length or 0.5 * math.pi * (1.0 if self.mass == "diagonal" else root)
        aims = Aims(
            self.step_size or FIRST_STEP * root,
            self.target_acceptance,
            step=self.step_size is None,
            masses=self.mass == "diagonal",
        )
        wanted = Trajectories(length, aims, plan.num_draws, plan.reserve)
        found = sample(kernel_of(problem), run, theta, transition, wanted, sweep)
        return Sampled(found.trace, {"step_size": found.step_size.tolist(), "leapfrog_steps": found.mean_steps})
