"""Joint log probabilities of every form of posterior against a Gaussian process in closed form.

A linear network under a Gaussian prior and known noise is a Gaussian process with kernel s² (1 + x · x'): its joint
predictive follows from kernel matrices alone, with no weights in it.
"""

import math
from typing import NamedTuple

import numpy as np
import pytest
import torch
from small_problems import critical_value
from torch import Tensor, nn
from torch.distributions import MultivariateNormal

import bayesify as bay
from bayesify import metrics
from bayesify.covariance import Full
from bayesify.curvature import jacobian as chunking
from bayesify.errors import DataError, UnsupportedError
from bayesify.exactness.known import with_bias
from bayesify.fitting import make_problem
from bayesify.likelihoods import Categorical, Gaussian
from bayesify.metrics.evaluate import dyadic_nll
from bayesify.model.model import Model
from bayesify.posterior import Draws, Linearised, Mixture, Posterior
from bayesify.posterior.base import Particles
from bayesify.posterior.calibrated import Calibrated
from bayesify.posterior.gaussian import Gaussian as GaussianPosterior
from bayesify.predictive import Predictive

NOISE, PRIOR, NUM_INPUTS = 0.5, 1.0, 3
NUM_DRAWS = 40_000


class Process(NamedTuple):
    """A Gaussian process given some data, and the same as weights of a linear network."""

    model: Model
    mean: Tensor  # (P,)
    root: Tensor  # (P, P)
    inputs: Tensor  # (B, D)
    targets: Tensor  # (B,)
    centre: Tensor  # (B,) of the predictive
    covariance: Tensor  # (B, B) of the function

    def joint(self, rows: Tensor, temperature: float = 1.0) -> float:
        """Of the targets at some rows, repeated or not; calibration stretches about the mean."""
        covariance = self.covariance[rows][:, rows] + NOISE**2 * torch.eye(len(rows), dtype=torch.float64)
        law = MultivariateNormal(self.centre[rows], temperature**2 * covariance)
        return float(law.log_prob(self.targets[rows]))


@pytest.fixture(scope="module")
def process() -> Process:
    rng = torch.Generator().manual_seed(0)

    def draw(count: int, reach: float) -> tuple[Tensor, Tensor]:
        x = reach * torch.randn(count, NUM_INPUTS, generator=rng, dtype=torch.float64)
        return x, x @ torch.tensor([0.7, -0.4, 0.2]).double() + 0.3 + NOISE * torch.randn(count, generator=rng).double()

    (x, y), (x_new, y_new) = draw(8, 1.0), draw(12, 1.5)
    module = nn.utils.skip_init(nn.Linear, NUM_INPUTS, 1, dtype=torch.float64)
    nn.init.zeros_(module.weight)
    nn.init.zeros_(module.bias)
    prior, noise = bay.priors.Normal(scale=PRIOR), Gaussian(scale=NOISE)
    model = make_problem(module, (x, y), likelihood=noise, prior=prior).model

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return PRIOR**2 * (1 + a @ b.mT)

    gram = kernel(x, x) + NOISE**2 * torch.eye(len(x), dtype=torch.float64)
    across = torch.linalg.solve(gram, kernel(x, x_new)).mT
    centre, covariance = across @ y, kernel(x_new, x_new) - across @ kernel(x, x_new)
    design = with_bias(x)
    precision = design.mT @ design / NOISE**2 + torch.eye(design.shape[1], dtype=torch.float64) / PRIOR**2
    mean = torch.linalg.solve(precision, design.mT @ y / NOISE**2)
    root = torch.linalg.cholesky(torch.linalg.inv(precision))
    return Process(model, mean, root, x_new, y_new, centre, covariance)


def dyads(process: Process) -> Tensor:
    return torch.as_tensor(metrics.dyadic_blocks(len(process.targets), np.random.default_rng(1)))


def closed(process: Process, shift: float = 0.0) -> Linearised:
    return Linearised(process.model, process.mean + shift, Full(process.root))


