"""How close is a method to long chains on real data? The third part of a check, beside what is known and simulated.

The chains' predictive comes with its *ceiling*: how far halves of the chains are from each other. A method that is
nearer than that cannot be told from them. Nothing is judged: long chains are no truth, and the same distance is small
on one data set and large on another. Measures are those of `reference.distance`.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from torch import nn

from bayesify.data import Data, as_data
from bayesify.datasets.task import Task
from bayesify.engine.budget import Budget
from bayesify.engine.run import Run
from bayesify.fitting import fit_problem, make_problem
from bayesify.methods.base import Method
from bayesify.model.likelihoods import Likelihood
from bayesify.model.prior import Prior
from bayesify.predictive import Predictive
from bayesify.reference.distance import Distance, Target
from bayesify.reference.reference import Reference

DEFAULT_SETS = ("yacht", "credit-g")
"""One of numbers and one of classes: what a thorough check compares on."""
REAL_BUDGET = Budget(epochs=1000)
HELD_OUT = 0.1
"""Of the rows, for methods that cannot do without; fewer rows have another posterior."""


class RealProblem(NamedTuple):
    """A data set with the predictive of long chains.

    The predictive is of `test_inputs`, in the order given, and in the units that the network models.
    """

    name: str
    module: Callable[[], nn.Module]
    data: Data
    test_inputs: Any
    likelihood: str | Likelihood
    prior: str | Prior
    predictive: Predictive
    ceiling: Distance | None = None
    """Between halves of the chains, where that is known."""


def problem_of(task: Task, reference: Reference) -> RealProblem:
    """A reference with its own network, likelihood, prior and split."""
    setup, data = reference.setup, reference.setup.prepared(task)
    likelihood, prior = setup.parts
    return RealProblem(
        name=task.name,
        module=lambda: setup.module(task, data.X_train.shape[1]),
        data=as_data((data.X_train, data.y_train)),
        test_inputs=data.X_test,
        likelihood=likelihood,
        prior=prior,
        predictive=reference.predictive,
        ceiling=reference.ceiling.halves,
    )


@dataclass(frozen=True)
class Closeness:
    """How far a method is from long chains.

    Attributes:
        name: of the data set.
        distance: means over test points.
        ceiling: the same between halves of the chains, where that is known.
    """

    name: str
    distance: Distance
    ceiling: Distance | None = None

    @property
    def told_apart(self) -> bool | None:
        """Whether the method is further from the chains than their halves from each other, where that is known."""
        return None if self.ceiling is None else self.distance.main > self.ceiling.main

    @property
    def sentence(self) -> str:
        """The numbers, and what they are worth."""
        found = self.distance
        if found.agreement is None:
            words, unit = f"predictive at W1 = {found.wasserstein1:.4f} from long chains", "W1"
        else:
            words = f"the class of long chains in {found.agreement:.1%} of the test set, total variation "
            words, unit = f"{words}{found.total_variation:.4f}", "total variation"
        if self.ceiling is None:
            return f"{self.name}: {words}"
        end = f"{found.main / self.ceiling.main:.1f} times that" if self.told_apart else "it cannot be told from zero"
        return f"{self.name}: {words}; halves of the chains are {unit} = {self.ceiling.main:.4f} apart: {end}"

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self) | {
            "distance": self.distance._asdict(),
            "ceiling": None if self.ceiling is None else self.ceiling._asdict(),
            "told_apart": self.told_apart,
        }


def closeness(method: Method, real: RealProblem, seed: int = 0, budget: Budget | None = None) -> Closeness:
    """Fits a method to all rows, and compares its predictive with long chains'.

    Args:
        method: what is compared.
        real: the data, and the chains' predictive.
        seed: of the fit.
        budget: of the fit; None is 1,000 epochs per particle.

    Raises:
        DataError: the predictives are of different kinds or of different numbers of points.
    """
    problem = make_problem(
        real.module(),
        real.data,
        likelihood=real.likelihood,
        prior=real.prior,
        validation=HELD_OUT if method.needs_validation else None,
        seed=seed,
        device="cpu",
    )
    given = budget or REAL_BUDGET
    limit = given.limit(problem.num_examples, method.num_particles)
    posterior = fit_problem(problem, method, Run(problem.meter, limit=limit, seconds=given.seconds, seed=seed))
    return Closeness(real.name, Target(real.predictive).distance(posterior.predict(real.test_inputs)), real.ceiling)
