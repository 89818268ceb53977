"""Stochastic gradient Langevin and Hamiltonian dynamics as optimizers of torch's kind.

The learning rate is that of SGD on (mean loss − log prior / N): with ε = lr T/N the steps are those of the methods
(`methods.sgld`, `methods.sghmc`, equations (1) there, s = 1), so that

    θ ← θ − lr ∇(mean loss − log prior / N) + √(2 lr T/N) ξ

in `SGLD`; `SGHMC` keeps `momentum` of its velocity in every step, with h = √(lr T/N) and friction −log(momentum)/h.
Weights along the way are draws: collect them with `Samples`.
"""

import math
from typing import Any

import torch

from bayesify.methods import sghmc, sgld
from bayesify.optim.base import Closure, RandomOptimizer, evaluated, require, tempered_score


class SGLD(RandomOptimizer):
    """Langevin dynamics on minibatch gradients (Welling & Teh, ICML 2011).

    Args:
        params: as in all optimizers.
        lr: that of SGD on the mean loss; stable below 2 over the largest curvature of the mean loss, and variances in
            the narrowest direction are exact only far below that.
        num_data: N, of the training data.
        temperature: T; 1 is the posterior.
        prior_precision: of every weight; groups may have their own.
        prior_mean: of every weight.
        seed: of the noise.

    Raises:
        MethodError: a setting out of range.
    """

    def __init__(
        self,
        params: Any,
        lr: float,
        num_data: int,
        *,
        temperature: float = 1.0,
        prior_precision: float = 1.0,
        prior_mean: float = 0.0,
        seed: int = 0,
    ) -> None:
        defaults = {
            "lr": lr,
            "num_data": num_data,
            "temperature": temperature,
            "prior_precision": prior_precision,
            "prior_mean": prior_mean,
        }
        RandomOptimizer.__init__(self, params, defaults, seed)

    @torch.no_grad()
    def step(self, closure: Closure | None = None) -> Any:
        """One step of every parameter; returns the closure's loss."""
        loss = evaluated(closure)
        for group in self.param_groups:
            epsilon = group["lr"] * group["temperature"] / group["num_data"]
            for parameter in _trained(group):
                one = parameter.new_ones(())
                score, noise = tempered_score(parameter, group), self.noise_like(parameter)
                parameter.copy_(sgld.langevin(one, epsilon)(sgld.State(parameter), score, noise, one).theta)
        return loss


class SGHMC(RandomOptimizer):
    """Hamiltonian dynamics with friction on minibatch gradients (Chen, Fox & Guestrin, ICML 2014).

    Args:
        params: as in all optimizers.
        lr: that of SGD on the mean loss; stable below 4 over the largest curvature of the mean loss.
        num_data: N, of the training data.
        momentum: the share of the velocity that a step keeps.
        temperature: T; 1 is the posterior.
        prior_precision: of every weight; groups may have their own.
        prior_mean: of every weight.
        seed: of the noise.

    Raises:
        MethodError: a setting out of range.
    """

    def __init__(
        self,
        params: Any,
        lr: float,
        num_data: int,
        *,
        momentum: float = 0.9,
        temperature: float = 1.0,
        prior_precision: float = 1.0,
        prior_mean: float = 0.0,
        seed: int = 0,
    ) -> None:
        require(0 < momentum < 1, "SGHMC", "momentum", momentum, "above 0 and below 1")
        defaults = {
            "lr": lr,
            "num_data": num_data,
            "momentum": momentum,
            "temperature": temperature,
            "prior_precision": prior_precision,
            "prior_mean": prior_mean,
        }
        RandomOptimizer.__init__(self, params, defaults, seed)

    @torch.no_grad()
    def step(self, closure: Closure | None = None) -> Any:
        """One step of every parameter; returns the closure's loss."""
        loss = evaluated(closure)
        for group in self.param_groups:
            length = math.sqrt(group["lr"] * group["temperature"] / group["num_data"])
            if length == 0:  # where a schedule ends
                continue
            friction = -math.log(group["momentum"]) / length
            for parameter in _trained(group):
                own = self.state[parameter]
                velocity = own.get("velocity", torch.zeros_like(parameter))
                one = parameter.new_ones(())
                score, noise = tempered_score(parameter, group), self.noise_like(parameter)
                move = sghmc.hamiltonian(one, length, friction)
                after = move(sghmc.State(parameter, velocity), score, noise, one)
                parameter.copy_(after.theta)
                own["velocity"] = after.velocity
        return loss


def _trained(group: dict[str, Any]) -> list[torch.Tensor]:
    return [parameter for parameter in group["params"] if parameter.requires_grad]
