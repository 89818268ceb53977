"""Bayesian inference in a plane through an optimiser's path (Izmailov, Maddox, Kirichenko et al., UAI 2019).

The snapshots of the path that SWAG follows have mean μ (with held-out data that of the first n which validates best)
and deviations whose largest principal components span a plane,

    θ(z) = μ + D z,      D = V diag(s),                                                                          (1)

with orthonormal V (P, R) and s the standard deviations of the path along them. The R numbers z are sampled by
elliptical slice sampling from the plane's part of the tempered posterior,

    p(z | D) ∝ [p(D | θ(z)) p(θ(z))]^(1/T),                                                                      (2)

or, with `prior_scale` = σ, from [p(D | θ(z)) N(z; 0, σ² I)]^(1/T), the paper's prior on the plane alone. The Gaussian
of the ellipses is at first the prior on the plane (or, for a prior that is not Gaussian, one of the same scales), then
one fitted to the draws of the burn-in and widened; what it differs by is part of the likelihood (Nishihara, Murray &
Adams, JMLR 2014), so that chains are exact whatever it is: the path decides where the plane lies, and nothing else.

T is 1 unless `tempered(pca_subspace, T)` says otherwise. In so few dimensions all data determine z sharply: the paper
raises only the likelihood to 1/T with T in the hundreds, which is another posterior than (2).

Cost: one gradient of the batch per step of the path, then a forward pass of all data per chain and angle tried, five or
so to a transition. Not here: random and curve subspaces.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from bayesify.engine import chains
from bayesify.engine.budget import FORWARD_COST
from bayesify.engine.chains import Info
from bayesify.engine.elliptical import Slices, advance, start_slices
from bayesify.engine.hamiltonian import mode_of
from bayesify.engine.preflight import Work
from bayesify.engine.run import Run
from bayesify.errors import BudgetError
from bayesify.methods.base import Exactness, Method, MethodInfo, Range, require, require_positive
from bayesify.methods.swag import SWAG
from bayesify.model.problem import Problem
from bayesify.posterior.base import Particles, Posterior
from bayesify.posterior.draws import Draws
from bayesify.posterior.mixing import make_plan, mixing, warnings

BURN_IN_SHARES = (0.15, 0.15, 0.2)
"""Of what is left for sampling, one after the other: with ellipses of the prior, then twice with fitted ones."""
DRAWS_TO_FIT = 4
"""Per dimension, of all chains: fewer say too little about a covariance."""
WIDENED = 2.0
"""Variance of fitted ellipses over that of the draws: where the Gaussian is narrower than the target, chains stick."""
MINIMUM_SWEEPS = 20
"""Evaluations of every chain, below which no phase could do anything."""
NEGLIGIBLE = 1e-6
"""A component is a direction of the path if its standard deviation is more than this part of the largest."""
MAP_SHARE = 0.75
"""Of what the path may spend, as in SWAG: on the way to where it starts."""


@dataclass(frozen=True)
class PCASubspace(Method):
    """The posterior on a plane of few dimensions, sampled exactly.

    Attributes:
        rank: R, dimensions of the plane; fewer where the path has fewer.
        prior_scale: None restricts the model's prior to the plane; a number is σ of N(0, σ² I) on z in its place.
        learning_rate: Adam's on the way to the mode, at the start of the cosine.
        path_learning_rate: Adam's constant rate along the path.
        batch_size: examples per step.
        num_snapshots: of the path.
        path_share: of the budget, for the mode and the path; the rest goes to sampling.
        num_chains: chains in the plane, run side by side.
        num_draws: kept per chain.
    """

    rank: int = 5
    prior_scale: float | None = None
    learning_rate: float = 1e-2
    path_learning_rate: float = 5e-3
    batch_size: int = 64
    num_snapshots: int = 40
    path_share: float = 0.3
    num_chains: int = 4
    num_draws: int = 50

    info = MethodInfo(
        name="pca_subspace",
        family="subspace",
        exactness=Exactness.NOT_A_POSTERIOR,
        reference="Izmailov et al., UAI 2019",
        summary="elliptical slice sampling in a plane through an optimiser's path",
        bias="exact on its plane of `rank` dimensions, and certain about everything off it: far too narrow",
        uses_validation=True,
        search_space={
            "learning_rate": Range(1e-3, 3e-2, log=True),
            "path_learning_rate": Range(1e-3, 2e-2, log=True),
            "rank": Range(2, 20, log=True, integer=True),
        },
    )

    def __post_init__(self) -> None:
        require_positive(self, "rank", "learning_rate", "path_learning_rate", "batch_size", "num_chains", "num_draws")
        require(self.num_snapshots >= 2, self, "num_snapshots", "at least 2")
        require(0 < self.path_share < 1, self, "path_share", "between 0 and 1")
        if self.prior_scale is not None:
            require_positive(self, "prior_scale")

    @property
    def num_particles(self) -> int:
        """The chains; the path is one network's."""
        return self.num_chains

    @property
    def num_predictions(self) -> int:
        """The kept draws."""
        return self.num_chains * self.num_draws

    @property
    def path(self) -> SWAG:
        """Whose path it is."""
        return SWAG(
            learning_rate=self.learning_rate,
            swag_learning_rate=self.path_learning_rate,
            batch_size=self.batch_size,
            map_share=MAP_SHARE,
            num_snapshots=self.num_snapshots,
            max_rank=self.num_snapshots,
        )

    def memory(self, problem: Problem) -> float:
        """Deviations three times (path, best, decomposed), the optimiser's vectors, the draws."""
        vectors = 3 * self.num_snapshots + 8 + self.num_chains * (self.num_draws + 4)
        return float(vectors * problem.num_parameters * problem.network.initial.element_size())

    def stages(self, problem: Problem, limit: float, after: float | None = None) -> list[Work]:
        """The path of one network, then forward passes of all data through every chain's."""
        training, size = self.path_share * limit, problem.num_examples
        sampling = limit - training + (after or 0.0)
        block = min(size, problem.model.rows_at_once(self.num_chains))
        return [Work(1, min(self.batch_size, size), training), Work(self.num_chains, block, sampling)]

    def fit(self, problem: Problem, run: Run) -> Posterior:
        """The path, the plane, the chains in it."""
        found = self.path.follow(problem, run.phase("path", self.path_share)).state
        span = directions(found.deviations, int(found.snapshots), self.rank)
        plane = plane_of(problem, found.best_mean, span, self.prior_scale)
        if (dimensions := plane.basis.shape[1]) < self.rank:
            run.notes.setdefault("warnings", []).append(
                f"the path has only {dimensions} directions, so the plane has not rank={self.rank} but {dimensions} "
                "dimensions: raise the budget or num_snapshots if the network has more parameters."
            )
        plan = make_plan(problem, run, self.num_chains, self.num_draws)
        trace, coordinates = self.sample(problem, plane, run, plan.reserve, plan.num_draws)
        theta = plane.at(coordinates)
        particles = Particles(theta, problem.buffers(theta))
        diagnosed = trace.summary() | mixing(problem, particles, self.num_chains, plan.num_rows)
        notes = diagnosed | {"dimensions": dimensions, "path_scale": plane.path_scale.tolist()}
        run.notes.update(notes, warnings=[*run.notes.get("warnings", []), *warnings(diagnosed, self.num_chains)])
        return Draws(problem.model, particles, self.num_chains)

    def sample(
        self, problem: Problem, plane: "Plane", run: Run, reserve: float, num_draws: int
    ) -> tuple[chains.Trace, Tensor]:
        """Burn-in and sampling: the chains and their draws u (K S, R)."""
        cost = FORWARD_COST * problem.num_examples * self.num_chains
        if not run.affords(reserve + MINIMUM_SWEEPS * cost):
            raise BudgetError(
                f"pca_subspace with {self.num_chains} chains on {problem.num_examples} examples needs at least "
                f"{MINIMUM_SWEEPS * cost + reserve:.0f} gradient evaluations after its path, but has "
                f"{run.remaining:.0f}: raise the budget or lower num_chains or path_share."
            )

        run = run.phase("plane", reserve=reserve)
        ellipses, theta = plane.prior_ellipses(), plane.start(self.num_chains, run.rng)
        for number, share in enumerate(BURN_IN_SHARES):
            trace = self._chains(problem, plane, ellipses, theta, run.phase(f"burn-in-{number}", share), num_draws)
            theta = ellipses.coordinates(trace.state.theta)
            ellipses = fitted(ellipses, ellipses.coordinates(trace.theta))
        trace = self._chains(problem, plane, ellipses, theta, run.phase("sampling"), num_draws)
        return trace, ellipses.coordinates(trace.theta)

    def _chains(
        self, problem: Problem, plane: "Plane", ellipses: "Ellipses", theta: Tensor, run: Run, num_draws: int
    ) -> chains.Trace:
        def log_likelihood(white: Tensor) -> Tensor:
            return plane.log_density(problem, ellipses.coordinates(white)) + 0.5 * white.square().sum(-1)

        def step(slices: Slices, run: Run) -> tuple[Slices, Info]:
            return advance(slices, log_likelihood, run.rng)

        cost = FORWARD_COST * problem.num_examples * self.num_chains
        start = start_slices(ellipses.whitened(theta), log_likelihood, run.rng)
        return chains.sample_uneven(step, run, start, num_draws, cost)


