"""Simulation-based calibration: an exact sampler passes as often as stated, and every planted mistake is named."""

import json
import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from scipy.stats import norm
from torch import Tensor, nn

from bayesify.engine.budget import Budget
from bayesify.engine.hamiltonian import evaluate, kernel_of, leapfrog
from bayesify.engine.run import Run
from bayesify.errors import MethodError
from bayesify.exactness import LinearRegression, Simulator, calibrate, linear_regression, small_network
from bayesify.exactness.calibration import FALSE_ALARM, Calibration, Quantity
from bayesify.exactness.check import check_method
from bayesify.exactness.uniformity import size_of, uniformity
from bayesify.methods.base import Exactness, Method, MethodInfo
from bayesify.methods.map import MAP
from bayesify.model.likelihoods import Gaussian as GaussianLikelihood
from bayesify.model.priors import Normal
from bayesify.model.problem import Problem
from bayesify.posterior.base import Particles, Posterior
from bayesify.posterior.draws import Draws

NOISE = 0.5


def line() -> Simulator:
    """Linear regression: the exact posterior is at hand, at the price of a Cholesky factor."""
    return Simulator(
        name="line",
        module=lambda: nn.Linear(1, 1).double(),
        inputs=torch.linspace(-1, 1, 8, dtype=torch.float64)[:, None],
        test_inputs=torch.tensor([[-0.5], [2.0]], dtype=torch.float64),
        noise=NOISE,
        prior=Normal(scale=1.0),
    )


@dataclass(frozen=True)
class Exact(Method):
    """Draws from the posterior of linear regression, or from something else.

    Attributes:
        spread: multiplies standard deviations.
        shrink: multiplies the mean.
        noise: the noise that it believes in, relative to the true one.
        blind: draws from the prior, whatever the data.
        correlation: of the draws of each of 4 chains, one with the next.
    """

    spread: float = 1.0
    shrink: float = 1.0
    noise: float = 1.0
    blind: bool = False
    correlation: float | None = None
    num_draws: int = 96

    info = MethodInfo(name="exact", family="test", exactness=Exactness.EXACT, reference="", summary="")

    @property
    def num_particles(self) -> int:
        return 1

    def fit(self, problem: Problem, run: Run) -> Posterior:
        assert isinstance(problem.likelihood, GaussianLikelihood)
        data = (problem.data.inputs, problem.data.targets) * 2
        known = LinearRegression(*data, noise=NOISE * self.noise)
        noise = torch.randn(self.num_draws, known.num_parameters, generator=run.rng, dtype=torch.float64)
        if self.blind:
            return Draws(problem.model, Particles(noise, {}))
        chains = None
        if self.correlation is not None:
            chains, noise = 4, correlated(noise, self.correlation)
        theta = self.shrink * known.mean + self.spread * noise @ torch.linalg.cholesky(known.covariance).mT
        return Draws(problem.model, Particles(theta, {}), chains)


def correlated(noise: Tensor, rho: float) -> Tensor:
    chains = noise.unflatten(0, (4, -1)).clone()
    for step in range(1, chains.shape[1]):
        chains[:, step] = rho * chains[:, step - 1] + math.sqrt(1 - rho**2) * chains[:, step]
    return chains.flatten(0, 1)


@dataclass(frozen=True)
class Drifting(Method):
    """Hamiltonian chains with `share` of the gradient and no Metropolis test: half of it doubles the variance."""

    share: float = 1.0
    num_chains: int = 4

    info = MethodInfo(name="drifting", family="test", exactness=Exactness.ASYMPTOTIC, reference="", summary="")

    @property
    def num_particles(self) -> int:
        return self.num_chains

    def fit(self, problem: Problem, run: Run) -> Posterior:
        kernel = kernel_of(problem.with_changes(temperature=1 / self.share))  # divides all of the gradient
        theta = problem.prior.sample(self.num_chains, run.rng)
        step_size = torch.full((self.num_chains,), 0.08, dtype=torch.float64)
        kept = []
        for count in range(25):
            velocity = torch.randn(theta.shape, generator=run.rng, dtype=theta.dtype)
            length = int(torch.randint(8, 17, (), generator=run.rng))
            theta = leapfrog(kernel, evaluate(kernel, theta), velocity, step_size, length)[0].theta
            if count >= 5:
                kept.append(theta)
        return Draws(problem.model, Particles(torch.stack(kept, 1).flatten(0, 1), {}), self.num_chains)


