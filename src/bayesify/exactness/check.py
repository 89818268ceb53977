"""`check_method`: how far is a method from posteriors that are known?

The method is run as a user would run it, on linear and logistic regression at temperatures 1 and 0.3, and what it
gives is compared with the posterior that its record says it targets. The verdict is measured, then held against what
the method declares of itself. With simulations, it is also run on small networks whose true weights are known
because they were drawn (`exactness.sbc`), and with references, compared with long chains on real data
(`exactness.closeness`).
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from bayesify.covariance import Diagonal
from bayesify.data import Data
from bayesify.engine.budget import Budget, Meter
from bayesify.engine.rng import seed_of
from bayesify.engine.run import Run
from bayesify.errors import BayesifyError, BudgetError, UnsupportedError
from bayesify.exactness.closeness import RealProblem, closeness
from bayesify.exactness.conjugate import linear_regression
from bayesify.exactness.known import KnownPosterior, effective_parameters
from bayesify.exactness.logistic import logistic_regression
from bayesify.exactness.measure import MIN_BATCHED, Distances, Measured, Moments, distances, moments
from bayesify.exactness.result import CheckResult, Failure, ProblemCheck
from bayesify.exactness.sbc import calibrate
from bayesify.fitting import fit_problem, make_problem
from bayesify.methods.base import Exactness, Method, describe
from bayesify.methods.registry import get_method
from bayesify.model.problem import Problem
from bayesify.posterior.base import Posterior
from bayesify.posterior.gaussian import Gaussian
from bayesify.posterior.linearised import Linearised
from bayesify.posterior.parts import is_fixed

DEFAULT_BUDGET = Budget(epochs=2000)
TEMPERATURES = (1.0, 0.3)
FRESH_DRAWS, PREDICTIVE_DRAWS = 10_000, 1_000
"""Draws of a posterior that gives as many as one asks for: of parameters (errors of 1%), and for predictions."""

SAMPLER_RUNS = 4
STRICT = (Exactness.EXACT, Exactness.ASYMPTOTIC)
"""Methods that declare this and give only so many draws get several runs, each with its own seed and budget."""

FLOOR = 0.02
"""Errors of an optimiser that are still called exact, in standard deviations (and of log standard deviations)."""
KL_FLOOR = 2e-4
"""The same for the predictive, in nats per example: what an error of `FLOOR` standard deviations costs."""
EVIDENCE_FLOOR = 0.02
MEAN_FIELD_TOLERANCE = 0.1
"""How far log standard deviations may be from the mean-field law: a variational fit ends with some noise."""
POSTERIOR_FACTOR, POSTERIOR_SHIFT = 3.0, 3.0
"""Spread wrong by more than this factor, or centre by so many standard deviations: this is no posterior."""


def known_problems() -> list[KnownPosterior]:
    """Linear and logistic regression, each at both temperatures."""
    return [make(t) for make in (linear_regression, logistic_regression) for t in TEMPERATURES]


def check_method(
    method: str | Method,
    seed: int = 0,
    budget: Budget | None = None,
    problems: Sequence[KnownPosterior] | None = None,
    simulations: int = 0,
    references: Sequence[RealProblem] = (),
) -> CheckResult:
    """Measures a method against posteriors that are known.

    Args:
        method: a name, a written form, or a Method.
        seed: of the fits and of the controls.
        budget: for each problem; None is 2,000 epochs per particle, far more than such problems need.
        problems: None is linear and logistic regression at temperatures 1 and 0.3.
        simulations: of simulation-based calibration on a small network; 0 leaves it out.
        references: real data with the predictive of long chains.

    Raises:
        BayesifyError: the method is unknown, cannot afford to start, or can be run on none of the problems.
    """
    chosen = get_method(method)
    checks, failures, errors = [], [], []
    for known in known_problems() if problems is None else problems:
        try:
            checks.append(_check(chosen, known, seed, budget or DEFAULT_BUDGET))
        except BudgetError:
            raise
        except BayesifyError as error:
            errors.append(error)
            failures.append(_failure(known.name, known.temperature, error))
    if not checks:
        raise errors[0]
    calibration, distances = None, []
    try:
        calibration = calibrate(chosen, simulations, seed, budget) if simulations else None
    except BayesifyError as error:
        failures.append(_failure("simulation-based calibration", 1.0, error))
    for real in references:
        try:
            distances.append(closeness(chosen, real, seed, budget))
        except BayesifyError as error:
            failures.append(_failure(real.name, 1.0, error))
    return CheckResult(
        method=describe(chosen),
        declared=chosen.exactness,
        bias=chosen.info.bias,
        problems=tuple(checks),
        failures=tuple(failures),
        seed=seed,
        calibration=calibration,
        closeness=tuple(distances),
    )


def _failure(problem: str, temperature: float, error: BayesifyError) -> Failure:
    return Failure(problem, temperature, str(error), excused=isinstance(error, UnsupportedError))


def _check(method: Method, known: KnownPosterior, seed: int, budget: Budget) -> ProblemCheck:
    runs = [_fit(method, known, seed, budget)]
    posterior = runs[0].posterior
    fixed = is_fixed(posterior)
    if fixed and len(runs[0].theta) >= MIN_BATCHED and method.exactness in STRICT:
        runs += [_fit(method, known, seed_of(seed, "repeat", i), budget) for i in range(1, SAMPLER_RUNS)]
    theta = torch.cat([run.theta for run in runs])
    known = known.at(posterior.record.temperature)  # what the method says it targeted
    found = moments(theta, known, independent=not fixed, floor=FLOOR, num_runs=len(runs))
    effective = found.effective_draws / len(runs) if fixed else float(PREDICTIVE_DRAWS)
    predictive = _distances(posterior, known, None if fixed else PREDICTIVE_DRAWS, effective, seed)
    factor = posterior.diagnostics.values.get("prior_precision_factor")
    notes = []
    if factor is not None:
        notes.append(f"the method tuned the prior: {factor:.3g} times the given precision; all it gives is of that one")
    evidence = posterior.record.log_evidence
    evidence_error = None if evidence is None else evidence - known.log_evidence
    judged = None if factor is not None else evidence_error
    exactness, words = _judge(found, predictive, judged, fixed)
    if words and factor is not None:
        words += "; of a prior tuned to the data"
    return ProblemCheck(
        problem=known.name,
        temperature=known.temperature,
        exactness=exactness,
        words=words,
        draws=len(theta),
        moments=found,
        distances=predictive,
        evidence_error=evidence_error,
        law=_mean_field_law(posterior, known, found),
        notes=tuple(notes),
        seconds=sum(run.posterior.cost.seconds for run in runs),
    )


class _Fitted(NamedTuple):
    posterior: Posterior
    theta: Tensor  # (S, P)


def _fit(method: Method, known: KnownPosterior, seed: int, budget: Budget) -> _Fitted:
    problem = _problem(method, known)
    limit = budget.limit(problem.num_examples, method.num_particles)
    posterior = fit_problem(problem, method, Run(problem.meter, limit=limit, seconds=budget.seconds, seed=seed))
    particles = posterior.particles(None if is_fixed(posterior) else FRESH_DRAWS, seed)
    return _Fitted(posterior, effective_parameters(posterior.model, particles, known.inputs.shape[1]))


def _problem(method: Method, known: KnownPosterior) -> Problem:
    # All examples belong to the posterior, so nothing is held out; calibration and tuning cannot do without.
    return make_problem(
        known.module(),
        Data(known.inputs, known.targets),
        likelihood=known.likelihood,
        prior=known.prior,
        validation=Data(known.test_inputs, known.test_targets) if method.needs_validation else None,
        device="cpu",
    ).with_changes(temperature=known.temperature, meter=Meter())


def _distances(
    posterior: Posterior, known: KnownPosterior, num_samples: int | None, effective: float, seed: int
) -> Distances:
    predictive = posterior.predict(known.test_inputs, num_samples, seed)
    log_density = torch.stack([predictive.log_prob(values) for values in known.support().values])
    joint = float(predictive.joint_log_prob(known.test_targets))
    return distances(known, log_density, joint, effective, floor=KL_FLOOR, seed=seed)


def _mean_field_law(posterior: Posterior, known: KnownPosterior, found: Moments) -> Measured | None:
    if known.mean_field_scale is None or not isinstance(posterior, (Gaussian, Linearised)):
        return None
    if not isinstance(posterior.covariance, Diagonal):
        return None
    law = (known.mean_field_scale / known.stddev).log().tolist()
    ratios = [measured.value - expected for measured, expected in zip(found.log_spread, law, strict=True)]
    worst = max(range(len(ratios)), key=lambda i: abs(ratios[i]))
    error = found.log_spread[worst].error
    return Measured(ratios[worst], error, found.log_spread[worst].tolerance + MEAN_FIELD_TOLERANCE)


def _judge(found: Moments, predictive: Distances, evidence: float | None, fixed: bool) -> tuple[Exactness, str]:
    """What was measured, and in which respect it differs."""
    spread = sum(m.value for m in found.log_spread) / len(found.log_spread)
    shift = max((abs(m.value) - m.tolerance for m in found.centre), default=0.0)
    off = [m for m in found.log_spread if not m.is_zero]
    words = _spread_words([m.value for m in off], spread) if off else []
    if any(not m.is_zero for m in found.centre):
        words.append(f"centre off by {max(abs(m.value) for m in found.centre):.2g} standard deviations")
    if any(not m.is_zero for m in found.correlation):
        words.append(f"correlations off by {max(abs(m.value) for m in found.correlation):.2g}")
    if evidence is not None and abs(evidence) > EVIDENCE_FLOOR:
        words.append(f"log evidence off by {evidence:+.2g} nats")
    if not words and not predictive.kl.is_zero:
        words.append(f"predictive {predictive.kl.value:.2g} nats per example from the exact one")
    if (off and abs(spread) > math.log(POSTERIOR_FACTOR)) or shift > POSTERIOR_SHIFT:
        return Exactness.NOT_A_POSTERIOR, "; ".join(words)
    if words:
        return Exactness.APPROXIMATE, "; ".join(words)
    if fixed:
        return Exactness.ASYMPTOTIC, f"no error beyond that of {found.effective_draws:.0f} effective draws"
    return Exactness.EXACT, ""


def _spread_words(off: list[float], mean: float) -> list[str]:
    percent: list[float] = [100 * (math.exp(value) - 1) for value in off]
    if min(off) < 0 < max(off):
        return [f"standard deviations wrong by {min(percent):+.0f}% to {max(percent):+.0f}%"]
    if mean < math.log(0.01):
        return ["no spread at all"]
    change = 100 * abs(math.exp(mean) - 1)
    return [f"{'over' if mean < 0 else 'under'}-confident by {change:.0f}%"]
