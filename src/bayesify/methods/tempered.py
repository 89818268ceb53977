"""Another temperature for any method: p(θ | D)^(1/T) in place of the posterior (Wenzel et al., ICML 2020).

T < 1 is a cold posterior, T > 1 a warm one, T = 1 the method itself. Nothing but the problem changes: its log density
is divided by T, so that likelihood and prior are tempered alike. Temperatures of nested `Tempered` multiply, and the
product is written into the posterior's record. Cost: the method's.
"""

from dataclasses import dataclass

from bayesify.engine.run import Run
from bayesify.methods.base import Exactness, MethodInfo, Range, Wrapper, require_positive
from bayesify.model.problem import Problem
from bayesify.posterior.base import Posterior


@dataclass(frozen=True)
class Tempered(Wrapper):
    """`method` on the tempered posterior.

    Attributes:
        method: any method.
        temperature: T; 1 is the posterior.
    """

    temperature: float

    info = MethodInfo(
        name="tempered",
        family="combinator",
        exactness=Exactness.NOT_A_POSTERIOR,
        reference="Wenzel et al., ICML 2020",
        summary="any method on p(θ | D)^(1/T)",
        bias="not the posterior unless temperature = 1",
        search_space={"temperature": Range(1e-3, 10.0, log=True)},
    )

    def __post_init__(self) -> None:
        require_positive(self, "temperature")

    def fit(self, problem: Problem, run: Run) -> Posterior:
        """Fits the method at the problem's temperature times this one."""
        temperature = problem.temperature * self.temperature
        run.notes["temperature"] = temperature  # before the method: what is nested inside writes its own product
        return self.method.fit(problem.with_changes(temperature=temperature), run)
