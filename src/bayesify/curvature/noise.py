"""A learned Gaussian noise scale: what of the data it explains, and what changing it does to the parameters.

Laplace keeps a likelihood's own parameters at one value. For Gaussian noise that value can be tuned by the evidence,
because multiplying all noise variances by s divides the Gauss–Newton matrix by s.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from bayesify.model.likelihoods import MIN_SCALE, Gaussian
from bayesify.model.problem import Problem


class Residuals(NamedTuple):
    """The standardised residuals whose noise can be tuned; none where the noise is fixed or not Gaussian."""

    number: int = 0
    squares: float = 0.0
    lowest_log_factor: float = 0.0
    """The smallest log s that the likelihood can express."""


def residuals(problem: Problem, theta: Tensor, log_likelihood: float) -> Residuals:
    """Read off the log likelihood at theta (P,), which the noise and the sum of squares determine together."""
    likelihood = problem.likelihood
    if not isinstance(likelihood, Gaussian) or likelihood.scale is not None:
        return Residuals()
    noise = likelihood.noise(problem.model.split(theta)[1]).double()
    count = problem.num_examples * likelihood.num_targets
    constant = problem.num_examples * float(noise.log().sum()) + 0.5 * count * math.log(2 * math.pi)
    squares = max(0.0, -2 * (log_likelihood + constant))
    return Residuals(count, squares, min(0.0, 2 * math.log(2 * MIN_SCALE / float(noise.min()))))


def with_noise_factor(problem: Problem, theta: Tensor, factor: float) -> Tensor:
    """The vector theta (P,) with all noise variances multiplied by `factor`; unchanged where none is learned."""
    likelihood = problem.likelihood
    if not isinstance(likelihood, Gaussian) or likelihood.scale is not None:
        return theta
    network, own = problem.model.split(theta)
    noise = likelihood.noise(own.double()) * math.sqrt(factor)
    return torch.cat([network, (noise - MIN_SCALE).log().to(own)])


def needs_noise(problem: Problem) -> bool:
    """Whether the likelihood has parameters that nobody has given a value."""
    given = problem.likelihood_start
    return len(given) > 0 and torch.equal(given, problem.likelihood.initial_parameters().to(given))


def with_fitted_noise(problem: Problem, theta: Tensor) -> Tensor:
    """The vector theta (P,) with the likelihood's own parameters at their mode given the network.

    For a pretrained network, which brings no noise scale with it. Costs N metered forward passes.
    """
    network, own = problem.model.split(theta)
    if not needs_noise(problem):
        return theta
    outputs = problem.outputs(theta[None], problem.data.inputs, problem.network.buffers(1))[0].double()
    targets = problem.data.targets.double()
    parameters = own.double().clone().requires_grad_()
    optimiser = torch.optim.LBFGS(
        [parameters], max_iter=200, tolerance_grad=1e-10, tolerance_change=1e-14, line_search_fn="strong_wolfe"
    )

    def loss() -> float:
        optimiser.zero_grad()
        with torch.enable_grad():
            prior = problem.prior.log_density(torch.cat([network.double(), parameters]))
            value = -(problem.likelihood.log_prob(outputs, targets, parameters).sum() + prior) / len(outputs)
        (parameters.grad,) = torch.autograd.grad(value, parameters)
        return float(value.detach())

    optimiser.step(loss)  # type: ignore[no-untyped-call]
    return torch.cat([network, parameters.detach().to(own)])
