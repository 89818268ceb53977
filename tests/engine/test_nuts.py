"""The trees of the no-U-turn sampler, against what recursion gives."""

import numpy as np
import pytest
import torch
from targets import correlated_gaussian, smooth_network
from torch import Tensor

from bayesify.engine import nuts
from bayesify.engine.hamiltonian import Kernel, evaluate, kernel_of, leapfrog
from bayesify.engine.nuts import Walk, advance, leaf_of, start_walk
from bayesify.engine.rng import generator

STEP = 0.08


def straight(velocities: Tensor, extra: bool = True) -> bool:
    """Stan's criterion for points (n, P) in the order of time, n even: as a whole, and around the middle."""
    half = len(velocities) // 2
    parts = [velocities, velocities[: half + 1], velocities[half - 1 :]]
    return all(float(part[end] @ part.sum(0)) > 0 for part in (parts if extra else parts[:1]) for end in (0, -1))


def turned(velocities: Tensor, extra: bool = True) -> bool:
    """Whether the binary tree over points (2^d, P) has a stretch that turned."""
    if len(velocities) == 1:
        return False
    half = len(velocities) // 2
    parts = velocities[:half], velocities[half:]
    return any(turned(part, extra) for part in parts) or not straight(velocities, extra)


def test_stretches_of_a_half_turn_where_recursion_says_so() -> None:
    rng = generator("cpu", "stretches")
    chains, depth, size = 64, 5, 3
    # Velocities around a drift: short stretches turn, and long ones.
    velocities = torch.randn(2**depth + 1, chains, size, generator=rng, dtype=torch.float64) + 0.7
    point = evaluate(kernel_of(smooth_network()), torch.zeros(chains, 32, dtype=torch.float64))
    walk = start_walk(point._replace(theta=torch.zeros(chains, size, dtype=torch.float64)), depth)
    last = torch.stack([velocities[0], torch.zeros_like(velocities[0])], 1)
    found = np.zeros((2**depth, chains), dtype=bool)
    for leaf in range(2**depth):
        here = velocities[leaf + 1]
        before, last = last, torch.stack([here, last[:, 1] + here], 1)
        both = before[:, 0] + here
        pair = torch.minimum((before[:, 0] * both).sum(-1), (here * both).sum(-1)).numpy()
        found[leaf] = nuts._turned(walk._replace(last=last), before, pair)
        walk.numbers.leaf.add_(1)
    differs = 0
    for chain in range(chains):
        own = velocities[1:, chain]
        for leaf in range(2**depth):
            sizes = [2**d for d in range(1, depth + 1) if (leaf + 1) % 2**d == 0]
            stretches = [own[leaf + 1 - n : leaf + 1] for n in sizes]
            assert found[leaf, chain] == any(not straight(s) for s in stretches)
            differs += any(not straight(s) for s in stretches) != any(not straight(s, extra=False) for s in stretches)
    assert 0.1 < found.mean() < 0.9
    assert differs > 10  # the tests around the middle matter


class Replay:
    """One trajectory by recursion, from the same start in the same directions."""

    def __init__(self, kernel: Kernel, theta: Tensor, velocity: Tensor, max_depth: int) -> None:
        self.kernel, self.max_depth = kernel, max_depth
        self.points = [(theta, velocity)]  # in the order of time

    def half(self, depth: int, forwards: bool) -> list[tuple[Tensor, Tensor]]:
        theta, velocity = self.points[-1 if forwards else 0]
        found = []
        for _ in range(2**depth):
            step = torch.tensor([STEP if forwards else -STEP], dtype=torch.float64)
            point, velocity = leapfrog(self.kernel, evaluate(self.kernel, theta), velocity, step, 1)
            theta = point.theta
            found.append((theta, velocity))
        return found

    def count(self, directions: list[bool]) -> int:
        """Points that are computed until the trajectory ends, the first one left out."""
        computed = 0
        for depth, forwards in enumerate(directions):
            new = self.half(depth, forwards)
            for n in range(1, len(new) + 1):
                complete = [new[n - 2**d : n] for d in range(1, depth + 1) if n % 2**d == 0]
                if any(not straight(torch.cat([v for _, v in part])) for part in complete):
                    return computed + n
            computed += len(new)
            self.points = self.points + new if forwards else new[::-1] + self.points
            if not straight(torch.cat([v for _, v in self.points])):
                return computed
        assert len(directions) == self.max_depth
        return computed


