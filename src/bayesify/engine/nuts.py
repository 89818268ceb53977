"""The no-U-turn sampler for K chains at once, without recursion, and without a chain that waits for another.

A trajectory doubles, forwards or backwards in time at random, until it turns back on itself (Hoffman & Gelman, JMLR
2014). The draw is one of its points, with probability proportional to their densities: uniformly within a new half,
and preferring the new half over the old tree (Betancourt 2017, appendix A.3.1–2). A stretch of points with velocities
vᵢ and sum ρ turns where the velocity at one of its ends has no component along ρ (A.4.2); as in Stan, the same is
asked of each half of the stretch together with the first point of the other, or U-turns that lie across the middle
would be missed.

Each call of `advance` is one leapfrog step of every chain, wherever it is in its own trajectory: a chain whose
trajectory is complete begins the next one in the same call. The points of a half-tree come one after the other, and
the stretches that must be tested are those of the binary tree that end at the point just reached: their other ends
are kept as milestones, one per level (Phan, Pradhan & Jankowiak 2019; Lao et al. 2020, appendix A).

Branches are taken on the CPU, by numbers of which there are a few per chain; tensors are changed in place, in the rows
of the chains that something happens to.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from bayesify.engine.chains import Info
from bayesify.engine.compiled import Fused
from bayesify.engine.hamiltonian import DIVERGENT, Kernel, Point

LARGE = 1e30
"""Stands in for an infinite energy, so that differences stay numbers."""
AT_REST = -1
"""Depth of a chain that begins a trajectory in the next call."""


class Numbers(NamedTuple):
    """What branches depend on, (K,) each, on the CPU."""

    depth: Tensor  # of the tree; the half that is added has 2^depth points
    leaf: Tensor  # the index of the next point of that half
    side: Tensor  # 1 where it grows forwards in time, 0 backwards
    energy: Tensor  # where the trajectory began
    tree_weight: Tensor  # log of the sum of exp(−ΔH)
    half_weight: Tensor
    error: Tensor  # ΔH of the draw
    half_error: Tensor
    acceptance: Tensor  # sum over the trajectory of min(1, exp(−ΔH)), for tuning
    points: Tensor  # how many there were


class Walk(NamedTuple):
    """K chains and the trees they build."""

    theta: Tensor  # (K, P) the draw; of the tree so far while it grows, as the next three
    gradient: Tensor  # (K, P)
    log_likelihood: Tensor  # (K,)
    log_prior: Tensor  # (K,)
    ends: Tensor  # (K, 2, 3, P) θ, v, gradient at the tree's left and right end
    sum: Tensor  # (K, P) of the tree's velocities
    half_draw: Tensor  # (K, 2, P) θ and gradient of the draw of the half being added
    half_values: Tensor  # (K, 2) log likelihood and log prior there
    ahead: Tensor  # (K, P) where the next gradient is taken
    velocity: Tensor  # (K, P) half a step before
    step: Tensor  # (K, P) ε s, negative where time runs backwards
    last: Tensor  # (K, 2, P) v at the last point, and the sum of v over the half so far
    milestones: Tensor  # (K, max_depth, 3, P) `last` before a point, and v at it
    numbers: Numbers


class Reached(NamedTuple):
    """The points that K chains have just come to."""

    theta: Tensor  # (K, P)
    gradient: Tensor  # (K, P)
    values: Tensor  # (K, 4) log likelihood, log prior, ½|v|², and the pair's criterion


def leaf_of(kernel: Kernel) -> Fused:
    """All that is computed at a point once the gradient of the log likelihood is known."""
    problem = kernel.problem

    def leaf(
        theta: Tensor, velocity: Tensor, likelihood: Tensor, value: Tensor, last: Tensor, step: Tensor
    ) -> tuple[Tensor, ...]:
        gradient = (likelihood + problem.prior.score(theta)) / problem.temperature
        here = torch.addcmul(velocity, step, gradient, value=0.5)
        after = torch.addcmul(velocity, step, gradient)
        before, total = last[:, 0], last[:, 1]
        both = before + here
        pair = torch.minimum((before * both).sum(-1), (here * both).sum(-1))
        # Weights are small differences of large sums: single precision would round them away.
        kinetic = 0.5 * here.double().square().sum(-1)
        values = torch.stack([value.double(), problem.prior.log_density(theta.double()), kinetic, pair.double()], 1)
        return torch.addcmul(theta, step, after), after, torch.stack([here, total + here], 1), gradient, values

    return problem.fused(leaf, kernel.mode)


def start_walk(point: Point, max_depth: int) -> Walk:
    """K chains at rest."""
    theta = point.theta.clone()
    chains, size = theta.shape
    one = torch.zeros(chains, dtype=torch.float64)
    count = torch.zeros(chains, dtype=torch.int64)
    numbers = Numbers(
        depth=torch.full_like(count, AT_REST), leaf=count.clone(), side=count.clone(), energy=one.clone(),
        tree_weight=one.clone(), half_weight=one.clone(), error=one.clone(), half_error=one.clone(),
        acceptance=one.clone(), points=count.clone(),
    )  # fmt: skip
    return Walk(
        theta,
        point.gradient.clone(),
        point.log_likelihood.clone(),
        point.log_prior.clone(),
        ends=theta.new_zeros(chains, 2, 3, size),
        sum=torch.zeros_like(theta),
        half_draw=theta.new_zeros(chains, 2, size),
        half_values=point.log_prior.new_zeros(chains, 2),
        ahead=theta.clone(),
        velocity=torch.zeros_like(theta),
        step=torch.zeros_like(theta),
        last=theta.new_zeros(chains, 2, size),
        milestones=theta.new_zeros(chains, max_depth, 3, size),
        numbers=numbers,
    )


def advance(kernel: Kernel, leaf: Fused, walk: Walk, log_step: Tensor, rng: torch.Generator) -> tuple[Walk, Info]:
    """One leapfrog step of every chain; `info.done` says whose trajectory it completed.

    Args:
        kernel: the density and the scales of trajectories that begin now.
        leaf: `leaf_of` it.
        walk: the chains; changed in place.
        log_step: (K,) for trajectories that begin now.
        rng: draws velocities, directions and points.
    """
    numbers = Numbers(*(value.cpu() for value in walk.numbers))
    walk = walk._replace(numbers=numbers)
    chains, device = len(walk.theta), walk.theta.device
    uniform = torch.rand(4, chains, generator=rng, dtype=torch.float64, device=device).cpu().numpy()
    resting = np.flatnonzero(numbers.depth.numpy() == AT_REST)
    if len(resting):
        _begin(kernel, walk, resting, log_step, uniform[2] < 0.5, rng)
    before, theta = walk.last, walk.ahead
    likelihood, value = kernel.problem.full_likelihood_gradient(theta, kernel.mode)
    ahead, velocity, last, gradient, values = leaf(theta, walk.velocity, likelihood, value, before, walk.step)
    walk = walk._replace(ahead=ahead, velocity=velocity, last=last)
    reached = Reached(theta, gradient, values)
    seen = values.cpu().numpy()
    divergent = _weigh(walk, reached, seen, kernel.problem.temperature, uniform[0])
    done = divergent | _turned(walk, before, seen[:, 3])
    leaf_index, depth = numbers.leaf.numpy(), numbers.depth.numpy()
    leaf_index += 1
    complete = np.flatnonzero(~done & (leaf_index == 1 << depth))
    if len(complete):
        done[complete] = _join(walk, reached, complete, uniform[1], uniform[3] < 0.5)
    depth[done] = AT_REST
    return walk, _info(numbers, done, divergent, device)


def _info(numbers: Numbers, done: np.ndarray, divergent: np.ndarray, device: torch.device) -> Info:
    return Info(
        (numbers.acceptance / numbers.points).to(device),
        numbers.error.to(device, copy=True),
        torch.from_numpy(divergent).to(device),
        torch.from_numpy(done).to(device),
    )


def _begin(
    kernel: Kernel, walk: Walk, rows: np.ndarray, log_step: Tensor, forwards: np.ndarray, rng: torch.Generator
) -> None:
    """Trajectories of one point, with new velocities, for the chains in `rows`."""
    numbers, index = walk.numbers, _index(rows, walk)
    theta = walk.theta[index]
    velocity = torch.randn(theta.shape, generator=rng, dtype=theta.dtype, device=theta.device)
    walk.ends[index] = torch.stack([theta, velocity, walk.gradient[index]], 1).unsqueeze(1)
    walk.sum[index] = velocity
    scale = kernel.scale.expand_as(walk.theta)[index]
    walk.step[index] = log_step[index].exp().to(theta)[:, None] * scale
    density = (walk.log_likelihood[index] + walk.log_prior[index]) / kernel.problem.temperature
    numbers.energy.numpy()[rows] = (0.5 * velocity.double().square().sum(-1) - density).cpu().numpy()
    for value in (numbers.depth, numbers.tree_weight, numbers.error, numbers.acceptance, numbers.points):
        value.numpy()[rows] = 0
    _set_out(walk, rows, forwards[rows])


def _set_out(walk: Walk, rows: np.ndarray, forwards: np.ndarray) -> None:
    """Begins a half at the tree's left or right end."""
    numbers, index = walk.numbers, _index(rows, walk)
    side = torch.from_numpy(forwards.astype(np.int64)).to(walk.theta.device)
    theta, velocity, gradient = walk.ends[index, side].unbind(1)
    step = walk.step[index].abs() * (2 * side - 1)[:, None]
    half = torch.addcmul(velocity, step, gradient, value=0.5)
    walk.step[index] = step
    walk.velocity[index] = half
    walk.ahead[index] = torch.addcmul(theta, step, half)
    walk.last[index] = torch.stack([velocity, torch.zeros_like(velocity)], 1)
    numbers.side.numpy()[rows] = forwards
    numbers.leaf.numpy()[rows] = 0
    numbers.half_weight.numpy()[rows] = -LARGE


