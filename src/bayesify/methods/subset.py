"""Bayesian over part of the network (Daxberger et al., ICML 2021; for the last layer: Kristiadi et al., ICML 2020).

First all parameters go to the mode, as by `map` (a pretrained model is there already). Then `parameters` are inferred
by the method, with all others frozen at the mode,

    p(θ_S | D, θ_R = θ*_R),                                                                                     (1)

together with the likelihood's own parameters; samplers and variational methods start from the mode. Cost: the mode's,
which is most of the budget where the method is post hoc, and then the method's, whose gradients are of θ_S only.
"""

import math
import re
from dataclasses import dataclass

from torch import Tensor

from bayesify.engine.optimise import Schedule, optimise
from bayesify.engine.run import Run
from bayesify.errors import MethodError
from bayesify.methods.base import SECONDS_FOR_TRAINING, Exactness, MethodInfo, Wrapper, require, require_positive
from bayesify.model.network import Buffers, Network
from bayesify.model.problem import Problem
from bayesify.posterior.base import Posterior

SHOWN_NAMES = 8
"""So many parameter names stand in an error message."""


@dataclass(frozen=True)
class Subset(Wrapper):
    """`method` on part of the network, the rest at the mode.

    Attributes:
        method: any method.
        parameters: 'last' (the last layer that is trained), 'lora' (names with 'lora_'), or a regular expression that
            is searched in parameter names.
        map_share: the share of the budget spent on the mode; post-hoc methods leave all but their own cost to it.
        learning_rate: Adam's on the way to the mode, at the start of the cosine.
        batch_size: examples per step on that way.
    """

    parameters: str = "last"
    map_share: float = 0.5
    learning_rate: float = 1e-2
    batch_size: int = 64

    info = MethodInfo(
        name="subset",
        family="combinator",
        exactness=Exactness.APPROXIMATE,
        reference="Daxberger et al., ICML 2021",
        summary="any method on part of the network, the rest at the mode",
        bias="no uncertainty about the frozen parameters",
        uses_validation=True,
    )

    def __post_init__(self) -> None:
        require(isinstance(self.parameters, str) and bool(self.parameters), self, "parameters", "a non-empty string")
        require(0 < self.map_share < 1, self, "map_share", "between 0 and 1")
        require_positive(self, "learning_rate", "batch_size")
        try:
            re.compile(self.parameters)
        except re.error as error:
            raise MethodError(
                f"Subset(parameters={self.parameters!r}) is not a regular expression ({error}): use 'last', 'lora' or "
                "a pattern such as 'fc'."
            ) from error

    def post_hoc_cost(self, problem: Problem) -> float:
        """The method's on the part."""
        return self.method.post_hoc_cost(self._planned(problem))

    def memory(self, problem: Problem) -> float:
        """That of finding the mode, or the method's on the part."""
        training = 8.0 * problem.num_parameters * problem.network.initial.element_size()
        return max(training, self.method.memory(self._planned(problem)))

    def fit(self, problem: Problem, run: Run) -> Posterior:
        """The mode of everything, then the method on the part."""
        theta = problem.initial() if problem.pretrained else self._mode(problem, run)
        part = self._part(problem, theta, problem.buffers(theta[None]))
        posterior = self.method.fit(part, run.phase("part"))
        if self.is_post_hoc and not problem.pretrained:
            run.notes.pop("unspent", None)  # the method found its part pretrained, but the budget went into that
        return posterior

    def _mode(self, problem: Problem, run: Run) -> Tensor:
        selected(problem.network, self.parameters)  # a pattern without a match must not cost a training
        reserve = problem.statistics_cost(1)
        share = self.map_share
        if self.is_post_hoc:
            reserve += self.post_hoc_cost(problem)
            share = SECONDS_FOR_TRAINING if math.isinf(run.remaining) else 1.0
        phase = run.phase("map", share, reserve=reserve)
        schedule = Schedule(self.learning_rate, self.batch_size)
        return optimise(problem, phase, problem.start(1, phase.rng), schedule)[0]

    def _planned(self, problem: Problem) -> Problem:
        return self._part(problem, problem.initial(), problem.network.buffers(1))

    def _part(self, problem: Problem, theta: Tensor, buffers: Buffers) -> Problem:
        """The problem of (1), given theta (P,) and buffers {name: (1, ...)} for everything."""
        return problem.restricted(theta, buffers, selected(problem.network, self.parameters))


def selected(network: Network, parameters: str) -> set[str]:
    """The trainable parameters that 'last', 'lora' or a regular expression stands for.

    Raises:
        MethodError: there is none.
    """
    names = network.layout.names
    if parameters == "last":
        return _last(network)
    pattern = "lora_" if parameters == "lora" else parameters
    found = {name for name in names if re.search(pattern, name)}
    if not found:
        shown = ", ".join(names[:SHOWN_NAMES]) + (f" and {len(names) - SHOWN_NAMES} more" * (len(names) > SHOWN_NAMES))
        raise MethodError(
            f"Subset(parameters={parameters!r}) matches no trainable parameter: this network has {shown}."
        )
    return found


def _last(network: Network) -> set[str]:
    # By identity, because a weight tied to an earlier layer goes by its first name.
    name_of = {id(parameter): name for name, parameter in network.module.named_parameters() if parameter.requires_grad}
    last: set[str] = set()
    for owner in network.module.modules():
        own = {name_of[id(p)] for p in owner.parameters(recurse=False) if id(p) in name_of}
        last = own or last
    return last
