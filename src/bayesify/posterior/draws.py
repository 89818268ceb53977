"""A posterior as equally weighted particles: ensembles, samplers, dropout masks, a single MAP."""

from typing import Any

import torch
from torch import Tensor

from bayesify.model.model import Model
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


class Draws(Posterior):
    """S kept particles. More than S samples are drawn with replacement.

    Attributes:
        kept: the particles; of Markov chains one chain after the other, each in the order of its steps.
        num_chains: how many chains they are of, equally many of each; None for draws that are not of chains.
    """

    form = "draws"

    def __init__(self, model: Model, particles: Particles, num_chains: int | None = None) -> None:
        Posterior.__init__(self, model)
        self.kept = particles
        self.num_chains = num_chains

    def particles(self, num_samples: int | None = None, seed: int = 0) -> Particles:  # noqa: D102
        kept = len(self.kept.theta)
        if num_samples is None or num_samples == kept:
            return self.kept
        rng = chooser(self.model, seed, "particles")
        if num_samples < kept:
            rows = torch.randperm(kept, generator=rng, device=rng.device)[:num_samples]
        else:
            rows = torch.randint(kept, (num_samples,), generator=rng, device=rng.device)
        return Particles(self.kept.theta[rows], {name: value[rows] for name, value in self.kept.buffers.items()})

    def _predict(self, inputs: Any, num_samples: int | None, seed: int) -> Predictive:
        return mixture_of(self.model, self.particles(num_samples, seed), inputs)

    def _functions(self, inputs: Any, num_samples: int | None, seed: int) -> Functions:
        return functions_of(self.model, self.particles(num_samples, seed), inputs)

    def _draw(self, seed: int) -> Function:
        rng = chooser(self.model, seed, "draw")
        index = int(torch.randint(len(self.kept.theta), (), generator=rng, device=rng.device))
        return function_of(self.model, self.kept, index)

    def tensors(self) -> dict[str, Tensor]:
        """A theta shared by all particles (dropout) is stored once."""
        theta = self.kept.theta
        shared = theta.stride(0) == 0 and len(theta) > 1
        buffers = {f"buffers.{name}": value for name, value in self.kept.buffers.items()}
        return {"theta": theta[:1] if shared else theta, **buffers}

    def settings(self) -> dict[str, Any]:  # noqa: D102
        return {"num_particles": len(self.kept.theta), "num_chains": self.num_chains}

    @staticmethod
    def restored(model: Model, tensors: dict[str, Tensor], settings: dict[str, Any]) -> "Draws":
        """The inverse of `tensors` and `settings`."""
        theta = tensors["theta"].expand(settings["num_particles"], -1)
        prefix = "buffers."
        buffers = {name.removeprefix(prefix): v for name, v in tensors.items() if name.startswith(prefix)}
        return Draws(model, Particles(theta, buffers), settings.get("num_chains"))  # not in older files
