"""The generalised Gauss–Newton matrix (Schraudolph 2002; Martens 2020) of a network on its data, diagonal or full.

    H = Σ_n J_nᵀ Λ_n J_n,      Λ_n = L_n L_nᵀ = Fisher information of p(y | f) at f(x_n),                        (1)

as a sum of outer products of the rows (J_nᵀ L_n e_r)ᵀ: one vector–Jacobian product per example and output. With many
outputs the unit vectors e_r are replaced by R random sign vectors z_r/√R, whose E[z zᵀ] = I makes (1) unbiased.

Rows are formed for a chunk of examples at a time; the sums are kept in float64, because null directions of H are told
from weak ones by differences of large numbers. Cost: R gradient evaluations per example, one more for the gradient of
the log likelihood. Not here: second derivatives of the network, which (1) leaves out.
"""

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.func import grad, vjp

from bayesify.curvature.jacobian import as_batch, rows_per_chunk
from bayesify.curvature.spectrum import DiagonalSpectrum, FullSpectrum, Spectrum, eigen
from bayesify.data import Data
from bayesify.engine.vectorise import Vectorised
from bayesify.model.likelihoods import Categorical, Likelihood
from bayesify.model.network import Buffers, Mode
from bayesify.model.problem import Problem


class Vectors(NamedTuple):
    """Which vector–Jacobian products are taken for every example."""

    num_outputs: int
    """C."""
    num_fisher: int
    """R: the outputs C, or the number of random sign vectors."""
    exact: bool
    """Whether they are the unit vectors."""
    gradient: bool
    """Whether the gradient of the log likelihood is wanted as well."""

    @property
    def per_example(self) -> int:
        """Gradient evaluations per example."""
        return self.num_fisher + self.gradient


class Expansion(NamedTuple):
    """The log likelihood around one parameter vector, to second order; float64."""

    log_likelihood: Tensor  # ()
    gradient: Tensor | None  # (P_network,)
    spectrum: Spectrum  # of D H D


class Pulled(NamedTuple):
    """One chunk's vector–Jacobian products."""

    rows: Tensor  # (B, R [+ 1], P_network); the gradient is the last
    log_likelihood: Tensor  # (B,)


def expand_diagonal(
    problem: Problem, theta: Tensor, buffers: Buffers, scale: Tensor, vectors: Vectors, rng: torch.Generator
) -> Expansion:
    """The diagonal of H.

    Args:
        problem: model and data; its meter counts.
        theta: (P,).
        buffers: {name: (...)} of this particle.
        scale: D (P_network,), the prior's standard deviations.
        vectors: which products to take.
        rng: for random sign vectors.
    """
    total = theta.new_zeros(len(scale), dtype=torch.float64)
    sums = Sums.zero(total)
    for part in _rows(problem, theta, buffers, vectors, rng):
        total += part.rows[:, : vectors.num_fisher].double().square().sum((0, 1))
        sums = sums.plus(part, vectors)
    return sums.expansion(DiagonalSpectrum(total * scale.double().square()), vectors)


def expand_full(
    problem: Problem, theta: Tensor, buffers: Buffers, scale: Tensor, vectors: Vectors, rng: torch.Generator
) -> Expansion:
    """All of H, (P_network, P_network) numbers. Arguments as in `expand_diagonal`."""
    total = theta.new_zeros(len(scale), len(scale), dtype=torch.float64)
    sums = Sums.zero(total[0])
    for part in _rows(problem, theta, buffers, vectors, rng):
        rows = part.rows[:, : vectors.num_fisher].double().flatten(0, 1) * scale.double()
        total.addmm_(rows.mT, rows)
        sums = sums.plus(part, vectors)
    return sums.expansion(FullSpectrum(*eigen(total)), vectors)


class Sums(NamedTuple):
    """Log likelihood and gradient added up over chunks."""

    log_likelihood: Tensor
    gradient: Tensor

    @staticmethod
    def zero(like: Tensor) -> "Sums":
        """Nothing yet; `like` is a float64 (P,)."""
        return Sums(like.new_zeros(()), torch.zeros_like(like))

    def plus(self, part: Pulled, vectors: Vectors) -> "Sums":
        """With one more chunk."""
        gradient = self.gradient
        if vectors.gradient:
            gradient = gradient + part.rows[:, -1].double().sum(0)
        return Sums(self.log_likelihood + part.log_likelihood.double().sum(), gradient)

    def expansion(self, spectrum: Spectrum, vectors: Vectors) -> Expansion:
        """The finished expansion."""
        return Expansion(self.log_likelihood, self.gradient if vectors.gradient else None, spectrum)


