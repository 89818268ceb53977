"""Laplace's approximation with the Gauss–Newton matrix (MacKay 1992; Daxberger et al., NeurIPS 2021).

Around the mode θ* of the posterior, found as by `map` (or given: `pretrained=True`),

    p(θ | D) ≈ N(θ*, T (H + P)⁻¹),      H = Σ_n J_nᵀ Λ_n J_n,                                                   (1)

with Λ the Fisher information of p(y | f), P the prior's precision and T the temperature. H is kept in full, by its
leading eigenvectors (`low_rank`), by Kronecker factors per layer (`kron`; with eigenvalues measured in their basis,
`ekfac`), or as its diagonal; Λ may be replaced by scores of drawn or of observed targets (`curvature.fisher`).
Predictions are those of the network linearised at θ* (Immer et al. 2021), for which (1) is exact under Gaussian noise;
`linearised=False` puts samples of (1) into the network itself.

The evidence of (1), of the untempered model, is maximised over one factor on P, one per layer or one per parameter,
and where Gaussian noise is learned one on its variance (`curvature.tuning`): once after training, or every so many
epochs during it (`curvature.online`), so that training itself goes on under the prior that the data prefer.

Cost: training, then per example C gradient evaluations (C − 1 for classes; more than 20 outputs: 10 random ones; twice
that for `ekfac`, three times for `low_rank`) and, for tuning, 1⅓. The budget covers all. Not here: the likelihood's
own parameters are kept at one value, not integrated over.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from bayesify.curvature.ekfac import expand_ekfac
from bayesify.curvature.fisher import EMPIRICAL_FISHER, GGN, MC_FISHER, Vectors, usual_vectors
from bayesify.curvature.ggn import Expansion, expand_diagonal, expand_full
from bayesify.curvature.kron import expand_kronecker
from bayesify.curvature.layers import CHECK_COST
from bayesify.curvature.low_rank import OVERSAMPLING, PASSES, expand_low_rank
from bayesify.curvature.noise import needs_noise, with_fitted_noise
from bayesify.curvature.online import plan, train
from bayesify.curvature.per_output import expand_per_output
from bayesify.curvature.tuning import DIAGONAL, TUNED, Fitted, Landscape, at_bound, described
from bayesify.engine.budget import FORWARD_COST
from bayesify.engine.optimise import Schedule, optimise
from bayesify.engine.run import Run
from bayesify.errors import BudgetError, MethodError
from bayesify.methods.base import SECONDS_FOR_TRAINING, Exactness, Method, MethodInfo, Range, require, require_positive
from bayesify.model.likelihoods import Gaussian
from bayesify.model.network import Buffers
from bayesify.model.priors import Normal
from bayesify.model.problem import Problem
from bayesify.posterior.base import Posterior
from bayesify.posterior.gaussian import Gaussian as GaussianPosterior
from bayesify.posterior.linearised import DEFAULT_SAMPLES, PREDICTIVES, Linearised

EXPANSIONS: dict[str, Callable[..., Expansion]] = {
    "kron": expand_kronecker,
    "ekfac": expand_ekfac,
    "diag": expand_diagonal,
    "low_rank": expand_low_rank,
    "full": expand_full,
    "per_output": expand_per_output,
}
BY_LAYER = ("kron", "ekfac", "per_output")


@dataclass(frozen=True)
class Laplace(Method):
    """A Gaussian around the mode, with the curvature of the log posterior as its precision.

    Attributes:
        structure: 'kron' (per layer), 'ekfac' (the same with measured eigenvalues), 'diag', 'low_rank', 'full'
            (P × P: small networks, or part of one), or 'per_output' (for a last layer: a full block for each of its
            outputs).
        prior_precision: what is tuned by the evidence, beside learned Gaussian noise: 'evidence' one factor on the
            prior's precisions, 'layerwise' one per layer, 'diagonal' one per parameter (structures diag, low_rank and
            full); 'fixed' keeps the prior given to `fit`; a number is the precision of every parameter, in training
            too.
        linearised: predict with the linearised network (recommended) or with sampled weights.
        learning_rate: Adam's, at the start of the cosine.
        batch_size: examples per training step.
        epochs: train at most this long; None trains for all that the curvature leaves of the budget.
        num_samples: functions drawn per linearised prediction; under Gaussian noise it is a closed form.
        fisher_samples: random vectors (or drawn targets, 1 by default) per example in place of all outputs; None is
            exact up to 20 outputs, then 10.
        curvature: 'ggn', 'mc_fisher' or 'empirical_fisher', see `bayesify.curvature.fisher`.
        rank: eigenvectors kept by 'low_rank'.
        evidence_epochs: tune every so many epochs of training too, not only after it; None does not.
        predictive: of classes under the linearised network: 'sampled' functions, or the closed form 'probit'.
    """

    structure: str = "kron"
    prior_precision: str | float = "evidence"
    linearised: bool = True
    learning_rate: float = 1e-2
    batch_size: int = 64
    epochs: float | None = None
    num_samples: int = DEFAULT_SAMPLES
    fisher_samples: int | None = None
    curvature: str = GGN
    rank: int = 50
    evidence_epochs: float | None = None
    predictive: str = "sampled"

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
        for field, allowed in {
            "structure": tuple(EXPANSIONS),
            "curvature": (GGN, MC_FISHER, EMPIRICAL_FISHER),
            "predictive": PREDICTIVES,
        }.items():
            require(getattr(self, field) in allowed, self, field, f"one of {', '.join(allowed)}")
        given = self.prior_precision
        named = given in (*TUNED, "fixed")
        number = not isinstance(given, (str, bool)) and given > 0 and math.isfinite(given)
        require(named or number, self, "prior_precision", f"{', '.join(TUNED)}, fixed or a positive number")
        possible = given != DIAGONAL or self.structure not in BY_LAYER
        require(possible, self, "prior_precision", "'layerwise' where curvature is by layer; or structure='diag'")
        require(self.linearised or self.predictive != "probit", self, "predictive", "'sampled' unless linearised")
        optional = ("epochs", "fisher_samples", "evidence_epochs")
        require_positive(self, "learning_rate", "batch_size", "num_samples", "rank", optional=optional)
        online = self.evidence_epochs is None or given in TUNED[:2]
        require(online, self, "evidence_epochs", "None unless prior_precision is 'evidence' or 'layerwise'")

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
        size, numbers = problem.num_network_parameters, 0
        slots = [slot for slot in problem.network.layout.slots if slot.role == "weight"]
        if self.structure == "full":
            numbers = size**2
        elif self.structure == "per_output":
            numbers = sum(slot.shape[0] * (slot.fan_in + 1) ** 2 for slot in slots)
        elif self.structure in BY_LAYER:
            numbers = sum(slot.shape[0] ** 2 + (slot.fan_in + 1) ** 2 for slot in slots)
        elif self.structure == "low_rank":
            numbers = size * (self.rank + OVERSAMPLING)
        return 8.0 * (16 * problem.num_parameters + 5 * numbers)

    def training(self, problem: Problem, limit: float) -> float:
        """At most `epochs`."""
        return limit if self.epochs is None else min(limit, self.epochs * problem.num_examples)

    def fit(self, problem: Problem, run: Run) -> Posterior:
        """Trains, expands to second order, tunes."""
        if not isinstance(self.prior_precision, str):
            problem = problem.with_changes(prior=Normal(scale=self.prior_precision**-0.5))
        _require_proper(problem)
        vectors = self._vectors(problem)
        problem, theta = self._mode(problem, run, vectors)
        batched = problem.buffers(theta[None])
        landscape = self._landscape(problem, theta, batched, vectors, run.phase("curvature").rng)
        fitted = landscape.untuned()
        if self._how is not None:
            fitted = landscape.tune(self._how, batched)
        self._report(problem, run, vectors, fitted)
        covariance = landscape.covariance(fitted.values, problem.temperature)
        if self.linearised:
            return Linearised(problem.model, fitted.theta, covariance, batched, self.num_samples, self.predictive)
        return GaussianPosterior(problem.model, fitted.theta, covariance, batched)

    def post_hoc_cost(self, problem: Problem) -> float:
        """Once the mode is known."""
        return self._curvature_cost(problem, self._vectors(problem))

    @property
    def _how(self) -> str | None:
        """What of the prior is tuned."""
        return str(self.prior_precision) if self.prior_precision in TUNED else None

    def _landscape(
        self, problem: Problem, theta: Tensor, batched: Buffers, vectors: Vectors, rng: torch.Generator
    ) -> Landscape:
        buffers = {name: value[0] for name, value in batched.items()}
        scale = problem.prior.precision().rsqrt()
        expand = EXPANSIONS[self.structure]
        if self.structure == "low_rank":
            expand = partial(expand, rank=self.rank)
        expansion = expand(problem, theta, buffers, scale, vectors, rng)
        return Landscape(problem, theta, expansion, scale, noise_scales=self.curvature != EMPIRICAL_FISHER)

    def _vectors(self, problem: Problem) -> Vectors:
        """What is computed for every example; counts the outputs of one, metered."""
        initial = problem.initial()
        outputs = problem.outputs(initial[None], problem.data.select(slice(0, 1)).inputs, problem.network.buffers(1))[0]
        problem.likelihood.fisher(outputs, problem.model.split(initial)[1])  # a likelihood that has none says so here
        num_outputs, tuning = outputs.shape[-1], self._how is not None
        if self.curvature == EMPIRICAL_FISHER:
            return Vectors(num_outputs, 1, True, tuning, self.curvature)
        if self.curvature == MC_FISHER:
            return Vectors(num_outputs, self.fisher_samples or 1, False, tuning, self.curvature)
        return usual_vectors(problem.likelihood, num_outputs, tuning, self.fisher_samples)

    def _curvature_cost(self, problem: Problem, vectors: Vectors) -> float:
        """Gradient evaluations: rows of H and the gradient, the check of a moved mode, a pretrained model's noise."""
        forward = float(vectors.gradient)
        if problem.pretrained and needs_noise(problem):
            forward += 1
        passes, checks = 1, 1
        if self.structure == "ekfac":
            passes, checks = 2, 2
        if self.structure == "low_rank" and self.rank + OVERSAMPLING < problem.num_network_parameters:
            passes = PASSES
        if self.structure in ("full", "low_rank"):
            checks = 0
        if vectors.kind == MC_FISHER:
            forward += passes  # at most: where outputs are known before targets are drawn, none
        products = float(passes * vectors.num_fisher + vectors.gradient)
        if self.structure == "per_output":
            products = FORWARD_COST
        return problem.num_examples * (products + FORWARD_COST * forward) + checks * CHECK_COST

    def _mode(self, problem: Problem, run: Run, vectors: Vectors) -> tuple[Problem, Tensor]:
        """The problem with its prior, and θ* (P,), leaving the cost of what follows."""
        cost = self._curvature_cost(problem, vectors) + problem.statistics_cost(1)
        if not run.affords(cost):
            raise BudgetError(
                f"laplace needs {cost:.0f} gradient evaluations for its curvature but the budget has "
                f"{run.remaining:.0f}, training included: raise the budget, or take fewer with fisher_samples=1 or "
                "prior_precision='fixed'."
            )
        if problem.pretrained:
            run.notes["unspent"] = "a pretrained model is not trained further"
            return problem, with_fitted_noise(problem, problem.initial())
        own = None if self.epochs is None else self.epochs * problem.num_examples
        interval = math.inf if self.evidence_epochs is None else self.evidence_epochs * problem.num_examples
        planned = plan(run.remaining - cost, interval, cost, own)
        if own is not None and run.remaining - cost * (1 + planned.number) - planned.training > 0.02 * run.limit:
            run.notes["unspent"] = f"trains for {self.epochs:g} epochs by definition"
        schedule = Schedule(self.learning_rate, self.batch_size)
        theta = problem.start(1, run.phase("map").rng)
        path: list[dict[str, Any]] = []
        if planned.number:

            def estimate(problem: Problem, theta: Tensor, name: str) -> Fitted:
                buffers = problem.buffers(theta[None])
                landscape = self._landscape(problem, theta, buffers, vectors, run.phase(name).rng)
                assert self._how is not None
                return landscape.tune(self._how, buffers)

            problem, theta, path = train(problem, run, planned, schedule, estimate, theta)
        left = planned.training - len(path) * planned.interval if path else planned.training
        phase = run.phase("map", SECONDS_FOR_TRAINING) if math.isinf(left) else run.phase("map", cost=left)
        theta = optimise(problem, phase, theta, schedule)
        if self.evidence_epochs is not None:
            run.notes["evidence_path"] = path
        return problem, theta[0]

    def _report(self, problem: Problem, run: Run, vectors: Vectors, fitted: Fitted) -> None:
        """What was found, in `posterior.diagnostics`."""
        notes, values = run.notes, fitted.values
        notes["log_evidence"] = values.log_evidence
        notes["effective_parameters"] = values.effective
        if isinstance(problem.likelihood, Gaussian):
            notes["noise"] = problem.likelihood.noise(problem.model.split(fitted.theta)[1]).tolist()
        if not vectors.exact:
            notes["fisher_samples"] = vectors.num_fisher
        if self._how is None:
            return
        notes.update(described(problem, self._how, values))
        notes["mode_moved"] = fitted.moved
        if at_bound(values):
            notes.setdefault("warnings", []).append(
                f"the evidence prefers a prior precision {float(values.factors[0]):.2g} times the given one, the edge "
                "of what is searched: the data do not determine it; use prior_precision='fixed'."
            )


def _require_proper(problem: Problem) -> None:
    if not bool((problem.prior.precision() > 0).all()):
        raise MethodError(
            "laplace needs a proper prior, because H alone need not be invertible, but the prior is flat: use "
            "priors.Normal(), or give prior_precision a number."
        )
