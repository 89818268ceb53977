"""Packed ensembles (Laurent, Lafage, Tartaglione, Daniel, Martinez, Bursuc & Franchi, ICLR 2023).

M members, each a copy of the network with hidden widths times α/M, are trained side by side and averaged,

    p(y | x) = (1/M) Σ_k p(y | f(x; θ_k)),        widths of f_k = ⌈α/M · widths of f⌉,                           (1)

so that all of them together have about α²/M of the network's weights in wide hidden layers. The paper packs them into
one network of grouped convolutions; here members are particles, which are evaluated together anyway.

Cost: M gradients of the batch per step as the meter counts them, though each is of a network (α/M)² as large: FLOPs and
seconds beside it say what it took. Not here: groups within members (the paper's γ).
"""

from dataclasses import dataclass

import torch

from bayesify.methods.base import Exactness, MethodInfo, Range, require
from bayesify.methods.ensemble import Ensemble
from bayesify.model.model import explained
from bayesify.model.problem import Individual, Problem
from bayesify.model.transform import with_transform


@dataclass(frozen=True)
class PackedEnsemble(Ensemble):
    """An ensemble of narrow networks.

    Attributes:
        num_members: M, the members of a round.
        alpha: α, how much wider all members together are than the network.
    """

    num_members: int = 4
    alpha: float = 2.0

    info = MethodInfo(
        name="packed_ensemble",
        family="ensemble",
        exactness=Exactness.NOT_A_POSTERIOR,
        reference="Laurent et al., ICLR 2023",
        summary="average of independently trained narrow networks",
        bias="modes only, and of narrower networks than the given one",
        uses_validation=True,
        search_space={
            "learning_rate": Range(1e-3, 3e-2, log=True),
            "batch_size": Range(16, 256, log=True, integer=True),
        },
    )

    def check(self) -> None:  # noqa: D102
        require(0 < self.alpha <= self.num_members, self, "alpha", "positive, and at most num_members")

    def prepared(self, problem: Problem) -> Problem:
        """The narrow network, untrained whatever the given one is."""
        thin = with_transform(problem, thin=self.alpha / self.num_members).with_changes(pretrained=False)
        row = problem.data.select(slice(0, 1))
        with explained(row.inputs):  # widths were followed by registration, which a forward() need not keep to
            thin.outputs(thin.initial()[None], row.inputs, thin.network.buffers(1))
        return thin

    def individual(self, problem: Problem, num_members: int, rng: torch.Generator) -> Individual | None:
        """Nothing."""
        del problem, num_members, rng
        return None
