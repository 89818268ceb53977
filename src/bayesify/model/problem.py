"""The probabilistic model p(y | f(x; θ)) p(θ) of one network on one data set, for K particles at once, metered.

A particle's vector is θ = (network parameters, likelihood parameters), P numbers. Minibatch sums are scaled by N/B
here and nowhere else. With temperature T the target is the tempered posterior p(θ | D)^(1/T): `log_density` and its
gradient are divided by T here and nowhere else.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bayesify.data import Data
from bayesify.engine.budget import FORWARD_COST, Meter
from bayesify.engine.compiled import Fused
from bayesify.engine.vectorise import Vectorised, Way
from bayesify.errors import ModelError
from bayesify.model.likelihoods import Likelihood
from bayesify.model.model import Model, explained
from bayesify.model.network import Buffers, Mode, Network
from bayesify.model.prior import BoundPrior, Prior


class Batch(NamedTuple):
    """B examples, the same for all particles, or (K, B, ...) leaves with each particle's own."""

    data: Data
    per_particle: bool = False

    @property
    def size(self) -> int:
        """B."""
        return self.data.targets.shape[1 if self.per_particle else 0]


class Individual(NamedTuple):
    """What each of K particles has of its own beside its parameters."""

    indices: Buffers = {}  # noqa: RUF012 - never changed; {name: (K, *shape)}, in the place of the network's own
    rows: Tensor | None = None
    """(K, N) the examples it learns from; None is all."""
    targets: Tensor | None = None
    """(K, N, ...) and their targets; None is the data's."""


@dataclass(frozen=True, eq=False)
class Gradient:
    """A batch's estimate of the gradient, the log likelihood and the log density."""

    gradient: Tensor  # (K, P)
    log_likelihood: Tensor  # (K,), scaled by N/B, untempered
    evaluate: Callable[[], Tensor] = field(repr=False)

    @cached_property
    def log_density(self) -> Tensor:
        """Evaluated when asked for, (K,): most who follow the gradient do not look at it."""
        return self.evaluate()