def drawn(process: Process, seed: int = 0, count: int = NUM_DRAWS) -> Draws:
    noise = torch.randn(count, len(process.mean), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return Draws(process.model, Particles(process.mean + noise @ process.root.mT, {}))


# ---- against the closed form -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [1.0, 0.6, 1.7])
@pytest.mark.parametrize("elements", [1, 200, 2**25], ids=["block by block", "some blocks", "at once"])
def test_a_closed_form_is_the_process_exactly(
    process: Process, temperature: float, elements: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunking, "CHUNK_ELEMENTS", elements)
    predictive = Calibrated(closed(process), temperature).predict(process.inputs)
    blocks = dyads(process)
    expected = torch.tensor([process.joint(block, temperature) for block in blocks], dtype=torch.float64)
    torch.testing.assert_close(predictive.joint_log_prob(process.targets, blocks), expected, rtol=0, atol=1e-9)
    everything = process.joint(torch.arange(len(process.targets)), temperature)
    assert float(predictive.joint_log_prob(process.targets)) == pytest.approx(everything, abs=1e-9)
    singles = predictive.joint_log_prob(process.targets, torch.arange(len(process.targets))[:, None])
    torch.testing.assert_close(singles, predictive.log_prob(process.targets), rtol=0, atol=1e-9)


def test_laplace_by_its_own_fit_is_the_process(process: Process) -> None:
    """Nothing made up here: trained, approximated and rescaled by the library, exact because the network is linear."""
    rng = torch.Generator().manual_seed(3)
    x = torch.randn(30, NUM_INPUTS, generator=rng, dtype=torch.float64)
    y = x[:, 0] + NOISE * torch.randn(30, generator=rng, dtype=torch.float64)
    design, kernel = with_bias(x), PRIOR**2 * (1 + x @ x.mT)
    optimum = torch.linalg.solve(design.mT @ design + NOISE**2 * torch.eye(4).double(), design.mT @ y)
    module = nn.utils.skip_init(nn.Linear, NUM_INPUTS, 1, dtype=torch.float64)
    with torch.no_grad():
        module.weight.copy_(optimum[None, :NUM_INPUTS])
        module.bias.copy_(optimum[NUM_INPUTS:])
    posterior = bay.fit(
        module,
        (x, y),
        method="laplace(full, fixed)",
        likelihood=Gaussian(scale=NOISE),
        prior=bay.priors.Normal(scale=PRIOR),
        pretrained=True,
    )
    gram = kernel + NOISE**2 * torch.eye(30, dtype=torch.float64)
    new = process.inputs
    across = torch.linalg.solve(gram, PRIOR**2 * (1 + x @ new.mT)).mT
    covariance = PRIOR**2 * (1 + new @ new.mT) - across @ (PRIOR**2 * (1 + x @ new.mT))
    exact = process._replace(centre=across @ y, covariance=covariance)
    predictive = posterior.predict(new).rescaled(2.0, 3.0)
    blocks = dyads(process)
    expected = torch.tensor([exact.joint(block) for block in blocks], dtype=torch.float64) - 10 * math.log(3.0)
    found = predictive.joint_log_prob(2.0 + 3.0 * process.targets, blocks)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def forms(process: Process) -> dict[str, Posterior]:
    halves: list[Posterior] = [drawn(process, seed, NUM_DRAWS // 2) for seed in (1, 2)]
    return {
        "draws": drawn(process),
        "gaussian": GaussianPosterior(process.model, process.mean, Full(process.root)),
        "mixture": Mixture(halves),
        "calibrated": Calibrated(drawn(process), 1.3),
        "calibrated mixture": Calibrated(Mixture(halves), 1.3),
    }


@pytest.mark.parametrize("name", ["draws", "gaussian", "mixture", "calibrated", "calibrated mixture"])
def test_draws_give_the_process_within_monte_carlo_error(process: Process, name: str) -> None:
    """Failure rate 1e-5 per form; the error of the log mean is the relative one of the mean, by the delta method."""
    temperature = 1.3 if name.startswith("calibrated") else 1.0
    predictive = forms(process)[name].predict(process.inputs, num_samples=NUM_DRAWS)
    blocks = dyads(process)
    found = predictive.joint_log_prob(process.targets, blocks)
    each = predictive.draw_log_prob(process.targets)
    weights = torch.stack([each[:, block].sum(1) for block in blocks], 1)
    weights = (weights - weights.logsumexp(0)).exp() * NUM_DRAWS  # (S, M) of mean 1
    expected = torch.tensor([process.joint(block, temperature) for block in blocks], dtype=torch.float64)
    z = (found - expected) / (weights.std(0) / math.sqrt(NUM_DRAWS))
    # Calibration stretches about the draws' own mean, whose error adds to that of the weights.
    assert float(z.abs().max()) < critical_value(len(blocks)) * (1 if temperature == 1.0 else math.sqrt(2))
    # The control: the same blocks with noise of each example's own are far off.
    alone = predictive.log_prob(process.targets)
    assert float((torch.stack([alone[block].sum() for block in blocks]) - expected).abs().max()) > 1.0


def test_a_mixture_of_closed_forms_averages_whole_blocks(process: Process) -> None:
    parts: list[Posterior] = [closed(process), closed(process, 0.2)]
    blocks = dyads(process)
    each = torch.stack([part.predict(process.inputs).joint_log_prob(process.targets, blocks) for part in parts])
    found = Mixture(parts).predict(process.inputs).joint_log_prob(process.targets, blocks)
    torch.testing.assert_close(found, each.logsumexp(0) - math.log(2))


# ---- finite numbers of draws -----------------------------------------------------------------------------------------


def test_few_draws_are_too_pessimistic_as_documented(process: Process) -> None:
    """E[log (1/S) Σ w] ≈ log E w − Var(w)/(2 S E[w]²)."""
    block = dyads(process)[:1]
    exact = process.joint(block[0])
    each = drawn(process, count=200_000).predict(process.inputs).draw_log_prob(process.targets)
    weights = (each[:, block[0]].sum(1) - exact).exp()
    for size in (40, 100):
        losses = weights.reshape(-1, size).mean(1).log()
        error = float(losses.std()) / math.sqrt(len(losses))
        bias, predicted = float(losses.mean()), -float(weights.var()) / (2 * size)
        assert bias < -critical_value() * error  # it is there, and of the size that the first order says
        assert 0.4 * predicted > bias - critical_value() * error
        assert 1.6 * predicted < bias + critical_value() * error


# ---- the score -------------------------------------------------------------------------------------------------------


def test_the_score_is_the_mean_over_dyadic_blocks(process: Process) -> None:
    predictive = closed(process).predict(process.inputs)
    rng = np.random.default_rng(0)
    blocks = [metrics.dyadic_blocks(len(process.targets), rng) for _ in range(84)]  # 84 pairings: 504 blocks of 6
    expected = np.mean([process.joint(torch.as_tensor(block)) for block in np.concatenate(blocks)])
    assert dyadic_nll(predictive, process.targets) == pytest.approx(-expected, abs=1e-9)
    assert bay.evaluate(predictive, process.targets)["dyadic_nll"] == pytest.approx(-expected, abs=1e-9)
    order_one = dyadic_nll(predictive, process.targets, order=1, num_anchors=1)
    assert order_one == pytest.approx(bay.evaluate(predictive, process.targets)["nll"], abs=1e-9)


def test_the_score_of_classes_is_that_of_arrays() -> None:
    outputs = torch.randn(6, 9, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels = np.arange(9) % 3
    blocks = metrics.dyadic_blocks(9, np.random.default_rng(0))
    for temperature in (1.0, 2.0):
        predictive = Predictive(Categorical(), outputs, outputs[:, 0, :0]).calibrated(temperature)
        each = (outputs / temperature).log_softmax(-1)[:, range(9), labels.tolist()].numpy()
        found = predictive.joint_log_prob(labels, blocks).numpy()
        np.testing.assert_allclose(found, metrics.blockwise_joint_log_prob(each, blocks), atol=1e-12)


def test_one_example_has_no_joint_score() -> None:
    predictive = Predictive(Categorical(), torch.zeros(2, 1, 3), torch.zeros(2, 0))
    assert "dyadic_nll" not in bay.evaluate(predictive, np.zeros(1, dtype=int))
    with pytest.raises(DataError, match="1 examples do not fill one block of 2"):
        dyadic_nll(predictive, np.zeros(1, dtype=int))


def test_long_blocks_in_float32_lose_nothing() -> None:
    """20,000 examples, two draws that differ by 1e-4 at each: sums in float32 would be off by more than the answer."""
    outputs = torch.stack([torch.zeros(20_000, 1), torch.full((20_000, 1), 1e-2)])
    predictive = Predictive(Gaussian(scale=0.1), outputs, torch.zeros(2, 0))
    y = torch.zeros(20_000)
    exact = torch.distributions.Normal(outputs.double(), 0.1).log_prob(torch.zeros(1).double()).sum((1, 2))
    expected = float(exact.logsumexp(0) - math.log(2))
    assert float(predictive.joint_log_prob(y)) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("blocks", [[[0, 3]], [[-1, 0]], [0, 1], [[0.0, 1.0]], np.empty((0, 2), int)])
def test_unusable_blocks_are_refused(blocks: object) -> None:
    predictive = Predictive(Categorical(), torch.zeros(2, 3, 3), torch.zeros(2, 0))
    with pytest.raises(DataError, match="numbers of the 3 examples, from 0 to 2"):
        predictive.joint_log_prob(torch.zeros(3), blocks)


def test_differently_calibrated_predictives_are_not_pooled() -> None:
    part = Predictive(Categorical(), torch.zeros(2, 3, 3), torch.zeros(2, 0))
    with pytest.raises(UnsupportedError, match="calibrate the mixture and not its parts"):
        Predictive.pooled([part, part.calibrated(2.0)])