@pytest.mark.parametrize("max_depth", [3, 7])
def test_trajectories_are_those_of_recursion(max_depth: int, monkeypatch: pytest.MonkeyPatch) -> None:
    problem = correlated_gaussian().problem
    kernel = kernel_of(problem)
    walk = start_walk(evaluate(kernel, problem.random(5, generator("cpu", "start"))), max_depth)
    log_step = torch.full((5,), STEP, dtype=torch.float64).log()
    rng = generator("cpu", "walk")
    replays: dict[int, Replay] = {}
    directions: dict[int, list[bool]] = {}
    set_out = nuts._set_out

    def record(walk: Walk, rows: np.ndarray, forwards: np.ndarray) -> None:
        for row, forward in zip(rows.tolist(), forwards.tolist(), strict=True):
            if walk.numbers.points[row] == 0:
                theta, velocity, _ = walk.ends[row, 0].clone().split(1)
                replays[row], directions[row] = Replay(kernel, theta, velocity, max_depth), []
            directions[row].append(forward)
        set_out(walk, rows, forwards)

    monkeypatch.setattr(nuts, "_set_out", record)
    leaf = leaf_of(kernel)
    lengths = []
    for _ in range(600):
        walk, info = advance(kernel, leaf, walk, log_step, rng)
        assert info.done is not None
        for row in info.done.nonzero().flatten().tolist():
            lengths.append(replays[row].count(directions[row]))
            assert int(walk.numbers.points[row]) == lengths[-1]
            thetas = torch.cat([theta for theta, _ in replays[row].points])
            assert float((thetas - walk.theta[row]).abs().sum(1).min()) < 1e-9
    assert len(set(lengths)) > (1 if max_depth == 3 else 5)
    if max_depth == 3:
        assert max(lengths) == 7


def test_the_draw_is_a_point_that_was_evaluated() -> None:
    problem = smooth_network()
    kernel = kernel_of(problem)
    walk = start_walk(evaluate(kernel, problem.random(4, generator("cpu", "start"))), 6)
    rng = generator("cpu", "walk")
    log_step = torch.full((4,), 0.02, dtype=torch.float64).log()
    leaf = leaf_of(kernel)
    for _ in range(200):
        walk, _ = advance(kernel, leaf, walk, log_step, rng)
    fresh = evaluate(kernel, walk.theta)
    torch.testing.assert_close(walk.gradient, fresh.gradient)
    torch.testing.assert_close(walk.log_likelihood, fresh.log_likelihood)
    torch.testing.assert_close(walk.log_prior, fresh.log_prior)


def test_every_gradient_is_of_a_trajectory() -> None:
    # No chain waits: points of complete and of unfinished trajectories are all that was computed.
    problem = smooth_network()
    kernel = kernel_of(problem)
    walk = start_walk(evaluate(kernel, problem.random(4, generator("cpu", "start"))), 8)
    rng = generator("cpu", "walk")
    log_step = torch.full((4,), 0.02, dtype=torch.float64).log()
    leaf, points = leaf_of(kernel), 0
    before = problem.meter.total
    for _ in range(300):
        walk, info = advance(kernel, leaf, walk, log_step, rng)
        assert info.done is not None
        points += int(walk.numbers.points[info.done].sum())
    under_way = walk.numbers.points[walk.numbers.depth != nuts.AT_REST]
    assert points + int(under_way.sum()) == 300 * 4
    assert problem.meter.total - before == 300 * 4 * problem.num_examples