def _weigh(walk: Walk, reached: Reached, seen: np.ndarray, temperature: float, uniform: np.ndarray) -> np.ndarray:
    """Counts the points; in each half the draw becomes the new point with its share of the weight.

    Returns:
        (K,) whose energy has left all bounds.
    """
    numbers = walk.numbers
    error = seen[:, 2] - (seen[:, 0] + seen[:, 1]) / temperature - numbers.energy.numpy()
    error = np.where(np.isfinite(error), error, LARGE)
    acceptance, points, weight = (v.numpy() for v in (numbers.acceptance, numbers.points, numbers.half_weight))
    acceptance += np.exp(-np.maximum(error, 0))
    points += 1
    weight[:] = np.logaddexp(weight, -error)
    divergent: np.ndarray = error > DIVERGENT
    taken = np.flatnonzero(~divergent & (uniform < np.exp(-error - weight)))
    if len(taken):
        index = _index(taken, walk)
        walk.half_draw[index] = torch.stack([reached.theta[index], reached.gradient[index]], 1)
        walk.half_values[index] = reached.values[index, :2]
        numbers.half_error.numpy()[taken] = error[taken]
    return divergent


def _turned(walk: Walk, before: Tensor, pair: np.ndarray) -> np.ndarray:
    """(K,) whether a stretch of the half that ends at the point just reached has turned; sets milestones.

    Stretches of the binary tree have 2, 4, 8 … points; as many end at leaf n as n has trailing ones. The milestone of
    those that begin at a leaf n has the index of the number of ones in n/2, which no later one takes before they end.
    """
    leaf = walk.numbers.leaf.numpy()
    even = np.flatnonzero(leaf & 1 == 0)
    if len(even):
        index, slot = _index(even, walk), _index(_ones(leaf[even] >> 1), walk)
        walk.milestones[index, slot, :2] = before[index]
        walk.milestones[index, slot, 2] = walk.last[index, 0]
    turned: np.ndarray = (leaf & 1 == 1) & (pair <= 0)
    longer = np.flatnonzero((leaf & 3 == 3) & ~turned)
    if len(longer):
        found = [(k, top - level) for k, top, levels in _ending(leaf, longer) for level in range(1, levels)]
        rows, first = np.array(found).T
        index, slot = _index(rows, walk), _index(first, walk)
        left, right = walk.milestones[index, slot], walk.milestones[index, slot + 1]
        turned[rows[~_straight(left, right, walk.last[index])]] = True
    return turned


