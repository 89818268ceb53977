"""Exported graphs give what `predict` gives, for every likelihood and form, also where bayesify cannot be imported."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from small_problems import convolutional, normalised, plain
from torch import Tensor, nn

from bayesify import likelihoods
from bayesify.covariance import Diagonal
from bayesify.engine.rng import generator
from bayesify.errors import MethodError, ModelError, UnsupportedError
from bayesify.model.likelihoods import Likelihood
from bayesify.model.model import Model
from bayesify.model.network import Network
from bayesify.posterior.base import Particles, Posterior
from bayesify.posterior.calibrated import Calibrated
from bayesify.posterior.draws import Draws
from bayesify.posterior.gaussian import Gaussian
from bayesify.posterior.linearised import Linearised
from bayesify.posterior.mixture import Mixture
from bayesify.predictive import Predictive

BATCHES = (1, 2, 5, 70)
OUTPUTS: list[tuple[Likelihood, int]] = [
    (likelihoods.Gaussian(), 1),
    (likelihoods.Gaussian(scale=0.5, num_targets=2), 2),
    (likelihoods.HeteroscedasticGaussian(), 2),
    (likelihoods.StudentT(df=3.0), 1),
    (likelihoods.Poisson(), 1),
    (likelihoods.Categorical(), 3),
    (likelihoods.Bernoulli(), 1),
    (likelihoods.Loss(lambda outputs, targets: (outputs[:, 0] - targets).abs()), 1),
]


def network(num_outputs: int) -> nn.Module:
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, num_outputs))


def draws(module: nn.Module, likelihood: Likelihood, count: int = 5) -> Draws:
    model = Model(Network(module), likelihood)
    size = model.network.layout.num_parameters + likelihood.num_parameters
    theta = 0.5 * torch.randn(count, size, generator=generator("cpu", "theta"))
    return Draws(model, Particles(theta, model.network.buffers(count)))


def forms(likelihood: Likelihood, num_outputs: int) -> dict[str, Posterior]:
    base = draws(network(num_outputs), likelihood)
    mean = base.kept.theta[0]
    shared = Draws(base.model, Particles(mean.expand(5, -1), {}))
    gaussian = Gaussian(base.model, mean, Diagonal(torch.full_like(mean, 0.1)))
    return {
        "draws": base,
        "gaussian": gaussian,
        "mixture": Mixture([gaussian, gaussian]),
        "calibrated": Calibrated(Mixture([base, shared]), 1.7),
    }


def inputs(rows: int, *shape: int) -> Tensor:
    return torch.randn(rows, *(shape or (4,)), generator=generator("cpu", "inputs", rows))


def summaries(predictive: Predictive) -> dict[str, Tensor]:
    if predictive.kind == "classification":
        names = ("probs", "epistemic", "aleatoric")
        return {"entropy": predictive.entropy(), **{name: getattr(predictive, name) for name in names}}
    names = ("mean", "epistemic") if predictive.kind == "loss" else ("mean", "epistemic", "aleatoric")
    return {name: getattr(predictive, name) for name in names}


@pytest.mark.parametrize(("likelihood", "num_outputs"), OUTPUTS, ids=lambda value: getattr(value, "name", ""))
def test_every_likelihood_exports_what_it_predicts(likelihood: Likelihood, num_outputs: int) -> None:
    posterior = draws(network(num_outputs), likelihood)
    exported = posterior.export(inputs(3)).module()
    for rows in BATCHES:
        torch.testing.assert_close(exported(inputs(rows)), summaries(posterior.predict(inputs(rows))))


@pytest.mark.parametrize("form", ["draws", "gaussian", "mixture", "calibrated"])
@pytest.mark.parametrize("kind", ["regression", "classification"])
def test_every_form_of_draws_exports_what_it_predicts(form: str, kind: str) -> None:
    likelihood, size = (likelihoods.Gaussian(), 1) if kind == "regression" else (likelihoods.Categorical(), 3)
    posterior = forms(likelihood, size)[form]
    for num_samples, seed in ((None, 0), (4, 0), (4, 1)):
        exported = posterior.export(inputs(1), num_samples, seed).module()(inputs(7))
        expected = summaries(posterior.predict(inputs(7), num_samples, seed))
        torch.testing.assert_close(exported, expected)
        other = summaries(posterior.predict(inputs(7), num_samples or 3, seed + 1))
        assert not torch.allclose(exported["epistemic"], other["epistemic"])


@pytest.mark.parametrize(("module", "shape"), [(convolutional(), (1, 6, 6)), (normalised(), (4,))])
def test_networks_with_statistics_of_their_own(module: nn.Module, shape: tuple[int, ...]) -> None:
    outputs = 2 if len(shape) == 3 else 1
    posterior = draws(module, likelihoods.Categorical() if outputs == 2 else likelihoods.Gaussian())
    for value in posterior.kept.buffers.values():
        value += torch.rand(value.shape, generator=generator("cpu", "statistics"))
    exported = posterior.export(inputs(2, *shape)).module()
    torch.testing.assert_close(exported(inputs(9, *shape)), summaries(posterior.predict(inputs(9, *shape))))


class Recurrent(nn.Module):
    """vmap refuses it, so draws are evaluated one after the other."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.cell = nn.GRU(2, 3, batch_first=True)
        self.last = nn.Linear(3, 1)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        values: Tensor = self.last(self.cell(left)[0][:, -1]) + right
        return values


