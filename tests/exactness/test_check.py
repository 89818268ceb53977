"""The check itself: what is exact must pass, and every planted mistake must be found."""

import json
import math
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from bayesify.covariance import Diagonal, Full
from bayesify.engine.budget import Budget
from bayesify.engine.run import Run
from bayesify.errors import BudgetError, MethodError
from bayesify.exactness import (
    KnownPosterior,
    LinearRegression,
    LogisticRegression,
    check_method,
    linear_regression,
    logistic_regression,
)
from bayesify.exactness.measure import moments
from bayesify.methods.base import Exactness, Method, MethodInfo
from bayesify.methods.map import MAP
from bayesify.model.likelihoods import Gaussian as GaussianLikelihood
from bayesify.model.priors import Normal
from bayesify.model.problem import Problem
from bayesify.posterior.base import Particles, Posterior
from bayesify.posterior.draws import Draws
from bayesify.posterior.gaussian import Gaussian

# ---- methods whose results are known beforehand ----------------------------------------------------------------------


WORKED_OUT: dict[tuple[str, int, float], KnownPosterior] = {}


def known_of(problem: Problem) -> KnownPosterior:
    """The posterior of a problem, worked out from its own data; once, because quadrature takes a second."""
    key = (problem.likelihood.name, problem.num_examples, problem.temperature)
    if key not in WORKED_OUT:
        WORKED_OUT[key] = work_out(problem)
    return WORKED_OUT[key]


def work_out(problem: Problem) -> KnownPosterior:
    data = (problem.data.inputs, problem.data.targets) * 2
    assert isinstance(problem.prior_family, Normal)
    options: dict[str, Any] = {"prior_scale": problem.prior_family.scale, "temperature": problem.temperature}
    if isinstance(problem.likelihood, GaussianLikelihood):
        assert problem.likelihood.scale is not None
        return LinearRegression(*data, noise=problem.likelihood.scale, **options)
    return LogisticRegression(*data, **options)


def described(name: str, exactness: Exactness) -> MethodInfo:
    """A card."""
    return MethodInfo(name=name, family="test", exactness=exactness, reference="", summary="")


@dataclass(frozen=True)
class Oracle(Method):
    """The exact posterior, or one that is wrong in a known way.

    Attributes:
        form: 'closed' gives as many draws as one asks for, 'draws' a fixed number, 'gaussian' the two moments only,
            'mean field' the best Gaussian without correlations.
        scale: multiplies the covariance.
        shift: standard deviations that the centre is moved by.
        transposed: draws noise @ L instead of noise @ Lᵀ.
        tempered: whether the temperature is heeded.
    """

    form: str = "gaussian"
    scale: float = 1.0
    shift: float = 0.0
    transposed: bool = False
    tempered: bool = True
    num_draws: int = 2000

    info = described("oracle", Exactness.EXACT)

    @property
    def num_particles(self) -> int:
        return 1

    def fit(self, problem: Problem, run: Run) -> Posterior:
        known = known_of(problem if self.tempered else problem.with_changes(temperature=1.0))
        mean = known.mean + self.shift * known.stddev
        if self.form == "draws":
            draws = known.sample(self.num_draws, run.rng)
            return Draws(problem.model, Particles(mean + self.scale**0.5 * (draws - known.mean), {}))
        if self.form == "mean field":
            assert known.mean_field_scale is not None
            return Gaussian(problem.model, mean, Diagonal(self.scale * known.mean_field_scale.square()))
        root = torch.linalg.cholesky(self.scale * known.covariance)
        return Gaussian(problem.model, mean, Full(root.mT.contiguous() if self.transposed else root))


@dataclass(frozen=True)
class Langevin(Method):
    """Preconditioned Langevin chains with a Metropolis correction; `share` of the gradient and of the density.

    With share = 1 it is exact in the long run. Half the gradient *and* no correction is the classic mistake: the
    stationary covariance is then twice the posterior's.
    """

    share: float = 1.0
    corrected: bool = True
    num_chains: int = 20
    num_draws: int = 100

    info = described("langevin", Exactness.ASYMPTOTIC)

    @property
    def num_particles(self) -> int:
        return self.num_chains

    def fit(self, problem: Problem, run: Run) -> Posterior:
        known = known_of(problem)
        step = 0.3 if self.corrected else 0.05
        root = torch.linalg.cholesky(known.covariance)
        theta = known.sample(self.num_chains, run.rng)
        drift, value = self._at(problem, theta, known.covariance)
        kept = []
        for count in range((self.num_draws + 20) * 5):
            noise = torch.randn(theta.shape, generator=run.rng, dtype=theta.dtype)
            proposal = theta + step * drift + (2 * step) ** 0.5 * noise @ root.mT
            new_drift, new_value = self._at(problem, proposal, known.covariance)
            accept = torch.ones(len(theta), dtype=torch.bool)
            if self.corrected:
                back = _whitened(theta - proposal - step * new_drift, root).square().sum(1) / (4 * step)
                log_ratio = new_value - value - back + 0.5 * noise.square().sum(1)
                uniform = torch.rand(len(theta), generator=run.rng, dtype=theta.dtype)
                accept = uniform.log() < log_ratio
            theta = torch.where(accept[:, None], proposal, theta)
            drift, value = torch.where(accept[:, None], new_drift, drift), torch.where(accept, new_value, value)
            if count >= 100 and count % 5 == 0:
                kept.append(theta)
        return Draws(problem.model, Particles(torch.cat(kept), {}))

    def _at(self, problem: Problem, theta: Tensor, covariance: Tensor) -> tuple[Tensor, Tensor]:
        found = problem.full_gradient(theta)
        return self.share * found.gradient @ covariance, found.log_density


