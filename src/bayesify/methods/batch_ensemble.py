"""BatchEnsemble (Wen, Tran & Ba, ICLR 2020).

M members share the weights of every linear layer and convolution, up to factors of rank one and biases of their own,

    W_k = W ∘ (r_k s_kᵀ),        p(y | x) = (1/M) Σ_k p(y | f(x; W_k, b_k)),                                    (1)

with r, s ~ N(1, init_scale²) at the start, which are drawn towards 1 by the prior. All members are trained as one
network: every example of a batch belongs to one member, drawn anew each time it comes.

Cost: one gradient of the batch per step, whatever M; M forward passes to predict. Not here: factors inside attention
and recurrent layers, which members share.
"""

from dataclasses import dataclass

import torch

from bayesify.engine.optimise import Schedule, optimise
from bayesify.engine.run import Run
from bayesify.methods.base import Exactness, Method, MethodInfo, Range, require, require_positive
from bayesify.model.problem import Individual, Problem
from bayesify.model.transform import with_transform
from bayesify.posterior.base import Particles, Posterior
from bayesify.posterior.draws import Draws


@dataclass(frozen=True)
class BatchEnsemble(Method):
    """Members that share their weights up to rank-one factors.

    Attributes:
        num_members: M.
        init_scale: how far factors start from 1.
        learning_rate: Adam's, at the start of the cosine.
        batch_size: examples per step, of all members together.
    """

    num_members: int = 4
    init_scale: float = 0.5
    learning_rate: float = 1e-2
    batch_size: int = 64

    info = MethodInfo(
        name="batch_ensemble",
        family="ensemble",
        exactness=Exactness.NOT_A_POSTERIOR,
        reference="Wen et al., ICLR 2020",
        summary="members that share their weights up to rank-one factors",
        bias="members differ by their starts only: 91–96% too narrow on linear and logistic regression",
        uses_validation=True,
        search_space={
            "init_scale": Range(0.1, 1.0, log=True),
            "learning_rate": Range(1e-3, 3e-2, log=True),
            "batch_size": Range(16, 256, log=True, integer=True),
        },
    )

    def __post_init__(self) -> None:
        require_positive(self, "num_members", "learning_rate", "batch_size")
        require(self.init_scale >= 0, self, "init_scale", "0 or more")

    @property
    def num_particles(self) -> int:
        """One: an example is one member's."""
        return 1

    @property
    def num_predictions(self) -> int:
        """The members."""
        return self.num_members

    def fit(self, problem: Problem, run: Run) -> Posterior:
        """Trains all members as one network, then takes them apart."""
        pretrained = problem.pretrained
        settings = {"members": self.num_members, "init_scale": self.init_scale}
        # Members are drawn where a network is in training, also when that starts from a pretrained one's weights.
        problem = with_transform(problem, rank_one=settings).with_changes(pretrained=False)
        phase = run.phase("train", reserve=problem.statistics_cost(self.num_members))
        theta = problem.random(1, phase.rng)
        if pretrained:
            theta = torch.where(_factors(problem), theta, problem.initial())
        theta = optimise(problem, phase, theta, Schedule(self.learning_rate, self.batch_size))
        theta = theta.expand(self.num_members, -1)
        members = torch.arange(self.num_members, device=theta.device)
        individual = Individual(dict.fromkeys(problem.network.indexed, members))
        return Draws(problem.model, Particles(theta, problem.with_changes(individual=individual).buffers(theta)))


def _factors(problem: Problem) -> torch.Tensor:
    """Which parameters are factors, (P,)."""
    result = torch.zeros(problem.num_parameters, dtype=torch.bool, device=problem.network.device)
    for slot in problem.network.layout.slots:
        if slot.name.endswith((".inner", ".outer")):
            result[slot.offset : slot.offset + slot.size] = True
    return result
