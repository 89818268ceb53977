"""Monte Carlo dropout (Gal & Ghahramani, ICML 2016).

A network trained with dropout is an approximate posterior over its weights; a draw is a set of masks, one number per
feature or channel of each dropout layer,

    m ~ Bernoulli(1 − rate) / (1 − rate),        p(y | x) = (1/S) Σ_s p(y | f(x; θ, m_s)).                      (1)

Training draws masks for every example. The S masks of (1) are drawn once and kept: a draw is one function, the same at
every call and for every input. Networks without dropout layers get them after their activations; on maps, masks drop
whole filters. The "improved" MC dropout of Uncertainty Baselines (Nado et al. 2021) has dropout after every layer
and every example of a batch several times, under different masks: `everywhere` and `repeats`.

Cost: R gradients of the batch per step, where examples come R times; S forward passes to predict. Not here:
a learned rate, masks over positions, dropout inside torch's fused attention and recurrent layers (it trains, but is not
drawn).
"""

from dataclasses import dataclass

import torch

from bayesify.engine.optimise import Schedule, optimise
from bayesify.engine.run import Run
from bayesify.methods.base import Exactness, Method, MethodInfo, Range, require, require_positive
from bayesify.model.dropout import fixed_layers, has_dropout
from bayesify.model.network import Buffers, Mode, Network
from bayesify.model.problem import Problem
from bayesify.model.transform import with_transform
from bayesify.posterior.base import Particles, Posterior
from bayesify.posterior.draws import Draws


@dataclass(frozen=True)
class MCDropout(Method):
    """Dropout kept on when predicting.

    Attributes:
        rate: the probability of dropping, where dropout has to be added; a network's own layers keep theirs.
        everywhere: dropout after every layer but the last, in the place of the network's own.
        repeats: R, how often an example comes in its batch, each time with masks of its own.
        num_samples: S in (1), masks kept.
        learning_rate: Adam's, at the start of the cosine.
        batch_size: examples per step.
    """

    rate: float = 0.02
    everywhere: bool = False
    repeats: int = 1
    num_samples: int = 100
    learning_rate: float = 1e-2
    batch_size: int = 64

    info = MethodInfo(
        name="mc_dropout",
        family="variational",
        exactness=Exactness.NOT_A_POSTERIOR,
        reference="Gal & Ghahramani, ICML 2016",
        summary="dropout kept on when predicting",
        bias="the spread is set by the rate, not by the data: 96–100% too narrow on linear regression",
        uses_validation=True,
        search_space={
            "rate": Range(0.01, 0.5, log=True),
            "learning_rate": Range(1e-3, 3e-2, log=True),
            "batch_size": Range(16, 256, log=True, integer=True),
        },
    )

    def __post_init__(self) -> None:
        require(0 < self.rate < 1, self, "rate", "between 0 and 1")
        require_positive(self, "repeats", "num_samples", "learning_rate", "batch_size")

    @property
    def num_particles(self) -> int:
        """One: masks share the weights."""
        return 1

    @property
    def num_predictions(self) -> int:
        """S masks."""
        return self.num_samples

    def fit(self, problem: Problem, run: Run) -> Posterior:
        """Trains with dropout, unless a pretrained network was, then draws the masks."""
        trained = problem.pretrained and has_dropout(problem.network.module) and not self.everywhere
        kind = "dropout_everywhere" if self.everywhere else "dropout"
        problem = with_transform(problem, **{kind: self.rate})
        phase = run.phase("masks", cost=0.0)
        sizes = mask_sizes(problem)
        theta = problem.initial()[None]
        if trained:
            run.notes["unspent"] = "a pretrained network with dropout layers needs no training"
        else:
            # Dropout and batch statistics must be on, also when training starts from a pretrained model's weights.
            start = theta if problem.pretrained else None
            problem = problem.with_changes(pretrained=False)
            theta = self._train(problem, run, start)
        buffers = problem.buffers(theta)
        particles = {name: value.expand(self.num_samples, *value.shape[1:]) for name, value in buffers.items()}
        particles |= draw_masks(problem.network, sizes, self.num_samples, phase.rng)
        return Draws(problem.model, Particles(theta.expand(self.num_samples, -1), particles))

    def _train(self, problem: Problem, run: Run, start: torch.Tensor | None) -> torch.Tensor:
        phase = run.phase("train", reserve=problem.statistics_cost(1))
        theta = problem.random(1, phase.rng) if start is None else start
        return optimise(problem, phase, theta, Schedule(self.learning_rate, self.batch_size, repeats=self.repeats))


def mask_sizes(problem: Problem) -> dict[str, int]:
    """How many features each dropout layer sees, by one forward pass of one example."""
    row = problem.data.select(slice(0, 1))
    with torch.no_grad():
        buffers = {name: value[0] for name, value in problem.network.buffers(1).items()}
        problem.network(problem.network.initial, buffers, row.inputs, Mode.PREDICT)
    problem.meter.forward(1)
    return {name: owner.num_features for name, owner in fixed_layers(problem.network).items()}


def draw_masks(network: Network, sizes: dict[str, int], num_samples: int, rng: torch.Generator) -> Buffers:
    """Masks (1) for each layer, {name: (S, features)}."""
    masks = {}
    for name, owner in fixed_layers(network).items():
        keep = 1 - owner.p
        uniform = torch.rand(num_samples, sizes[name], generator=rng, device=network.device, dtype=network.dtype)
        masks[name] = (uniform < keep) / keep
    return {name: mask.to(network.dtype) for name, mask in masks.items()}