def _whitened(value: Tensor, root: Tensor) -> Tensor:
    return torch.linalg.solve_triangular(root, value.mT, upper=False).mT


# ---- the checks ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def linear() -> KnownPosterior:
    return linear_regression()


@pytest.fixture(scope="module")
def cold() -> KnownPosterior:
    return linear_regression(0.3)


@pytest.fixture(scope="module")
def logistic() -> KnownPosterior:
    return logistic_regression()


def steep() -> LinearRegression:
    """A posterior whose Cholesky factor is far from symmetric: two inputs that are nearly the same."""
    rng = torch.Generator().manual_seed(0)
    first = torch.randn(60, 1, generator=rng, dtype=torch.float64)
    inputs = torch.cat([first, 3 * first + 0.3 * torch.randn(60, 1, generator=rng, dtype=torch.float64)], 1)
    targets = inputs.sum(1) + torch.randn(60, generator=rng, dtype=torch.float64)
    return LinearRegression(inputs, targets, inputs[:8], targets[:8], noise=1.0)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_exact_gaussian_passes(linear: KnownPosterior, cold: KnownPosterior, seed: int) -> None:
    result = check_method(Oracle(), seed, problems=[linear, cold, steep()])
    assert result.passed, result
    assert result.exactness == Exactness.EXACT
    assert result.verdict == "exact"
    assert result.complaints == ()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_exact_draws_pass(linear: KnownPosterior, logistic: KnownPosterior, seed: int) -> None:
    result = check_method(Oracle("draws"), seed, problems=[linear, logistic])
    assert result.passed, result
    assert result.exactness == Exactness.ASYMPTOTIC  # draws can show no more than that
    assert "no error beyond that of" in result.verdict


def test_a_correct_sampler_passes(cold: KnownPosterior, logistic: KnownPosterior) -> None:
    result = check_method(Langevin(), problems=[cold, logistic])
    assert result.passed, result
    assert result.exactness == Exactness.ASYMPTOTIC
    # Its draws depend on each other, which the standard errors must know.
    assert all(20 < check.moments.effective_draws < 0.9 * check.draws for check in result.problems)


def test_half_the_gradient_is_found(cold: KnownPosterior) -> None:
    result = check_method(Langevin(share=0.5, corrected=False), problems=[cold])
    assert not result.passed
    assert result.exactness == Exactness.APPROXIMATE
    spread = sum(m.value for m in result.problems[0].moments.log_spread) / cold.num_parameters
    assert spread == pytest.approx(0.5 * math.log(2), abs=0.1)
    assert "under-confident by" in result.verdict


@pytest.mark.parametrize(
    ("method", "words"),
    [
        (Oracle(scale=0.5), "over-confident by 29%"),
        (Oracle(scale=2.0), "under-confident by 4"),
        (Oracle("draws", scale=0.5), "over-confident by"),
        (Oracle(shift=0.2), "centre off by 0.2"),
        (Oracle("mean field"), "correlations off by"),
    ],
    ids=str,
)
def test_planted_mistakes_are_found(method: Method, words: str, linear: KnownPosterior) -> None:
    result = check_method(method, problems=[linear])
    assert not result.passed
    assert result.exactness == Exactness.APPROXIMATE
    assert words in result.verdict
    assert "NOT AS DECLARED" in str(result)


def test_a_transposed_root_is_found() -> None:
    assert check_method(Oracle(), problems=[steep()]).passed
    result = check_method(Oracle(transposed=True), problems=[steep()])
    assert not result.passed


