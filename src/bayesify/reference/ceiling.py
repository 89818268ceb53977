"""What a reference says of itself: how far one half of its chains is from the other half, and how well they mixed.

No method can be shown to be closer to the posterior than the reference is to itself. The halves are halves of the
*chains*, so that modes which no chain leaves show; halves of one chain would agree about the mode they are both in.
"""

import itertools
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from bayesify.engine.convergence import convergence
from bayesify.model.likelihoods import Likelihood
from bayesify.predictive import Predictive
from bayesify.reference.distance import Distance, Target

NUM_HALVINGS = 8
"""Ways to halve the chains that are averaged: 4 chains have 3, 8 chains have 35."""
MAX_LISTED = 10
"""Of more chains the ways are drawn, not listed."""


class Draws(NamedTuple):
    """What K chains predict at B test inputs."""

    outputs: Tensor  # (K, S, B, C)
    parameters: Tensor  # (K, S, L), the likelihood's own

    def predictive(self, likelihood: Likelihood, chains: list[int] | None = None) -> Predictive:
        """Of all chains, or of some."""
        outputs, parameters = self if chains is None else (part[chains] for part in self)
        return Predictive(likelihood, outputs.flatten(0, 1), parameters.flatten(0, 1))


class Ceiling(NamedTuple):
    """A reference's own precision."""

    halves: Distance
    """Between the halves of the chains, the mean over ways to halve them."""
    worst: float
    """The largest main distance among these ways."""
    r_hat: tuple[float, float, float]
    """Of the functions at the test inputs: median, 95% quantile and maximum over inputs."""
    ess: tuple[float, float]
    """Effective draws of the functions: median and minimum over inputs."""
    num_draws: int

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return self._asdict() | {"halves": self.halves._asdict(), "r_hat": list(self.r_hat), "ess": list(self.ess)}

    @staticmethod
    def from_dict(value: dict[str, Any]) -> "Ceiling":
        """The inverse of `as_dict`."""
        lists = {"r_hat": tuple(value["r_hat"]), "ess": tuple(value["ess"])}
        return Ceiling(**(value | lists | {"halves": Distance(**value["halves"])}))


def measure(draws: Draws, likelihood: Likelihood) -> Ceiling:
    """The ceiling of K ≥ 2 chains of at least 4 draws each."""
    found = []
    for first, second in halvings(len(draws.outputs)):
        found.append(Target(draws.predictive(likelihood, second)).distance(draws.predictive(likelihood, first)))
    mixed = convergence(_values(draws, likelihood))
    by_input, total = (len(draws.outputs[0, 0]), -1), draws.outputs.shape[0] * draws.outputs.shape[1]
    # A quantity that is the same in all draws of all chains is known, and has neither.
    r_hat = np.nan_to_num(mixed.r_hat, nan=1.0).reshape(by_input).max(axis=1)
    ess = np.nan_to_num(mixed.ess, nan=total).reshape(by_input).min(axis=1)
    return Ceiling(
        halves=Distance(*(_mean(values) for values in zip(*found, strict=True))),  # type: ignore[arg-type]
        worst=max(one.main for one in found),
        r_hat=(float(np.median(r_hat)), float(np.quantile(r_hat, 0.95)), float(r_hat.max())),
        ess=(float(np.median(ess)), float(ess.min())),
        num_draws=total,
    )


def halvings(num_chains: int) -> list[tuple[list[int], list[int]]]:
    """Pairs of disjoint halves of the chains; of an odd number one chain is left out."""
    half = num_chains // 2
    if num_chains > MAX_LISTED:
        rng = np.random.default_rng(0)
        orders = [rng.permutation(num_chains).tolist() for _ in range(NUM_HALVINGS)]
        return [(sorted(order[:half]), sorted(order[half : 2 * half])) for order in orders]
    every = [
        (list(first), list(second))
        for first in itertools.combinations(range(num_chains), half)
        for second in itertools.combinations([k for k in range(num_chains) if k not in first], half)
        if first < second
    ]
    if len(every) <= NUM_HALVINGS:
        return every
    chosen = np.random.default_rng(0).choice(len(every), NUM_HALVINGS, replace=False)
    return [every[index] for index in sorted(chosen)]


def _values(draws: Draws, likelihood: Likelihood) -> np.ndarray:
    """(K, S, B × C): outputs, of classes log probabilities, because logits may all move without changing anything."""
    outputs = draws.outputs.double()
    if likelihood.kind == "classification":
        components: Any = likelihood.components(outputs.flatten(0, 1), draws.parameters.double().flatten(0, 1))
        outputs = components.logits.reshape(*outputs.shape[:3], -1)
    return np.asarray(outputs.flatten(2).cpu())


def _mean(values: tuple[float | None, ...]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
