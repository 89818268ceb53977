"""Temperature scaling of any posterior's predictive (Guo et al., ICML 2017), deep ensembles included.

    T* = argmax_T  Σ_{n in validation} log p_T(y_n | x_n)                                                       (1)

where p_T divides the pooled class log probabilities by T, or multiplies the spread of a regression predictive about
its mean by T. One number, found by bounded one-dimensional search on held-out data. Cost: one prediction of the
validation data. Accuracy and predictive means do not change.
"""

import math
from dataclasses import dataclass

from bayesify.data import MINIMUM_VALIDATION
from bayesify.engine.budget import FORWARD_COST
from bayesify.engine.run import Run
from bayesify.methods.base import Exactness, MethodInfo, Wrapper
from bayesify.model.problem import Problem
from bayesify.posterior.base import Posterior
from bayesify.posterior.calibrated import Calibrated
from bayesify.predictive import Predictive

LOG_T_BOUNDS = (math.log(0.05), math.log(20.0))


@dataclass(frozen=True)
class TemperatureScaled(Wrapper):
    """`method`, its predictive calibrated by one temperature on the validation data."""

    info = MethodInfo(
        name="temperature_scaled",
        family="calibration",
        exactness=Exactness.NOT_A_POSTERIOR,
        reference="Guo et al., ICML 2017",
        summary="any method, calibrated by one temperature on held-out data",
        bias="predictive no longer follows from prior and likelihood",
        uses_validation=True,
    )

    @property
    def needs_validation(self) -> bool:
        """Yes."""
        return True

    def post_hoc_cost(self, problem: Problem) -> float:
        """The method's and one prediction of the validation data."""
        return self.method.post_hoc_cost(problem) + self._prediction_cost(problem)

    def _prediction_cost(self, problem: Problem) -> float:
        count = 0 if problem.validation is None else problem.validation.num_examples
        return FORWARD_COST * count * self.num_predictions

    def fit(self, problem: Problem, run: Run) -> Posterior:
        """Fits the method, then the temperature."""
        if problem.validation is None or problem.validation.num_examples < MINIMUM_VALIDATION:
            found = 0 if problem.validation is None else problem.validation.num_examples
            base = self.method.fit(problem, run)
            text = f"not calibrated: {found} held-out examples cannot show one temperature; {MINIMUM_VALIDATION} can"
            run.notes["warnings"] = [*run.notes.get("warnings", []), text]
            run.notes["predictive_temperature"] = 1.0
            return Calibrated(base, 1.0)
        count = problem.validation.num_examples
        reserve = self._prediction_cost(problem)
        run.limit -= reserve  # not a phase: the method's random streams are to be those it has without scaling
        base = self.method.fit(problem, run)
        run.limit += reserve
        predictive = base.predict(problem.validation.inputs)
        problem.meter.forward(count * predictive.num_draws * base.model.network.passes)
        temperature = best_temperature(predictive, problem.validation.targets)
        run.notes["predictive_temperature"] = temperature
        return Calibrated(base, temperature)


def best_temperature(predictive: Predictive, targets: object) -> float:
    """The temperature (1) that maximises the log likelihood of held-out targets."""
    from scipy.optimize import minimize_scalar

    def loss(log_t: float) -> float:
        return -float(predictive.calibrated(math.exp(log_t)).log_prob(targets).double().mean())

    found = minimize_scalar(loss, bounds=LOG_T_BOUNDS, method="bounded", options={"xatol": 1e-4})
    return math.exp(float(found.x)) if found.fun < loss(0.0) else 1.0
