"""An equal mixture of posteriors: several modes, each with its own local uncertainty (Wilson & Izmailov 2020)."""

from typing import Any

import torch
from torch import Tensor

from bayesify.errors import MethodError
from bayesify.posterior.base import Function, Functions, Particles, Posterior, chooser
from bayesify.posterior.draws import Draws
from bayesify.predictive import Predictive


class Mixture(Posterior):
    """Components of one form, weighted equally."""

    form = "mixture"

    def __init__(self, components: list[Posterior]) -> None:
        if not components:
            raise MethodError("a mixture needs at least one component.")
        Posterior.__init__(self, components[0].model)
        self.components = components

    def particles(self, num_samples: int | None = None, seed: int = 0) -> Particles:
        """The components' particles, as many of each as divides evenly (rounded up)."""
        share = self.share(num_samples)
        parts = [component.particles(share, seed) for component in self.components]
        theta = torch.cat([part.theta for part in parts])[:num_samples]
        names = parts[0].buffers
        return Particles(theta, {name: torch.cat([p.buffers[name] for p in parts])[:num_samples] for name in names})

    def share(self, num_samples: int | None) -> int | None:
        """How many of `num_samples` draws come from each component: as divides evenly (rounded up).

        By default all, or as many as every component has where chains kept different numbers: weights are equal.
        """
        if num_samples is not None:
            return -(-num_samples // len(self.components))
        kept = {len(part.kept.theta) for part in self.components if isinstance(part, Draws)}
        return min(kept) if len(kept) > 1 else None

    def _predict(self, inputs: Any, num_samples: int | None, seed: int) -> Predictive:
        share = self.share(num_samples)
        return Predictive.pooled([component._predict(inputs, share, seed) for component in self.components])

    def _functions(self, inputs: Any, num_samples: int | None, seed: int) -> Functions:
        share = None if num_samples is None else self.share(num_samples)
        parts = [component._functions(inputs, share, seed) for component in self.components]
        outputs = torch.cat([part.outputs for part in parts])[:num_samples]
        return Functions(outputs, torch.cat([part.parameters for part in parts])[:num_samples])

    def _draw(self, seed: int) -> Function:
        rng = chooser(self.model, seed, "component")
        index = int(torch.randint(len(self.components), (), generator=rng, device=rng.device))
        return self.components[index]._draw(seed)

    def tensors(self) -> dict[str, Tensor]:  # noqa: D102
        return {f"{i}.{name}": v for i, part in enumerate(self.components) for name, v in part.tensors().items()}

    def settings(self) -> dict[str, Any]:  # noqa: D102
        return {"components": [{"form": part.form, **part.settings()} for part in self.components]}
