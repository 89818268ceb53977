"""Prior-data fitted networks (Müller, Hollmann, Pineda Arango, Grabocka & Hutter, ICLR 2022).

A network q_φ(y | x, D) reads a whole data set D. Data sets are drawn from a prior, a part of each is hidden, and

    φ ← argmin E_{(D, x, y) ~ prior} [−log q_φ(y | x, D)]                                                     (1)

The optimum of (1) over all densities is the posterior predictive p(y | x, D): the loss is the expected KL divergence
to it, up to a constant. Training is paid once per prior; each prediction is one pass.

Cost: num_steps batches of transformer training. Not here: classes, meta-learned hyperparameters, feature tokens.
"""

import math
from dataclasses import replace

import torch
from torch import Tensor, nn

from bayesify.engine.rng import generator, seed_of, seeded
from bayesify.errors import MethodError
from bayesify.model.bars import Bars
from bayesify.pfn.priors import DataPrior
from bayesify.pfn.transformer import PFN, Shape

ROWS_FOR_BARS = 100_000
"""Targets drawn to place the bars and to find the units of inputs and targets."""
WARM_UP = 0.05
"""Share of the steps over which the learning rate rises; it then falls to 0 along a cosine."""
LARGEST_GRADIENT = 1.0
"""Norm beyond which gradients are scaled down."""


def fit_pfn(
    prior: DataPrior,
    *,
    max_context: int = 20,
    num_queries: int = 20,
    num_steps: int = 4500,
    batch_size: int = 32,
    num_bars: int = 100,
    width: int = 64,
    num_layers: int = 3,
    num_heads: int = 4,
    learning_rate: float = 3e-3,
    seed: int = 0,
    device: str = "cpu",
) -> PFN:
    """Trains a network to predict as the posterior of a prior over data sets does.

    Args:
        prior: what data sets are drawn from, `pfn.GPPrior()` for instance.
        max_context: rows with targets, at most; every number from 0 on is trained for.
        num_queries: rows that are predicted, at least, in every training set.
        num_steps: optimiser steps.
        batch_size: data sets per step.
        num_bars: pieces of the predicted density.
        width: of the transformer.
        num_layers: of the transformer.
        num_heads: of the transformer.
        learning_rate: the largest one, of Adam.
        seed: of weights and data.
        device: 'cpu' or 'cuda'.

    Raises:
        MethodError: a size is not positive.
    """
    sizes = {"num_queries": num_queries, "num_steps": num_steps, "batch_size": batch_size}
    for name, value in sizes.items():
        if value < 1:
            raise MethodError(f"fit_pfn({name}={value}): it must be at least 1.")
    if not (learning_rate > 0 and math.isfinite(learning_rate)):
        raise MethodError(f"fit_pfn(learning_rate={learning_rate}): it must be positive and finite.")
    shape = Shape(prior.num_inputs, max_context, width, num_layers, num_heads)
    rng = generator(device, "pfn", seed)
    rows = max_context + num_queries
    net = _untrained(prior, shape, num_bars, rows, seed_of("pfn weights", seed), rng).to(device)
    optimiser = torch.optim.Adam(net.parameters(), lr=learning_rate)
    for step in range(num_steps):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate * _pace((step + 1) / num_steps)
        optimiser.zero_grad()
        _loss(net, prior, batch_size, rows, rng).backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(net.parameters(), LARGEST_GRADIENT)
        optimiser.step()
    return net.eval()


def _untrained(prior: DataPrior, shape: Shape, num_bars: int, rows: int, seed: int, rng: torch.Generator) -> PFN:
    """Bars and units from draws of the prior; weights by PyTorch's initialisers."""
    inputs, targets = prior.sample(math.ceil(ROWS_FOR_BARS / rows), rows, rng)
    fitted = replace(
        shape,
        input_loc=float(inputs.mean()),
        input_scale=float(inputs.std()),
        target_loc=float(targets.mean()),
        target_scale=float(targets.std()),
    )
    with seeded(seed):
        return PFN(fitted, Bars.of(targets, num_bars))


def _loss(net: PFN, prior: DataPrior, batch_size: int, rows: int, rng: torch.Generator) -> Tensor:
    """Equation (1) on fresh data sets, one size of context for all."""
    inputs, targets = prior.sample(batch_size, rows, rng)
    size = int(torch.randint(net.shape.max_context + 1, (), generator=rng, device=rng.device))
    logits = net(inputs[:, :size], targets[:, :size], inputs[:, size:])
    return -net.bars.log_prob(logits, targets[:, size:], targets).mean()


def _pace(done: float) -> float:
    """The learning rate's multiple when a share of the steps is done."""
    if done < WARM_UP:
        return done / WARM_UP
    return 0.5 * (1 + math.cos(math.pi * (done - WARM_UP) / (1 - WARM_UP)))
