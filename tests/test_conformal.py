import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import betabinom
from small_problems import FAILURE_RATE, plain, problem_of, seeded_module
from torch import Tensor, nn

from bayesify.conformal import conformalise
from bayesify.engine.rng import generator
from bayesify.errors import DataError, UnsupportedError
from bayesify.likelihoods import Gaussian
from bayesify.posterior.base import Particles, Posterior
from bayesify.posterior.draws import Draws

CALIBRATION, TEST = 150, 3000


def allowed(level: float, calibration: int = CALIBRATION, test: int = TEST) -> tuple[int, int]:
    """How many of `test` targets are covered, in all but FAILURE_RATE of cases: a beta-binomial law (Vovk 2012)."""
    rank = math.ceil((calibration + 1) * level)
    law = betabinom(test, rank, calibration + 1 - rank)
    return int(law.ppf(FAILURE_RATE / 2)), int(law.isf(FAILURE_RATE / 2))


def posterior_of(module: nn.Module, data: tuple[Tensor, Tensor], **options: Any) -> Posterior:
    """Untrained, with some spread over the weights: as wrong as can be."""
    problem = problem_of(module, data, **options)
    theta = problem.random(10, torch.Generator().manual_seed(0))
    return Draws(problem.model, Particles(theta, problem.network.buffers(10)))


def regression(num_targets: int = 1) -> tuple[Tensor, Tensor]:
    rng = generator("cpu", "conformal")
    x = torch.randn(CALIBRATION + TEST, 4, generator=rng)
    noise = torch.randn(CALIBRATION + TEST, num_targets, generator=rng)
    return x, (x[:, :1] + (0.2 + x[:, 1:2].abs()) * noise).squeeze(-1)


@pytest.mark.parametrize("level", [0.5, 0.9, 0.95])
@pytest.mark.parametrize("scale", [0.05, 8.0])  # far too sure, far too unsure
def test_intervals_cover_as_often_as_they_say(level: float, scale: float) -> None:
    x, y = regression()
    posterior = posterior_of(plain(), (x, y), likelihood=Gaussian(scale=scale))
    held_out, new, targets = (x[:CALIBRATION], y[:CALIBRATION]), x[CALIBRATION:], y[CALIBRATION:]
    low, high = conformalise(posterior, held_out, level).interval(new)
    assert low.shape == high.shape == (TEST,)
    least, most = allowed(level)
    assert least <= int(((low <= targets) & (targets <= high)).sum()) <= most
    raw = posterior.predict(new).interval(level)  # the control: the posterior itself is wrong
    assert not least <= int(((raw.low <= targets) & (targets <= raw.high)).sum()) <= most


def test_every_target_column_is_covered() -> None:
    x, y = regression(num_targets=2)
    module = seeded_module(lambda: nn.Linear(4, 2))
    posterior = posterior_of(module, (x, y), likelihood=Gaussian(scale=0.1, num_targets=2))
    low, high = conformalise(posterior, (x[:CALIBRATION], y[:CALIBRATION]), 0.9).interval(x[CALIBRATION:])
    assert low.shape == (TEST, 2)
    least, most = allowed(0.9)
    covered = ((low <= y[CALIBRATION:]) & (y[CALIBRATION:] <= high)).sum(0)
    assert all(least <= int(count) <= most for count in covered)


@pytest.mark.parametrize("level", [0.5, 0.9])
def test_sets_cover_as_often_as_they_say(level: float) -> None:
    rng = generator("cpu", "conformal")
    x = torch.randn(CALIBRATION + TEST, 4, generator=rng)
    y = torch.multinomial((2 * x[:, :3]).softmax(-1), 1, generator=rng).squeeze(-1)
    module = seeded_module(lambda: nn.Linear(4, 3))
    posterior = posterior_of(module, (x, y))
    sets = conformalise(posterior, (x[:CALIBRATION], y[:CALIBRATION]), level).sets(x[CALIBRATION:])
    assert sets.shape == (TEST, 3)
    assert sets.dtype == torch.bool
    least, most = allowed(level)
    assert least <= int(sets.gather(1, y[CALIBRATION:, None]).sum()) <= most


def test_classes_absent_from_the_calibration_data() -> None:
    rng = generator("cpu", "conformal")
    x = torch.randn(100, 4, generator=rng)
    y = (x[:, 0] > 0).long()
    y[:2] = torch.tensor([2, 2])
    posterior = posterior_of(seeded_module(lambda: nn.Linear(4, 3)), (x, y))
    assert conformalise(posterior, (x[2:], y[2:])).sets(x).shape == (100, 3)


def test_two_classes_with_one_logit() -> None:
    rng = generator("cpu", "conformal")
    x = torch.randn(100, 4, generator=rng)
    y = (x[:, 0] > 0).long()
    posterior = posterior_of(seeded_module(lambda: nn.Linear(4, 1)), (x, y), likelihood="bernoulli")
    assert conformalise(posterior, (x, y)).sets(x[:7]).shape == (7, 2)


def test_intervals_follow_the_predictive_in_any_input_form() -> None:
    x, y = regression()
    posterior = posterior_of(plain(), (x, y), likelihood=Gaussian(scale=0.3))
    calibrated = conformalise(posterior, (x.numpy(), y.numpy()), 0.9)
    own, found = posterior.predict(x[:50]).interval(0.9), calibrated.interval(np.asarray(x[:50]))
    widened = own.low - found.low
    torch.testing.assert_close(widened, widened[:1].expand(50), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(found.high - own.high, widened, rtol=1e-3, atol=1e-4)


def test_what_cannot_be_is_refused() -> None:
    x, y = regression()
    posterior = posterior_of(plain(), (x, y))
    with pytest.raises(DataError, match=r"conformalise\(level=1.0\): the level must lie between 0 and 1"):
        conformalise(posterior, (x, y), 1.0)
    with pytest.raises(DataError, match=r"8 calibration examples cannot support level 0.9: give at least 10"):
        conformalise(posterior, (x[:8], y[:8]), 0.9)
    with pytest.raises(UnsupportedError, match=r"sets\(\) is for classification, and this is regression"):
        conformalise(posterior, (x[:20], y[:20])).sets(x)
    counts = posterior_of(plain(), (x, y.abs().round()), likelihood="poisson")
    with pytest.raises(UnsupportedError, match="not defined for a count likelihood"):
        conformalise(counts, (x, y.abs().round()))


@pytest.mark.parametrize(("level", "number"), [(0.05, 20), (0.5, 2), (0.8, 5), (0.9, 10), (0.95, 20), (0.99, 100)])
def test_the_smallest_calibration_sets_work(level: float, number: int) -> None:
    x, y = regression()
    posterior = posterior_of(plain(), (x, y))
    low, high = conformalise(posterior, (x[:number], y[:number]), level).interval(x[:5])
    assert torch.isfinite(low).all()
    assert torch.isfinite(high).all()
    with pytest.raises(DataError, match=f"give at least {number}"):
        conformalise(posterior, (x[: number - 1], y[: number - 1]), level)
