"""What holds for every sampler with all the data: randomness, checkpoints, budgets, starts.

Whether their draws are right: `exactness/test_sampler_grid.py`.
"""

import math
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from targets import chains_run, correlated_gaussian, sampled, smooth_network
from torch import Tensor, nn

from bayesify.data import Data
from bayesify.engine.budget import Meter
from bayesify.engine.rng import generator
from bayesify.engine.run import Checkpoints, Run
from bayesify.errors import BudgetError
from bayesify.methods.adjusted_mclmc import AdjustedMCLMC
from bayesify.methods.chees_hmc import ChEESHMC
from bayesify.methods.hmc import HMC
from bayesify.methods.mclmc import MCLMC
from bayesify.methods.nuts import NUTS
from bayesify.methods.sampler import Sampler
from bayesify.model.likelihoods import Gaussian
from bayesify.model.network import Network
from bayesify.model.priors import Normal
from bayesify.model.problem import Problem
from bayesify.posterior.draws import Draws

SAMPLERS: dict[str, Sampler] = {
    "hmc": HMC(num_chains=2),
    "nuts": NUTS(num_chains=2),
    "chees_hmc": ChEESHMC(num_chains=2),
    "mclmc": MCLMC(num_chains=2),
    "adjusted_mclmc": AdjustedMCLMC(num_chains=2),
}
samplers = pytest.mark.parametrize("name", SAMPLERS)


@pytest.mark.parametrize(
    ("name", "epochs"), [("hmc", 150), ("nuts", 600), ("chees_hmc", 600), ("mclmc", 150), ("adjusted_mclmc", 150)]
)
def test_same_seed_same_draws(name: str, epochs: int) -> None:
    method = replace(SAMPLERS[name], num_draws=20)
    first, second, other = (
        sampled(problem := smooth_network(), method, chains_run(problem, method, epochs, seed)) for seed in (0, 0, 1)
    )
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


RESUMED: dict[str, tuple[Sampler, int]] = {
    "hmc": (HMC(num_chains=2, num_draws=20, warm_start_epochs=50), 200),
    "nuts": (NUTS(num_chains=2, num_draws=10, warm_start_epochs=50), 500),
    "chees_hmc": (ChEESHMC(num_chains=2, num_draws=10, warm_start_epochs=50), 500),
    "mclmc": (MCLMC(num_chains=2, num_draws=20, warm_start_epochs=50, mass="diagonal"), 250),
    "adjusted_mclmc": (AdjustedMCLMC(num_chains=2, num_draws=20, warm_start_epochs=50), 250),
}
PHASES = {
    "hmc": (20, 60, 90),  # in the warm start, the tuning, the sampling
    "nuts": (20, 120, 300),
    "chees_hmc": (20, 60, 100),
    "mclmc": (20, 60, 72, 85),  # its tuning has two
    "adjusted_mclmc": (20, 60, 85),
}
"""Steps after which a fit is killed: the n-th number is in the n-th phase."""


class Fitted(NamedTuple):
    draws: Tensor
    cost: float


@cache
def undisturbed(name: str) -> Fitted:
    method, epochs = RESUMED[name]
    problem = smooth_network()
    return Fitted(sampled(problem, method, chains_run(problem, method, epochs)), problem.meter.total)


class KilledError(Exception):
    pass


@pytest.mark.parametrize(("name", "phase"), [(name, n) for name, calls in PHASES.items() for n in range(len(calls))])
def test_resumed_fit_equals_an_undisturbed_one(name: str, phase: int, tmp_path: Path) -> None:
    method, epochs = RESUMED[name]
    left = [PHASES[name][phase]]

    def kill(fraction: float) -> None:
        left[0] -= 1
        if left[0] == 0:
            raise KilledError

    checkpoints = Checkpoints(tmp_path, "same", seconds=0.0)
    problem = smooth_network()
    with pytest.raises(KilledError):
        method.fit(problem, chains_run(problem, method, epochs, checkpoints=checkpoints, progress=kill))
    assert len(list(tmp_path.iterdir())) == phase + 1
    problem = smooth_network()
    resumed = sampled(problem, method, chains_run(problem, method, epochs, checkpoints=checkpoints))
    assert torch.equal(resumed, undisturbed(name).draws)
    assert problem.meter.total == undisturbed(name).cost


class Thrift(NamedTuple):
    """What is spent of a budget of so many epochs, at least."""

    fewest: int
    of_few: float
    of_many: float


HAMILTONIAN, MICROCANONICAL = Thrift(6, 0.7, 0.98), Thrift(6, 0.5, 0.97)
THRIFT = {
    "hmc": HAMILTONIAN,
    "nuts": HAMILTONIAN,
    "chees_hmc": HAMILTONIAN,
    "mclmc": MICROCANONICAL,
    "adjusted_mclmc": MICROCANONICAL._replace(fewest=8),
}