def _ending(leaf: np.ndarray, rows: np.ndarray) -> list[tuple[int, int, int]]:
    """For each row: itself, the milestone of the pair that ends there, and how many stretches end there."""
    count = leaf[rows]
    trailing = _ones(count & ~(count + 1))
    return list(zip(rows.tolist(), _ones(count >> 1).tolist(), trailing.tolist(), strict=True))


def _ones(number: np.ndarray) -> np.ndarray:
    return np.array([value.bit_count() for value in number.tolist()])


def _straight(left: Tensor, right: Tensor, last: Tensor) -> np.ndarray:
    """Whether stretches have not turned, (m,): neither as a whole nor around their middle.

    All sums of velocities are from the half's beginning, so that differences are sums over parts.

    Args:
        left: (m, 3, P) milestone at the stretch's first point.
        right: (m, 3, P) milestone at the first point of its second half.
        last: (m, 2, P) v at its last point, and the sum.
    """
    vectors = torch.cat([left, right, last], 1)
    products = (vectors @ vectors.mT).double().cpu().numpy()
    _, start, first, middle_end, middle, middle_begin, end, total = range(8)
    along = {
        "whole": products[:, total] - products[:, start],
        "first half": products[:, middle] - products[:, start] + products[:, middle_begin],
        "second half": products[:, total] - products[:, middle] + products[:, middle_end],
    }
    ends = {"whole": (first, end), "first half": (first, middle_begin), "second half": (middle_end, end)}
    good = [along[part][:, vector] > 0 for part in along for vector in ends[part]]
    result: np.ndarray = np.logical_and.reduce(good)
    return result


