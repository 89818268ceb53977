"""Deep ensembles (Lakshminarayanan, Pritzel & Blundell, NeurIPS 2017).

K networks from independent initialisations, each trained on its own order of all the data to the mode of the posterior;
their predictive distributions are averaged,

    p(y | x) = (1/K) Σ_k p(y | f(x; θ_k)).                                                                      (1)

All members of a round are trained as one batched model. With `epochs` set, more budget means more members; so does
whatever early stopping leaves over. Cost: K gradients of the batch per step. Not here: adversarial training (the
paper's optional step), bootstrapped data.
"""

from dataclasses import dataclass

import torch

from bayesify.methods.base import Exactness, MethodInfo, Range
from bayesify.methods.ensemble import Ensemble
from bayesify.model.problem import Individual, Problem


@dataclass(frozen=True)
class DeepEnsemble(Ensemble):
    """An average of independently trained networks."""

    info = MethodInfo(
        name="deep_ensemble",
        family="ensemble",
        exactness=Exactness.NOT_A_POSTERIOR,
        reference="Lakshminarayanan et al., NeurIPS 2017",
        summary="average of independently trained networks",
        bias="modes only: no spread within a mode, weights of modes not the posterior's",
        uses_validation=True,
        search_space={
            "learning_rate": Range(1e-3, 3e-2, log=True),
            "batch_size": Range(16, 256, log=True, integer=True),
        },
    )

    def check(self) -> None:  # noqa: D102
        return

    def prepared(self, problem: Problem) -> Problem:
        """As it is."""
        return problem

    def individual(self, problem: Problem, num_members: int, rng: torch.Generator) -> Individual | None:
        """Nothing: members differ by their starts and by the order of their data."""
        return None