@samplers
@pytest.mark.parametrize("epochs", [0, 20, 150, 1000])
def test_budget_is_spent_and_kept(name: str, epochs: int) -> None:
    method, thrift = SAMPLERS[name], THRIFT[name]
    problem = smooth_network()
    run = chains_run(problem, method, epochs or thrift.fewest)
    draws = sampled(problem, method, run)
    least = thrift.of_many if epochs > 50 else thrift.of_few
    assert run.limit * least <= problem.meter.total <= run.limit * (1 + 1e-6)
    assert 1 <= draws.shape[1] <= 100
    assert bool(torch.isfinite(draws).all())


@samplers
def test_too_small_a_budget_is_refused(name: str) -> None:
    problem = smooth_network()
    with pytest.raises(BudgetError, match="at least 400 gradient evaluations"):
        SAMPLERS[name].fit(problem, chains_run(problem, SAMPLERS[name], 4))


@samplers
def test_a_budget_of_time_ends(name: str) -> None:
    problem = smooth_network()
    run = Run(problem.meter, limit=math.inf, seconds=1.5)
    assert sampled(problem, replace(SAMPLERS[name], num_draws=10), run).shape[1] > 0


@pytest.mark.parametrize(
    "method",
    [
        HMC(num_chains=2, num_draws=7, trajectory_length=0.01),
        NUTS(num_chains=2, num_draws=7, max_depth=2),
        ChEESHMC(num_chains=2, num_draws=7),
        MCLMC(num_chains=2, num_draws=7),
    ],
    ids=lambda method: method.info.name,
)
def test_draws_are_thinned_to_the_number_asked_for(method: Sampler) -> None:
    problem = smooth_network()
    run = chains_run(problem, method, 500)
    assert sampled(problem, method, run).shape[1] == 7
    assert run.notes["steps_per_chain"] > 50


@pytest.mark.parametrize(
    "method",
    [
        HMC(num_chains=2, step_size=1e-9),
        NUTS(num_chains=2, step_size=1e-9, mass="prior", max_depth=1),
        ChEESHMC(num_chains=2, step_size=1e-9, mass="prior"),
        MCLMC(num_chains=2, step_size=1e-9, length=1.0),
        AdjustedMCLMC(num_chains=2, step_size=1e-9, length=1e-9),
    ],
    ids=lambda method: method.info.name,
)
def test_a_pretrained_model_is_where_chains_start(method: Sampler) -> None:
    problem = correlated_gaussian().problem.with_changes(pretrained=True)
    draws = sampled(problem, method, chains_run(problem, method, 20))
    torch.testing.assert_close(draws[:, 0], problem.initial().expand(2, -1), rtol=0, atol=1e-6)


@samplers
def test_batch_normalisation_gets_statistics_per_draw_within_the_budget(name: str) -> None:
    network = Network(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 1)))
    x = torch.randn(100, 3, generator=generator("cpu", 5))
    problem = Problem(network, Gaussian(), Normal(), Data(x, x[:, 0]))
    run = chains_run(problem, SAMPLERS[name], 200)
    posterior = SAMPLERS[name].fit(problem, run)
    assert isinstance(posterior, Draws)
    assert float(posterior.kept.buffers["1.running_mean"].std(0).min()) > 0
    assert 0.98 * run.limit <= problem.meter.total <= run.limit * (1 + 1e-6)


@pytest.mark.parametrize(
    "method",
    [
        HMC(num_chains=2, step_size=50.0, trajectory_length=500.0, warm_start_epochs=5),
        NUTS(num_chains=2, step_size=50.0, warm_start_epochs=5, mass="prior"),
        ChEESHMC(num_chains=2, step_size=50.0, warm_start_epochs=5, mass="prior"),
    ],
    ids=lambda method: method.info.name,
)
def test_absurd_step_size_is_reported(method: Sampler) -> None:
    target = correlated_gaussian()
    run = chains_run(target.problem, method, 300)
    draws = sampled(target.problem, method, run)
    assert bool((draws == draws[:, :1]).all())
    assert run.notes["divergences"] >= 2 * run.notes["steps_per_chain"] > 0
    if not isinstance(method, NUTS):  # whose chains do not end all with the same number of transitions
        assert run.notes["divergences"] == 2 * run.notes["steps_per_chain"]
    assert run.notes["acceptance"] == 0.0
    words = " ".join(run.notes["warnings"])
    assert "diverged" in words
    assert "they have not mixed" in words
    assert "accepted" in words


@pytest.mark.parametrize("kind", [HMC, NUTS])
def test_learned_masses_make_scales_alike(kind: type[HMC | NUTS]) -> None:
    # Known noise, unrelated inputs of very different size: the posterior's scales differ by 100, the prior's do not.
    x = torch.diag(torch.logspace(0, 2, 6, dtype=torch.float64))
    network = Network(nn.Linear(6, 1, bias=False).double())
    problem = Problem(network, Gaussian(scale=1.0), Normal(scale=1.0), Data(x, torch.ones(6, dtype=torch.float64)))
    steps = []
    for mass in ("prior", "diagonal"):
        method = kind(num_chains=4, mass=mass, warm_start_epochs=1)
        run = chains_run(problem.with_changes(meter=Meter()), method, 4000)
        method.fit(problem.with_changes(meter=run.meter), run)
        steps.append(run.notes["leapfrog_steps"])
    assert 4 * steps[1] < steps[0]