def test_inputs_by_name_and_models_that_cannot_be_batched() -> None:
    posterior = draws(Recurrent(), likelihoods.Gaussian())
    example, other = ({"left": inputs(rows, 5, 2), "right": inputs(rows, 1)} for rows in (3, 8))
    exported = posterior.export(example).module()
    torch.testing.assert_close(exported(other), summaries(posterior.predict(other)))


RUN_ALONE = """
import sys
class Refusing:
    def find_spec(self, name, *rest):
        if name.split(".")[0] == "bayesify":
            raise ImportError("bayesify must not be needed")
sys.meta_path.insert(0, Refusing())
try:
    import bayesify
except ImportError:
    pass
else:
    raise SystemExit("bayesify can be imported after all")
import torch
from safetensors.torch import load_file, save_file
program = torch.export.load(sys.argv[1])
found = program.module()(load_file(sys.argv[2])["x"])
save_file({name: value.contiguous() for name, value in found.items()}, sys.argv[3])
"""


def test_it_runs_without_bayesify(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    posterior = forms(likelihoods.Categorical(), 3)["calibrated"]
    program, given, found = (tmp_path / name for name in ("net.pt2", "inputs.safetensors", "found.safetensors"))
    torch.export.save(posterior.export(inputs(2)), program)
    save_file({"x": inputs(11)}, given)
    command = [sys.executable, "-c", RUN_ALONE, str(program), str(given), str(found)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    torch.testing.assert_close(load_file(found), summaries(posterior.predict(inputs(11))))


def test_the_graph_holds_torch_operations_only() -> None:
    program = draws(network(1), likelihoods.Gaussian()).export(inputs(2))
    called = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert any(name.startswith("aten.") for name in called)
    assert {name for name in called if not name.startswith(("aten.", "sym_size", "<built-in function"))} == set()


def test_what_cannot_be_exported_says_so() -> None:
    base = draws(plain(), likelihoods.Gaussian())
    mean = base.kept.theta[0]
    linearised = Linearised(base.model, mean, Diagonal(torch.ones_like(mean[:-1])))
    with pytest.raises(UnsupportedError, match="laplace\\(linearised=False\\)"):
        linearised.export(inputs(2))
    with pytest.raises(UnsupportedError, match="laplace\\(linearised=False\\)"):
        Calibrated(Mixture([linearised]), 2.0).export(inputs(2))
    with pytest.raises(ModelError, match=r"shape \(2, 3\)"):
        base.export(inputs(2, 3))
    with pytest.raises(MethodError, match="num_samples=0"):
        base.export(inputs(2), num_samples=0)


class Branching(nn.Module):
    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.layer = nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        outputs: Tensor = self.layer(x)
        return outputs if len(x) < 4 else 2 * outputs


def test_models_that_torch_cannot_export_are_refused() -> None:
    with pytest.raises(UnsupportedError, match="cannot be exported"):
        draws(Branching(), likelihoods.Gaussian()).export(inputs(2))