class Ellipses(NamedTuple):
    """The Gaussian of the ellipses, u = mean + root v with v ~ N(0, I)."""

    mean: Tensor  # (R,)
    root: Tensor  # (R, R), lower triangular

    def coordinates(self, white: Tensor) -> Tensor:
        """V (K, R) → u."""
        return self.mean + white @ self.root.mT

    def whitened(self, coordinates: Tensor) -> Tensor:
        """U (K, R) → v."""
        found: Tensor = torch.linalg.solve_triangular(self.root, (coordinates - self.mean).mT, upper=False).mT
        return found


def fitted(ellipses: Ellipses, draws: Tensor) -> Ellipses:
    """Ellipses for the target that draws u (S, R) are of; as they were where there are too few draws."""
    size = draws.shape[1]
    if len(draws) < DRAWS_TO_FIT * size:
        return ellipses
    root, failed = torch.linalg.cholesky_ex(WIDENED * torch.cov(draws.mT).reshape(size, size))
    return ellipses if int(failed) else Ellipses(draws.mean(0), root)


class Plane(NamedTuple):
    """θ = origin + B u, with B such that the prior on the plane, to the power 1/T, is N(u; 0, I)."""

    origin: Tensor  # (P,)
    basis: Tensor  # (P, R), B
    path_scale: Tensor  # (R,) standard deviations of the path along its components
    mean: Tensor  # (R,) of the path, in u
    spread: Tensor  # (R, R) a root of its covariance, in u
    is_restricted: bool
    """Whether the prior is the model's, which may be other than Gaussian."""

    def prior_ellipses(self) -> Ellipses:
        """Those of N(u; 0, I)."""
        return Ellipses(torch.zeros_like(self.mean), torch.eye(len(self.mean)).to(self.mean))

    def at(self, coordinates: Tensor) -> Tensor:
        """(K, R) → θ (K, P)."""
        return self.origin + coordinates.to(self.basis) @ self.basis.mT

    def start(self, num_chains: int, rng: torch.Generator) -> Tensor:
        """Coordinates (K, R) spread as the path was."""
        noise = torch.randn(num_chains, len(self.mean), generator=rng, dtype=self.mean.dtype, device=self.mean.device)
        return self.mean + noise @ self.spread.mT

    def log_density(self, problem: Problem, coordinates: Tensor) -> Tensor:
        """The target (2) at u (K, R), up to a constant, (K,) in float64."""
        theta = self.at(coordinates)
        buffers = problem.network.buffers(len(theta))
        value = problem.log_likelihood(theta, problem.data, buffers, mode_of(problem)).double()
        if self.is_restricted:
            return (value + problem.prior.log_density(theta.double())) / problem.temperature
        return value / problem.temperature - 0.5 * coordinates.square().sum(-1)


