"""Laplace's approximation with the Gauss–Newton matrix (MacKay 1992; Daxberger et al., NeurIPS 2021).

Around the mode θ* of the posterior, found as by `map` (or given: `pretrained=True`),

    p(θ | D) ≈ N(θ*, T (H + P)⁻¹),      H = Σ_n J_nᵀ Λ_n J_n,                                                   (1)

with Λ the Fisher information of p(y | f), P the prior's precision and T the temperature. H is kept in full, by
Kronecker factors per layer, or as its diagonal. Predictions are those of the network linearised at θ* (Immer et al.
2021), for which (1) is exact under Gaussian noise; `linearised=False` puts samples of (1) into the network itself.

The evidence of (1), of the untempered model, is maximised over one factor α on P and, where Gaussian noise is learned,
one on its variance, s (`curvature.evidence`). The mode of the linearised model moves with them: θ* moves along if the
true log likelihood then changes as H promises, which in a linear network it does. If not, θ* stays, the noise is that
of its residuals, and the evidence at a fixed θ* gives α.

Cost: training, then per example C gradient evaluations (C − 1 for classes; more than 20 outputs: 10 random ones) and,
for tuning, 1⅓. The budget covers both. Not here: the likelihood's own parameters are kept at one
value, not integrated over.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from bayesify.curvature.evidence import (
    Quadratic,
    Tuned,
    at_bound,
    effective_parameters,
    log_likelihood,
    maximise_fixed,
    maximise_moving,
    step,
    untuned,
)
from bayesify.curvature.fisher import Vectors, rank_of
from bayesify.curvature.ggn import Expansion, expand_diagonal, expand_full
from bayesify.curvature.kron import expand_kronecker
from bayesify.curvature.layers import CHECK_COST
from bayesify.curvature.noise import needs_noise, residuals, with_fitted_noise, with_noise_factor
from bayesify.curvature.per_output import expand_per_output
from bayesify.engine.budget import FORWARD_COST
from bayesify.engine.optimise import Schedule, optimise
from bayesify.engine.run import Run
from bayesify.errors import BudgetError, MethodError
from bayesify.methods.base import Exactness, Method, MethodInfo, Range, require, require_positive
from bayesify.model.likelihoods import Gaussian
from bayesify.model.network import Buffers
from bayesify.model.priors import Normal
from bayesify.model.problem import Problem
from bayesify.posterior.base import Posterior
from bayesify.posterior.gaussian import Gaussian as GaussianPosterior
from bayesify.posterior.linearised import DEFAULT_SAMPLES, Linearised

EXPANSIONS = {"kron": expand_kronecker, "diag": expand_diagonal, "full": expand_full, "per_output": expand_per_output}
MAX_OUTPUTS, RANDOM_VECTORS = 20, 10
"""Up to so many outputs H is exact; beyond, so many random vectors per example stand in for them."""
TRUST = 0.25
"""θ* moves if the rise of the log likelihood is what H promises up to this share of H's own part in it: the usual test
of a trust region (Nocedal & Wright 2006, section 4.1) on the part that is not known to be exact."""
SLACK = 0.01
"""Nats by which the rise may miss in any case: that little does not matter, and float32 misses by as much."""
SECONDS_FOR_TRAINING = 0.8
"""Share of a budget of seconds, whose rate is not known beforehand."""


@dataclass(frozen=True)
class Laplace(Method):
    """A Gaussian around the mode, with the curvature of the log posterior as its precision.

    Attributes:
        structure: 'kron' (per layer), 'diag', 'full' (P × P: small networks, or part of one), or 'per_output' (for a
            last layer: a full block for each of its outputs).
        prior_precision: 'evidence' tunes one factor on the prior's precisions (and learned Gaussian noise); 'fixed'
            keeps the prior given to `fit`; a number is the precision of every parameter, in training too.
        linearised: predict with the linearised network (recommended) or with sampled weights.
        learning_rate: Adam's, at the start of the cosine.
        batch_size: examples per training step.
        epochs: train at most this long; None trains for all that the curvature leaves of the budget.
        num_samples: functions drawn per linearised prediction; under Gaussian noise it is a closed form.
        fisher_samples: random vectors per example in place of all outputs; None is exact up to 20 outputs, then 10.
    """

    structure: str = "kron"
    prior_precision: str | float = "evidence"
    linearised: bool = True
    learning_rate: float = 1e-2
    batch_size: int = 64
    epochs: float | None = None
    num_samples: int = DEFAULT_SAMPLES
    fisher_samples: int | None = None

    info = MethodInfo(
        name="laplace",
        family="gaussian",
        exactness=Exactness.APPROXIMATE,
        reference="MacKay 1992; Immer et al., AISTATS 2021; Daxberger et al., NeurIPS 2021",
        summary="Gaussian at the mode, precision from the Gauss–Newton matrix",
        bias="exact for linear networks under Gaussian noise; otherwise one mode, and no correlation between layers "
        "(kron) or parameters (diag)",
        uses_validation=True,
        post_hoc=True,
        search_space={
            "learning_rate": Range(1e-3, 3e-2, log=True),
            "batch_size": Range(16, 256, log=True, integer=True),
        },
    )

    def __post_init__(self) -> None:
        require(self.structure in EXPANSIONS, self, "structure", f"one of {', '.join(EXPANSIONS)}")
        given = self.prior_precision
        named = given in ("evidence", "fixed")
        number = not isinstance(given, (str, bool)) and given > 0 and math.isfinite(given)
        require(named or number, self, "prior_precision", "'evidence', 'fixed' or a positive number")
        require_positive(self, "learning_rate", "batch_size", "num_samples", optional=("epochs", "fisher_samples"))

    @property
    def num_particles(self) -> int:
        """One."""
        return 1

    @property
    def num_predictions(self) -> int:
        """The functions of a linearised prediction."""
        return self.num_samples

    def memory(self, problem: Problem) -> float:
        """Vectors, and of every matrix that is formed the sum, its eigenvectors, their workspace and a copy."""
        sizes: list[int] = []
        if self.structure == "full":
            sizes = [problem.num_network_parameters]
        if self.structure == "per_output":
            slots = [slot for slot in problem.network.layout.slots if slot.role == "weight"]
            sizes = [slot.fan_in + 1 for slot in slots for _ in range(slot.shape[0])]
        if self.structure == "kron":
            slots = [slot for slot in problem.network.layout.slots if slot.role == "weight"]
            sizes = [size for slot in slots for size in (slot.shape[0], slot.fan_in + 1)]
        return 8.0 * (16 * problem.num_parameters + 5 * sum(size**2 for size in sizes))

    def training(self, problem: Problem, limit: float) -> float:
        """At most `epochs`."""
        return limit if self.epochs is None else min(limit, self.epochs * problem.num_examples)

    def fit(self, problem: Problem, run: Run) -> Posterior:
        """Trains, expands to second order, tunes."""
        if not isinstance(self.prior_precision, str):
            problem = problem.with_changes(prior=Normal(scale=self.prior_precision**-0.5))
        scale = _prior_scale(problem)
        vectors = self._vectors(problem)
        theta = self._mode(problem, run, vectors)
        batched = problem.buffers(theta[None])
        buffers = {name: value[0] for name, value in batched.items()}
        rng = run.phase("curvature").rng
        expansion = EXPANSIONS[self.structure](problem, theta, buffers, scale, vectors, rng)
        quadratic = _quadratic(problem, theta, expansion, scale)
        fitted = Fitted(theta, untuned(quadratic), moved=False)
        if vectors.gradient:
            fitted = _tune(problem, theta, batched, expansion, quadratic, scale)
        _report(problem, run, vectors, quadratic, fitted)
        variance = problem.temperature / (quadratic.eigenvalues / fitted.tuned.noise + fitted.tuned.alpha)
        covariance = expansion.spectrum.covariance(scale, variance)
        if self.linearised:
            return Linearised(problem.model, fitted.theta, covariance, batched, self.num_samples)
        return GaussianPosterior(problem.model, fitted.theta, covariance, batched)

    def post_hoc_cost(self, problem: Problem) -> float:
        """Once the mode is known."""
        return self._curvature_cost(problem, self._vectors(problem))

    def _vectors(self, problem: Problem) -> Vectors:
        """What is computed for every example; counts the outputs of one, metered."""
        initial = problem.initial()
        outputs = problem.outputs(initial[None], problem.data.select(slice(0, 1)).inputs, problem.network.buffers(1))[0]
        problem.likelihood.fisher(outputs, problem.model.split(initial)[1])  # a likelihood that has none says so here
        num_outputs, tuning = outputs.shape[-1], self.prior_precision == "evidence"
        if self.fisher_samples is None and num_outputs <= MAX_OUTPUTS:
            return Vectors(num_outputs, rank_of(problem.likelihood, num_outputs), True, tuning)
        return Vectors(num_outputs, self.fisher_samples or RANDOM_VECTORS, False, tuning)

    def _curvature_cost(self, problem: Problem, vectors: Vectors) -> float:
        """Gradient evaluations: rows of H and the gradient, the check of a moved mode, a pretrained model's noise."""
        forward = float(vectors.gradient)
        if problem.pretrained and needs_noise(problem):
            forward += 1
        check = 0 if self.structure == "full" else CHECK_COST
        rows = FORWARD_COST if self.structure == "per_output" else vectors.per_example
        return problem.num_examples * (rows + FORWARD_COST * forward) + check

    def _mode(self, problem: Problem, run: Run, vectors: Vectors) -> Tensor:
        """θ* (P,), leaving the cost of what follows."""
        reserve = self._curvature_cost(problem, vectors) + problem.statistics_cost(1)
        if not run.affords(reserve):
            raise BudgetError(
                f"laplace needs {reserve:.0f} gradient evaluations for its curvature but the budget has "
                f"{run.remaining:.0f}, training included: raise the budget, or take fewer with fisher_samples=1 or "
                "prior_precision='fixed'."
            )
        if problem.pretrained:
            run.notes["unspent"] = "a pretrained model is not trained further"
            return with_fitted_noise(problem, problem.initial())
        room = run.remaining - reserve
        own = room if self.epochs is None else min(room, self.epochs * problem.num_examples)
        if room - own > 0.02 * run.limit:
            run.notes["unspent"] = f"trains for {self.epochs:g} epochs by definition"
        phase = run.phase("map", SECONDS_FOR_TRAINING) if math.isinf(own) else run.phase("map", cost=own)
        return optimise(problem, phase, problem.start(1, phase.rng), Schedule(self.learning_rate, self.batch_size))[0]


