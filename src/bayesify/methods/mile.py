"""MILE: microcanonical Langevin ensembles (Sommer, Robnik, Nozadze, Seljak & Rügamer, ICLR 2025).

A deep ensemble is trained with early stopping on held-out data; from each member a chain of microcanonical Langevin
dynamics (`methods.mclmc`) samples the posterior around it, and all draws of all chains are averaged. The chains do not
visit each other's modes: weights of modes are not the posterior's, but there are as many modes as members.

Steps are longer than mclmc's: their energy changes have a mean square per dimension that falls from 0.5 to 0.1 during
the tuning. Of the steps 50,000 tune (0.8 for ε, 0.1 for variances, 0.1 for autocorrelation) and 10,000 sample; budgets
divide what is left after the training in this proportion. `warmup_steps` and `num_steps` set numbers of steps instead,
and num_steps / num_draws is the thinning.

The data that early stopping held out belong to the posterior as well: chains sample given all of them. Not here:
minibatches, several chains per member. Cost: two gradients of all the data per chain and step.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from bayesify.data import Data
from bayesify.engine.optimise import Schedule
from bayesify.engine.pacing import Aims
from bayesify.engine.run import Run
from bayesify.methods.base import Exactness, MethodInfo, require, require_positive
from bayesify.methods.mclmc import FIRST_STEP, sample_microcanonically
from bayesify.methods.sampler import Sampled, Sampler
from bayesify.model.problem import Problem
from bayesify.posterior.mixing import Plan

WARMUP_STEPS, NUM_STEPS = 50_000, 10_000
"""The paper's, whose proportion divides budgets."""
SHARES = (0.8, 0.1, 0.1)
MEMORY = 100.0


@dataclass(frozen=True)
class MILE(Sampler):
    """A deep ensemble whose members are sampled around by microcanonical Langevin dynamics.

    Attributes:
        num_chains: members of the ensemble, and chains.
        num_draws: kept per chain, spread evenly over the sampling.
        warm_start_epochs: training of each member, at most and never more than 0.4 of the budget.
        learning_rate: Adam's in that training.
        batch_size: its batches.
        patience: training stops after this many of its 20 validation checks without any member improving.
        warmup_steps: steps that tune, at most; None takes 5/6 of the budget left after training.
        num_steps: steps of the sampling, at most; None takes what is left.
        energy_variance_start: mean square of a step's energy change per dimension, when tuning begins.
        energy_variance_end: the same when it ends.
    """

    num_chains: int = 10
    warm_start_epochs: float = 500.0
    learning_rate: float = 1e-3
    batch_size: int = 32
    patience: int = 6
    warmup_steps: int | None = None
    num_steps: int | None = None
    energy_variance_start: float = 0.5
    energy_variance_end: float = 0.1

    info = MethodInfo(
        name="mile",
        family="mcmc",
        exactness=Exactness.APPROXIMATE,
        reference="Sommer et al., ICLR 2025",
        summary="a deep ensemble, each member sampled around by long unadjusted steps",
        bias="of long steps, and each chain stays near its member: modes are not weighted by the posterior",
        uses_validation=True,
    )

    def check(self) -> None:  # noqa: D102
        require_positive(self, "patience", "energy_variance_start", "energy_variance_end")
        for field in ("warmup_steps", "num_steps"):
            value = getattr(self, field)
            require(value is None or (isinstance(value, int) and value > 0), self, field, "a positive integer, or None")

    @property
    def schedule(self) -> Schedule:
        """With early stopping."""
        return Schedule(self.learning_rate, self.batch_size, patience=self.patience)

    def sample(self, problem: Problem, run: Run, theta: Tensor, plan: Plan) -> Sampled:
        """Tunes and samples, given all the data."""
        tuning, sampling = self.warmup_steps or WARMUP_STEPS, self.num_steps or NUM_STEPS
        aims = Aims(
            FIRST_STEP * math.sqrt(problem.temperature),
            energy_variance=(self.energy_variance_start, self.energy_variance_end),
            shares=SHARES,
            memory=MEMORY,
        )
        found = sample_microcanonically(
            self,
            _with_all_data(problem),
            run,
            theta,
            plan,
            aims,
            tuning_share=tuning / (tuning + sampling),
            longest_tuning=self.warmup_steps or math.inf,
            longest_sampling=self.num_steps or math.inf,
        )
        if 0.02 * run.limit < run.remaining - plan.reserve < math.inf:
            run.notes["unspent"] = "early stopping or warmup_steps and num_steps needed less than the budget"
        return found


def _with_all_data(problem: Problem) -> Problem:
    """The same problem, given its training and its validation data."""
    if problem.validation is None:
        return problem
    pair = problem.data, problem.validation
    inputs = pytree.tree_map(lambda *leaves: torch.cat(leaves), *(part.inputs for part in pair))
    data = Data(inputs, torch.cat([part.targets for part in pair]))
    return problem.with_changes(data=data, validation=None)