def _join(walk: Walk, reached: Reached, rows: np.ndarray, uniform: np.ndarray, forwards: np.ndarray) -> np.ndarray:
    """Adds the halves that are complete to their trees, and begins the next ones.

    Returns:
        whose trajectory ends with that, for the chains in `rows`.
    """
    numbers, index = walk.numbers, _index(rows, walk)
    weight, half_weight, depth = (v.numpy() for v in (numbers.tree_weight, numbers.half_weight, numbers.depth))
    # The draw of the new half is preferred: a point far from the start is as good and tells more.
    taken = rows[uniform[rows] < np.exp(np.minimum(0, half_weight[rows] - weight[rows]))]
    if len(taken):
        chosen = _index(taken, walk)
        walk.theta[chosen], walk.gradient[chosen] = walk.half_draw[chosen].unbind(1)
        walk.log_likelihood[chosen], walk.log_prior[chosen] = walk.half_values[chosen].unbind(1)
        numbers.error.numpy()[taken] = numbers.half_error.numpy()[taken]
    weight[rows] = np.logaddexp(weight[rows], half_weight[rows])
    side = numbers.side[index.cpu()].to(index.device)
    outer, last, total = walk.ends[index, 1 - side, 1], walk.last[index], walk.sum[index]
    left = torch.stack([outer, -total, outer], 1)
    straight = _straight(left, walk.milestones[index, 0], last)
    walk.ends[index, side] = torch.stack([reached.theta[index], last[:, 0], reached.gradient[index]], 1)
    walk.sum[index] = total + last[:, 1]
    depth[rows] += 1
    ends: np.ndarray = ~straight | (depth[rows] == walk.milestones.shape[1])
    onward = rows[~ends]
    if len(onward):
        _set_out(walk, onward, forwards[onward])
    return ends


def _index(rows: np.ndarray, walk: Walk) -> Tensor:
    return torch.from_numpy(rows).to(walk.theta.device)
