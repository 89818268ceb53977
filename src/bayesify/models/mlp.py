"""A multilayer perceptron, sized to the data."""

from collections.abc import Sequence
from itertools import pairwise

from torch import nn

NARROW, WIDE = (50, 50), (128, 128)
LARGE_DATA = 5_000
"""Rows from which the wider network pays; below, 50-50 is the literature's size for tabular data of this kind."""


def mlp(num_inputs: int, num_outputs: int, hidden: Sequence[int] = NARROW) -> nn.Sequential:
    """Linear layers with ReLU between: `num_inputs` → hidden → `num_outputs`."""
    sizes = [num_inputs, *hidden]
    layers: list[nn.Module] = []
    for before, after in pairwise(sizes):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(sizes[-1], num_outputs))


def mlp_for(num_examples: int, num_inputs: int, num_outputs: int) -> nn.Sequential:
    """The default network for a table of this size."""
    return mlp(num_inputs, num_outputs, WIDE if num_examples >= LARGE_DATA else NARROW)
