"""Epinets (Osband et al., "Epistemic neural networks", NeurIPS 2023).

A small network beside the last layer makes the outputs depend on an index z ~ N(0, I),

    f(x, z) = μ(x) + σ_L(sg[φ(x)], z) + β σ_P(sg[φ(x)], z),                                                     (1)

where μ is the network, φ what goes into its last layer (and x itself where it is a vector), sg stops gradients, σ_L is
learned and σ_P is not: a prior function. σ_L is a network of (φ, z) whose outputs, C × Dz, are multiplied by z;
σ_P(φ, z) = Σ_d z_d g_d(φ) / √Dz with Dz small frozen networks g_d. Every training example draws a z of its own. A draw
from the fitted epinet is one z for all inputs: one function.

Where targets have Gaussian noise of a known σ, each example i has a signal c_i ~ N(0, T σ² I / Dz) and is trained
towards y_i + c_i · z: with linear σ_L and σ_P = Σ_d z_d w_dᵀ φ / √Dz, w_d ~ N(0, T S²), the covariance of f tends to
that of Bayesian linear regression on the features as Dz grows (relative errors of √(2/Dz)). Other targets cannot be
moved, and the spread is then of the prior functions only.

Cost: one gradient of the batch per step; S forward passes to predict. A pretrained network stays as it is and only σ_L
is trained, which is charged as if gradients went through all of it. Not here: several z for one example, over which the
paper averages.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from bayesify.data import Data
from bayesify.engine.optimise import Schedule, optimise
from bayesify.engine.run import Run
from bayesify.methods.base import Exactness, Method, MethodInfo, Range, require, require_positive
from bayesify.model.epinet import place_of, with_signals
from bayesify.model.likelihoods import Gaussian
from bayesify.model.problem import Problem
from bayesify.model.transform import with_transform
from bayesify.posterior.base import Particles, Posterior
from bayesify.posterior.draws import Draws

LEARNED = "learned."
"""Where the names of σ_L's parameters start."""


@dataclass(frozen=True)
class Epinet(Method):
    """An epinet, trained with the network or after it.

    Attributes:
        index_dim: Dz in (1).
        hidden: width of the two hidden layers of σ_L; 0 leaves it linear in the features.
        prior_hidden: width of the two hidden layers of each g_d; 0 leaves them linear.
        prior_scale: β in (1).
        num_samples: z that are drawn and kept.
        learning_rate: Adam's, at the start of the cosine.
        batch_size: examples per step.
    """

    index_dim: int = 8
    hidden: int = 15
    prior_hidden: int = 5
    prior_scale: float = 1.0
    num_samples: int = 100
    learning_rate: float = 1e-2
    batch_size: int = 64

    info = MethodInfo(
        name="epinet",
        family="last layer",
        exactness=Exactness.NOT_A_POSTERIOR,
        reference="Osband et al., NeurIPS 2023",
        summary="a small network beside the last layer, with an index that makes it many functions",
        bias="exact only where all of it is linear, the noise known and index_dim large; as it is, up to 3 times too "
        "wide on linear regression, centre off by up to 7 standard deviations on logistic regression",
        uses_validation=True,
        search_space={
            "prior_scale": Range(0.1, 3.0, log=True),
            "learning_rate": Range(1e-3, 3e-2, log=True),
            "batch_size": Range(16, 256, log=True, integer=True),
        },
    )

    def __post_init__(self) -> None:
        require_positive(self, "index_dim", "prior_scale", "num_samples", "learning_rate", "batch_size")
        for field in ("hidden", "prior_hidden"):
            value = getattr(self, field)
            require(isinstance(value, int) and value >= 0, self, field, "a width, or 0 for no hidden layers")

    @property
    def num_particles(self) -> int:
        """One: indices share the weights."""
        return 1

    @property
    def num_predictions(self) -> int:
        """The kept indices."""
        return self.num_samples

    def fit(self, problem: Problem, run: Run) -> Posterior:
        """Trains (1), then draws indices."""
        phase = run.phase("indices", cost=0.0)
        problem = self.prepared(problem, phase.rng)
        trained = run.phase("train", reserve=problem.statistics_cost(1))
        theta = problem.initial()[None] if problem.pretrained else problem.random(1, trained.rng)
        learning = problem.with_changes(data=training_data(problem, self.index_dim, phase.rng))
        theta = optimise(learning, trained, theta, Schedule(self.learning_rate, self.batch_size))
        buffers = problem.buffers(theta)
        particles = {name: value.expand(self.num_samples, *value.shape[1:]) for name, value in buffers.items()}
        particles["z"] = _normal(phase.rng, problem, self.num_samples, self.index_dim)
        return Draws(problem.model, Particles(theta.expand(self.num_samples, -1), particles))

    def prepared(self, problem: Problem, rng: torch.Generator) -> Problem:
        """The problem with an epinet; a pretrained network is frozen.

        Raises:
            ModelError: the network does not end with a linear layer.
        """
        place = place_of(problem.network, problem.data.select(slice(0, 1)).inputs)
        problem.meter.forward(1)
        settings = {
            **place._asdict(),
            "index_dim": self.index_dim,
            "hidden": self.hidden,
            "prior_hidden": self.prior_hidden,
            "prior_scale": self.prior_scale * math.sqrt(problem.temperature),
            "seed": int(torch.randint(2**62, (), generator=rng, device=rng.device)),
        }
        changed = with_transform(problem, epinet=settings)
        if not problem.pretrained:
            return changed
        network = changed.network
        names = {name for name in network.layout.names if name.startswith(LEARNED)}
        return changed.with_changes(network=network.with_frozen(names, {}, {}))


def training_data(problem: Problem, index_dim: int, rng: torch.Generator) -> Data:
    """The training examples with their signals c, of width 0 where targets cannot be moved."""
    likelihood, data = problem.likelihood, problem.data
    if not isinstance(likelihood, Gaussian) or likelihood.scale is None:
        signals = problem.network.initial.new_zeros(data.num_examples, 0)
    else:
        scale = likelihood.scale * math.sqrt(problem.temperature / index_dim)
        signals = scale * _normal(rng, problem, data.num_examples, index_dim)
    return Data(with_signals(data.inputs, signals), data.targets)


def _normal(rng: torch.Generator, problem: Problem, *shape: int) -> Tensor:
    like = problem.network.initial
    return torch.randn(shape, generator=rng, dtype=like.dtype, device=like.device)
