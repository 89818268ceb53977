import itertools
import math
from pathlib import Path

import pytest
import torch
from small_problems import (
    convolutional,
    critical_value,
    fitted,
    image_data,
    normalised,
    plain,
    problem_of,
    regression_data,
    run_of,
    seeded_module,
)
from torch import Tensor, nn

import bayesify as bay
from bayesify.engine.optimise import Schedule, Training, optimise
from bayesify.engine.rng import seeded
from bayesify.errors import MethodError, ModelError
from bayesify.methods import MCDropout
from bayesify.methods.mc_dropout import draw_masks, mask_sizes
from bayesify.model.dropout import FixedDropout
from bayesify.model.network import Mode, Network
from bayesify.model.problem import Batch
from bayesify.model.transform import transformed, with_transform


def network_of(module: nn.Module, rate: float = 0.3) -> Network:
    return Network(transformed(module, {"dropout": rate}), {"dropout": rate})


def test_masks_have_the_stated_frequency_and_scale() -> None:
    network = network_of(plain(), rate=0.3)
    masks = draw_masks(network, {"1.1.mask": 8}, 20_000, torch.Generator().manual_seed(0))["1.1.mask"]
    assert masks.shape == (20_000, 8)
    assert set(masks.unique().tolist()) == {0.0, float(torch.tensor(1.0) / 0.7)}
    kept = (masks > 0).double()
    z = (kept.mean(0) - 0.7) / math.sqrt(0.7 * 0.3 / 20_000)
    assert z.abs().max() < critical_value(8)
    covariance = (kept - 0.7).T @ (kept - 0.7) / 20_000
    off_diagonal = covariance[~torch.eye(8, dtype=torch.bool)] / (0.7 * 0.3 / math.sqrt(20_000))
    assert off_diagonal.abs().max() < critical_value(28)  # features are dropped independently


def test_average_over_masks_converges_to_the_explicit_average() -> None:
    module = seeded_module(lambda: nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1)).double())
    data = regression_data(60, 2)
    count = 4_000
    posterior = fitted(problem_of(module, data), MCDropout(rate=0.3, num_samples=count), 6)
    x = data[0][:5].double()
    named = posterior.model.network.layout.unflatten(posterior.kept.theta[0, :-1])
    hidden = torch.tanh(x @ named["0.weight"].T + named["0.bias"])
    mean, square = torch.zeros(5, dtype=torch.float64), torch.zeros(5, dtype=torch.float64)
    for kept in itertools.product([0.0, 1.0], repeat=3):
        probability = math.prod(0.7 if one else 0.3 for one in kept)
        output = (hidden * torch.tensor(kept).double() / 0.7) @ named["2.weight"][0] + named["2.bias"]
        mean, square = mean + probability * output, square + probability * output.square()
    error = ((square - mean.square()) / count).sqrt()
    assert error.min() > 1e-5  # the masks matter
    predicted = posterior.predict(data[0][:5])
    assert ((predicted.mean - mean).abs() / error).max() < critical_value(5)
    torch.testing.assert_close(predicted.epistemic, square - mean.square(), rtol=0.15, atol=0)


def test_training_draws_masks_for_every_example() -> None:
    layer = FixedDropout(0.5).train()
    with seeded(0):
        masks = layer(torch.ones(200, 30))
        again = layer(torch.ones(200, 30))
    assert len(masks.unique(dim=0)) == 200
    assert not torch.equal(masks, again)
    assert set(masks.unique().tolist()) == {0.0, 2.0}


def test_training_gives_every_particle_its_own_masks() -> None:
    problem = with_transform(problem_of(plain(), regression_data()), dropout=0.5)
    theta = problem.initial().repeat(3, 1)
    with seeded(0):
        outputs = [
            problem.gradient(theta, Batch(problem.data)).gradient for _ in range(5)
        ]  # traced from the third call on
    values = torch.stack(outputs).reshape(15, -1)
    assert len(values.unique(dim=0)) == 15


@pytest.mark.parametrize(
    ("channels", "shape", "constant"),
    [(True, (4, 6, 5, 5), (2, 3)), (False, (4, 5, 6), (1,)), (True, (4, 6, 5), (2,))],
)
def test_masks_are_the_same_at_every_position(channels: bool, shape: tuple[int, ...], constant: tuple[int]) -> None:
    layer = FixedDropout(0.5, channels=channels).train()
    with seeded(0):
        trained = layer(torch.ones(shape))
    layer.eval()
    layer(torch.ones(shape))
    assert layer.num_features == 6
    layer.mask = torch.tensor([0.0, 2.0, 2.0, 0.0, 0.0, 2.0])
    fixed = layer(torch.ones(shape))
    for values in (trained, fixed):
        assert torch.equal(values, values.mean(constant, keepdim=True).expand(shape))
    assert len(trained.flatten(1).unique(dim=0)) > 1
    assert len(fixed.flatten(1).unique(dim=0)) == 1


