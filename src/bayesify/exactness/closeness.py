"""How close is a method to long chains on real data? The third part of a check, beside what is known and simulated.

The chains' predictive is given, by whoever ran them; it is as good as its own halves agree. Nothing is judged: long
chains are no truth, and the same distance is small on one data set and large on another. Measures are those of
`metrics.fidelity` (Izmailov et al. 2021; the NeurIPS 2021 competition).
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from bayesify.data import Data
from bayesify.engine.budget import Budget
from bayesify.engine.run import Run
from bayesify.errors import DataError
from bayesify.fitting import fit_problem, make_problem
from bayesify.methods.base import Method
from bayesify.metrics.fidelity import agreement, total_variation, wasserstein1
from bayesify.model.likelihoods import Likelihood
from bayesify.model.priors import Prior
from bayesify.predictive import Predictive

SAMPLES = 4000
"""Draws of y whose W1 is taken: two such samples of one N(0, 1) are about 0.025 apart."""
REAL_BUDGET = Budget(epochs=1000)


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


@dataclass(frozen=True)
class Closeness:
    """Means over test points; None where the task has no such measure.

    Attributes:
        name: of the data set.
        agreement: share of test points with the same most probable class.
        total_variation: of class probabilities.
        wasserstein1: of the distributions of y, in the units of y that the network models.
    """

    name: str
    agreement: float | None
    total_variation: float | None
    wasserstein1: float | None

    @property
    def sentence(self) -> str:
        """The numbers."""
        if self.wasserstein1 is not None:
            return f"{self.name}: predictive at W1 = {self.wasserstein1:.3f} from long chains"
        return (
            f"{self.name}: the class of long chains in {self.agreement:.1%} of the test set, total variation "
            f"{self.total_variation:.3f}"
        )

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


def closeness(method: Method, real: RealProblem, seed: int = 0, budget: Budget | None = None) -> Closeness:
    """Fits a method as its authors would, held-out data included, and compares its predictive with long chains'.

    Args:
        method: what is compared.
        real: the data, and the chains' predictive.
        seed: of the fit.
        budget: of the fit; None is 1,000 epochs per particle.
    """
    problem = make_problem(
        real.module(),
        real.data,
        likelihood=real.likelihood,
        prior=real.prior,
        validation=0.1 if method.uses_validation else None,
        seed=seed,
        device="cpu",
    )
    given = budget or REAL_BUDGET
    limit = given.limit(problem.num_examples, method.num_particles)
    posterior = fit_problem(problem, method, Run(problem.meter, limit=limit, seconds=given.seconds, seed=seed))
    return distance(real.name, posterior.predict(real.test_inputs), real.predictive)


def distance(name: str, predictive: Predictive, reference: Predictive) -> Closeness:
    """Between two predictives of the same test points.

    Raises:
        DataError: they are of different kinds or of different numbers of points.
    """
    if (predictive.kind, predictive.batch_shape) != (reference.kind, reference.batch_shape):
        raise DataError(
            f"{name}: a {predictive.kind} predictive of {predictive.batch_shape[0]} points cannot be compared to one "
            f"of {reference.kind} on {reference.batch_shape[0]}: predict the same test inputs."
        )
    if predictive.kind == "classification":
        ours, chains = (np.asarray(part.probs.double().cpu()) for part in (predictive, reference))
        return Closeness(name, agreement(ours, chains), float(total_variation(ours, chains).mean()), None)
    shape = torch.Size([SAMPLES])
    samples = [
        np.asarray(part.sample(shape, seed=number).double().cpu()).reshape(SAMPLES, -1)
        for number, part in enumerate((predictive, reference))
    ]
    return Closeness(name, None, None, float(wasserstein1(*samples).mean()))