def test_an_exact_sampler_passes() -> None:
    found = calibrate(Exact(), 400, simulator=line())
    assert not found.deviates
    assert found.exactness == Exactness.ASYMPTOTIC  # ranks cannot show more
    assert found.draws == 96
    assert "no deviation in 400 simulations" in found.verdict
    assert 0.1 < found.visible < 0.2


def test_false_alarms_are_as_rare_as_stated() -> None:
    """Forty checks of the exact sampler: p-values below 0.3 in at most 30%, and none below the stated rate."""
    p_values = np.array([calibrate(Exact(num_draws=19), 15, seed, simulator=line()).p_value for seed in range(40)])
    assert (p_values > FALSE_ALARM).all()  # another 40 seeds would fail here in 4 of 100 cases at most
    assert (p_values < 0.3).mean() < 0.3 + 4.3 * math.sqrt(0.21 / 40)
    assert (p_values < 0.5).any()  # the tests are not asleep


@pytest.mark.parametrize(
    ("method", "words"),
    [
        (Exact(spread=1.2), "under-confident: standard deviations up to 2"),
        (Exact(spread=1 / 1.2), "over-confident: standard deviations up to "),
        (Exact(shrink=0.7), "biased: size of f too low"),
        (Exact(noise=1.5), "under-confident"),
        (Exact(noise=0.6), "over-confident"),
        (Exact(blind=True), "draws fit the data too loosely (log likelihood too low"),
        (Exact(spread=0.5, num_draws=9), "over-confident"),
    ],
    ids=str,
)
def test_planted_mistakes_are_named(method: Method, words: str) -> None:
    found = calibrate(method, 500 if "1.2" in str(method) or "0.83" in str(method) else 250, simulator=line())
    assert found.deviates
    assert words in found.words


def test_the_prior_passes_but_for_what_depends_on_data() -> None:
    """Why the log likelihood is among the quantities: function values alone cannot see that data were ignored."""
    found = calibrate(Exact(blind=True), 300, simulator=line())
    by_name = {q.name: q.tests.p_value for q in found.quantities}
    assert by_name["log likelihood"] < 1e-9
    assert min(p for name, p in by_name.items() if name != "log likelihood") > 1e-4


def test_no_spread_is_no_posterior() -> None:
    for method in (Exact(spread=1e-6), Exact(spread=1e-6, num_draws=1)):
        found = calibrate(method, 60, simulator=line())
        assert found.exactness == Exactness.NOT_A_POSTERIOR
        assert "no spread to speak of" in found.words


def test_dependent_draws_are_thinned() -> None:
    """Without thinning, chains of correlation 0.9 look over-confident; thinned they pass, among fewer draws."""
    sticky = Exact(correlation=0.9, num_draws=400)
    thinned = calibrate(sticky, 300, simulator=line())
    assert not thinned.deviates
    assert 8 <= thinned.draws < 60
    apart = calibrate(replace(sticky, correlation=0.0), 20, simulator=line())
    assert apart.draws > 80
    assert apart.unmixed <= 2


def test_the_whole_gradient_passes() -> None:
    assert not calibrate(Drifting(), 40, simulator=line()).deviates


def test_half_the_gradient_is_named() -> None:
    wrong = calibrate(Drifting(share=0.5), 40, simulator=line())
    assert wrong.deviates
    assert "under-confident" in wrong.words
    spreads = [q.size.log_spread for q in wrong.quantities[:2]]
    assert np.mean(spreads) == pytest.approx(0.5 * math.log(2), abs=0.3)  # three standard errors of 40 simulations