def _rows(
    problem: Problem, theta: Tensor, buffers: Buffers, vectors: Vectors, rng: torch.Generator
) -> Iterator[Pulled]:
    network, own = problem.model.split(theta)
    batched = Vectorised(partial(_one_example, problem, vectors), gradient=False, way=problem.way)
    for chunk in problem.data.chunks(rows_per_chunk(vectors.per_example * len(network))):
        directions = draw_directions(vectors, chunk.num_examples, network, rng)
        evaluated = batched((None, None, None, 0), directions, network, own, buffers, chunk)
        problem.meter.gradient(chunk.num_examples * vectors.per_example, evaluated.flops)
        yield Pulled(*evaluated.result)


def _one_example(
    problem: Problem, vectors: Vectors, directions: Tensor, network: Tensor, own: Tensor, buffers: Buffers, row: Data
) -> tuple[Tensor, Tensor]:
    def function(network: Tensor) -> Tensor:
        return problem.network(network, buffers, as_batch(row.inputs), Mode.PREDICT)[0]

    pair: Any = vjp(function, network)
    outputs, pull = pair
    cotangents, log_likelihood = cotangents_of(problem.likelihood, vectors, outputs, row.targets, own, directions)
    return torch.stack([pull(cotangent)[0] for cotangent in cotangents]), log_likelihood


def draw_directions(vectors: Vectors, num_rows: int, like: Tensor, rng: torch.Generator) -> Tensor:
    """Vectors z with Σ_r z_r z_rᵀ = I, exactly or in expectation, (B, R, C)."""
    if vectors.exact:
        return torch.eye(vectors.num_outputs, dtype=like.dtype, device=like.device).expand(num_rows, -1, -1)
    shape = (num_rows, vectors.num_fisher, vectors.num_outputs)
    signs: Tensor = 2 * torch.randint(2, shape, generator=rng, device=rng.device).to(like) - 1
    return signs / math.sqrt(vectors.num_fisher)


def cotangents_of(
    likelihood: Likelihood, vectors: Vectors, outputs: Tensor, target: Tensor, own: Tensor, directions: Tensor
) -> tuple[Tensor, Tensor]:
    """What is pulled back for one example: L z_r for all r, then ∇_f log p(y | f) if wanted.

    Args:
        likelihood: p(y | f).
        vectors: which products to take.
        outputs: f (C,).
        target: y, () or (D,).
        own: the likelihood's own parameters (L,).
        directions: z (R, C).

    Returns:
        (R [+ 1], C) and log p(y | f).
    """

    def log_prob(outputs: Tensor) -> Tensor:
        return likelihood.log_prob(outputs[None], target[None], own)[0]

    fisher = fisher_root(likelihood)(outputs, own, directions)
    if not vectors.gradient:
        return fisher, log_prob(outputs)
    score: Tensor = grad(log_prob)(outputs)
    return torch.cat([fisher, score[None]]), log_prob(outputs)


def fisher_root(likelihood: Likelihood) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """A function (f (C,), own (L,), z (R, C)) → L z (R, C) with L Lᵀ the Fisher information at f."""
    if isinstance(likelihood, Categorical):
        return _categorical_root

    def root(outputs: Tensor, own: Tensor, directions: Tensor) -> Tensor:
        values, basis = torch.linalg.eigh(likelihood.fisher(outputs[None], own)[0])
        root: Tensor = (directions * values.clamp_min(0).sqrt()) @ basis.mT
        return root

    return root


def _categorical_root(outputs: Tensor, own: Tensor, directions: Tensor) -> Tensor:
    """L = diag(√p) − p √pᵀ, because √pᵀ√p = 1; O(C) for every vector, and no C × C matrix."""
    del own
    p = outputs.softmax(-1)
    scaled = directions * p.sqrt()
    rooted: Tensor = scaled - scaled.sum(-1, keepdim=True) * p
    return rooted
