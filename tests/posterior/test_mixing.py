"""What is said of chains: numbers that follow from how the chains were made, and words that say what to do."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bayesify.data import Data
from bayesify.engine.rng import generator
from bayesify.model.likelihoods import Gaussian
from bayesify.model.network import Network
from bayesify.model.priors import Normal
from bayesify.model.problem import Problem
from bayesify.posterior.base import Particles
from bayesify.posterior.mixing import mixing, warnings

CHAINS, DRAWS = 4, 100


def problem(likelihood: Gaussian | None = None) -> Problem:
    """A line through two inputs, of which the second is zero in three rows of four."""
    rng = generator("cpu", "mixing")
    x = torch.randn(40, 2, generator=rng)
    x[torch.arange(40) % 4 != 0, 1] = 0
    return Problem(Network(nn.Linear(2, 1)), likelihood or Gaussian(scale=1.0), Normal(), Data(x, x[:, 0]))


def draws(problem: Problem) -> Tensor:
    """Independent draws, chain by chain, (K S, P)."""
    return torch.randn(CHAINS * DRAWS, problem.num_parameters, generator=generator("cpu", "draws"))


def found(problem: Problem, theta: Tensor) -> dict[str, Any]:
    return mixing(problem, Particles(theta, {}), CHAINS, 40) | {"divergences": 0, "acceptance": 0.8}


def test_chains_that_agree_are_left_alone() -> None:
    own = problem()
    numbers = found(own, draws(own))
    assert numbers["r_hat"] < 1.05
    assert numbers["disagreeing"] == 0
    assert 200 < numbers["ess"] < 800
    assert warnings(numbers, CHAINS) == []


def test_the_share_of_inputs_is_told() -> None:
    """One chain has another slope in the input that is zero in three rows of four."""
    own = problem()
    theta = draws(own)
    theta[:DRAWS, 1] += 60
    numbers = found(own, theta)
    assert numbers["disagreeing"] == 0.25
    (text,) = warnings(numbers, CHAINS)
    assert text.startswith("4 chains disagree on 25% of the tested inputs (R-hat ")
    assert "effective draws): they have not mixed" in text
    assert "mile does by design" in text


def test_exchanged_units_are_no_disagreement() -> None:
    """Chains in mirrored weights (tanh is odd) are one function: R-hat of weights would be infinite."""
    rng = generator("cpu", 0)
    x = torch.randn(30, 1, generator=rng)
    own = Problem(
        Network(nn.Sequential(nn.Linear(1, 1, bias=False), nn.Tanh(), nn.Linear(1, 1, bias=False))),
        Gaussian(scale=1.0), Normal(), Data(x, x[:, 0]),
    )  # fmt: skip
    theta = 1 + 0.1 * torch.randn(CHAINS * DRAWS, 2, generator=rng)
    theta[: 2 * DRAWS] *= -1
    numbers = found(own, theta)
    assert numbers["r_hat"] < 1.05
    assert numbers["disagreeing"] == 0


def test_noise_alone_can_disagree() -> None:
    own = problem(Gaussian())
    theta = draws(own)
    theta[:DRAWS, -1] += 5
    numbers = found(own, theta)
    assert numbers["disagreeing"] == 0
    assert "4 chains disagree on the noise (R-hat " in warnings(numbers, CHAINS)[0]


def test_chains_that_stand_still_disagree_everywhere() -> None:
    own = problem()
    theta = draws(own)[:CHAINS].repeat_interleave(DRAWS, 0)
    (text,) = warnings(found(own, theta), CHAINS)
    assert "4 chains disagree on all of the tested inputs (R-hat above 10, " in text


def test_few_effective_draws_are_told() -> None:
    numbers = {"r_hat": 1.04, "ess": 18.0, "disagreeing": 0.0, "divergences": 0, "acceptance": 0.8}
    (text,) = warnings(numbers, CHAINS)
    assert "worth only 18 independent ones" in text
    assert "uncertain by 17%" in text


def test_one_chain_is_compared_with_itself() -> None:
    numbers = {"r_hat": 1.5, "ess": 8.0, "disagreeing": 0.5, "divergences": 0, "acceptance": 0.8}
    assert warnings(numbers, 1)[0].startswith("the chain's halves disagree on 50% of the tested inputs")


def test_few_draws_say_nothing() -> None:
    own = problem()
    numbers = mixing(own, Particles(draws(own)[: 3 * CHAINS], {}), CHAINS, 40)
    assert numbers == {}
    text = warnings(numbers | {"draws_per_chain": 3, "divergences": 0, "acceptance": 0.8}, CHAINS)
    assert text[0].startswith("3 draws per chain are too few")


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"divergences": 7}, "7 steps diverged"), ({"acceptance": 0.2}, "only 20% of the trajectories")],
)
def test_what_goes_wrong_on_the_way_is_told(changes: dict[str, Any], words: str) -> None:
    numbers = {"r_hat": 1.0, "ess": 500.0, "disagreeing": 0.0, "divergences": 0, "acceptance": 0.8} | changes
    (text,) = warnings(numbers, CHAINS)
    assert words in text
