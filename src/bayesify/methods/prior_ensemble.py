"""Ensembles with randomised prior functions (Osband, Aslanides & Cassirer, NeurIPS 2018).

Member k is trained to the mode with an untrained network of the same form added to it,

    f_k(x) = f(x; θ_k) + β f(x; w_k),        w_k ~ N(μ, T S²) from the prior N(μ, S²),                           (1)

and, for targets with Gaussian noise of a known σ, on targets of its own,

    y_i + e_ki,        e_ki ~ N(0, T σ²).                                                                        (2)

Where the data say nothing, θ_k stays small and members differ as prior functions do. For a linear model with β = 1,
prior mean 0 and known σ, θ_k + w_k is exactly a draw from the posterior at temperature T if training ends at the
minimum ("sample, then optimise"; their Lemma 3). A σ that is learned would take (2) for noise of the data and grow
without end, and other targets cannot be moved: for them the spread is of the prior functions only, which is too
narrow. `bootstrap` gives every member N examples drawn with replacement, instead of (2).

Cost: per step and member one gradient of the batch and one forward pass; predictions cost two forward passes. Not here:
prior functions of another form than the network.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from bayesify.methods.base import Exactness, MethodInfo, Range, require_positive
from bayesify.methods.ensemble import Ensemble
from bayesify.model.likelihoods import Gaussian
from bayesify.model.problem import Individual, Problem
from bayesify.model.transform import with_transform

WEIGHTS = "weights"
"""The index of `PriorFunction`, which stands around the whole network."""


@dataclass(frozen=True)
class PriorEnsemble(Ensemble):
    """Networks trained on top of draws from the prior.

    Attributes:
        prior_scale: β in (1). 1 is the prior's own functions, which are large for a network with the default prior: on
            small tables they are not unlearned where data are.
        bootstrap: whether members learn from resampled data; targets are then not moved.
    """

    prior_scale: float = 0.3
    bootstrap: bool = False

    info = MethodInfo(
        name="prior_ensemble",
        family="ensemble",
        exactness=Exactness.NOT_A_POSTERIOR,
        reference="Osband et al., NeurIPS 2018",
        summary="networks trained on top of untrained ones, drawn from the prior",
        bias="exact for linear models with known Gaussian noise and prior_scale 1, trained to the end; targets of "
        "other likelihoods cannot be moved: 97% too narrow on logistic regression (88% with prior_scale 1)",
        uses_validation=True,
        search_space={
            "prior_scale": Range(0.1, 3.0, log=True),
            "learning_rate": Range(1e-3, 3e-2, log=True),
            "batch_size": Range(16, 256, log=True, integer=True),
        },
    )

    def check(self) -> None:  # noqa: D102
        require_positive(self, "prior_scale")

    @property
    def num_predictions(self) -> int:
        """Every member is two networks."""
        return 2 * self.num_members

    def prepared(self, problem: Problem) -> Problem:
        """With a prior function, still of no weights."""
        return with_transform(problem, prior_function=self.prior_scale)

    def individual(self, problem: Problem, num_members: int, rng: torch.Generator) -> Individual:
        """Prior functions (1), and data that are resampled or moved (2)."""
        indices = {WEIGHTS: prior_weights(problem, num_members, rng)}
        shape = (num_members, problem.num_examples)
        device = problem.network.device
        if self.bootstrap:
            return Individual(indices, torch.randint(problem.num_examples, shape, generator=rng, device=device))
        if not moves_targets(problem):
            return Individual(indices)
        rows = torch.arange(problem.num_examples, device=device).expand(shape)
        return Individual(indices, rows, moved_targets(problem, num_members, rng))


def prior_weights(problem: Problem, num_members: int, rng: torch.Generator) -> Tensor:
    """Draws of w in (1), (K, P_network)."""
    prior = problem.prior
    drawn = prior.sample(num_members, rng)[:, : problem.num_network_parameters]
    return prior.loc + math.sqrt(problem.temperature) * (drawn - prior.loc)


def moves_targets(problem: Problem) -> bool:
    """Whether targets have Gaussian noise of a known scale."""
    return isinstance(problem.likelihood, Gaussian) and problem.likelihood.scale is not None


def moved_targets(problem: Problem, num_members: int, rng: torch.Generator) -> Tensor:
    """Targets (2), (K, N, ...)."""
    assert isinstance(problem.likelihood, Gaussian)
    assert problem.likelihood.scale is not None
    targets = problem.data.targets
    noise = torch.randn(num_members, *targets.shape, generator=rng, dtype=targets.dtype, device=targets.device)
    return targets + math.sqrt(problem.temperature) * problem.likelihood.scale * noise
