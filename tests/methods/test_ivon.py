import math
from pathlib import Path

import pytest
import torch
from small_problems import NOISE, PRIOR_SCALE, linear_posterior, linear_problem, run_of
from torch import nn

from bayesify.data import Data
from bayesify.engine.budget import Meter
from bayesify.engine.rng import generator
from bayesify.errors import BudgetError, MethodError, UnsupportedError
from bayesify.methods.ivon import IVON, Rates, State, Target, averages, fisher_trace, init, target_of, update, variance
from bayesify.model.likelihoods import Gaussian
from bayesify.model.network import Mode, Network
from bayesify.model.priors import Flat, Laplace, Normal
from bayesify.model.problem import Problem
from bayesify.posterior.draws import Draws
from bayesify.posterior.gaussian import Gaussian as GaussianPosterior


@pytest.mark.parametrize("temperature", [1.0, 0.3])
def test_linear_regression_gives_the_mean_field_answer(temperature: float) -> None:
    problem = linear_problem(temperature)
    exact = linear_posterior(problem)
    precision = exact.precision.diagonal()
    method = IVON(learning_rate=0.1, beta2=0.996, hess_init=5.0, num_samples=256, batch_size=200)
    state = method._train(problem, run_of(problem, 256 * 2000), target_of(problem))
    torch.testing.assert_close(state.hessian, (precision - PRIOR_SCALE**-2) / 200, rtol=0.02, atol=0)
    torch.testing.assert_close(state.mean, exact.mean, rtol=0.02, atol=0)
    torch.testing.assert_close(variance(state, target_of(problem)), temperature / precision, rtol=0.02, atol=0)


def test_minibatches_do_not_bias_the_mean() -> None:
    problem = linear_problem()
    posterior = IVON(batch_size=40, beta2=0.999, hess_init=5.0, learning_rate=0.03).fit(problem, run_of(problem, 800))
    assert isinstance(posterior, GaussianPosterior)
    torch.testing.assert_close(posterior.mean, linear_posterior(problem).mean, rtol=0.02, atol=0)


def test_one_step_by_hand() -> None:
    # m = 1, h = 2, g = 0.5 after one step; λ = 10, δ = 0.5, loc = 0.2; θ − m = 0.1 gives ĝ = 3.
    state = State(torch.tensor([1.0]), torch.tensor([2.0]), torch.tensor([0.5]), torch.tensor(1))
    target = Target(10.0, torch.tensor([0.5]), torch.tensor([0.2]))
    new = update(state, target, Rates(0.1, 0.9, 0.8), averages(torch.tensor([[0.1]]), torch.tensor([[3.0]])))
    sampled = 3.0 * 0.1 * 10 * 2.5  # 7.5
    hessian = 0.8 * 2 + 0.2 * sampled + 0.5 * 0.04 * (2 - sampled) ** 2 / 2.5  # 3.342
    momentum = 0.9 * 0.5 + 0.1 * 3.0  # 0.75
    mean = 1 - 0.1 * (momentum / (1 - 0.9**2) + 0.5 * (1 - 0.2)) / (hessian + 0.5)
    assert float(new.hessian) == pytest.approx(hessian, rel=1e-6)
    assert float(new.momentum) == pytest.approx(momentum, rel=1e-6)
    assert float(new.mean) == pytest.approx(mean, rel=1e-6)
    assert int(new.steps) == 2
    clipped = update(state, target, Rates(0.1, 0.9, 0.8, 0.01), averages(torch.tensor([[0.1]]), torch.tensor([[3.0]])))
    assert float(clipped.mean) == pytest.approx(1 - 0.1 * 0.01, rel=1e-6)


def test_samples_are_averaged() -> None:
    state = init(torch.zeros(1), 1.0)
    target = Target(1.0, torch.zeros(1), torch.zeros(1))
    new = update(
        state, target, Rates(0.1, 0.0, 0.5), averages(torch.tensor([[1.0], [-1.0]]), torch.tensor([[4.0], [2.0]]))
    )
    assert float(new.momentum) == pytest.approx(3.0)
    assert float(new.hessian) == pytest.approx(0.5 + 0.5 * 1.0)  # ĥ = (4 − 2)/2 = h: no correction


