import math

import pytest
import torch
from small_problems import plain, problem_of, regression_data
from torch import nn

import bayesify as bay
from bayesify.engine.run import Run
from bayesify.methods import MAP, SWAG, DeepEnsemble, Laplace, MCDropout, TemperatureScaled
from bayesify.methods.base import Method
from bayesify.methods.temperature_scaled import best_temperature


def problem(num_rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(0)
    inputs = torch.randn(num_rows, 3, generator=rng)
    return inputs, (inputs[:, 0] + torch.randn(num_rows, generator=rng) > 0).long()


def test_the_temperature_of_an_overconfident_predictive_is_found() -> None:
    """Targets drawn from p, predictive p^(1/T) sharpened by 3: the best temperature is 3."""
    rng = torch.Generator().manual_seed(1)
    logits = torch.randn(20_000, 4, generator=rng, dtype=torch.float64)
    labels = torch.multinomial(logits.softmax(-1), 1, generator=rng)[:, 0]
    sharp = bay.Predictive(bay.likelihoods.Categorical(), 3 * logits[None], torch.zeros(1, 0))
    assert best_temperature(sharp, labels) == pytest.approx(3.0, rel=0.05)


def test_the_scale_of_a_narrow_regression_predictive_is_found() -> None:
    rng = torch.Generator().manual_seed(2)
    mean = torch.randn(20_000, 1, generator=rng, dtype=torch.float64)
    targets = mean[:, 0] + 2.0 * torch.randn(20_000, generator=rng, dtype=torch.float64)
    narrow = bay.Predictive(bay.likelihoods.Gaussian(scale=0.5), mean[None], torch.zeros(1, 0))
    assert best_temperature(narrow, targets) == pytest.approx(4.0, rel=0.03)


def test_scaling_never_lowers_the_validation_likelihood_and_keeps_the_classes() -> None:
    inputs, labels = problem(300)
    plain, scaled = (
        bay.fit(
            nn.Linear(3, 2), (inputs, labels), method=name, budget=bay.Budget(epochs=20), validation=(inputs, labels)
        )
        for name in ("map", "temperature_scaled(map)")
    )
    before, after = plain.predict(inputs), scaled.predict(inputs)
    assert float(after.log_prob(labels).mean()) >= float(before.log_prob(labels).mean())
    assert torch.equal(before.mode, after.mode)


def test_few_rows_are_not_calibrated_and_it_is_said() -> None:
    inputs, labels = problem(40)
    posterior = bay.fit(
        nn.Linear(3, 2), (inputs, labels), method="temperature_scaled(map)", budget=bay.Budget(epochs=5)
    )
    assert posterior.diagnostics.values["predictive_temperature"] == 1.0
    assert any("not calibrated: 0 held-out examples" in text for text in posterior.diagnostics.warnings)
    assert math.isfinite(float(posterior.predict(inputs).log_prob(labels).sum()))


def test_it_answers_for_its_method() -> None:
    problem = problem_of(plain(), regression_data())
    assert TemperatureScaled(Laplace(structure="full")).memory(problem) == Laplace(structure="full").memory(problem)
    assert TemperatureScaled(Laplace()).is_post_hoc


@pytest.mark.parametrize("method", [MCDropout(), SWAG(), Laplace(), MAP(), DeepEnsemble(3)])
def test_many_draws_stay_within_the_budget(method: Method) -> None:
    x = torch.randn(200, 4, generator=torch.Generator().manual_seed(0))
    problem = problem_of(plain(), (x[:150], x[:150, :1]), validation=(x[150:], x[150:, :1]))
    run = Run(problem.meter, limit=150 * 40)
    TemperatureScaled(method).fit(problem, run)
    assert run.spent <= run.limit * 1.02