def directions(deviations: Tensor, num_snapshots: int, rank: int) -> Tensor:
    """D of (1), (P, R): the largest principal components of the path, in float64.

    Args:
        deviations: (n, P), of which the first `num_snapshots` are filled.
        num_snapshots: taken.
        rank: R at most.
    """
    filled = deviations[: min(num_snapshots, len(deviations))].double()
    _, scales, components = torch.linalg.svd(filled, full_matrices=False)
    kept = int((scales[:rank] > NEGLIGIBLE * scales[0]).sum())
    span: Tensor = components[:kept].mT * (scales[:kept] / max(1, len(filled) - 1) ** 0.5)
    return span


def plane_of(problem: Problem, mean: Tensor, span: Tensor, prior_scale: float | None) -> Plane:
    """Coordinates in which the prior on the plane, to the power 1/T, is N(0, I).

    Args:
        problem: whose prior and temperature count.
        mean: μ of (1), (P,).
        span: D, (P, R).
        prior_scale: σ, or None for the model's prior.

    Raises:
        BudgetError: the path has not moved.
    """
    if span.shape[1] == 0:
        raise BudgetError("the path of pca_subspace has not moved, so that it spans no plane: raise the budget.")
    start, heat = mean.double(), problem.temperature**0.5
    path_scale = span.square().sum(0).sqrt()
    if prior_scale is not None:
        wide = heat * prior_scale
        own = torch.eye(span.shape[1], dtype=span.dtype, device=span.device) / wide
        return Plane(mean, (wide * span).to(mean), path_scale, torch.zeros_like(path_scale), own, False)
    prior = problem.prior
    precision = prior.scales.double() ** -2
    pull = precision * (prior.center.double() - start)
    root = torch.linalg.cholesky(span.mT @ (precision[:, None] * span))  # A = Dᵀ Λ D = root rootᵀ
    centre = torch.cholesky_solve((span.mT @ pull)[:, None], root)[:, 0]  # of the prior, in z
    # u = rootᵀ (z − centre) / √T has covariance I where z has the covariance T A⁻¹.
    basis = heat * torch.linalg.solve_triangular(root.mT, span, upper=True, left=False)
    origin = (start + span @ centre).to(mean)
    return Plane(origin, basis.to(mean), path_scale, -root.mT @ centre / heat, root.mT / heat, True)
