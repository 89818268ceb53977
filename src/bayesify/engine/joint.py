"""Several problems of one network, on data of their own, evaluated as one batch of particles.

Their training data lie in one table; every particle's batch is a row of indices into it, (K, B), so that nothing is
copied per particle. What is spent is counted on the meter of the problem whose particles spent it.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from bayesify.data import Data
from bayesify.engine.budget import Meter
from bayesify.engine.compiled import Fused
from bayesify.engine.rng import draws_nothing
from bayesify.model.network import Mode
from bayesify.model.problem import Batch, Problem

Rows = Tensor | slice
"""Of one problem: (B,) for all its particles, (K, B), or the slice of all rows."""


class Joint:
    """One problem as it is, or several as one."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self._problems = list(problems)
        self._all = problems[0]
        self._is_joint = len(problems) > 1
        if self._is_joint:
            data = _concatenated([one.data for one in problems])
            self._all = problems[0].with_changes(data=data, validation=None, meter=Meter())
        self._live: list[Problem] = []
        self._counts: list[int] = []

    @staticmethod
    def fits(one: Problem, other: Problem, mode: Mode) -> bool:
        """Whether both are the same function of a particle and a batch, and draw no random numbers."""
        if one.individual is not None or other.individual is not None:
            return False
        settings = [
            (repr(p.likelihood), repr(p.prior_family), p.way, p.pretrained, _shapes(p.data), p.network.device)
            for p in (one, other)
        ]
        alike = settings[0] == settings[1] and one.network.computes_as(other.network)
        return alike and one.num_examples > 1 and draws_nothing(lambda: _try(one, mode))

    def choose(self, live: list[Problem], counts: list[int]) -> float | Tensor:
        """Whose particles come next, and how many of each; gives N, (K, 1) where it differs."""
        self._live, self._counts = live, counts
        if not self._is_joint:
            return live[0].num_examples
        device = live[0].network.device
        starts = dict(zip(map(id, self._problems), _starts(self._problems), strict=True))
        self._owner = torch.arange(len(live), device=device).repeat_interleave(torch.tensor(counts, device=device))
        self._start = torch.tensor([starts[id(one)] for one in live], device=device)[self._owner][:, None]
        for one in self._problems:
            one.meter.share_time(1 / len(live) if one in live else 0.0)
        sizes = [one.num_examples for one in live]
        return sizes[0] if len(set(sizes)) == 1 else self.spread(sizes, live[0].network.initial)

    def spread(self, values: Sequence[float], like: Tensor) -> Tensor:
        """A number for each of the live problems → for each particle, (K, 1); () where there is one problem only."""
        if not self._is_joint:
            return like.new_tensor(values[0])
        if values.count(values[0]) == len(values):
            return like.new_full((len(self._owner), 1), values[0])
        return like.new_tensor(values)[self._owner][:, None]

    def expect(self, num_calls: float, mode: Mode) -> None:
        """As `Problem.expect`."""
        self._all.expect(num_calls, mode)

    def fused(self, function: Callable[..., Any], mode: Mode) -> Fused:
        """As `Problem.fused`."""
        return self._all.fused(function, mode)

    def likelihood_gradient(self, theta: Tensor, rows: Sequence[Rows | None], mode: Mode) -> Tensor:
        """As `Problem.likelihood_gradient`, (K, P), of all particles on the rows of their own problem."""
        if not self._is_joint:
            (own,) = rows
            assert own is not None
            return self._all.likelihood_gradient(theta, self._all.batch(own), mode)[0]
        index = torch.cat([self._index(one, number) for number, one in enumerate(rows)]) + self._start
        batch = Batch(self._all.data.select(index), per_particle=True)
        before = self._all.meter.flops
        gradient, _ = self._all.likelihood_gradient(theta, batch, mode)
        flops = (self._all.meter.flops - before) / len(theta)
        for one, count in zip(self._live, self._counts, strict=True):
            one.meter.gradient(batch.size * count, flops * count)
        return gradient

    def _index(self, rows: Rows | None, number: int) -> Tensor:
        assert rows is not None
        if isinstance(rows, slice):
            rows = torch.arange(self._live[number].num_examples, device=self._start.device)
        return rows if rows.dim() == 2 else rows.expand(self._counts[number], -1)

    def validation_loss(self, problem: Problem, theta: Tensor) -> Tensor:
        """As `problem.validation_loss`, (K,)."""
        if not self._is_joint or problem.validation is None:
            return problem.validation_loss(theta)
        # By the graph that all share, instead of one for every problem.
        meter = self._all.meter
        before = (meter.forward_evaluations, meter.flops)
        value = self._all.log_likelihood(theta, problem.validation, problem.buffers(theta))
        problem.meter.forward(meter.forward_evaluations - before[0], meter.flops - before[1])
        return -value / problem.validation.num_examples

    def close(self) -> None:
        """Divides the time that compiling took; whoever goes on by itself says so to its meter."""
        if not self._is_joint:
            return
        for one in self._problems:
            one.meter.compiled(self._all.meter.compile_seconds / len(self._problems), self._all.meter.not_compiled)


def _concatenated(parts: list[Data]) -> Data:
    inputs = pytree.tree_map(lambda *leaves: torch.cat(leaves), *[part.inputs for part in parts])
    return Data(inputs, torch.cat([part.targets for part in parts]))


def _starts(problems: list[Problem]) -> list[int]:
    """Where each problem's rows start in the table."""
    starts = [0]
    for one in problems[:-1]:
        starts.append(starts[-1] + one.num_examples)
    return starts


def _shapes(data: Data) -> list[Any]:
    leaves, spec = pytree.tree_flatten(data)
    return [spec, *((leaf.shape[1:], leaf.dtype) for leaf in leaves)]


def _try(problem: Problem, mode: Mode) -> None:
    rows = problem.data.select(slice(0, min(8, problem.num_examples)))
    buffers = {name: value[0] for name, value in problem.network.buffers(1).items()}
    with torch.no_grad():
        problem.network(problem.network.initial, buffers, rows.inputs, mode)