def test_accumulated_batches_are_one_step_of_all() -> None:
    """With all data in each batch and the same noise, 3 batches of 1 sample are 1 batch of 3."""
    found = []
    for count, samples in ((3, 1), (1, 3)):
        problem = linear_problem()
        method = IVON(hess_init=5.0, batch_size=200, num_samples=samples, accumulation=count, beta2=0.9)
        state = method._train(problem, run_of(problem, 3 * 1), target_of(problem))
        assert int(state.steps) == 1
        found.append(state)
    # The order in which normal numbers are drawn is the same: rows of one draw are draws one after the other.
    torch.testing.assert_close(found[0].hessian, found[1].hessian)
    torch.testing.assert_close(found[0].mean, found[1].mean)


def test_accumulation_needs_as_many_batches() -> None:
    problem = linear_problem()
    with pytest.raises(BudgetError, match="accumulation=4"):
        IVON(hess_init=5.0, batch_size=200, accumulation=4).fit(problem, run_of(problem, 3))


def test_effective_sample_size_is_reported() -> None:
    problem = linear_problem(temperature=0.25)
    run = run_of(problem, 20)
    IVON().fit(problem, run)
    assert run.notes["ess_over_n"] == 4.0


@pytest.mark.parametrize("beta2", [0.0, 0.5, 0.99])
def test_curvature_stays_positive_whatever_is_sampled(beta2: float) -> None:
    rng = generator("cpu", "positive")
    target = Target(50.0, torch.full((1000,), 1e-3), torch.zeros(1000))
    state = init(torch.zeros(1000), 0.1)
    for _ in range(200):
        deviation = torch.randn(1, 1000, generator=rng) * variance(state, target).sqrt()
        gradient = torch.sign(torch.randn(1, 1000, generator=rng) - 0.5 * deviation) * 3
        state = update(state, target, Rates(0.0, 0.9, beta2), averages(deviation, gradient))
        assert bool((state.hessian + target.decay > 0).all())


def test_without_its_correction_the_curvature_would_not_stay_positive() -> None:
    # The control of the test above: the same average without its last term.
    assert 0.5 * 0.1 + 0.5 * (-3.0 * 0.1 * 50 * 0.1) < 0


def test_target_comes_from_the_model() -> None:
    network = Network(nn.Sequential(nn.Linear(4, 3), nn.LayerNorm(3), nn.Linear(3, 1)))
    data = Data(torch.randn(50, 4, generator=generator("cpu", 0)), torch.zeros(50))
    problem = Problem(network, Gaussian(), Normal(), data, temperature=0.5)
    target = target_of(problem)
    assert target.ess == 100
    named = network.layout.unflatten(target.decay[:-1])
    assert torch.allclose(named["0.weight"], torch.tensor(4 / 2 / 50))  # fan-in 4, gain √2
    assert torch.allclose(named["2.weight"], torch.tensor(3 / 2 / 50))
    assert torch.allclose(named["0.bias"], torch.tensor(1 / 50))
    assert float(target.decay[-1]) == pytest.approx(1 / 50)  # the learned noise
    loc = network.layout.unflatten(target.loc[:-1])
    assert bool((loc["1.weight"] == 1).all())
    assert bool((loc["0.weight"] == 0).all())


