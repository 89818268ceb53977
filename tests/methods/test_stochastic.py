"""Minibatch samplers as users run them: warm start, curvature, burn-in, sampling, on targets that are known."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from small_problems import critical_value, fitted, plain, problem_of, regression_data
from targets import Target, chains_run, correlated_gaussian, excess, mixture, sampled, smooth_network
from torch import Tensor

from bayesify.engine import stochastic
from bayesify.engine.budget import Meter
from bayesify.engine.rng import generator
from bayesify.engine.run import Run
from bayesify.engine.stochastic import geometry
from bayesify.errors import BudgetError, MethodError
from bayesify.methods import SGHMC, SGLD, SGNHT, AdamSGLD, AdaptiveSGHMC, Cyclical, Multi
from bayesify.methods.stochastic import StochasticSampler
from bayesify.model.problem import Problem

CHAINS: dict[str, Any] = {"num_chains": 16, "num_draws": 200, "warm_start_epochs": 1}
EVERY = [SGLD, SGHMC, SGNHT, AdamSGLD, AdaptiveSGHMC]
every = pytest.mark.parametrize("method", EVERY)


def langevin_target(problem: Problem, target: Target, epsilon: float) -> Target:
    """The Gaussian with the covariance (A (I − εA/2))⁻¹ that exact gradients give Langevin steps."""
    theta = torch.zeros(2, problem.num_parameters, dtype=torch.float64)
    theta[1] = 1.0
    origin = problem.with_changes(meter=Meter())
    basis = torch.eye(problem.num_parameters, dtype=torch.float64).to(problem.network.dtype)
    zero = torch.zeros_like(basis[:1])
    gradient = origin.full_gradient(torch.cat([zero, basis])).gradient.double()
    precision = gradient[0] - gradient[1:]
    mean = torch.linalg.solve(precision, gradient[0])
    root = torch.linalg.cholesky(precision @ (torch.eye(len(precision)) - 0.5 * epsilon * precision))
    ours = torch.linalg.cholesky(precision)

    def features(draws: Tensor) -> Tensor:
        # The target's own features, of draws mapped so that the law above becomes the posterior.
        white = (draws - mean) @ root
        return target.features(mean + torch.linalg.solve(ours.mT, white.unsqueeze(-1)).squeeze(-1))

    return Target(problem, features)
