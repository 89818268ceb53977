"""Variational Bayesian last layers (Harrison, Willes & Snoek, ICLR 2024), discriminative.

The last layer's weights get q(W) = Π_c N(w̄_c, S_c) with full S_c, and the network below it is trained with them, on

    L = Σ_n E_q log p(y_n | W φ_n) − KL(q ‖ p),                                                                 (1)

the log posterior of hidden weights added. With m = W̄ φ and v_c = φᵀ S_c φ the expectation is a Gauss–Hermite sum where
log p adds over outputs (exact for Gaussian noise: log N(y; m, σ²) − v/2σ²), and for classes the paper's bound

    E_q log p(y | W φ) ≥ m_y − log Σ_k exp(m_k + v_k/2).                                                        (2)

The KL is summed and N is the data's, so that (1) has one temperature T, which multiplies the entropy of q.
The posterior is q over the last layer of the trained network, whose functions are linear in W: one forward pass.

Cost: one gradient of the batch per step, and C · F² per example. Not here: noise on logits, the generative variant.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution

from bayesify.covariance import PerOutput
from bayesify.curvature.layers import linear_layers
from bayesify.engine.optimise import Schedule, optimise
from bayesify.engine.run import Run
from bayesify.errors import UnsupportedError
from bayesify.methods.base import Exactness, Method, MethodInfo, Range, require_positive
from bayesify.model.likelihoods import Bernoulli, Categorical, Gaussian, Likelihood, Poisson, StudentT
from bayesify.model.parameters import Slot
from bayesify.model.prior import Family, Prior
from bayesify.model.priors import Normal
from bayesify.model.problem import Problem
from bayesify.model.surgery import output_layer
from bayesify.model.transform import with_transform
from bayesify.model.variational_head import roots
from bayesify.posterior.base import Posterior
from bayesify.posterior.linearised import DEFAULT_SAMPLES, Linearised

ADDITIVE = (Gaussian, StudentT, Bernoulli, Poisson)
"""Likelihoods whose log density is a sum over outputs."""
NODES = 12
"""Of the Gauss–Hermite sums."""


@dataclass(frozen=True)
class VBLL(Method):
    """A variational Gaussian over the last layer, trained with the network below it.

    Attributes:
        learning_rate: Adam's, at the start of the cosine.
        batch_size: examples per step.
        num_samples: functions drawn per prediction; under Gaussian noise it is a closed form.
    """

    learning_rate: float = 1e-2
    batch_size: int = 64
    num_samples: int = DEFAULT_SAMPLES

    info = MethodInfo(
        name="vbll",
        family="last layer",
        exactness=Exactness.APPROXIMATE,
        reference="Harrison et al., ICLR 2024",
        summary="a variational Gaussian over the last layer, trained with the network",
        bias="hidden layers have no uncertainty; exact for linear models under Gaussian noise, trained to the end; for "
        "classes a bound that makes weights vary too little",
        uses_validation=True,
        search_space={
            "learning_rate": Range(1e-3, 3e-2, log=True),
            "batch_size": Range(16, 256, log=True, integer=True),
        },
    )

    def __post_init__(self) -> None:
        require_positive(self, "learning_rate", "batch_size", "num_samples")

    @property
    def num_particles(self) -> int:
        """One."""
        return 1

    @property
    def num_predictions(self) -> int:
        """One forward pass, whatever the number of functions."""
        return 1

    def memory(self, problem: Problem) -> float:
        """Eight vectors of what is trained, the roots of S among it."""
        return 8.0 * self._changed(problem).num_parameters * problem.network.initial.element_size()

    def fit(self, problem: Problem, run: Run) -> Posterior:
        """Maximises (1)."""
        changed = self._changed(problem)
        phase = run.phase("train", reserve=problem.statistics_cost(1))
        start = changed.start(1, phase.rng)
        changed = changed.with_changes(pretrained=False)  # q is untrained, also where the rest is not
        theta = optimise(changed, phase, start, Schedule(self.learning_rate, self.batch_size))
        return self._posterior(problem, changed, theta)

    def _changed(self, problem: Problem) -> Problem:
        """The problem whose log density is (1), with parameters of q in place of the last layer's."""
        layer, slots = output_layer(problem.network.module), _head_slots(problem)
        scales = {leaf: problem.prior_family.family_of(slot).scale_of(slot) for leaf, slot in slots.items()}
        prior = Elbo(problem.prior_family, layer, problem.temperature)
        # About where N examples will take it: from the prior's own width Adam needs hundreds of steps.
        settings = {"weight": 1.0, "bias": 1.0, "start": -0.5 * math.log1p(problem.num_examples), **scales}
        changed = with_transform(problem, variational_head=settings)
        return changed.with_changes(likelihood=Expected(problem.likelihood), prior=prior)

    def _posterior(self, problem: Problem, changed: Problem, theta: Tensor) -> Posterior:
        """Q over the last layer of the user's own network, at theta (1, P)."""
        layer, slots = output_layer(problem.network.module), _head_slots(problem)
        network, own = changed.model.split(theta[0])
        values = changed.network.layout.unflatten(network)
        plain = {name.replace(_join(layer, "mean."), _join(layer, "")): value for name, value in values.items()}
        mean = torch.cat([problem.network.layout.flatten(plain), own])
        part = problem.restricted(mean, changed.buffers(theta), {slot.name for slot in slots.values()})
        units = dict(changed.network.module.named_buffers())[_join(layer, "units")]
        basis = roots(values[_join(layer, "root")], values[_join(layer, "log_scale")], units).contiguous()
        covariance = PerOutput(linear_layers(part.network)[0].order, torch.ones_like(basis[:, 0]), basis)
        return Linearised(part.model, part.initial(), covariance, num_samples=self.num_samples)


