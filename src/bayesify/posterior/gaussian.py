"""A posterior N(mean, Σ) over parameters, sampled when it predicts."""

from typing import Any

import torch
from torch import Tensor

from bayesify.covariance import Covariance, Diagonal, Full, Kronecker, LowRank, PerOutput, Spiked
from bayesify.model.model import Model
from bayesify.model.network import Buffers
from bayesify.posterior.base import (
    Function,
    Functions,
    Particles,
    Posterior,
    chooser,
    function_of,
    functions_of,
    mixture_of,
)
from bayesify.predictive import Predictive

DEFAULT_SAMPLES = 30
"""Draws per prediction: where published curves of log likelihood against samples flatten (Maddox et al. 2019)."""

COVARIANCES: dict[str, type[Covariance]] = {
    kind.name: kind for kind in (Diagonal, LowRank, Full, Kronecker, PerOutput, Spiked)
}


class Gaussian(Posterior):
    """Parameters ~ N(mean, Σ); Σ may cover only the first entries, the rest (fixed noise) then stays at the mean.

    `buffers` (running statistics) are those of the mean and serve all draws.
    """

    form = "gaussian"

    def __init__(self, model: Model, mean: Tensor, covariance: Covariance, buffers: Buffers | None = None) -> None:
        Posterior.__init__(self, model)
        self.mean = mean
        self.covariance = covariance
        self.buffers = model.network.buffers(1) if buffers is None else buffers

    def particles(self, num_samples: int | None = None, seed: int = 0) -> Particles:  # noqa: D102
        return self._at(DEFAULT_SAMPLES if num_samples is None else num_samples, chooser(self.model, seed, "particles"))

    def _predict(self, inputs: Any, num_samples: int | None, seed: int) -> Predictive:
        return mixture_of(self.model, self.particles(num_samples, seed), inputs)

    def _functions(self, inputs: Any, num_samples: int | None, seed: int) -> Functions:
        return functions_of(self.model, self.particles(num_samples, seed), inputs)

    def _draw(self, seed: int) -> Function:
        return function_of(self.model, self._at(1, chooser(self.model, seed, "draw")), 0)

    def _at(self, num_samples: int, rng: torch.Generator) -> Particles:
        return gaussian_particles(self.mean, self.covariance, self.buffers, num_samples, rng)

    def tensors(self) -> dict[str, Tensor]:  # noqa: D102
        return gaussian_tensors(self.mean, self.covariance, self.buffers)

    def settings(self) -> dict[str, Any]:  # noqa: D102
        return {"covariance": self.covariance.name}

    @staticmethod
    def restored(model: Model, tensors: dict[str, Tensor], settings: dict[str, Any]) -> "Gaussian":
        """The inverse of `tensors` and `settings`."""
        return Gaussian(model, *gaussian_restored(tensors, settings))


def gaussian_particles(
    mean: Tensor, covariance: Covariance, buffers: Buffers, num_samples: int, rng: torch.Generator
) -> Particles:
    """Draws (S, P) of N(mean, Σ), Σ covering the first entries, with the mean's buffers repeated."""
    noise = covariance.sample(num_samples, rng)
    theta = mean.repeat(num_samples, 1)
    theta[:, : noise.shape[1]] += noise
    return Particles(theta, {name: value.expand(num_samples, *value.shape[1:]) for name, value in buffers.items()})


def gaussian_tensors(mean: Tensor, covariance: Covariance, buffers: Buffers) -> dict[str, Tensor]:
    """What a Gaussian form saves."""
    parts = {"mean": mean}
    parts |= {f"covariance.{name}": value for name, value in covariance.tensors().items()}
    return parts | {f"buffers.{name}": value for name, value in buffers.items()}


def gaussian_restored(tensors: dict[str, Tensor], settings: dict[str, Any]) -> tuple[Tensor, Covariance, Buffers]:
    """The inverse of `gaussian_tensors`."""

    def group(prefix: str) -> dict[str, Tensor]:
        return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}

    covariance = COVARIANCES[settings["covariance"]](**group("covariance."))
    return tensors["mean"], covariance, group("buffers.")