class Fitted(NamedTuple):
    """The mode and the tuned values."""

    theta: Tensor  # (P,)
    tuned: Tuned
    moved: bool


def _prior_scale(problem: Problem) -> Tensor:
    precision = problem.prior.precision()
    if not bool((precision > 0).all()):
        raise MethodError(
            "laplace needs a proper prior, because H alone need not be invertible, but the prior is flat: use "
            "priors.Normal(), or give prior_precision a number."
        )
    return precision.rsqrt()


def _quadratic(problem: Problem, theta: Tensor, expansion: Expansion, scale: Tensor) -> Quadratic:
    network = problem.model.split(theta)[0]
    spectrum = expansion.spectrum
    position = spectrum.into(((network - problem.prior.loc) / scale).double())
    gradient = torch.zeros_like(position)
    if expansion.gradient is not None:
        gradient = spectrum.into(expansion.gradient * scale.double())
    found = residuals(problem, theta, float(expansion.log_likelihood))
    return Quadratic(expansion.log_likelihood, spectrum.eigenvalues, position, gradient, found)


def _tune(
    problem: Problem, theta: Tensor, buffers: Buffers, expansion: Expansion, quadratic: Quadratic, scale: Tensor
) -> Fitted:
    """The best α and s, with the mode they imply where that mode can be trusted."""
    tuned = maximise_moving(quadratic)
    way = step(quadratic, tuned)
    moved = theta.clone()
    moved[: len(scale)] += scale * expansion.spectrum.out_of(way.change).to(theta)
    moved = with_noise_factor(problem, moved, tuned.noise)
    before = float(log_likelihood(quadratic, torch.tensor(tuned.noise, dtype=torch.float64).log()))
    rise = float(problem.log_likelihood(moved[None], problem.data, buffers)) - before
    if not at_bound(tuned) and abs(rise - way.rise) <= TRUST * way.curvature + SLACK:
        return Fitted(moved, tuned, moved=True)
    tuned = maximise_fixed(quadratic)
    return Fitted(with_noise_factor(problem, theta, tuned.noise), tuned, moved=False)


def _report(problem: Problem, run: Run, vectors: Vectors, quadratic: Quadratic, fitted: Fitted) -> None:
    """What was found, in `posterior.diagnostics`."""
    notes, tuned = run.notes, fitted.tuned
    notes["log_evidence"] = tuned.log_evidence
    notes["effective_parameters"] = effective_parameters(quadratic, tuned)
    if isinstance(problem.likelihood, Gaussian):
        notes["noise"] = problem.likelihood.noise(problem.model.split(fitted.theta)[1]).tolist()
    if not vectors.exact:
        notes["fisher_samples"] = vectors.num_fisher
    if not vectors.gradient:
        return
    notes["prior_precision_factor"] = tuned.alpha
    notes["mode_moved"] = fitted.moved
    if at_bound(tuned):
        notes.setdefault("warnings", []).append(
            f"the evidence prefers a prior precision {tuned.alpha:.2g} times the given one, the edge of what is "
            "searched: the data do not determine it; use prior_precision='fixed'."
        )
