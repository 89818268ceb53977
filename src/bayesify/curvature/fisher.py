"""Vectors whose outer products make up the curvature in the outputs, p(y | f)'s: what is pulled back through a network.

Λ = L Lᵀ is the Fisher information of one example's outputs; Σ_r (L z_r)(L z_r)ᵀ = Λ for the unit vectors z_r, and in
expectation for R random sign vectors divided by √R. For C classes L √p = 0: unit vectors reflected so that the last of
them becomes −√p leave C − 1 that count.

Two other matrices are made of scores ∇_f log p(y | f) instead: "mc_fisher" takes R draws y ~ p(y | f) per example,
divided by √R, which is the Fisher information in expectation; "empirical_fisher" takes the score of the observed y.
The latter is no estimate of the curvature: it vanishes where data are fitted exactly (Kunstner, Balles & Hennig 2019).
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import grad, vmap

from bayesify.model.components import sample_of
from bayesify.model.likelihoods import Categorical, Likelihood

MAX_OUTPUTS, RANDOM_VECTORS = 20, 10
"""Up to so many outputs H is exact; beyond, so many random vectors per example stand in for them."""
GGN, MC_FISHER, EMPIRICAL_FISHER = "ggn", "mc_fisher", "empirical_fisher"


class Vectors(NamedTuple):
    """Which vector–Jacobian products are taken for every example."""

    num_outputs: int
    """C."""
    num_fisher: int
    """R: at least `rank_of` the Fisher information, or the number of random sign vectors."""
    exact: bool
    """Whether they are the first R unit vectors (reflected, for classes)."""
    gradient: bool
    """Whether the gradient of the log likelihood is wanted as well."""
    kind: str = GGN
    """Of what: the Fisher information itself, or scores of drawn or of observed targets."""

    @property
    def per_example(self) -> int:
        """Gradient evaluations per example."""
        return self.num_fisher + self.gradient


class Rows(NamedTuple):
    """Some rows that directions are wanted for."""

    number: int
    like: Tensor
    rng: torch.Generator


def rank_of(likelihood: Likelihood, num_outputs: int) -> int:
    """How many exact vectors make up Λ."""
    return max(1, num_outputs - 1) if isinstance(likelihood, Categorical) else num_outputs


def usual_vectors(likelihood: Likelihood, num_outputs: int, gradient: bool, samples: int | None = None) -> Vectors:
    """Exact where outputs are few, random sign vectors otherwise, or as many of these as asked for."""
    if samples is None and num_outputs <= MAX_OUTPUTS:
        return Vectors(num_outputs, rank_of(likelihood, num_outputs), True, gradient)
    return Vectors(num_outputs, samples or RANDOM_VECTORS, False, gradient)


def draw_directions(vectors: Vectors, num_rows: int, like: Tensor, rng: torch.Generator) -> Tensor:
    """Vectors z, (B, R, C), with Σ_r z_r z_rᵀ = I, in expectation or exactly (but for the C − R last unit vectors)."""
    if vectors.exact:
        units = torch.eye(vectors.num_fisher, vectors.num_outputs, dtype=like.dtype, device=like.device)
        return units.expand(num_rows, -1, -1)
    shape = (num_rows, vectors.num_fisher, vectors.num_outputs)
    signs: Tensor = 2 * torch.randint(2, shape, generator=rng, device=rng.device).to(like) - 1
    return signs / math.sqrt(vectors.num_fisher)


def chunk_directions(
    likelihood: Likelihood, vectors: Vectors, own: Tensor, rows: Rows, outputs: Callable[[], Tensor]
) -> Tensor:
    """What `cotangents_of` takes as directions for some rows: vectors z (B, R, C), or drawn targets (B, R[, D]).

    Args:
        likelihood: p(y | f).
        vectors: which products to take.
        own: the likelihood's own parameters (L,).
        rows: how many, and with what randomness.
        outputs: gives their outputs (B, C), if asked for them.
    """
    if vectors.kind == MC_FISHER:
        return sampled_targets(likelihood, outputs(), own, vectors.num_fisher, rows.rng)
    return draw_directions(vectors, rows.number, rows.like, rows.rng)


def sampled_targets(likelihood: Likelihood, outputs: Tensor, own: Tensor, number: int, rng: torch.Generator) -> Tensor:
    """Draws y ~ p(y | f) for every row, (B, number) or (B, number, D)."""
    components = likelihood.components(outputs[None], own[None])
    if likelihood.kind == "classification":
        probs = components.logits[0].softmax(-1)  # type: ignore[attr-defined]
        drawn = torch.multinomial(probs, number, replacement=True, generator=rng)
        return drawn if isinstance(likelihood, Categorical) else drawn.to(outputs)
    size = (number, len(outputs))
    which = torch.zeros(size, dtype=torch.long, device=outputs.device)
    place = torch.arange(len(outputs), device=outputs.device).expand(size)
    drawn = sample_of(components, which, place, rng).transpose(0, 1)
    return drawn.squeeze(-1) if likelihood.kind == "count" else drawn


def cotangents_of(
    likelihood: Likelihood, vectors: Vectors, outputs: Tensor, target: Tensor, own: Tensor, directions: Tensor
) -> tuple[Tensor, Tensor]:
    """What is pulled back for one example: L z_r (or a score) for all r, then ∇_f log p(y | f) if wanted.

    Args:
        likelihood: p(y | f).
        vectors: which products to take.
        outputs: f (C,).
        target: y, () or (D,).
        own: the likelihood's own parameters (L,).
        directions: z (R, C), or drawn targets (R,) or (R, D).

    Returns:
        (R [+ 1], C) and log p(y | f).
    """

    def log_prob(outputs: Tensor, target: Tensor = target) -> Tensor:
        return likelihood.log_prob(outputs[None], target[None], own)[0]

    if vectors.kind == EMPIRICAL_FISHER:
        score: Tensor = grad(log_prob)(outputs)
        return score.expand(1 + vectors.gradient, -1), log_prob(outputs)
    if vectors.exact and isinstance(likelihood, Categorical):
        directions = _reflected(directions, outputs.softmax(-1).sqrt())
    if vectors.kind == MC_FISHER:
        fisher = vmap(grad(log_prob), in_dims=(None, 0))(outputs, directions) / math.sqrt(len(directions))
    else:
        fisher = fisher_root(likelihood)(outputs, own, directions)
    if not vectors.gradient:
        return fisher, log_prob(outputs)
    score = grad(log_prob)(outputs)
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


def _reflected(directions: Tensor, root: Tensor) -> Tensor:
    """Householder's reflection that maps √p, a unit vector, to −e_C and so e_C to −√p."""
    normal = torch.cat([root[:-1], root[-1:] + 1])
    reflected: Tensor = directions - (directions @ normal)[:, None] * normal / normal[-1]  # |normal|² = 2 normal_C
    return reflected


def _categorical_root(outputs: Tensor, own: Tensor, directions: Tensor) -> Tensor:
    """L = diag(√p) − p √pᵀ, because √pᵀ√p = 1; O(C) for every vector, and no C × C matrix."""
    del own
    p = outputs.softmax(-1)
    scaled = directions * p.sqrt()
    rooted: Tensor = scaled - scaled.sum(-1, keepdim=True) * p
    return rooted