def test_prior_mean_attracts_normalisation_scales() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            nn.Module.__init__(self)
            self.norm = nn.LayerNorm(2, bias=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 0 * self.norm(x)[:, :1]  # the data say nothing: the posterior is the prior, N(1, 0.1²)

    problem = Problem(
        Network(Scaled()), Gaussian(scale=1.0), Normal(scale=0.1), Data(torch.eye(2).repeat(20, 1), torch.zeros(40))
    )
    posterior = IVON(hess_init=1.0, learning_rate=0.2, beta2=0.98).fit(problem, run_of(problem, 800))
    assert isinstance(posterior, GaussianPosterior)
    torch.testing.assert_close(posterior.mean, torch.ones(2), rtol=0, atol=1e-3)
    torch.testing.assert_close(posterior.covariance.variance(), torch.full((2,), 0.01), rtol=1e-3, atol=0)


def test_fisher_trace() -> None:
    problem = linear_problem(num_examples=2048)
    theta = torch.tensor([1.0, 0.0, 1.0, 0.0], dtype=torch.float64)
    x = problem.data.inputs
    found = [fisher_trace(problem, theta, 64, generator("cpu", seed), Mode.TRAIN) for seed in range(16)]
    # One coordinate dominates: each has a relative error of √(2/16), their mean of 0.09; failure rate 1e-5.
    assert sum(found) / 16 == pytest.approx(float(x.square().sum(1).mean()) / NOISE**2, rel=4.4 * 0.09)


def test_automatic_memory_forgets_the_same_share_at_any_length() -> None:
    problem = linear_problem()
    for epochs in (10, 1000):
        run = run_of(problem, epochs)
        num_steps = epochs * 200 / IVON().batch_size
        assert IVON()._beta2(problem, run) ** num_steps == pytest.approx(math.exp(-5), rel=0.05)


def test_resumed_fit_equals_an_undisturbed_one(tmp_path: Path) -> None:
    method = IVON(batch_size=50)
    undisturbed = method.fit(problem := linear_problem(), run_of(problem, 20))

    class KilledError(Exception):
        pass

    def kill(fraction: float) -> None:
        if fraction > 0.5:
            raise KilledError

    problem = linear_problem()
    with pytest.raises(KilledError):
        method.fit(problem, run_of(problem, 20, folder=tmp_path, progress=kill))
    problem = linear_problem()
    resumed = method.fit(problem, run_of(problem, 20, folder=tmp_path))
    assert isinstance(resumed, GaussianPosterior)
    assert isinstance(undisturbed, GaussianPosterior)
    assert torch.equal(resumed.mean, undisturbed.mean)
    assert torch.equal(resumed.covariance.variance(), undisturbed.covariance.variance())
    assert problem.meter.total == pytest.approx(20 * 200, rel=0.02)


def test_batch_normalisation_gets_statistics_per_draw_within_the_budget() -> None:
    network = Network(nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 1)))
    x = torch.randn(400, 3, generator=generator("cpu", 5))
    problem = Problem(network, Gaussian(), Normal(), Data(x, x[:, 0]), meter=Meter())
    posterior = IVON().fit(problem, run_of(problem, 60))
    assert isinstance(posterior, Draws)
    statistics = posterior.kept.buffers["1.running_mean"]
    assert len(statistics) == 18  # a tenth of 60 epochs buys 18 forward passes
    assert float(statistics.std(0).min()) > 0
    assert problem.meter.total <= 60 * 400 * (1 + 1e-6)
    assert problem.meter.total >= 0.98 * 60 * 400


def test_priors_without_precision_are_refused() -> None:
    problem = linear_problem(prior=Laplace(scale=1.0))
    with pytest.raises(UnsupportedError, match="Gaussian prior"):
        IVON().fit(problem, run_of(problem, 5))
    flat = linear_problem(prior=Flat())
    assert bool(torch.isfinite(IVON(learning_rate=0.1).fit(flat, run_of(flat, 100)).particles(3).theta).all())


@pytest.mark.parametrize(
    "settings",
    [
        {"learning_rate": 0.0},
        {"beta1": 1.0},
        {"beta2": 1.0},
        {"hess_init": -1.0},
        {"clip_radius": 0},
        {"num_samples": 0},
        {"accumulation": 0},
    ],
)
def test_bad_settings_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(MethodError, match=next(iter(settings))):
        IVON(**settings)  # type: ignore[arg-type]
