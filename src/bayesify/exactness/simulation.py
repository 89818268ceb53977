"""Problems whose truth is known because it was drawn: weights from the prior, targets from the network.

The default is a network of 16 parameters on 16 inputs with a gap: small enough that a hundred posteriors take a minute,
large enough that they are those of a network, with hidden units that can be exchanged and a likelihood that is not
Gaussian in the weights. The noise is known and large, so that chains that are right can also mix.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from bayesify.data import Data
from bayesify.engine.budget import Meter
from bayesify.engine.rng import generator, seeded
from bayesify.exactness.calibration import LOG_LIKELIHOOD
from bayesify.fitting import make_problem
from bayesify.model.likelihoods import Gaussian
from bayesify.model.prior import Prior
from bayesify.model.priors import Normal
from bayesify.model.problem import Problem

HIDDEN, NOISE = 5, 0.5
INPUTS = (-2.0, -1.8, -1.6, -1.4, -1.2, -1.0, -0.8, -0.6, 0.6, 0.8, 1.0, 1.2, 1.4, 1.6, 1.8, 2.0)
TEST_INPUTS = (-1.3, 0.0, 3.0)
"""Among the data, in their gap, and beyond them."""


class Simulation(NamedTuple):
    """One draw of everything."""

    problem: Problem
    truth: Tensor  # (Q,) the quantities of the true function


@dataclass(frozen=True, eq=False)
class Simulator:
    """A model whose weights and data can be drawn.

    Attributes:
        name: what it is, in a few words.
        module: makes the network, of float64 and one output.
        inputs: (N, D), where targets are drawn.
        test_inputs: (B, D), where functions are compared.
        noise: standard deviation of the targets.
        prior: of the weights.
    """

    name: str
    module: Callable[[], nn.Module]
    inputs: Tensor
    test_inputs: Tensor
    noise: float
    prior: Prior

    @property
    def quantities(self) -> tuple[str, ...]:
        """Names of what is compared: functions have neither order nor weights that could be exchanged.

        The signs of a function's values are as likely one way as the other under a symmetric prior, so that shrinkage
        towards zero does not move their ranks: the function's size is there to see it. The log likelihood depends on
        the data, without which draws from the prior, say, would pass (Modrák et al. 2023).
        """
        places = (", ".join(f"{value:g}" for value in row) for row in self.test_inputs.tolist())
        return (*(f"f({place})" for place in places), "size of f", LOG_LIKELIHOOD)

    @property
    def at(self) -> Tensor:
        """The inputs that `measure` takes values at: for testing, then for training."""
        return torch.cat([self.test_inputs, self.inputs])

    def simulate(self, seed: int, number: int, *, validation: bool) -> Simulation:
        """The weights, their data, and with `validation` as many data again that were held out."""
        rng = generator("cpu", seed, "simulation", number)
        with seeded(0):  # the initial values are not used
            module = self.module()
        count = len(self.inputs)
        blank = make_problem(
            module,
            Data(self.inputs, self.inputs.new_zeros(count)),
            likelihood=Gaussian(scale=self.noise),
            prior=self.prior,
            device="cpu",
        )
        outputs = blank.model.outputs(blank.prior.sample(1, rng), self.at, blank.network.buffers(1))
        noise = self.noise * torch.randn(2, count, generator=rng, dtype=outputs.dtype)
        targets = outputs[0, -count:, 0] + noise
        held_out = Data(self.inputs, targets[1]) if validation else None
        problem = blank.with_changes(data=Data(self.inputs, targets[0]), validation=held_out, meter=Meter())
        return Simulation(problem, self.measure(problem, outputs)[0])

    def measure(self, problem: Problem, outputs: Tensor) -> Tensor:
        """The quantities (S, Q) of functions with these values (S, B + N, 1) at `at`."""
        values = outputs[..., 0].double()
        tests, trained = values[:, : len(self.test_inputs)], values[:, len(self.test_inputs) :]
        # Up to a constant, which ranks do not see.
        log_likelihood = -0.5 * ((problem.data.targets - trained) / self.noise).square().sum(1)
        return torch.cat([tests, values.square().mean(1, keepdim=True).sqrt(), log_likelihood[:, None]], dim=1)


def small_network() -> Simulator:
    """The default: one input, five tanh units, one output."""
    return Simulator(
        name="1-5-1 tanh network",
        module=lambda: nn.Sequential(nn.Linear(1, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, 1)).double(),
        inputs=torch.tensor(INPUTS, dtype=torch.float64)[:, None],
        test_inputs=torch.tensor(TEST_INPUTS, dtype=torch.float64)[:, None],
        noise=NOISE,
        prior=Normal(gain=1.0),
    )