@dataclass(frozen=True)
class Expected(Likelihood):
    """E_q log p(y | f) of `base` where outputs f ~ N(m, v) are given as (m, v), or the bound (2)."""

    base: Likelihood

    name = "expected"

    def __post_init__(self) -> None:
        if not isinstance(self.base, (Categorical, *ADDITIVE)):
            raise UnsupportedError(
                f"vbll has no expected log likelihood for {self.base.name}: use gaussian, student_t, poisson, "
                "bernoulli, categorical, or another method."
            )

    @property
    def kind(self) -> str:  # type: ignore[override]
        """The base's."""
        return self.base.kind

    @property
    def num_parameters(self) -> int:  # type: ignore[override]
        """The base's."""
        return self.base.num_parameters

    def log_prob(self, outputs: Tensor, targets: Tensor, parameters: Tensor) -> Tensor:
        """(B, 2 C) → (B,)."""
        mean, variance = outputs.chunk(2, dim=-1)
        if isinstance(self.base, Categorical):
            chosen = mean.gather(-1, targets[:, None])[:, 0]
            return chosen - (mean + 0.5 * variance).logsumexp(-1)
        nodes, weights = np.polynomial.hermite_e.hermegauss(NODES)
        scale = variance.clamp_min(torch.finfo(variance.dtype).tiny).sqrt()
        terms = [
            float(weight) * self.base.log_prob(mean + float(node) * scale, targets, parameters)
            for node, weight in zip(nodes, weights / weights.sum(), strict=True)
        ]
        return torch.stack(terms).sum(0)

    def components(self, outputs: Tensor, parameters: Tensor) -> Distribution:
        """The base's at the mean."""
        return self.base.components(outputs.chunk(2, dim=-1)[0], parameters)

    def fisher(self, outputs: Tensor, parameters: Tensor) -> Tensor:
        """The base's at the mean."""
        return self.base.fisher(outputs.chunk(2, dim=-1)[0], parameters)

    def check(self, outputs: Tensor, targets: Tensor) -> None:
        """The base's at the mean."""
        self.base.check(outputs.chunk(2, dim=-1)[0], targets)

    def prepare(self, targets: Tensor, dtype: torch.dtype) -> Tensor:
        """The base's."""
        return self.base.prepare(targets, dtype)


@dataclass(frozen=True)
class Elbo(Prior):
    """The user's prior below the last layer; on q's parameters −KL(q ‖ p), up to a constant.

    In units of the prior the KL of a row is ½ (Σ root² + Σ exp(2 log_scale) + |w̄|²) − Σ log_scale: a sum over entries.
    """

    base: Prior
    layer: str
    temperature: float

    name = "elbo"

    def family_of(self, slot: Slot) -> Family:  # noqa: D102
        if slot.name == _join(self.layer, "root"):
            return Normal(scale=1.0)
        if slot.name == _join(self.layer, "log_scale"):
            return LogScale(self.temperature)
        mean = _join(self.layer, "mean.")
        family = self.base.family_of(slot._replace(name=slot.name.replace(mean, _join(self.layer, ""))))
        if slot.name.startswith(mean) and not (family.is_gaussian and family.is_proper):
            raise UnsupportedError(
                f"vbll needs a Gaussian prior on the last layer, for the KL in closed form, but it is {family.name}: "
                "use priors.Normal(), for example by priors.ByName."
            )
        return family


@dataclass(frozen=True)
class LogScale(Family):
    """Of r = log of a standard deviation s: T r − s²/2, the entropy of q times T and the prior's part in the KL."""

    temperature: float

    name = "log_scale"

    def scale_of(self, slot: Slot) -> float:  # noqa: D102
        del slot
        return 1.0

    def standard_log_density(self, z: Tensor) -> Tensor:  # noqa: D102
        return self.temperature * z - 0.5 * (2 * z).exp()

    def standard_score(self, z: Tensor) -> Tensor:  # noqa: D102
        return self.temperature - (2 * z).exp()

    def standard_sample(self, shape: tuple[int, ...], rng: torch.Generator) -> Tensor:
        """s²/2 follows a gamma distribution of shape T/2."""
        shapes = torch.full(shape, self.temperature / 2, dtype=torch.float64, device=rng.device)
        return 0.5 * (2 * torch._standard_gamma(shapes, generator=rng)).log()


def _head_slots(problem: Problem) -> dict[str, Slot]:
    """The last layer's parameters: {"weight": slot, "bias": slot}."""
    layer = output_layer(problem.network.module)
    slots = {slot.name: slot for slot in problem.network.layout.slots}
    return {leaf: slots[_join(layer, leaf)] for leaf in ("weight", "bias") if _join(layer, leaf) in slots}


def _join(layer: str, leaf: str) -> str:
    return f"{layer}.{leaf}" if layer else leaf
