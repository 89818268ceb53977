"""A posterior over the functions of the network linearised at its mean (Immer, Korzepa & Bauer 2021).

    f_lin(x; θ) = f(x; μ) + J(x) (θ − μ),      θ ~ N(μ, Σ).                                                      (1)

The Gauss–Newton matrix is the curvature of (1), not of the network: predicting with (1) keeps the two consistent, where
plugging samples of θ into the network may leave the region in which Σ means anything. Under Gaussian noise the
predictive and its joint density are closed forms; otherwise S functions are drawn, each one θ used for all inputs.
Cost per example: C vector–Jacobian products in closed form, S Jacobian–vector products otherwise.
"""

import math
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.func import jvp

from bayesify.covariance import Covariance
from bayesify.curvature.jacobian import Jacobian
from bayesify.data import chunk_inputs
from bayesify.engine.vectorise import Vectorised
from bayesify.errors import UnsupportedError
from bayesify.model.likelihoods import Gaussian as GaussianLikelihood
from bayesify.model.model import Model
from bayesify.model.network import Buffers, Mode
from bayesify.posterior.base import Function, Particles, Posterior, chooser
from bayesify.posterior.gaussian import gaussian_particles, gaussian_restored, gaussian_tensors
from bayesify.predictive import Predictive

DEFAULT_SAMPLES = 100
"""Function draws per prediction: they cost no forward pass through new weights, so more than for sampled weights."""

MAX_JOINT = 2**14
"""Outputs (examples × targets) whose joint density is formed: a covariance of 2 GB."""


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
    ) -> None:
        Posterior.__init__(self, model)
        self.mean = mean
        self.covariance = covariance
        self.buffers = model.network.buffers(1) if buffers is None else buffers
        self.num_samples = num_samples
        self._jacobian = Jacobian(model)

    def particles(self, num_samples: int | None = None, seed: int = 0) -> Particles:
        """Draws of θ from N(μ, Σ). The network at these weights is not the linearised function: use `draw` for that."""
        return self._at(
            self.num_samples if num_samples is None else num_samples, chooser(self.model, seed, "particles")
        )

    def _at(self, num_samples: int, rng: torch.Generator) -> Particles:
        return gaussian_particles(self.mean, self.covariance, self.buffers, num_samples, rng)

    def _predict(self, inputs: Any, num_samples: int | None, seed: int) -> Predictive:
        if isinstance(self.model.likelihood, GaussianLikelihood):
            return self._closed_form(inputs)
        theta = self.particles(num_samples, seed).theta
        return Predictive(self.model.likelihood, self._functions(theta, inputs), self.model.split(theta)[1])

    def _draw(self, seed: int) -> Function:
        theta = self._at(1, chooser(self.model, seed, "draw")).theta
        return lambda inputs: self._functions(theta, inputs)[0]

    def tensors(self) -> dict[str, Tensor]:  # noqa: D102
        return gaussian_tensors(self.mean, self.covariance, self.buffers)

    def settings(self) -> dict[str, Any]:  # noqa: D102
        return {"covariance": self.covariance.name, "num_samples": self.num_samples}

    @staticmethod
    def restored(model: Model, tensors: dict[str, Tensor], settings: dict[str, Any]) -> "Linearised":
        """The inverse of `tensors` and `settings`."""
        return Linearised(model, *gaussian_restored(tensors, settings), num_samples=settings["num_samples"])

    # ---- closed form ---------------------------------------------------------------------------------------------

    def _closed_form(self, inputs: Any) -> Predictive:
        outputs = self.model.outputs(self.mean[None], inputs, self.buffers)
        variances = [
            self.covariance.project(jacobian).diagonal(dim1=-2, dim2=-1)
            for jacobian in self._jacobians(inputs, outputs.shape[-1])
        ]
        own = self.model.split(self.mean)[1]
        return Predictive(
            self.model.likelihood,
            outputs,
            own[None],
            output_variance=torch.cat(variances)[None],
            joint=lambda targets: self._joint(inputs, outputs[0], targets),
        )

    def _joint(self, inputs: Any, outputs: Tensor, targets: Tensor) -> Tensor:
        """Log N(y; f, K + noise) for all B × D targets at once, in float64."""
        likelihood = self.model.likelihood
        assert isinstance(likelihood, GaussianLikelihood)
        if outputs.numel() > MAX_JOINT:
            raise UnsupportedError(
                f"the joint density of {len(outputs)} examples needs a covariance of {outputs.numel()}² numbers: ask "
                f"for the joint_log_prob of at most {MAX_JOINT // outputs.shape[-1]} examples at a time."
            )
        noise = likelihood.noise(self.model.split(self.mean)[1]).double()
        covariance = self._output_covariance(inputs, outputs.shape[-1]).double()
        covariance.diagonal().add_(noise.square().repeat(len(outputs)))
        root = torch.linalg.cholesky(covariance)
        residual = (targets - outputs).double().flatten()[:, None]
        z = torch.linalg.solve_triangular(root, residual, upper=False)
        value: Tensor = (
            -0.5 * z.square().sum() - root.diagonal().log().sum() - 0.5 * len(residual) * math.log(2 * math.pi)
        )
        return value.to(outputs)

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
        buffers = {name: value[0] for name, value in self.buffers.items()}
        for part in self._jacobian.chunks(self.mean, buffers, inputs, num_outputs):
            yield part.jacobian

    # ---- function draws ------------------------------------------------------------------------------------------

    def _functions(self, theta: Tensor, inputs: Any) -> Tensor:
        """f_lin at S parameter vectors: (S, P) → (S, B, C)."""
        mean = self.model.split(self.mean)[0]
        change = self.model.split(theta)[0] - mean
        buffers = {name: value[0] for name, value in self.buffers.items()}
        batched = Vectorised(self._one_function, gradient=False)  # anew: rounding must not depend on earlier calls
        parts = []
        for chunk in chunk_inputs(inputs, self.model.rows_at_once(len(theta))):
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
        buffers = {name: value[0] for name, value in self.buffers.items()}
        rows = self._jacobian.chunks(self.mean, buffers, inputs, outputs.shape[-1])
        return outputs + torch.cat([torch.einsum("bcp,sp->sbc", part.jacobian, change) for part in rows], dim=1)
