"""A posterior over the functions of the network linearised at its mean (Immer, Korzepa & Bauer 2021).

    f_lin(x; θ) = f(x; μ) + J(x) (θ − μ),      θ ~ N(μ, Σ).                                                      (1)

After `update` the Gaussian's mean is μ + shift, while the functions stay linearised at μ: for them it is conjugate.

The Gauss–Newton matrix is the curvature of (1), not of the network: predicting with (1) keeps the two consistent, where
plugging samples of θ into the network may leave the region in which Σ means anything. Under Gaussian noise the
predictive and its joint density are closed forms; otherwise S functions are drawn, each one θ used for all inputs.
For classes "probit" is a closed form too (`_probit`).
Cost per example: C vector–Jacobian products in closed form, S Jacobian–vector products otherwise. Where Σ is diagonal
or Kronecker-factored and layers hold all parameters, both go through `curvature.functions`: C backward passes of the
batch, none if only the last layer is uncertain, and no Jacobian. Memory: a chunk of rows and of draws.
"""

import math
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.func import jvp
from torch.utils import _pytree as pytree

from bayesify.covariance import Block, Covariance, Diagonal, Kronecker, Matrix, PerOutput
from bayesify.curvature.factored import forward
from bayesify.curvature.functions import changes, elements_per_row, num_pulls, variances
from bayesify.curvature.jacobian import Jacobian, rows_per_chunk
from bayesify.curvature.layers import Layers, layers_of
from bayesify.data import chunk_inputs, num_rows
from bayesify.engine.rng import generator
from bayesify.engine.vectorise import Vectorised
from bayesify.errors import UnsupportedError
from bayesify.model.likelihoods import Bernoulli
from bayesify.model.likelihoods import Gaussian as GaussianLikelihood
from bayesify.model.model import Model
from bayesify.model.network import Buffers, Mode
from bayesify.posterior.base import Function, Functions, Particles, Posterior, chooser
from bayesify.posterior.gaussian import gaussian_restored, gaussian_tensors
from bayesify.predictive import Predictive

DEFAULT_SAMPLES = 100
"""Function draws per prediction: they cost no forward pass through new weights, so more than for sampled weights."""

SAMPLED, PROBIT = PREDICTIVES = ("sampled", "probit")
"""How class probabilities are predicted."""

MAX_JOINT = 2**14
"""Outputs (examples × targets) whose joint density is formed: a covariance of 2 GB."""


DRAW_ELEMENTS = 2**25
"""Numbers of the weight draws that are held at once: a hundred megabytes, and a few times that at work."""


class _Factored(NamedTuple):
    """What `curvature.functions` needs."""

    layers: Layers
    blocks: list[Block]


