from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_problems import linear_posterior, linear_problem, problem_of, run_of
from torch import Tensor, nn

from bayesify.covariance import Full
from bayesify.engine.rng import generator
from bayesify.errors import MethodError, UnsupportedError
from bayesify.methods.von import VON, Rates, State, init, update
from bayesify.model.priors import StudentT
from bayesify.posterior.gaussian import Gaussian

FULL = VON(num_samples=8, batch_size=200)


def whitened(posterior: object, precision: Tensor) -> Tensor:
    """The posterior's covariance in units of what it should be: I."""
    assert isinstance(posterior, Gaussian)
    assert isinstance(posterior.covariance, Full)
    root = torch.linalg.cholesky(precision)
    return root.mT @ posterior.covariance.root @ posterior.covariance.root.mT @ root


@pytest.mark.parametrize("temperature", [1.0, 0.3])
def test_it_is_the_posterior_of_linear_regression(temperature: float) -> None:
    problem = linear_problem(temperature, correlation=2.0)
    exact = linear_posterior(problem)
    posterior = FULL.fit(problem, run_of(problem, 8 * 400))
    torch.testing.assert_close(posterior.tensors()["mean"], exact.mean, rtol=1e-6, atol=1e-6)
    found = whitened(posterior, exact.precision / temperature)
    torch.testing.assert_close(found, torch.eye(4, dtype=torch.float64), rtol=0, atol=1e-4)
    scale = exact.precision.diagonal().sqrt()
    assert float((exact.precision / scale / scale[:, None])[0, 1]) > 0.9  # correlations that a diagonal would drop


def test_minibatches_bias_nothing_much() -> None:
    problem = linear_problem()
    exact = linear_posterior(problem)
    method = replace(FULL, batch_size=40, precision_rate=0.1, learning_rate=0.1)
    posterior = method.fit(problem, run_of(problem, 8 * 800))
    error = (posterior.tensors()["mean"] - exact.mean) * torch.linalg.inv(exact.precision).diagonal().rsqrt()
    assert float(error.abs().max()) < 0.1
    found = whitened(posterior, exact.precision)
    torch.testing.assert_close(found, torch.eye(4, dtype=torch.float64), rtol=0, atol=0.1)


def test_one_step_by_hand() -> None:
    # One parameter: S = 4, m = 1, ε = 1 → δ = ½, S δ = 2. g = ∓3 at m ± δ: −(g₊ − g₋)/2 = 3, r = 1, G = 2.
    state = State(*(torch.tensor(value, dtype=torch.float64) for value in ([1.0], [[4.0]], [0.5], 1)))
    gradient = torch.tensor([[-2.0], [4.0]], dtype=torch.float64)  # on average 1
    new = update(state, torch.full((1, 1), 2.0).double(), torch.ones(1, 1).double(), gradient, Rates(0.1, 0.3, 0.5))
    assert float(new.precision) == pytest.approx(4 + 0.3 * 2 + 0.5 * 0.09 * 4 / 4)
    momentum = 0.5 * 0.5 + 0.5 * 1.0
    assert float(new.momentum) == pytest.approx(momentum)
    assert float(new.mean) == pytest.approx(1 + 0.1 * momentum / (1 - 0.25) / 4)
    assert int(new.steps) == 2


def test_low_rank_algebra_is_that_of_the_equations() -> None:
    rng = generator("cpu", "algebra")
    size, pairs, rho = 5, 3, 0.4
    draw = lambda *shape: torch.randn(*shape, generator=rng, dtype=torch.float64)  # noqa: E731
    factor = draw(size, size)
    precision = factor @ factor.mT + torch.eye(size)
    root, white, gradient = torch.linalg.cholesky(precision), draw(pairs, size), draw(2 * pairs, size)
    state = State(draw(size), precision, draw(size), torch.tensor(3))
    deviation = torch.linalg.solve(root.mT, white.mT).mT
    change = torch.zeros(size, size, dtype=torch.float64)
    for delta, plus, minus in zip(deviation, gradient[:pairs], gradient[pairs:], strict=True):
        residual = -(plus - minus) / 2 - precision @ delta
        outer = torch.outer(precision @ delta, residual)
        change += (outer + outer.mT) / 2 / pairs
    expected = precision + rho * change + 0.5 * rho**2 * change @ torch.linalg.inv(precision) @ change
    torch.testing.assert_close(update(state, root, white, gradient, Rates(0.1, rho, 0.9)).precision, expected)


def test_precision_stays_positive_whatever_is_sampled() -> None:
    rng = generator("cpu", "positive")
    state = init(torch.zeros(4, dtype=torch.float64), torch.ones(4, dtype=torch.float64))
    lowest = []
    for _ in range(300):
        root = torch.linalg.cholesky(state.precision)  # fails where it is not
        white = torch.randn(1, 4, generator=rng, dtype=torch.float64)
        gradient = 30 * torch.randn(2, 4, generator=rng, dtype=torch.float64)
        lowest.append(float(torch.linalg.eigvalsh(state.precision)[0]))
        state = update(state, root, white, gradient, Rates(0.0, 0.3, 0.9))
    assert min(lowest) > 0
    outer = 30 * torch.outer(torch.ones(4), torch.tensor([1.0, -1.0, 1.0, -1.0]))
    assert float(torch.linalg.eigvalsh(torch.eye(4) + 0.15 * (outer + outer.mT))[0]) < 0  # the control: (2) without it


def test_any_prior_will_do() -> None:
    problem = linear_problem(prior=StudentT(df=5.0, scale=0.5))
    posterior = FULL.fit(problem, run_of(problem, 8 * 400))
    mean = posterior.tensors()["mean"]
    # At the best Gaussian the expected gradient is zero and its precision the expected negative Hessian.
    draws = posterior.particles(4000).theta
    draws = torch.cat([draws, 2 * mean - draws])
    gradient = problem.full_gradient(draws).gradient
    root = torch.linalg.cholesky(posterior.covariance.root @ posterior.covariance.root.mT)
    assert float((gradient.mean(0) @ root).abs().max()) < 0.02
    stein = torch.linalg.solve(root, (draws - mean).mT) @ (gradient @ root) / len(draws)
    torch.testing.assert_close(stein, -torch.eye(4, dtype=torch.float64), rtol=0, atol=0.1)


def test_large_networks_are_refused() -> None:
    problem = problem_of(nn.Linear(2500, 1), (torch.zeros(4, 2500), torch.zeros(4)))
    with pytest.raises(UnsupportedError, match="low_rank_vi"):
        VON().fit(problem, run_of(problem, 1000))


def test_resumed_fit_equals_an_undisturbed_one(tmp_path: Path) -> None:
    method = VON(batch_size=50)
    undisturbed = method.fit(problem := linear_problem(), run_of(problem, 60))

    class KilledError(Exception):
        pass

    def kill(fraction: float) -> None:
        if fraction > 0.5:
            raise KilledError

    with pytest.raises(KilledError):
        method.fit(problem := linear_problem(), run_of(problem, 60, folder=tmp_path, progress=kill))
    resumed = method.fit(problem := linear_problem(), run_of(problem, 60, folder=tmp_path))
    for one, other in zip(undisturbed.tensors().values(), resumed.tensors().values(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    "settings",
    [{"learning_rate": 0.0}, {"beta1": 1.0}, {"precision_rate": 1.5}, {"num_samples": 3}, {"batch_size": 0}],
)
def test_bad_settings_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(MethodError, match=next(iter(settings))):
        VON(**settings)  # type: ignore[arg-type]