def test_an_ignored_temperature_is_found(linear: KnownPosterior, cold: KnownPosterior) -> None:
    result = check_method(Oracle(tempered=False), problems=[linear, cold])
    assert [check.exactness for check in result.problems] == [Exactness.EXACT, Exactness.APPROXIMATE]
    assert "under-confident by 8" in result.verdict  # 1/√0.3 = 1.83
    assert not result.passed


def test_shape_beyond_two_moments_counts_only_in_predictions(logistic: KnownPosterior) -> None:
    """A Gaussian with the skewed posterior's mean and covariance is not told from it: a limit of the check."""
    result = check_method(Oracle(), problems=[logistic])
    assert result.exactness == Exactness.EXACT
    assert 0 < result.problems[0].distances.kl.value < 1e-3


def test_a_point_is_no_posterior(linear: KnownPosterior) -> None:
    result = check_method(MAP(), budget=Budget(epochs=400), problems=[linear])
    assert result.exactness == Exactness.NOT_A_POSTERIOR
    assert "no spread at all" in result.verdict
    assert result.passed  # it declares as much


def test_mean_field_is_held_to_its_law(linear: KnownPosterior, cold: KnownPosterior) -> None:
    right = check_method(Oracle("mean field"), problems=[linear, cold])
    assert all(check.law is not None and abs(check.law.value) < 0.05 for check in right.problems)
    wrong = check_method(Oracle("mean field", scale=0.6), problems=[linear])
    assert any("1/√diag(precision)" in text for text in wrong.complaints)
    assert not any("1/√diag(precision)" in text for text in right.complaints)


def test_same_seed_same_result(linear: KnownPosterior) -> None:
    def once(seed: int) -> dict[str, object]:
        found = check_method(Oracle("draws"), seed, problems=[linear]).as_dict()
        found["problems"][0].pop("seconds")
        return found

    assert once(3) == once(3)
    assert once(3) != once(4)


def test_result_as_json_and_text(linear: KnownPosterior) -> None:
    result = check_method(Oracle(scale=0.5), problems=[linear])
    found = json.loads(json.dumps(result.as_dict(), allow_nan=False))
    assert found["exactness"] == "approximate"
    assert found["passed"] is False
    assert len(found["problems"][0]["centre"]) == 4
    text = str(result)
    assert len(text.splitlines()) <= 20
    assert max(map(len, text.splitlines())) <= 100
    assert text == str(result)


def test_failures_are_told(linear: KnownPosterior) -> None:
    broken = replace(Oracle(), shift=math.nan)
    with pytest.raises(MethodError, match="diverged"):
        check_method(broken, problems=[linear])
    with pytest.raises(BudgetError):
        check_method("laplace", budget=Budget(gradient_evaluations=10), problems=[linear])
    with pytest.raises(MethodError, match="Did you mean 'laplace'"):
        check_method("laplac")


def test_false_alarms_are_as_rare_as_stated(linear: KnownPosterior) -> None:
    """Z-scores of exact draws: at 10⁻⁵ none of 100 repetitions may fail, and the scores have unit variance."""
    rng = torch.Generator().manual_seed(5)
    scores: list[float] = []
    for _ in range(100):
        found = moments(linear.sample(2000, rng), linear, independent=True, floor=0.0)
        entries = [*found.centre, *found.log_spread, *found.correlation]
        assert all(m.is_zero for m in entries)
        scores += [m.value / m.error for m in [*found.centre, *found.log_spread]]
    spread = torch.tensor(scores).std()
    assert 0.85 < spread < 1.15  # 800 scores: within 5 standard errors of 1, allowing for their correlations


@pytest.mark.parametrize("interleaved", [False, True])
def test_dependent_draws_have_larger_errors(linear: KnownPosterior, interleaved: bool) -> None:
    """Autoregressive chains of known autocorrelation: effective sample size is S (1 − ρ) / (1 + ρ)."""
    rng = torch.Generator().manual_seed(6)
    rho, chains, length = 0.8, 4, 2000
    root = torch.linalg.cholesky(linear.covariance)
    state = torch.randn(chains, 4, generator=rng, dtype=torch.float64)
    kept = []
    for _ in range(length):
        kept.append(linear.mean + state @ root.mT)
        noise = torch.randn(chains, 4, generator=rng, dtype=torch.float64)
        state = rho * state + math.sqrt(1 - rho**2) * noise
    stacked = torch.stack(kept, 0 if interleaved else 1).flatten(0, 1)
    found = moments(stacked, linear, independent=False, floor=0.0)
    expected = 1 / math.sqrt(chains * length * (1 - rho) / (1 + rho))
    average = sum(m.error for m in found.centre) / 4
    assert 0.6 * expected < average < 1.6 * expected
    assert all(m.is_zero for m in [*found.centre, *found.log_spread, *found.correlation])
