"""The 36 problems: random networks as the truth, Gaussian inputs, labels drawn from the truth (Osband et al. 2022).

    x ~ N(0, I_D),      y | x ~ Categorical(softmax(f(x) / ρ)),      f a ReLU network D–50–50–2                      (1)

with weights from N(0, 1/fan-in), biases of the first layer from N(0, 1/D) and no others, as in the Neural Testbed
(whose weights are from that law cut off at two standard deviations). Learners get the network of (1), division by the
temperature ρ included, and its law as the prior: the posterior is then what nothing can beat on average over truths.
"""

import math
from fnmatch import fnmatch
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor, nn

from bayesify.engine.rng import generator, seeded
from bayesify.errors import DataError
from bayesify.model.network import Mode, Network
from bayesify.model.priors import Normal

HIDDEN, NUM_CLASSES = 50, 2
NUM_ANCHORS = 1000
"""Test inputs, in pairs: the distance to the truth is averaged over 1,000 marginals and 500 dyadic blocks."""


class Setting(NamedTuple):
    """One problem."""

    num_inputs: int
    ratio: int
    """Training examples per input."""
    temperature: float
    seed: int

    @property
    def name(self) -> str:
        """'2-10-0.1-0'."""
        return f"{self.num_inputs}-{self.ratio}-{self.temperature:g}-{self.seed}"

    @property
    def num_train(self) -> int:
        """N."""
        return self.num_inputs * self.ratio


PROBLEMS = tuple(Setting(*values) for values in product((2, 10), (1, 10, 100), (0.01, 0.1, 0.5), (0, 1)))
"""A sweep of a tenth of the published one: no D = 100, no ratio of 1,000, two seeds."""


class Environment(NamedTuple):
    """A truth, what a learner sees of it, and where it is asked."""

    network: nn.Sequential
    prior: Normal
    inputs: Tensor  # (N, D)
    labels: Tensor  # (N,)
    anchors: Tensor  # (A, D), of which two by two are a pair
    log_probs: Tensor  # (A, 2) of the truth, float64


class Divided(nn.Module):
    """Inputs over a temperature."""

    def __init__(self, temperature: float) -> None:
        nn.Module.__init__(self)
        self.temperature = temperature

    def forward(self, features: Tensor) -> Tensor:
        """(..., H)."""
        return features / self.temperature

    def extra_repr(self) -> str:
        """What the network is identified by."""
        return f"{self.temperature:g}"


def select(patterns: list[str] | None) -> tuple[Setting, ...]:
    """The problems whose names match a pattern such as '2-*-0.1-*'; all by default.

    Raises:
        DataError: a pattern matches none.
    """
    chosen = []
    for pattern in patterns or ["*"]:
        found = [setting for setting in PROBLEMS if fnmatch(setting.name, pattern)]
        if not found:
            raise DataError(
                f"no problem of the testbed is called {pattern!r}: names are INPUTS-RATIO-TEMPERATURE-SEED, such as "
                f"{PROBLEMS[0].name}, and * stands for anything."
            )
        chosen += found
    return tuple(dict.fromkeys(chosen))


def environment(setting: Setting) -> Environment:
    """The problem's truth and data, the same in every process."""
    rng = generator("cpu", "testbed", setting.num_inputs, setting.ratio, setting.temperature, setting.seed)
    with seeded(0):  # the layers' own start, which nobody uses, must not disturb the caller's randomness
        module = network(setting)
    near, wide = 1 / math.sqrt(setting.num_inputs), 1 / math.sqrt(HIDDEN)
    prior = Normal(scale={r"^0\.": near, ".": wide})
    truth = Network(nn.Sequential(*module).double())
    theta = prior.bind(truth.layout, 0, truth.initial).sample(1, rng)[0]

    def log_probs(inputs: Tensor) -> Tensor:
        with torch.no_grad():
            return truth(theta, {}, inputs.double(), Mode.PREDICT).log_softmax(-1)

    inputs = torch.randn(setting.num_train, setting.num_inputs, generator=rng)
    labels = torch.multinomial(log_probs(inputs).exp(), 1, generator=rng)[:, 0]
    anchors = torch.randn(NUM_ANCHORS, setting.num_inputs, generator=rng)
    with seeded(0):
        return Environment(network(setting), prior, inputs, labels, anchors, log_probs(anchors))


def network(setting: Setting) -> nn.Sequential:
    """The learner's network: the truth's, with weights of its own."""
    return nn.Sequential(
        nn.Linear(setting.num_inputs, HIDDEN),
        nn.ReLU(),
        nn.Linear(HIDDEN, HIDDEN, bias=False),
        nn.ReLU(),
        Divided(setting.temperature),  # of the last features, which is the same: some methods look for a last layer
        nn.Linear(HIDDEN, NUM_CLASSES, bias=False),
    )
