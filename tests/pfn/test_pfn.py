"""Prior-data fitted networks: symmetries exactly, a short training against the exact posterior of a GP."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import bayesify as bay
from bayesify.errors import DataError, MethodError, SaveError
from bayesify.pfn import PFN, DataPrior, GPPrior, NetworkPrior, fit_pfn, load_pfn
from bayesify.priors import Flat, Normal

PRIOR = GPPrior(length_scale=1.0, noise=0.3)
TINY = {"max_context": 6, "num_queries": 6, "width": 32, "num_layers": 2, "num_heads": 2, "num_bars": 40}


@pytest.fixture(scope="module")
def trained() -> PFN:
    return fit_pfn(PRIOR, num_steps=250, learning_rate=3e-3, **TINY)  # type: ignore[arg-type]


def gap(net: PFN, size: int) -> tuple[float, float]:
    """Mean KL in nats from the exact predictive after `size` rows: to the network, and to what it says of no rows."""
    x, y = PRIOR.sample(400, size + 1, torch.Generator().manual_seed(size))
    exact = PRIOR.posterior(x[:, :size], y[:, :size], x[:, size:])
    levels = (torch.arange(200, dtype=torch.float64) + 0.5) / 200
    law = torch.distributions.Normal(exact.mean, exact.stddev)
    values = law.icdf(levels)
    with torch.no_grad():
        own = net(x[:, :size], y[:, :size], x[:, size:]).double()
        blind = net(x[:, :0], y[:, :0], x[:, size:]).double()
    gaps = [(law.log_prob(values) - net.bars.distribution(one).log_prob(values)).mean() for one in (own, blind)]
    return float(gaps[0]), float(gaps[1])


def test_a_short_training_comes_near_the_exact_posterior(trained: PFN) -> None:
    for size in (3, 6):
        own, blind = gap(trained, size)
        assert own < 0.15 * blind
    assert gap(trained, 0)[0] < 0.02


def test_the_order_of_rows_does_not_matter_and_queries_are_alone(trained: PFN) -> None:
    (x, y), new = (one[0] for one in PRIOR.sample(1, 5, torch.Generator().manual_seed(0))), torch.rand(7, 1)
    targets = torch.linspace(-1, 1, 7)
    found = trained.predict(x, y, new).log_prob(targets)
    back = torch.arange(4, -1, -1)
    torch.testing.assert_close(trained.predict(x[back], y[back], new).log_prob(targets), found, rtol=1e-4, atol=1e-4)
    one = trained.predict(x, y, new[2:3]).log_prob(targets[2:3])
    torch.testing.assert_close(one, found[2:3], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(trained.predict(x, -y, new).log_prob(targets), found)


def test_a_predictive_like_any_other(trained: PFN) -> None:
    x, y, new = np.array([[0.1], [0.9]]), np.array([0.5, -0.5]), np.array([[0.1], [0.5], [0.9]])
    found = trained.predict(x, y, new)
    assert found.kind == "regression"
    assert found.mean.shape == found.stddev.shape == (3,)
    low, high = found.interval(0.9)
    assert (low < found.mean).all()
    assert (found.mean < high).all()
    assert found.mean[0] > found.mean[2]
    before = trained.predict(x[:0], y[:0], new)
    assert (found.stddev < before.stddev).all()
    scores = bay.evaluate(found, np.array([0.4, 0.0, -0.4]))
    assert np.isfinite(list(scores.values())).all()


def test_joint_densities_go_by_the_chain_rule(trained: PFN) -> None:
    x, y = torch.zeros(0, 1), torch.zeros(0)
    new, values = torch.tensor([[0.5], [0.6]]), torch.tensor([1.0, 1.1])
    first = trained.predict(x, y, new[:1]).log_prob(values[:1]).sum()
    then = trained.predict(torch.cat([x, new[:1]]), torch.cat([y, values[:1]]), new[1:]).log_prob(values[1:]).sum()
    joint = trained.predict(x, y, new).joint_log_prob(values)
    torch.testing.assert_close(joint, first + then)
    blocks = trained.predict(x, y, new).joint_log_prob(values, [[0, 1], [1, 1]])
    torch.testing.assert_close(blocks[0], joint)
    assert blocks[1] > blocks[0]  # the same row again is hardly news
    assert joint > trained.predict(x, y, new).log_prob(values).sum()  # neighbours are alike


def test_saved_and_loaded(trained: PFN, tmp_path: Path) -> None:
    trained.save(tmp_path / "gp.pfn")
    again = load_pfn(tmp_path / "gp.pfn")
    x, y, new = torch.rand(3, 1), torch.randn(3), torch.rand(4, 1)
    assert torch.equal(again.predict(x, y, new).outputs, trained.predict(x, y, new).outputs)
    (tmp_path / "bad.pfn").write_bytes(b"nothing")
    for name in ("bad.pfn", "gone.pfn"):
        with pytest.raises(SaveError, match="prior-data fitted"):
            load_pfn(tmp_path / name)


def test_the_seed_decides_and_the_global_state_is_left_alone() -> None:
    state = torch.get_rng_state()
    first, again, other = (fit_pfn(PRIOR, num_steps=2, seed=seed, **TINY) for seed in (0, 0, 1))  # type: ignore[arg-type]
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters(), strict=True))


def test_the_exact_posterior_is_that_of_scikit_learn() -> None:
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import RBF

    prior = GPPrior(length_scale=0.3, noise=0.2, num_inputs=2)
    x, y = (one[0].double() for one in prior.sample(1, 9, torch.Generator().manual_seed(0)))
    reference = GaussianProcessRegressor(RBF(0.3), alpha=0.2**2, optimizer=None).fit(x[:6].numpy(), y[:6].numpy())
    mean, stddev = reference.predict(x[6:].numpy(), return_std=True)
    found = prior.posterior(x[:6], y[:6], x[6:])
    assert found.mean.numpy() == pytest.approx(mean, abs=1e-9)
    assert found.stddev.numpy() == pytest.approx(np.sqrt(stddev**2 + 0.2**2), abs=1e-9)


def test_data_sets_of_a_gaussian_process_have_its_covariance() -> None:
    x, y = PRIOR.sample(4000, 3, torch.Generator().manual_seed(0))
    root = torch.linalg.cholesky(PRIOR._noisy(x.double()))
    white = torch.linalg.solve_triangular(root, y.double().unsqueeze(-1), upper=False).squeeze(-1)
    found = white.T @ white / len(white)
    assert (found - torch.eye(3)).abs().max() < 4.5 * (2 / len(white)) ** 0.5


def test_data_sets_of_a_network() -> None:
    """f = w·x + b with N(0, 0.5²): the covariance of two rows is 0.25 (x·x′ + 1)."""
    prior = NetworkPrior(nn.Linear(2, 1), num_inputs=2, prior=Normal(scale=0.5), noise=0.1)
    x, y = prior.sample(20_000, 2, torch.Generator().manual_seed(0))
    expected = 0.25 * ((x[:, 0] * x[:, 1]).sum(-1) + 1)
    product = y[:, 0] * y[:, 1] - expected
    assert abs(float(product.mean())) < 4.5 * float(product.std()) / len(x) ** 0.5
    slope = (product * expected).mean() / expected.square().mean()
    assert abs(float(slope)) < 0.1
    assert isinstance(prior, DataPrior)


@pytest.mark.parametrize(
    ("x", "y", "new", "words"),
    [
        (torch.zeros(2, 2), torch.zeros(2), torch.zeros(1, 1), "was trained for"),
        (torch.zeros(2, 1), torch.zeros(3), torch.zeros(1, 1), "was trained for"),
        (torch.zeros(9, 1), torch.zeros(9), torch.zeros(1, 1), "at most 6"),
        (torch.full((2, 1), float("nan")), torch.zeros(2), torch.zeros(1, 1), "finite"),
    ],
)
def test_bad_data(trained: PFN, x: Tensor, y: Tensor, new: Tensor, words: str) -> None:
    with pytest.raises(DataError, match=words):
        trained.predict(x, y, new)


@pytest.mark.parametrize(
    "settings",
    [{"num_steps": 0}, {"batch_size": 0}, {"learning_rate": -1.0}, {"width": 30, "num_heads": 4}, {"num_layers": 0}],
)
def test_bad_settings(settings: dict[str, float]) -> None:
    with pytest.raises(MethodError):
        fit_pfn(PRIOR, **settings)  # type: ignore[arg-type]


def test_bad_priors() -> None:
    with pytest.raises(MethodError, match="noise"):
        GPPrior(noise=0.0)
    with pytest.raises(MethodError, match="noise"):
        NetworkPrior(nn.Linear(1, 1), 1, noise=-1.0)
    with pytest.raises(DataError, match="fit"):
        PRIOR.posterior(torch.zeros(2, 1), torch.zeros(3), torch.zeros(1, 1))
    rng = torch.Generator().manual_seed(0)
    with pytest.raises(MethodError, match="must give"):
        NetworkPrior(nn.Linear(1, 2), 1).sample(2, 3, rng)
    with pytest.raises(bay.BayesifyError, match="improper"):
        NetworkPrior(nn.Linear(1, 1), 1, prior=Flat()).sample(2, 3, rng)