def test_draw_is_one_function() -> None:
    data = regression_data()
    posterior = fitted(problem_of(plain(), data), MCDropout(rate=0.4), 4)
    function = posterior.draw(seed=3)
    whole = function(data[0])
    assert torch.equal(whole, function(data[0]))
    torch.testing.assert_close(torch.cat([function(data[0][:7]), function(data[0][7:])]), whole)
    # It is one of the kept masks' functions, and another seed gives another.
    outputs = posterior.predict(data[0]).outputs
    assert (outputs - whole).abs().amax((1, 2)).min() < 1e-5
    assert not torch.allclose(posterior.draw(seed=4)(data[0]), whole)
    assert posterior.predict(data[0]).epistemic.min() > 0


def test_predictions_do_not_depend_on_the_batch() -> None:
    data = regression_data()
    posterior = fitted(problem_of(normalised(), data), MCDropout(), 4)
    whole = posterior.predict(data[0]).mean
    parts = torch.cat([posterior.predict(part).mean for part in data[0].split(33)])
    torch.testing.assert_close(parts, whole)


class Sequence(nn.Module):
    """Embeds tokens, drops features, averages over positions."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.embed, self.drop, self.head = nn.Embedding(20, 6), nn.Dropout(0.5), nn.Linear(6, 2)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.drop(self.embed(tokens)).mean(1))


def test_sequences_of_any_length_share_the_mask() -> None:
    rng = torch.Generator().manual_seed(0)
    tokens = torch.randint(20, (50, 7), generator=rng)
    posterior = fitted(problem_of(seeded_module(Sequence), (tokens, tokens[:, 0] % 2)), MCDropout(), 4)
    assert posterior.kept.buffers["drop.mask"].shape == (100, 6)
    repeated = tokens[:5].repeat(1, 3)  # the mean over positions stays, if positions share the mask
    torch.testing.assert_close(posterior.predict(repeated).outputs, posterior.predict(tokens[:5]).outputs)


def test_convolutions_drop_channels() -> None:
    posterior = fitted(problem_of(convolutional(), image_data()), MCDropout(), 4)
    sizes = {name: mask.shape for name, mask in posterior.kept.buffers.items() if name.endswith("mask")}
    assert sizes == {"2.1.mask": (100, 3), "4.1.mask": (100, 4)}
    assert posterior.predict(image_data()[0][:5]).epistemic.min() > 0
    means = posterior.kept.buffers["1.running_mean"]
    assert torch.equal(means[0], means[-1])  # one network, one set of statistics
    assert means[0].abs().max() > 0


class Transformer(nn.Module):
    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.body = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.3, batch_first=True)
        self.head = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).mean(1))


def test_transformer_layers_do_not_bypass_their_masks() -> None:
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(40, 5, 8, generator=rng)
    posterior = fitted(problem_of(seeded_module(Transformer), (x, (x[:, 0, 0] > 0).long())), MCDropout(), 2)
    assert set(posterior.kept.buffers) == {"body.dropout.mask", "body.dropout1.mask", "body.dropout2.mask"}
    assert posterior.predict(x).epistemic.min() > 0
    for one in (posterior.draw(seed=s)(x) for s in range(2)):
        outputs = posterior.predict(x).outputs
        assert (outputs - one).abs().amax((1, 2)).min() < 1e-5


def test_own_layers_keep_their_rates_and_kinds() -> None:
    module = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.Dropout(0.1), nn.Dropout2d(0.2), nn.Flatten(), nn.Dropout(0.3), nn.Linear(48, 4),
        nn.Dropout(0.4), nn.ReLU(), nn.Linear(4, 2),
    )  # fmt: skip
    changed = transformed(module, {"dropout": 0.9})
    found = {name: layer for name, layer in changed.named_modules() if isinstance(layer, FixedDropout)}
    assert [layer.p for layer in found.values()] == [0.1, 0.2, 0.3, 0.4]
    assert [layer.feature_dim for layer in found.values()] == [1, 1, 1, -1]
    assert isinstance(module[1], nn.Dropout)  # the user's is left as it is


def test_a_layer_in_several_places_gets_a_mask_for_each() -> None:
    relu = nn.ReLU()
    module = nn.Sequential(nn.Linear(4, 8), relu, nn.Linear(8, 5), relu, nn.Linear(5, 1))
    problem = with_transform(problem_of(module, regression_data()), dropout=0.3)
    assert mask_sizes(problem) == {"1.1.mask": 8, "3.1.mask": 5}


class Shared(nn.Module):
    """One dropout module, called with two widths."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.first, self.second, self.head = nn.Linear(4, 8), nn.Linear(8, 5), nn.Linear(5, 1)
        self.drop = nn.Dropout(0.3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.drop(self.second(self.drop(self.first(x)).relu()).relu()))