class Linearised(Posterior):
    """Functions (1); Σ covers the network's parameters, the likelihood's own stay at the mean."""

    form = "linearised"

    def __init__(
        self,
        model: Model,
        mean: Tensor,
        covariance: Covariance,
        buffers: Buffers | None = None,
        num_samples: int = DEFAULT_SAMPLES,
        predictive: str = SAMPLED,
        shift: Tensor | None = None,
    ) -> None:
        Posterior.__init__(self, model)
        self.mean = mean
        self.covariance = covariance
        self.buffers = model.network.buffers(1) if buffers is None else buffers
        self.num_samples = num_samples
        self.predictive = predictive
        self.shift = shift
        """How far the Gaussian's mean is from where the network is linearised, (P_network,); None is nowhere."""
        self._jacobian = Jacobian(model)
        self._found: list[_Factored | None] = []

    def particles(self, num_samples: int | None = None, seed: int = 0) -> Particles:
        """Draws of θ from N(μ, Σ). The network at these weights is not the linearised function: use `draw` for that."""
        return self._at(
            self.num_samples if num_samples is None else num_samples, chooser(self.model, seed, "particles")
        )

    def _at(self, num_samples: int, rng: torch.Generator) -> Particles:
        theta = self.mean.repeat(num_samples, 1)
        size, start = self.model.network.layout.num_parameters, 0
        if self.shift is not None:
            theta[:, :size] += self.shift
        for white in self._white(num_samples, rng):
            theta[start : start + len(white), :size] += self.covariance.coloured(white)
            start += len(white)
        return Particles(theta, {k: value.expand(num_samples, *value.shape[1:]) for k, value in self.buffers.items()})

    def _white(self, num_samples: int, rng: torch.Generator) -> Iterator[Tensor]:
        """The noise behind draws of θ, in pieces whose size does not depend on what they are for."""
        size = max(1, DRAW_ELEMENTS // len(self.mean))
        for start in range(0, num_samples, size):
            yield self.covariance.white(min(size, num_samples - start), rng)

    def _predict(self, inputs: Any, num_samples: int | None, seed: int) -> Predictive:
        if isinstance(self.model.likelihood, GaussianLikelihood):
            return self._closed_form(inputs)

        def sampled() -> Predictive:
            return Predictive(self.model.likelihood, *self._functions(inputs, num_samples, seed))

        if self.predictive == PROBIT and self.model.likelihood.kind == "classification":
            logits, own = self._probit(inputs), self.model.split(self.mean)[1]
            return Predictive(self.model.likelihood, logits[None], own[None], drawn=sampled)
        return sampled()

    def _functions(self, inputs: Any, num_samples: int | None, seed: int) -> Functions:
        count = self.num_samples if num_samples is None else num_samples
        white = self._white(count, chooser(self.model, seed, "particles"))
        outputs = torch.cat([self._linear_functions(part, inputs) for part in white])
        return Functions(outputs, self.model.split(self.mean)[1].expand(count, -1))

    def _draw(self, seed: int) -> Function:
        white = self.covariance.white(1, chooser(self.model, seed, "draw"))
        return lambda inputs: self._linear_functions(white, inputs)[0]

    def tensors(self) -> dict[str, Tensor]:  # noqa: D102
        parts = gaussian_tensors(self.mean, self.covariance, self.buffers)
        return parts if self.shift is None else parts | {"shift": self.shift}

    def settings(self) -> dict[str, Any]:  # noqa: D102
        return {"covariance": self.covariance.name, "num_samples": self.num_samples, "predictive": self.predictive}

    @staticmethod
    def restored(model: Model, tensors: dict[str, Tensor], settings: dict[str, Any]) -> "Linearised":
        """The inverse of `tensors` and `settings`."""
        own = gaussian_restored(tensors, settings)
        shift = tensors.get("shift")
        return Linearised(model, *own, settings["num_samples"], settings.get("predictive", SAMPLED), shift)

    # ---- closed form ---------------------------------------------------------------------------------------------

    def _closed_form(self, inputs: Any) -> Predictive:
        outputs = self.means(inputs)[None]
        own = self.model.split(self.mean)[1]
        return Predictive(
            self.model.likelihood,
            outputs,
            own[None],
            output_variance=self._variances(inputs, outputs.shape[-1])[None],
            joint=lambda targets, blocks: self._joint(inputs, outputs[0], targets, blocks),
        )

    def _probit(self, inputs: Any) -> Tensor:
        """Outputs (B, C) whose class probabilities stand for E[p(y | f)] with f ~ N(m, V), V = J Σ Jᵀ.

        For two classes σ(m / √(1 + π v / 8)) with v the variance of the log odds (MacKay 1992). For more of them (Lu,
        Ie & Sha 2020, "mean field 2"), p_k ∝ 1 / Σ_c exp(−(m_k − m_c) / √(1 + π v_kc / 8)) with v_kc the variance of
        a difference of two outputs: the same for two, and blind, as softmax is, to what all outputs have in common.
        """
        means = self.means(inputs)
        if isinstance(self.model.likelihood, Bernoulli):
            return means / (1 + math.pi / 8 * self._variances(inputs, 1)).sqrt()
        rows = self._jacobians(inputs, means.shape[-1])
        covariance = torch.cat([self.covariance.project(part) for part in rows])
        own = covariance.diagonal(dim1=-2, dim2=-1)
        spread = (own[:, :, None] + own[:, None, :] - 2 * covariance).clamp_min(0)  # (B, C, C) of differences
        difference = means[:, :, None] - means[:, None, :]
        return -torch.logsumexp(-difference / (1 + math.pi / 8 * spread).sqrt(), dim=-1)

    def means(self, inputs: Any, change: Tensor | None = None) -> Tensor:
        """The mean function's values (B, C) at inputs on the device, its parameters moved by `change` (P_network,)."""
        moves = [move for move in (self.shift, change) if move is not None]
        if not moves:
            return self.model.outputs(self.mean[None], inputs, self.buffers)[0]
        return self._tangents(torch.stack(moves).sum(0)[None], inputs)[0]

    def _variances(self, inputs: Any, num_outputs: int) -> Tensor:
        """The diagonal of J Σ Jᵀ for every row, (B, C)."""
        factored = self._factored(inputs)
        if factored is None:
            rows = self._jacobians(inputs, num_outputs)
            return torch.cat([self.covariance.project(part).diagonal(dim1=-2, dim2=-1) for part in rows])
        layers, blocks = factored
        network, buffers = self._network_and_buffers()
        chunks = chunk_inputs(inputs, rows_per_chunk(elements_per_row(layers, num_outputs, 0)))
        return torch.cat(
            [variances(forward(self.model.network, layers, network, buffers, chunk), blocks) for chunk in chunks]
        )

    def _joint(self, inputs: Any, outputs: Tensor, targets: Tensor, blocks: Tensor) -> Tensor:
        """Log N(y; f, K + noise) of the τ × D targets of each block (M, τ), in float64."""
        likelihood = self.model.likelihood
        assert isinstance(likelihood, GaussianLikelihood)
        order, num_outputs = blocks.shape[1], outputs.shape[-1]
        if order * num_outputs > MAX_JOINT:
            raise UnsupportedError(
                f"the joint density of {order} examples needs a covariance of {order * num_outputs}² numbers: ask "
                f"for the joint_log_prob of at most {MAX_JOINT // num_outputs} examples at a time."
            )
        noise = likelihood.noise(self.model.split(self.mean)[1]).double().square().repeat(order)
        values = []
        for part in torch.split(blocks, self._blocks_at_once(order, num_outputs)):
            distinct = distinct_rows(part)
            covariance = self._block_covariances(inputs, distinct, num_outputs).double()
            covariance.diagonal(dim1=-2, dim2=-1).add_(noise)
            residuals = (targets - outputs)[distinct.sorted].double().flatten(1)
            values.append(_log_normal(residuals, covariance))
        return torch.cat(values).to(outputs)

    def _blocks_at_once(self, order: int, num_outputs: int) -> int:
        elements = order * num_outputs * (self.model.network.layout.num_parameters + order * num_outputs)
        return rows_per_chunk(elements)

    def _block_covariances(self, inputs: Any, distinct: "DistinctRows", num_outputs: int) -> Tensor:
        """J Σ Jᵀ over the rows of each block, (M, τ C, τ C): computed for its distinct rows, then repeated."""
        rows, place = distinct.rows, distinct.place
        chosen = pytree.tree_map(lambda leaf: leaf[rows.flatten()], inputs)
        if len(rows) == 1:
            each = self._output_covariance(chosen, num_outputs)[None]
        else:
            jacobians = torch.cat(list(self._jacobians(chosen, num_outputs)))  # (M κ, C, P)
            each = self.covariance.project(jacobians.reshape(len(rows), -1, jacobians.shape[-1]))
        if rows.shape == place.shape:
            return each
        each = each.reshape(len(rows), rows.shape[1], num_outputs, rows.shape[1], num_outputs)
        number = torch.arange(len(rows), device=rows.device)[:, None, None]
        repeated = each[number, place[:, :, None], :, place[:, None, :]]  # (M, τ, τ, C, C)
        size = place.shape[1] * num_outputs
        return repeated.transpose(2, 3).reshape(len(rows), size, size)

    def _output_covariance(self, inputs: Any, num_outputs: int) -> Tensor:
        """J Σ Jᵀ over all rows, (B C, B C), from pairs of row chunks."""
        blocks: dict[tuple[int, int], Tensor] = {}
        count = 0
        for i, first in enumerate(self._jacobians(inputs, num_outputs)):
            count = i + 1
            for j, second in enumerate(self._jacobians(inputs, num_outputs)):
                if j > i:
                    break
                if j == i:
                    blocks[i, i] = self.covariance.project(first.flatten(0, 1))
                    continue
                both = torch.cat([first.flatten(0, 1), second.flatten(0, 1)])
                size = first.shape[0] * num_outputs
                blocks[i, j] = self.covariance.project(both)[:size, size:]
        rows = [
            torch.cat([blocks[i, j] if j <= i else blocks[j, i].mT for j in range(count)], dim=1) for i in range(count)
        ]
        return torch.cat(rows)

    def _jacobians(self, inputs: Any, num_outputs: int) -> Iterator[Tensor]:
        for part in self._jacobian.chunks(self.mean, self._network_and_buffers()[1], inputs, num_outputs):
            yield part.jacobian

    def _network_and_buffers(self) -> tuple[Tensor, Buffers]:
        return self.model.split(self.mean)[0], {name: value[0] for name, value in self.buffers.items()}

    def _factored(self, inputs: Any) -> _Factored | None:
        """The layers with their parts of Σ, where both divide that way; looked for at the first prediction."""
        if not self._found:
            self._found.append(self._find(inputs))
        return self._found[0]

    def _find(self, inputs: Any) -> _Factored | None:
        if not isinstance(self.covariance, (Diagonal, Kronecker, PerOutput)):
            return None
        rng = generator(self.mean.device, "layers")
        rows = torch.tensor([0, num_rows(inputs) - 1], device=self.mean.device)
        # Rows of zeros, say, would not show what else a weight is used for.
        probe = pytree.tree_map(lambda leaf: _disturbed(leaf[rows], rng), inputs)
        layers = layers_of(self.model.network, *self._network_and_buffers(), probe, rng)
        if not layers.batched:
            return None
        blocks = self.covariance.blocks([Matrix(layer.order, layer.num_outputs) for layer in layers.layers])
        return None if blocks is None else _Factored(layers, blocks)

    # ---- function draws ------------------------------------------------------------------------------------------

    def _linear_functions(self, white: Tensor, inputs: Any) -> Tensor:
        """f_lin for the draws of some white noise (S, ...): (S, B, C)."""
        factored = self._factored(inputs)
        network, buffers = self._network_and_buffers()
        if factored is not None:
            layers, blocks = factored
            num_outputs = self._num_outputs(inputs)
            if num_pulls(layers, num_outputs) <= len(white):
                parts = []
                for chunk in chunk_inputs(inputs, rows_per_chunk(elements_per_row(layers, num_outputs, len(white)))):
                    point = forward(self.model.network, layers, network, buffers, chunk)
                    middle = point.outputs.detach() if self.shift is None else self.means(chunk)
                    parts.append(changes(point, blocks, white) + middle)
                return torch.cat(parts, dim=1)
        change = self.covariance.coloured(white)
        return self._tangents(change if self.shift is None else change + self.shift, inputs)

    def _num_outputs(self, inputs: Any) -> int:
        network, buffers = self._network_and_buffers()
        with torch.no_grad():
            return self.model.network(network, buffers, _first(inputs), Mode.PREDICT).shape[-1]

    def _tangents(self, change: Tensor, inputs: Any) -> Tensor:
        """f_lin at S changes of the parameters (S, P_network), in forward mode."""
        mean, buffers = self._network_and_buffers()
        batched = Vectorised(self._one_function, gradient=False)  # anew: rounding must not depend on earlier calls
        parts = []
        for chunk in chunk_inputs(inputs, self.model.rows_at_once(len(change))):
            try:
                with warnings.catch_warnings():  # torch's forward mode still loads what torch itself deprecates
                    warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated", DeprecationWarning)
                    parts.append(batched((None, None, None), change, mean, buffers, chunk).result)
            except NotImplementedError:  # an operation without forward-mode derivative, such as an LSTM's
                parts.append(self._by_rows(change, chunk))
        return torch.cat(parts, dim=1)

    def _one_function(self, change: Tensor, mean: Tensor, buffers: Buffers, inputs: Any) -> Tensor:
        def function(network: Tensor) -> Tensor:
            return self.model.network(network, buffers, inputs, Mode.PREDICT)

        pair: Any = jvp(function, (mean,), (change,))
        outputs, tangent = pair
        function_values: Tensor = outputs + tangent
        return function_values

    def _by_rows(self, change: Tensor, inputs: Any) -> Tensor:
        outputs = self.model.outputs(self.mean[None], inputs, self.buffers)
        rows = self._jacobians(inputs, outputs.shape[-1])
        return outputs + torch.cat([torch.einsum("bcp,sp->sbc", part, change) for part in rows], dim=1)


class DistinctRows(NamedTuple):
    """Blocks of examples of which some come repeatedly: the order within a block is lost, which no joint asks for."""

    sorted: Tensor  # (M, τ) the blocks, each in ascending order
    rows: Tensor  # (M, κ) the different examples of each; where a block has fewer, the first example of all
    place: Tensor  # (M, τ) which of the κ stands at each of the τ


def distinct_rows(blocks: Tensor) -> DistinctRows:
    """The different examples of every block (M, τ)."""
    ascending = blocks.sort(dim=1).values
    place = torch.zeros_like(ascending)
    place[:, 1:] = (ascending[:, 1:] != ascending[:, :-1]).cumsum(dim=1)
    rows = torch.zeros_like(ascending[:, : int(place.max()) + 1]).scatter_(1, place, ascending)
    return DistinctRows(ascending, rows, place)


def _log_normal(residuals: Tensor, covariance: Tensor) -> Tensor:
    """Log N(residual; 0, covariance) of M vectors, (M,)."""
    root = torch.linalg.cholesky(covariance)
    z = torch.linalg.solve_triangular(root, residuals[..., None], upper=False)[..., 0]
    log_determinant = root.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    value: Tensor = -0.5 * z.square().sum(-1) - log_determinant - 0.5 * residuals.shape[-1] * math.log(2 * math.pi)
    return value


def _first(inputs: Any) -> Any:
    return pytree.tree_map(lambda leaf: leaf[:1], inputs)


def _disturbed(leaf: Tensor, rng: torch.Generator) -> Tensor:
    if not leaf.is_floating_point():
        return leaf
    return leaf + torch.randn(leaf.shape, generator=rng, device=rng.device).to(leaf)
