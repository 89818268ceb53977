"""Collectors of weights from any training loop: SWAG's moments, and plain draws.

swag = bay.optim.SWAG()
for epoch in range(...):
    train_one_epoch(model)                 # with a constant learning rate
    swag.collect(model)
posterior = swag.posterior(model, "categorical")
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from bayesify.errors import MethodError, UnsupportedError
from bayesify.methods.swag import Snapshots, gaussian, no_snapshots, with_snapshot
from bayesify.model.likelihoods import Likelihood
from bayesify.model.network import Buffers
from bayesify.model.parameters import Layout
from bayesify.optim.base import model_of, require
from bayesify.posterior.base import Particles, Record
from bayesify.posterior.draws import Draws
from bayesify.posterior.gaussian import Gaussian


class SWAG:
    """A Gaussian from snapshots of an optimizer's path (Maddox et al., NeurIPS 2019); equations: `methods.swag`.

    Args:
        max_rank: K, how many of the last deviations are kept.
    """

    def __init__(self, max_rank: int = 20) -> None:
        require(max_rank >= 2, "SWAG", "max_rank", max_rank, "at least 2")
        self.max_rank = max_rank
        self._path: Snapshots | None = None

    def collect(self, model: nn.Module) -> None:
        """Takes a snapshot of the trainable parameters."""
        theta = _weights(model)
        path = no_snapshots(theta, self.max_rank) if self._path is None else self._path
        self._path = with_snapshot(path, theta)

    def posterior(self, model: nn.Module, likelihood: str | Likelihood, scale: float = 1.0) -> Gaussian:
        """The Gaussian as a posterior that predicts, is evaluated and saved like those of `bay.fit`.

        Args:
            model: whose snapshots they are; copied.
            likelihood: a name or a Likelihood without parameters of its own.
            scale: multiplies the covariance.

        Raises:
            MethodError: fewer than two snapshots were taken.
            UnsupportedError: the model normalises by batch: statistics belong to weights, and draws have none.
        """
        if self._path is None or int(self._path.snapshots) < 2:
            raise MethodError("SWAG.posterior() needs at least 2 snapshots: call collect(model) along the path.")
        require(scale > 0, "SWAG.posterior", "scale", scale, "positive")
        own = model_of(model, likelihood)
        if own.network.running:
            raise UnsupportedError(
                "SWAG's draws need normalisation statistics of their own, which take a pass over the data each: use "
                "bay.fit(..., method='swag'), or layers that do not normalise by batch (GroupNorm, LayerNorm)."
            )
        found = Gaussian(own, self._path.mean, gaussian(self._path, scale))
        found.record = Record(method="optim.SWAG")
        return found

    def state_dict(self) -> dict[str, Tensor]:
        """What `load_state_dict` takes."""
        return {} if self._path is None else dict(self._path._asdict())

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Goes on from there."""
        self._path = Snapshots(**state_dict) if state_dict else None


class Samples:
    """Weights along a path, each as good as another: draws of SGLD or SGHMC, or the members of an ensemble."""

    def __init__(self) -> None:
        self._theta: list[Tensor] = []
        self._buffers: list[Buffers] = []

    def __len__(self) -> int:
        return len(self._theta)

    def collect(self, model: nn.Module) -> None:
        """Keeps the trainable parameters, and the statistics of normalisation layers."""
        self._theta.append(_weights(model))
        self._buffers.append({name: value.detach().clone() for name, value in model.named_buffers()})

    def posterior(self, model: nn.Module, likelihood: str | Likelihood) -> Draws:
        """The draws as a posterior that predicts, is evaluated and saved like those of `bay.fit`.

        Args:
            model: whose weights they are; copied.
            likelihood: a name or a Likelihood without parameters of its own.

        Raises:
            MethodError: nothing was collected.
        """
        if not self._theta:
            raise MethodError("Samples.posterior() has no draws: call collect(model) along the path.")
        own = model_of(model, likelihood)
        buffers = {name: torch.stack([kept[name] for kept in self._buffers]) for name in own.network.running}
        found = Draws(own, Particles(torch.stack(self._theta), buffers))
        found.record = Record(method="optim.Samples")
        return found

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` takes."""
        return {"theta": list(self._theta), "buffers": list(self._buffers)}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Goes on from there."""
        self._theta, self._buffers = list(state_dict["theta"]), list(state_dict["buffers"])


def _weights(model: nn.Module) -> Tensor:
    """The trainable parameters (P,), copied."""
    return Layout.of(model).flatten({name: p.detach() for name, p in model.named_parameters()}).clone()