def test_a_layer_called_with_several_widths() -> None:
    posterior = fitted(problem_of(seeded_module(Shared), regression_data()), MCDropout(), 3)
    assert posterior.kept.buffers["drop.mask"].shape == (100, 8)
    assert posterior.predict(regression_data()[0]).epistemic.min() > 0


def test_wider_inputs_than_the_mask_are_refused() -> None:
    layer = FixedDropout(0.5).eval()
    layer.mask = torch.ones(4)
    with pytest.raises(ModelError, match="meets 5 features but its masks were drawn for 4"):
        layer(torch.ones(2, 5))


def test_activation_on_the_outputs_is_not_dropped() -> None:
    network = network_of(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1), nn.Softplus()))
    assert list(network.indexed) == ["1.1.mask"]


def test_activations_registered_after_all_layers_count() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            nn.Module.__init__(self)
            self.first, self.head, self.act = nn.Linear(4, 8), nn.Linear(8, 1), nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.act(self.first(x)))

    assert list(network_of(Net()).indexed) == ["act.1.mask"]


def test_no_place_for_dropout_is_an_error() -> None:
    with pytest.raises(ModelError, match="neither dropout layers nor activation modules"):
        fitted(problem_of(nn.Linear(4, 1), regression_data()), MCDropout(), 2)


def test_alpha_dropout_is_refused() -> None:
    module = nn.Sequential(nn.Linear(4, 8), nn.SELU(), nn.AlphaDropout(0.1), nn.Linear(8, 1))
    with pytest.raises(ModelError, match="alpha dropout"):
        fitted(problem_of(module, regression_data()), MCDropout(), 2)


def test_pretrained_with_dropout_is_not_trained() -> None:
    module = normalised()
    module[1].running_mean.fill_(0.3)
    problem = problem_of(module, regression_data(), pretrained=True)
    posterior = fitted(problem, MCDropout(), 10)
    assert torch.equal(posterior.kept.theta[0], problem.initial())
    assert torch.equal(posterior.kept.buffers["1.running_mean"][0], torch.full((8,), 0.3))
    assert posterior.cost.gradient_evaluations == 0
    assert posterior.cost.forward_evaluations == 1
    assert "needs no training" in posterior.diagnostics.values["unspent"]


def test_pretrained_without_dropout_learns_to_live_with_it() -> None:
    problem = problem_of(plain(), regression_data(), pretrained=True)
    still = fitted(problem, MCDropout(learning_rate=1e-30), 10)
    assert torch.equal(still.kept.theta[0, :-1], problem.initial()[:-1])
    moved = fitted(problem_of(plain(), regression_data(), pretrained=True), MCDropout(rate=0.5), 10)
    assert not torch.equal(moved.kept.theta[0], problem.initial())
    # With dropout on in training, the gradient is not that of the network without it.
    other = fitted(problem_of(plain(), regression_data(), pretrained=True), MCDropout(rate=1e-6), 10)
    assert not torch.allclose(moved.kept.theta[0], other.kept.theta[0])


def test_frozen_parameters_stay() -> None:
    module = plain()
    module[0].weight.requires_grad_(False)
    posterior = fitted(problem_of(module, regression_data()), MCDropout(), 3)
    assert "0.weight" not in posterior.sample()
    held = dict(posterior.model.network.module.named_parameters())["0.weight"]
    assert torch.equal(held, module[0].weight)


@pytest.mark.parametrize("rate", [0.0, 1.0, -0.1, 2])
def test_rate_is_checked(rate: float) -> None:
    with pytest.raises(MethodError) as error:
        MCDropout(rate=rate)
    assert str(error.value) == f"MCDropout(rate={rate!r}): rate must be between 0 and 1."


def test_saved_once_for_all_masks(tmp_path: Path) -> None:
    data = regression_data()
    posterior = fitted(problem_of(normalised(), data), MCDropout(num_samples=50), 3)
    assert len(posterior.tensors()["theta"]) == 1
    posterior.save(tmp_path / "net.bayes")
    loaded = bay.load(tmp_path / "net.bayes", normalised())
    assert torch.equal(loaded.predict(data[0]).mean, posterior.predict(data[0]).mean)


