"""IVON as an optimizer of torch's kind; equations and what the letters mean: `methods.ivon`.

    optimizer = bay.optim.IVON(model.parameters(), lr=0.1, num_data=len(data))
    for X, y in loader:
        with optimizer.sampled_params(train=True):
            cross_entropy(model(X), y).backward()
        optimizer.step()

Several such blocks before a step are averaged: samples, batches, or both. `step(closure)` samples by itself, which is
what training frameworks call.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from bayesify.covariance import Diagonal
from bayesify.errors import MethodError
from bayesify.methods.ivon import Rates, Seen, State, Target, averages, sample_deviation, together, update, variance
from bayesify.model.likelihoods import Likelihood
from bayesify.optim.base import Closure, RandomOptimizer, evaluated, model_of, require
from bayesify.posterior.base import Record
from bayesify.posterior.gaussian import Gaussian


class IVON(RandomOptimizer):
    """Improved variational online Newton (Shen et al., ICML 2024): a diagonal Gaussian at the cost of Adam.

    The parameters hold its mean, except inside `sampled_params`.

    Args:
        params: as in all optimizers.
        lr: α, of Newton's steps; schedulers may lower it.
        num_data: N, of the training data: λ = N/T.
        temperature: T; 1 is the posterior. λ/N = 1/T.
        prior_precision: of every weight, δ = prior_precision/N; groups may have their own.
        prior_mean: of every weight.
        hess_init: h at the start: the curvature of the mean loss. It sets how wide the Gaussian starts and how long
            the first steps are; larger is safer.
        beta1: β₁, the memory of the gradient.
        beta2: β₂, the memory of the Hessian: after t steps β₂ᵗ of `hess_init` is left. 1 − 2/(number of steps) suits.
        clip_radius: bound on each coordinate of the Newton step before α.
        num_samples: how often `step(closure)` samples and calls the closure.
        seed: of the samples.

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
        hess_init: float = 1.0,
        beta1: float = 0.9,
        beta2: float = 0.9995,
        clip_radius: float = math.inf,
        num_samples: int = 1,
        seed: int = 0,
    ) -> None:
        require(hess_init > 0, "IVON", "hess_init", hess_init, "positive")
        require(0 <= beta1 < 1, "IVON", "beta1", beta1, "at least 0 and below 1")
        require(0 < beta2 < 1, "IVON", "beta2", beta2, "above 0 and below 1")
        require(clip_radius > 0, "IVON", "clip_radius", clip_radius, "positive")
        require(num_samples >= 1, "IVON", "num_samples", num_samples, "at least 1")
        defaults = {
            "lr": lr,
            "num_data": num_data,
            "temperature": temperature,
            "prior_precision": prior_precision,
            "prior_mean": prior_mean,
            "hess_init": hess_init,
            "beta1": beta1,
            "beta2": beta2,
            "clip_radius": clip_radius,
        }
        RandomOptimizer.__init__(self, params, defaults, seed)
        self.num_samples = num_samples
        self._seen: dict[nn.Parameter, list[Seen]] = {}
        self._is_sampled = False

    @contextmanager
    def sampled_params(self, train: bool = False) -> Iterator[None]:
        """Within the block the parameters are one draw from the Gaussian; afterwards they are its mean again.

        Args:
            train: gradients of `backward()` in the block count for the next step; older ones are dropped at its start.

        Raises:
            MethodError: blocks are nested.
        """
        if self._is_sampled:
            raise MethodError("IVON.sampled_params() is already open: end one block before the next.")
        drawn = self._perturb()
        self._is_sampled = True
        if train:
            self.zero_grad()
        try:
            yield
        finally:
            self._is_sampled = False
            with torch.no_grad():
                for parameter, (mean, _) in drawn.items():
                    parameter.copy_(mean)
        if train:
            for parameter, (_, deviation) in drawn.items():
                gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.clone()
                self._seen.setdefault(parameter, []).append(averages(deviation[None], gradient[None]))

    @torch.no_grad()
    def step(self, closure: Closure | None = None) -> Any:
        """One step from the gradients of all `sampled_params(train=True)` since the last; returns a closure's loss.

        Raises:
            MethodError: there were none.
        """
        loss = None
        for _ in range(self.num_samples if closure is not None else 0):
            with self.sampled_params(train=True):
                loss = evaluated(closure)
        if not self._seen:
            raise MethodError(
                "IVON.step() has no gradients of sampled parameters: call loss.backward() inside `with "
                "optimizer.sampled_params(train=True):`, or pass a closure."
            )
        for group in self.param_groups:
            rates = Rates(group["lr"], group["beta1"], group["beta2"], group["clip_radius"])
            for parameter in group["params"]:
                if parameter not in self._seen:
                    continue
                state = update(self._state(parameter, group), _target(parameter, group), rates, self._taken(parameter))
                parameter.copy_(state.mean)
                self.state[parameter].update(hessian=state.hessian, momentum=state.momentum, step=state.steps)
        self._seen.clear()
        return loss

    def posterior(self, model: nn.Module, likelihood: str | Likelihood) -> Gaussian:
        """The Gaussian as a posterior that predicts, is evaluated and saved like those of `bay.fit`.

        Args:
            model: whose parameters were trained; copied. Parameters of others than this optimizer's are certain.
            likelihood: a name or a Likelihood without parameters of its own.
        """
        own = model_of(model, likelihood)
        spread = {
            parameter: variance(self._state(parameter, group), _target(parameter, group))
            for group in self.param_groups
            for parameter in group["params"]
        }
        named = {name: spread.get(p, torch.zeros_like(p)).detach() for name, p in model.named_parameters()}
        found = Gaussian(own, own.network.initial, Diagonal(own.network.layout.flatten(named)))
        found.record = Record(method="optim.IVON", temperature=self.param_groups[0]["temperature"])
        return found

    def _perturb(self) -> dict[nn.Parameter, tuple[Tensor, Tensor]]:
        """Puts a draw into every parameter; returns means and deviations."""
        drawn = {}
        with torch.no_grad():
            for group in self.param_groups:
                for parameter in group["params"]:
                    if not parameter.requires_grad:
                        continue
                    noise = self.noise_like(parameter)
                    deviation = sample_deviation(self._state(parameter, group), _target(parameter, group), noise)
                    drawn[parameter] = (parameter.clone(), deviation)
                    parameter.add_(deviation)
        return drawn

    def _state(self, parameter: nn.Parameter, group: dict[str, Any]) -> State:
        own = self.state[parameter]
        if not own:
            own["hessian"] = torch.full_like(parameter, group["hess_init"])
            own["momentum"] = torch.zeros_like(parameter)
            own["step"] = torch.zeros((), dtype=torch.int64)  # torch keeps the type of what has this name
        return State(parameter.detach(), own["hessian"], own["momentum"], own["step"])

    def _taken(self, parameter: nn.Parameter) -> Seen:
        return together(self._seen[parameter])


def _target(parameter: Tensor, group: dict[str, Any]) -> Target:
    size = group["num_data"]
    decay, loc = parameter.new_tensor(group["prior_precision"] / size), parameter.new_tensor(group["prior_mean"])
    return Target(size / group["temperature"], decay, loc)
