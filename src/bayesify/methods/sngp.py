"""Spectral-normalised neural Gaussian process (Liu, Lin, Padhy, Tran, Bedrax-Weiss & Lakshminarayanan, NeurIPS 2020).

The last layer becomes a Gaussian process on random Fourier features φ of the hidden ones (`model.random_features`), and
hidden weights are bounded in spectral norm (`model.spectral_norm`), which with residual connections keeps inputs that
differ apart. All is trained to the mode; then β, the weights of φ, get Laplace's posterior, for output c

    Σ_c⁻¹ = P + Σ_n Λ_n,cc φ_n φ_nᵀ,                                                                            (1)

(the paper's equation 9), Λ_n the Fisher information of the outputs: p (1 − p) for classes, 1/noise variance for
numbers, where (1) is exact. That takes one pass over all the data at the end, so that nothing is counted twice.

Functions are drawn from N(β̂, Σ) in closed form: one forward pass for all of them. Cost: one gradient of the batch per
step, one pass, and C · D³ to invert. Not here: the mean-field rule for the softmax, which draws make unnecessary.
"""

import math
from dataclasses import dataclass

from bayesify.engine.optimise import Schedule, optimise
from bayesify.engine.run import Run
from bayesify.methods.base import SECONDS_FOR_TRAINING, Exactness, Method, MethodInfo, Range, require, require_positive
from bayesify.methods.laplace import Laplace
from bayesify.model.problem import Problem
from bayesify.model.transform import with_transform
from bayesify.posterior.base import Posterior
from bayesify.posterior.linearised import DEFAULT_SAMPLES


@dataclass(frozen=True)
class SNGP(Method):
    """A network with bounded hidden layers and a Gaussian process for its last.

    Attributes:
        num_features: D, random features; the Gaussian process is exact as D grows.
        length_scale: of the kernel, in units of √(width of the last hidden layer).
        spectral_bound: c, the largest factor by which a hidden layer may stretch distances; None leaves layers free.
        prior_precision: 'fixed' keeps the prior given to `fit`, as the paper; 'evidence' tunes a factor on it.
        learning_rate: Adam's, at the start of the cosine.
        batch_size: examples per step.
        num_samples: functions drawn per prediction; under Gaussian noise it is a closed form.
        features_seed: of the random features.
    """

    num_features: int = 512
    length_scale: float = 2.0
    spectral_bound: float | None = 6.0
    prior_precision: str = "fixed"
    learning_rate: float = 1e-2
    batch_size: int = 64
    num_samples: int = DEFAULT_SAMPLES
    features_seed: int = 0

    info = MethodInfo(
        name="sngp",
        family="last layer",
        exactness=Exactness.NOT_A_POSTERIOR,
        reference="Liu et al., NeurIPS 2020",
        summary="bounded hidden layers and a Gaussian process for the last",
        bias="of another network, whose last layer is a Gaussian process; its hidden layers are fixed",
        uses_validation=True,
        search_space={
            "learning_rate": Range(1e-3, 3e-2, log=True),
            "batch_size": Range(16, 256, log=True, integer=True),
            "length_scale": Range(0.2, 5.0, log=True),
        },
    )

    def __post_init__(self) -> None:
        require_positive(self, "num_features", "length_scale", "learning_rate", "batch_size", "num_samples")
        if self.spectral_bound is not None:
            require_positive(self, "spectral_bound")
        require(self.prior_precision in ("fixed", "evidence"), self, "prior_precision", "'fixed' or 'evidence'")

    @property
    def num_particles(self) -> int:
        """One."""
        return 1

    @property
    def num_predictions(self) -> int:
        """One forward pass, whatever the number of functions."""
        return 1

    def memory(self, problem: Problem) -> float:
        """Training, or the blocks of (1) with their eigenvectors and workspace."""
        training = 8.0 * problem.num_parameters * problem.network.initial.element_size()
        return max(training, self._head.memory(self._planned(problem)))

    @property
    def _head(self) -> Laplace:
        return Laplace("per_output", self.prior_precision, num_samples=self.num_samples)

    def fit(self, problem: Problem, run: Run) -> Posterior:
        """Trains everything, then (1)."""
        problem = self._changed(problem)
        reserve = self._head.post_hoc_cost(self._part(problem)) + problem.statistics_cost(1)
        share = SECONDS_FOR_TRAINING if math.isinf(run.remaining) else 1.0
        phase = run.phase("train", share, reserve=reserve)
        # The new last layer is untrained, also where the rest came pretrained.
        start = problem.start(1, phase.rng)
        problem = problem.with_changes(pretrained=False)
        theta = optimise(problem, phase, start, Schedule(self.learning_rate, self.batch_size))
        part = problem.restricted(theta[0], problem.buffers(theta), head_names(problem))
        posterior = self._head.fit(part, run.phase("head"))
        run.notes.pop("unspent", None)  # the head was found trained, but the budget went into that
        return posterior

    def _changed(self, problem: Problem) -> Problem:
        features = {"num_features": self.num_features, "length_scale": self.length_scale, "seed": self.features_seed}
        changes = {} if self.spectral_bound is None else {"spectral_norm": self.spectral_bound}
        return with_transform(problem, **changes, random_features=features)

    def _planned(self, problem: Problem) -> Problem:
        return self._part(self._changed(problem))

    def _part(self, problem: Problem) -> Problem:
        return problem.restricted(problem.initial(), problem.network.buffers(1), head_names(problem))


def head_names(problem: Problem) -> set[str]:
    """β's parameters."""
    return {problem.network.layout.names[-1]}
