"""Training with a prior and a noise that the evidence sets again and again (Immer, Bauer, Fortuin, Rätsch & Khan 2021).

Every F epochs the log posterior is expanded where the parameters then are, the prior's precisions and the noise
variance are set to what the evidence prefers (`curvature.tuning`), and training goes on with them. Adam starts anew
each time; its learning rate is constant until the last re-estimation and falls along a cosine after it. The evidence
of the last expansion compares models, such as networks of different widths, without validation data.

Cost: that of one expansion per re-estimation, within the budget of training.
"""

import math
import re
from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor

from bayesify.curvature.tuning import Fitted
from bayesify.engine.optimise import Schedule, optimise
from bayesify.engine.run import Run
from bayesify.model.priors import Normal
from bayesify.model.problem import Problem

SECONDS_FOR_PRIOR = 0.5
"""Share of a budget of seconds after which the prior is left as it is."""

Estimate = Callable[[Problem, Tensor, str], Fitted]
"""(problem, θ (P,), a name for its randomness) → the best values there."""


class Plan(NamedTuple):
    """How training is divided; in gradient evaluations."""

    interval: float
    """Between re-estimations."""
    number: float
    """Of re-estimations; infinite where the budget is time."""
    training: float


class Trained(NamedTuple):
    """The mode, and the problem with the prior it was found under."""

    problem: Problem
    theta: Tensor  # (1, P)
    path: list[dict[str, Any]]
    """One entry per re-estimation, JSON-ready."""


def plan(room: float, interval: float, cost: float, training: float | None) -> Plan:
    """As many re-estimations as the room has place for, with at least half an interval of training after the last.

    Args:
        room: what there is.
        interval: wanted between two.
        cost: of each.
        training: at most so much; None is all.
    """
    if math.isinf(interval):
        return Plan(interval, 0, room if training is None else min(room, training))
    if math.isinf(room):
        return Plan(interval, math.inf, math.inf if training is None else training)
    number = max(0, int((room - 0.5 * interval) // (interval + cost)))
    if training is None:
        return Plan(interval, number, room - number * cost)
    number = min(number, max(0, math.ceil(training / interval - 0.5) - 1))
    return Plan(interval, number, min(training, room - number * cost))


def train(problem: Problem, run: Run, planned: Plan, schedule: Schedule, estimate: Estimate, theta: Tensor) -> Trained:
    """Trains up to the last re-estimation; what is left of the budget is for training after it.

    Args:
        problem: model, data and the prior to start with.
        run: whose phases the parts are.
        planned: see `plan`.
        schedule: of training.
        estimate: the evidence's choice.
        theta: where it starts, (1, P).
    """
    original, path = problem.prior.scale, []
    done = 0
    while done < planned.number and not (math.isinf(planned.number) and run.fraction >= SECONDS_FOR_PRIOR):
        phase = run.phase(f"map-{done}", cost=planned.interval)
        theta = optimise(problem, phase, theta, schedule._replace(final_fraction=1.0))
        fitted = estimate(problem, theta[0], f"curvature-{done}")
        problem, theta = with_prior(problem, fitted), fitted.theta[None]
        done += 1
        ratio = (original / problem.prior.scale).square()
        entry = {
            "epochs": done * planned.interval / problem.num_examples,
            "log_evidence": fitted.values.log_evidence,
            "effective_parameters": fitted.values.effective,
            "prior_precision_factor": {slot.name: float(ratio[slot.offset]) for slot in problem.network.layout.slots},
            "noise_variance_factor": fitted.values.noise,
        }
        path.append(entry)
    return Trained(problem, theta, path)


def with_prior(problem: Problem, fitted: Fitted) -> Problem:
    """The problem with the prior's precisions multiplied by the factors, which must be the same within a tensor."""
    scale = problem.prior.scale * fitted.values.of_each.rsqrt().to(problem.prior.scale)
    slots = problem.network.layout.slots
    by_name = {f"^{re.escape(slot.name)}$": float(scale[slot.offset]) for slot in slots}
    return problem.with_changes(prior=Normal(scale=by_name))
