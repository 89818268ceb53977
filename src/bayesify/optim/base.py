"""What optimizers that draw random numbers share: settings of the model, a generator of their own, its checkpoint."""

import math
from abc import ABC
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from bayesify.engine.rng import generator
from bayesify.errors import MethodError, SaveError, UnsupportedError
from bayesify.model.likelihoods import Likelihood, get_likelihood
from bayesify.model.model import Model
from bayesify.model.network import Network

Closure = Callable[[], Any]


class RandomOptimizer(torch.optim.Optimizer, ABC):
    """Base; subclasses are final.

    Every parameter group has `lr`, `num_data` (N), `temperature` (T), `prior_precision` and `prior_mean`: the target is
    the posterior under N(prior_mean, 1/prior_precision) for each weight, tempered by T. A parameter whose gradient is
    None has gradient 0, as in the loss of that batch it has: only the prior pulls it. One that does not require
    gradients is left alone.
    """

    rng: torch.Generator
    """Of all noise; nothing else is drawn from, and its state is part of `state_dict()`."""

    def __init__(self, params: Any, defaults: dict[str, Any], seed: int) -> None:
        owner = type(self).__name__
        for name in ("num_data", "temperature"):
            require(defaults[name] > 0 and math.isfinite(defaults[name]), owner, name, defaults[name], "positive")
        for name in ("lr", "prior_precision"):
            require(defaults[name] >= 0 and math.isfinite(defaults[name]), owner, name, defaults[name], "at least 0")
        torch.optim.Optimizer.__init__(self, params, defaults)
        self.rng = generator(self.param_groups[0]["params"][0].device, owner, seed)
        self.register_state_dict_post_hook(_with_rng)
        self.register_load_state_dict_pre_hook(_restore_rng)

    def noise_like(self, parameter: Tensor) -> Tensor:
        """Standard normal numbers of the parameter's shape."""
        drawn = torch.randn(parameter.shape, generator=self.rng, dtype=parameter.dtype, device=self.rng.device)
        return drawn.to(parameter.device)


def require(condition: bool, owner: str, name: str, value: Any, allowed: str) -> None:
    """One message for every setting out of range.

    Raises:
        MethodError: the condition does not hold.
    """
    if not condition:
        raise MethodError(f"{owner}({name}={value!r}): {name} must be {allowed}.")


def tempered_score(parameter: Tensor, group: dict[str, Any]) -> Tensor:
    """The batch's estimate of the gradient of the tempered log posterior, from the mean loss's gradient."""
    pull: Tensor = group["prior_precision"] * (group["prior_mean"] - parameter)
    if parameter.grad is not None:
        pull = pull - group["num_data"] * parameter.grad
    tempered: Tensor = pull / group["temperature"]
    return tempered


def evaluated(closure: Closure | None) -> Any:
    """The closure's loss, with gradients."""
    if closure is None:
        return None
    with torch.enable_grad():
        return closure()


def model_of(module: torch.nn.Module, likelihood: str | Likelihood) -> Model:
    """A private copy of the user's module with a likelihood, for a posterior.

    Raises:
        UnsupportedError: the likelihood has parameters of its own, which the loop did not train.
    """
    chosen = get_likelihood(likelihood)
    if chosen.num_parameters:
        raise UnsupportedError(
            f"the likelihood {likelihood!r} learns parameters of its own, which this loop did not train: give one "
            "without, for example likelihoods.Gaussian(scale=0.1)."
        )
    return Model(Network(module), chosen)


def _with_rng(optimizer: torch.optim.Optimizer, state_dict: dict[str, Any]) -> None:
    assert isinstance(optimizer, RandomOptimizer)
    state_dict["rng"] = optimizer.rng.get_state()


def _restore_rng(optimizer: torch.optim.Optimizer, state_dict: dict[str, Any]) -> None:
    assert isinstance(optimizer, RandomOptimizer)
    if "rng" not in state_dict:
        raise SaveError(
            f"this state_dict has no state of random numbers ('rng'): it is not one of {type(optimizer).__name__}, "
            "start the optimizer anew."
        )
    optimizer.rng.set_state(state_dict["rng"].cpu())