def test_masks_act_in_prediction_mode_only() -> None:
    network = network_of(plain())
    buffers = {"1.1.mask": torch.zeros(8)}
    outputs = network(network.initial, buffers, torch.ones(3, 4), Mode.PREDICT)
    torch.testing.assert_close(outputs, network.layout.unflatten(network.initial)["2.bias"].expand(3, 1))


# ---- dropout everywhere, and examples that come several times --------------------------------------------------------


def test_everywhere_is_after_every_layer_but_the_last() -> None:
    problem = with_transform(problem_of(convolutional(), image_data()), dropout_everywhere=0.3)
    assert mask_sizes(problem) == {"0.1.mask": 3, "3.1.mask": 4}
    assert [layer.feature_dim for layer in problem.network.indexed.values()] == [1, 1]  # whole filters
    problem = with_transform(problem_of(normalised(), regression_data()), dropout_everywhere=0.3)
    assert mask_sizes(problem) == {"0.1.mask": 8}
    assert isinstance(problem.network.module[3], nn.Identity)  # the network's own is gone
    module = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 1))
    assert mask_sizes(with_transform(problem_of(module, regression_data()), dropout_everywhere=0.3)) == {"0.1.mask": 8}


def test_everywhere_leaves_the_inside_of_attention_alone() -> None:
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(40, 5, 8, generator=rng)
    problem = problem_of(seeded_module(Transformer), (x, (x[:, 0, 0] > 0).long()))
    posterior = fitted(problem, MCDropout(everywhere=True), 2)
    assert set(posterior.kept.buffers) == {"body.linear1.1.mask", "body.linear2.1.mask"}


def test_everywhere_needs_two_layers_and_is_a_setting_that_is_saved(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no other linear"):
        with_transform(problem_of(nn.Linear(4, 1), regression_data()), dropout_everywhere=0.3)
    x, y = regression_data()
    method = MCDropout(everywhere=True, repeats=2, num_samples=5)
    posterior = bay.fit(plain(), (x, y), method=method, budget=bay.Budget(epochs=4), progress=False)
    posterior.save(tmp_path / "net.bayes")
    loaded = bay.load(tmp_path / "net.bayes", plain())
    torch.testing.assert_close(loaded.predict(x).outputs, posterior.predict(x).outputs)


def test_a_pretrained_network_is_trained_with_the_new_places() -> None:
    posterior = fitted(problem_of(normalised(), regression_data(), pretrained=True), MCDropout(everywhere=True), 4)
    assert posterior.cost.gradient_evaluations > 0


def test_repeated_examples_are_paid_for() -> None:
    data = regression_data()
    for repeats, size in ((1, 20), (4, 20), (4, 500)):
        problem = problem_of(plain(), data)
        schedule = Schedule(0.01, size, repeats=repeats)
        training = Training(problem, run_of(problem, 8), problem.initial()[None], schedule)
        assert training.rows is not None
        targets = problem.batch(training.rows).data.targets
        assert len(targets) == min(size, 200) * repeats == training.batch_size
        assert torch.equal(targets, targets[::repeats].repeat_interleave(repeats))
        found = fitted(problem_of(plain(), data), MCDropout(repeats=repeats, batch_size=size), 8)
        step = len(targets)
        assert 8 * 200 - step <= found.cost.gradient_evaluations <= 8 * 200
        assert found.cost.gradient_evaluations % step == 0


def test_without_randomness_repetition_changes_nothing() -> None:
    """The same steps on the same rows: R times the gradient of R times the examples."""
    data = regression_data()
    found = []
    for repeats in (1, 3):
        problem = problem_of(plain(), data)
        run = run_of(problem, 2 * repeats)
        found.append(optimise(problem, run, problem.initial()[None], Schedule(0.01, 20, repeats=repeats)))
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-5)


def test_repetition_lowers_the_noise_of_gradients() -> None:
    """Of examples under R masks each, the variance due to masks falls as 1/R."""
    problem = with_transform(problem_of(plain(), regression_data()), dropout_everywhere=0.4)
    theta = problem.initial().repeat(400, 1)
    spread = {}
    with seeded(0):
        for repeats in (1, 4):
            rows = torch.arange(20).repeat_interleave(repeats)
            gradient = problem.likelihood_gradient(theta, problem.batch(rows))[0] / len(rows)
            spread[repeats] = float(gradient.var(0).sum())
    assert spread[1] / spread[4] == pytest.approx(4.0, rel=0.4)
