"""Draws of chains that go their own pace."""

from typing import NamedTuple

import torch
from torch import Tensor

from bayesify.engine.budget import Meter
from bayesify.engine.chains import Info, sample, sample_uneven
from bayesify.engine.rng import generator
from bayesify.engine.run import Run


class Clock(NamedTuple):
    """A chain of independent coins, whose transitions take 1 step to one side and 9 to the other."""

    theta: Tensor  # (K, 1) the coin
    left: Tensor  # (K,) steps until the next toss
    count: Tensor  # (K,) transitions


class Coins:
    """Steps of such chains."""

    def __init__(self, chains: int) -> None:
        self.meter = Meter()
        self.rng = generator("cpu", "coins")
        zero = torch.zeros(chains, dtype=torch.int64)
        self.state = Clock(torch.zeros(chains, 1, dtype=torch.float64), zero + 1, zero.clone())

    def step(self, state: Clock, run: Run) -> tuple[Clock, Info]:
        self.meter.gradient(1)
        left = state.left - 1
        done = left == 0
        coin = torch.rand(len(left), generator=self.rng) < 0.5
        theta = torch.where(done, coin.double(), state.theta[:, 0])[:, None]
        # The state that one comes to depends on how long the way was, and how long the next one is on the state.
        left = torch.where(done, torch.where(coin, 9, 1), left)
        nothing = torch.zeros(len(left), dtype=torch.float64)
        return Clock(theta, left, state.count + done), Info(nothing + 1, nothing, nothing > 0, done)

    def run(self, steps: int) -> Run:
        return Run(self.meter, limit=float(steps))


def test_draws_are_kept_by_each_chains_own_count() -> None:
    coins = Coins(400)
    trace = sample_uneven(coins.step, coins.run(5000), coins.state, 50, 1.0)
    assert trace.draws.shape == (400, 50, 1)
    # A fair coin, although chains spend nine tenths of their time at one side; each side within 5 standard errors.
    assert abs(float(trace.draws.mean()) - 0.5) < 5 * 0.5 / (400 * 50) ** 0.5
    assert torch.equal(trace.steps, trace.state.count)
    assert trace.summary()["acceptance"] == 1.0


def test_draws_kept_by_the_clock_would_be_biased() -> None:
    coins = Coins(400)
    trace = sample(coins.step, coins.run(5000), coins.state, 50, 1.0)
    assert abs(float(trace.draws.mean()) - 0.9) < 0.02


def test_draws_are_spread_over_the_whole_run() -> None:
    class Counter(NamedTuple):
        theta: Tensor

    meter = Meter()

    def step(state: Counter, run: Run) -> tuple[Counter, Info]:
        meter.gradient(1)
        theta = state.theta + torch.tensor([[1.0], [0.5]])
        none = torch.zeros(2)
        return Counter(theta), Info(none, none, none > 0, theta[:, 0] % 1 == 0)

    trace = sample_uneven(step, Run(meter, limit=1000.0), Counter(torch.zeros(2, 1)), 10, 1.0)
    for draws, last in zip(trace.draws[:, :, 0], (1000, 500), strict=True):
        gaps = draws.diff()
        assert float(gaps.max()) <= 2 * float(gaps.min())
        assert float(draws[-1]) > 0.85 * last
    assert trace.steps.tolist() == [1000, 500]


def test_a_chain_that_never_finished_keeps_its_state() -> None:
    coins = Coins(3)
    state = coins.state._replace(left=coins.state.left + 100)
    trace = sample_uneven(coins.step, coins.run(20), state, 5, 1.0)
    assert trace.theta.shape == (3, 1)
