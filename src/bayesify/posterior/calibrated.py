"""A posterior whose predictive is temperature-scaled on held-out data (Guo et al. 2017; Ashukha et al. 2020).

The pooled predictive is scaled, not each member: pool, then calibrate (Rahaman & Thiery 2021). For regression the
spread of the predictive about its mean is multiplied.
"""

from typing import Any

from torch import Tensor

from bayesify.posterior.base import Function, Functions, Particles, Posterior
from bayesify.predictive import Predictive


class Calibrated(Posterior):
    """`base` with its predictive at `predictive_temperature`; parameter draws are those of `base`."""

    form = "calibrated"

    def __init__(self, base: Posterior, predictive_temperature: float) -> None:
        Posterior.__init__(self, base.model)
        self.base = base
        self.predictive_temperature = predictive_temperature

    def particles(self, num_samples: int | None = None, seed: int = 0) -> Particles:  # noqa: D102
        return self.base.particles(num_samples, seed)

    def _predict(self, inputs: Any, num_samples: int | None, seed: int) -> Predictive:
        return self.base._predict(inputs, num_samples, seed).calibrated(self.predictive_temperature)

    def _functions(self, inputs: Any, num_samples: int | None, seed: int) -> Functions:
        return self.base._functions(inputs, num_samples, seed)

    def _draw(self, seed: int) -> Function:
        return self.base._draw(seed)

    def tensors(self) -> dict[str, Tensor]:  # noqa: D102
        return {f"base.{name}": value for name, value in self.base.tensors().items()}

    def settings(self) -> dict[str, Any]:  # noqa: D102
        return {
            "temperature": self.predictive_temperature,
            "base": {"form": self.base.form, **self.base.settings()},
        }