def test_networks_too() -> None:
    """The default problem, with a method that is no posterior there: half of the work of a quick check."""
    found = calibrate("map", 25, budget=Budget(epochs=300))
    assert found.exactness == Exactness.NOT_A_POSTERIOR
    assert [q.name for q in found.quantities] == ["f(-1.3)", "f(0)", "f(3)", "size of f", "log likelihood"]


def test_truths_depend_on_the_seed_and_the_number_alone() -> None:
    first, again, other = (small_network().simulate(0, n, validation=v) for n, v in ((1, False), (1, True), (2, False)))
    assert torch.equal(first.truth, again.truth)
    assert torch.equal(first.problem.data.targets, again.problem.data.targets)
    assert not torch.equal(first.truth, other.truth)
    assert first.problem.validation is None
    assert again.problem.validation is not None
    assert again.problem.validation.num_examples == first.problem.num_examples


def test_simulated_targets_have_the_noise() -> None:
    """Residuals about the truth are N(0, noise²); the truth is what the log likelihood says it is."""
    simulator = line()
    fits = []
    for number in range(200):
        simulated = simulator.simulate(0, number, validation=False)
        fits.append(-2 * float(simulated.truth[-1]))
    # χ² of 8 residuals: mean 8, variance 16.
    assert np.mean(fits) == pytest.approx(8, abs=4.5 * math.sqrt(16 / 200))


def calibration(u: np.ndarray) -> Calibration:
    ranks = np.floor(u * 100).astype(int)
    quantity = Quantity("f(0)", tuple(u.tolist()), uniformity(u), size_of(ranks, np.full(len(u), 99)))
    return Calibration("line", len(u), (quantity,), 99.0, 3, 0.3, 1.0)


def test_the_plot_shows_the_shape() -> None:
    flat = calibration((np.arange(200) + 0.5) / 200)
    assert flat.quantities[0].plot == "▅" * 10
    ends = calibration(np.concatenate([np.linspace(0.001, 0.05, 100), np.linspace(0.95, 0.999, 100)]))
    assert ends.quantities[0].plot == "█▁▁▁▁▁▁▁▁█"
    text = "\n".join(ends.lines())
    assert "3 of 200 simulations" in text
    assert "temperature 0.3" in text
    assert max(map(len, text.splitlines())) <= 100
    json.dumps(ends.as_dict(), allow_nan=False)


def test_ranks_that_only_the_shape_betrays() -> None:
    rng = np.random.default_rng(0)
    z = 0.9 * rng.choice([-1, 1], size=600) + math.sqrt(1 - 0.81) * rng.normal(size=600)
    found = calibration(norm.cdf(z))
    assert found.deviates
    assert "not uniform, though centre and spread are right" in found.words


def test_a_failing_method_says_why() -> None:
    with pytest.raises(MethodError, match="diverged"):
        calibrate(Exact(spread=math.inf), 2, simulator=line())


def test_a_check_merges_both_parts() -> None:
    result = check_method("map", problems=[linear_regression()], budget=Budget(epochs=300), simulations=20)
    assert result.passed
    assert result.calibration is not None
    assert result.exactness == Exactness.NOT_A_POSTERIOR
    assert "on small networks over-confident: no spread" in result.verdict
    text = str(result)
    assert "ranks of the truth" in text
    assert json.loads(json.dumps(result.as_dict(), allow_nan=False))["calibration"]["simulations"] == 20


@dataclass(frozen=True)
class Boasting(Method):
    """A point that calls itself exact: its fit is another method's."""

    info = MethodInfo(name="boasting", family="test", exactness=Exactness.APPROXIMATE, reference="", summary="")

    @property
    def num_particles(self) -> int:
        return 1

    def fit(self, problem: Problem, run: Run) -> Posterior:
        return MAP().fit(problem, run)


def test_a_check_complains_of_what_only_simulations_show() -> None:
    result = check_method(Boasting(), problems=[linear_regression()], budget=Budget(epochs=200), simulations=20)
    assert not result.passed
    assert any("on small networks" in text for text in result.complaints)
    assert "NOT AS DECLARED" in str(result)