class Problem:
    """A network, a likelihood, a prior and the training data."""

    def __init__(
        self,
        network: Network,
        likelihood: Likelihood,
        prior: Prior,
        data: Data,
        *,
        validation: Data | None = None,
        temperature: float = 1.0,
        meter: Meter | None = None,
        way: Way = Way.AUTO,
        pretrained: bool = False,
        likelihood_start: Tensor | None = None,
        individual: Individual | None = None,
    ) -> None:
        self.model = Model(network, likelihood, way)
        self.network = network
        self.likelihood = likelihood
        self.prior_family = prior
        self.temperature = temperature
        self.meter = meter or Meter()
        self.way = way
        self.pretrained = pretrained
        self.individual = individual
        self.data = self.place(data)
        self.validation = None if validation is None else self.place(validation)
        own = likelihood.initial_parameters() if likelihood_start is None else likelihood_start
        self.likelihood_start = own.to(network.initial)
        """Where the likelihood's own parameters start, (L,)."""
        self.prior: BoundPrior = prior.bind(network.layout, likelihood.num_parameters, network.initial)
        self._gradients = {
            m: Vectorised(partial(self._one_likelihood, m), gradient=True, way=way, on_compile=self.meter.compiled)
            for m in Mode
        }
        self._likelihoods = {m: Vectorised(partial(self._one_likelihood, m), gradient=False, way=way) for m in Mode}
        self._statistics = Vectorised(self._one_statistics, gradient=False, way=way)

    # ---- sizes ---------------------------------------------------------------------------------------------------

    @property
    def num_examples(self) -> int:
        """N."""
        return self.data.num_examples

    @property
    def num_network_parameters(self) -> int:
        """The network's share of P."""
        return self.network.layout.num_parameters

    @property
    def num_parameters(self) -> int:
        """P."""
        return self.num_network_parameters + self.likelihood.num_parameters

    def place(self, data: Data) -> Data:
        """Data on the network's device and dtype, targets as the likelihood wants them."""
        data = data.to(self.network.device, self.network.dtype)
        return data._replace(targets=self.likelihood.prepare(data.targets, self.network.dtype))

    def with_changes(self, **changes: Any) -> "Problem":
        """A copy with other network, prior, data, validation, temperature and so on; the meter is shared."""
        own: dict[str, Any] = {
            "network": self.network,
            "likelihood": self.likelihood,
            "prior": self.prior_family,
            "data": self.data,
            "validation": self.validation,
            "temperature": self.temperature,
            "meter": self.meter,
            "way": self.way,
            "pretrained": self.pretrained,
            "likelihood_start": self.likelihood_start,
            "individual": self.individual,
        }
        own.update(changes)
        return Problem(own.pop("network"), own.pop("likelihood"), own.pop("prior"), own.pop("data"), **own)

    def restricted(self, theta: Tensor, buffers: Buffers, names: set[str]) -> "Problem":
        """The problem given theta (P,) and buffers {name: (1, ...)}: only the parameters in `names` are inferred."""
        weights, own = self.model.split(theta)
        network = self.network.restricted(weights, {name: value[0] for name, value in buffers.items()}, names)
        return self.with_changes(network=network, pretrained=True, likelihood_start=own)

    def batch(self, rows: Tensor | slice) -> Batch:
        """The examples in `rows`, as `Run.rows` gives them; for particles with data of their own, places in these."""
        own = self.individual
        if own is None or own.rows is None:
            return Batch(self.data) if isinstance(rows, slice) else Batch(self.data.select(rows), rows.dim() == 2)
        places = torch.arange(self.num_examples, device=own.rows.device) if isinstance(rows, slice) else rows
        places = places.expand(len(own.rows), places.shape[-1])
        data = self.data.select(own.rows.gather(1, places))
        if own.targets is not None:
            particle = torch.arange(len(places), device=places.device)[:, None]
            data = data._replace(targets=own.targets[particle, places])
        return Batch(data, per_particle=True)

    def own_buffers(self, num_particles: int) -> Buffers:
        """The module's own running statistics and indices, or the particles' indices: {name: (K, *shape)}."""
        buffers = self.network.buffers(num_particles)
        return buffers if self.individual is None else buffers | self.individual.indices

    @property
    def gradient_cost(self) -> float:
        """Gradient evaluations that a gradient of one example takes: more than 1 where others are evaluated with it."""
        return 1 + FORWARD_COST * self.network.companions

    # ---- starting points -----------------------------------------------------------------------------------------

    def initial(self) -> Tensor:
        """The module's current weights and the likelihood's starting values, (P,)."""
        return torch.cat([self.network.initial, self.likelihood_start])

    def random(self, num_particles: int, rng: torch.Generator) -> Tensor:
        """Fresh weights from the layers' own initialisers, (K, P).

        Independent of the prior, so that a heavy-tailed or wide prior does not make training start from noise.
        """
        fresh = self.network.reinitialised(num_particles, rng)
        return torch.cat([fresh, self.likelihood_start.expand(num_particles, -1)], dim=-1)

    def start(self, num_particles: int, rng: torch.Generator) -> Tensor:
        """Where training starts, (K, P): the given weights if the model is pretrained, fresh ones otherwise."""
        if self.pretrained:
            return self.initial().repeat(num_particles, 1)
        return self.random(num_particles, rng)

    # ---- densities -----------------------------------------------------------------------------------------------

    def gradient(self, theta: Tensor, batch: Batch, mode: Mode = Mode.TRAIN) -> Gradient:
        """Gradient of the (tempered, minibatch-estimated) log posterior for K particles.

        Args:
            theta: (K, P).
            batch: B examples; their log likelihood is scaled by N/B.
            mode: how dropout and normalisation behave; a post-hoc fit of a pretrained model uses Mode.PREDICT.
        """
        gradient, log_likelihood = self.likelihood_gradient(theta, batch, mode)
        scale = self.num_examples / batch.size
        return self._posterior(theta, scale * gradient, scale * log_likelihood)

    def likelihood_gradient(self, theta: Tensor, batch: Batch, mode: Mode = Mode.TRAIN) -> tuple[Tensor, Tensor]:
        """The batch's own log likelihood, neither scaled to all data nor tempered: gradient (K, P) and value (K,)."""
        dims = (0, 0 if batch.per_particle else None)
        buffers = self.own_buffers(len(theta))
        (gradient, log_likelihood, _), flops = self._gradients[mode](dims, theta, buffers, batch.data)
        self._count_gradients(batch.size * len(theta), flops)
        return gradient, log_likelihood

    def expect(self, num_calls: float, mode: Mode) -> None:
        """Says how many more gradients of one shape will be asked for: what decides whether they are compiled."""
        self._gradients[mode].expected_calls = num_calls

    def fused(self, function: Callable[..., Any], mode: Mode) -> Fused:
        """A function of tensors that is called with every gradient: compiled if gradients are."""
        wanted = self._gradients[mode].wants_compile()
        return Fused(function, wanted=wanted, on_compile=self.meter.compiled)

    def full_gradient(self, theta: Tensor, mode: Mode = Mode.DENSITY) -> Gradient:
        """The exact gradient of the (tempered) log posterior over all N examples."""
        return self._posterior(theta, *self.full_likelihood_gradient(theta, mode))

    def full_likelihood_gradient(self, theta: Tensor, mode: Mode = Mode.DENSITY) -> tuple[Tensor, Tensor]:
        """Of all N examples, untempered: (K, P) and (K,); in row blocks unless batch statistics tie rows together."""
        size = self.num_examples if self.network.running else self.model.block_rows(len(theta))
        buffers = self.own_buffers(len(theta))
        gradient = log_likelihood = None
        for chunk in self.data.chunks(size):
            (part, value, _), flops = self._gradients[mode]((0, None), theta, buffers, chunk)
            self._count_gradients(chunk.num_examples * len(theta), flops)
            gradient = part if gradient is None else gradient + part
            log_likelihood = value if log_likelihood is None else log_likelihood + value
        assert gradient is not None
        assert log_likelihood is not None
        return gradient, log_likelihood

    def _count_gradients(self, examples: int, flops: float) -> None:
        self.meter.gradient(examples, flops)
        self.meter.forward(examples * self.network.companions)

    def _posterior(self, theta: Tensor, gradient: Tensor, log_likelihood: Tensor) -> Gradient:
        """Adds the prior and tempers."""
        gradient = gradient + self.prior.score(theta)
        if self.temperature != 1.0:
            gradient = gradient / self.temperature
        return Gradient(
            gradient, log_likelihood, lambda: (log_likelihood + self.prior.log_density(theta)) / self.temperature
        )

    def log_likelihood(self, theta: Tensor, data: Data, buffers: Buffers, mode: Mode = Mode.PREDICT) -> Tensor:
        """Sum over `data` of log p(y | x, θ) for K particles with their buffers, (K,); forward passes only."""
        total = torch.zeros_like(theta[:, 0])
        for chunk in data.chunks(self.model.rows_at_once(len(theta))):
            (value, _), flops = self._likelihoods[mode]((0, None), theta, buffers, chunk)
            self.meter.forward(chunk.num_examples * len(theta) * self.network.passes, flops)
            total = total + value
        return total

    def validation_loss(self, theta: Tensor) -> Tensor:
        """Minus the held-out log likelihood per example of K particles, (K,); 0 for all where nothing is held out."""
        if self.validation is None:
            return torch.zeros_like(theta[:, 0])
        return -self.log_likelihood(theta, self.validation, self.buffers(theta)) / self.validation.num_examples

    def validation_cost(self, num_particles: int) -> float:
        """Gradient evaluations that `validation_loss` will take."""
        if self.validation is None:
            return 0.0
        forward = FORWARD_COST * self.validation.num_examples * num_particles * self.network.passes
        return forward + self.statistics_cost(num_particles)

    # ---- outputs -------------------------------------------------------------------------------------------------

    def outputs(self, theta: Tensor, inputs: Any, buffers: Buffers) -> Tensor:
        """Outputs of K particles, (K, B, C), without gradients; counted as forward passes."""
        return self.model.outputs(theta, inputs, buffers, self.meter)

    def statistics_cost(self, num_particles: int) -> float:
        """Gradient evaluations that `buffers` will take."""
        if not self.network.running or self.pretrained:
            return 0.0
        return FORWARD_COST * self.num_examples * num_particles * self.network.passes

    def buffers(self, theta: Tensor) -> Buffers:
        """Buffers of finished particles: running statistics estimated by one pass over the training data.

        The mean over batches of batch means, and by the law of total variance the mean of batch variances plus the
        variance of batch means. A pretrained model keeps the statistics it came with.
        """
        own = self.own_buffers(len(theta))
        if not self.network.running or self.pretrained:
            return own
        parts = []
        with torch.no_grad():
            pieces = math.ceil(self.num_examples / self.model.rows_at_once(len(theta)))
            # Pieces of equal size (but one row): a last batch of a few rows would weigh as much as the others.
            for rows in torch.arange(self.num_examples, device=theta.device).tensor_split(pieces):
                chunk = self.data.select(rows)
                part, flops = self._statistics((0, None), self.model.split(theta)[0], own, chunk.inputs)
                self.meter.forward(chunk.num_examples * len(theta) * self.network.passes, flops)
                parts.append(part)
        stacked = {name: torch.stack([part[name] for part in parts]) for name in self.network.running}
        result = dict(own)
        for name in self.network.running:
            result[name] = stacked[name].mean(0)
            if name.endswith("running_var"):
                means = stacked[name.removesuffix("running_var") + "running_mean"]
                result[name] = result[name] + means.var(0, unbiased=False)
        return result

    # ---- one particle --------------------------------------------------------------------------------------------

    def _one_likelihood(self, mode: Mode, theta: Tensor, buffers: Buffers, data: Data) -> tuple[Tensor, Tensor]:
        network, own = self.model.split(theta)
        outputs = self.network(network, _copies(buffers), data.inputs, mode)
        return self.likelihood.log_prob(outputs, data.targets, own).sum(), own

    def _one_statistics(self, network: Tensor, buffers: Buffers, inputs: Any) -> Buffers:
        updated = _copies(buffers)
        self.network(network, updated, inputs, Mode.DENSITY)
        return updated


def _copies(buffers: Buffers) -> Buffers:
    # Normalisation layers write into their statistics; the caller's must stay as they are.
    return {name: value.clone() for name, value in buffers.items()}


def check_model(problem: Problem) -> None:
    """Runs the model once on a few rows: outputs must be finite and fit the likelihood and the targets.

    Raises:
        ModelError: it cannot take the inputs, or its outputs are not finite or of the wrong shape.
        DataError: targets do not fit.
    """
    rows = problem.data.select(slice(0, min(8, problem.num_examples)))
    with torch.no_grad():
        buffers = {name: value[0] for name, value in problem.network.buffers(1).items()}
        with explained(rows.inputs):
            outputs = problem.network(problem.network.initial, buffers, rows.inputs, Mode.PREDICT)
    if outputs.dim() != 2 or len(outputs) != rows.num_examples:
        raise ModelError(
            f"the model gives outputs of shape {tuple(outputs.shape)} for {rows.num_examples} examples: it must give "
            "(examples, outputs)."
        )
    if not bool(torch.isfinite(outputs).all()):
        raise ModelError("the model gives NaN or infinite outputs on the first rows: check its weights and the inputs.")
    problem.likelihood.check(outputs.detach(), problem.data.targets)
