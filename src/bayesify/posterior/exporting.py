"""A posterior's predictive as one graph of torch operations, to be run where bayesify is not installed.

The draws are fixed when the graph is made and become its constants; its formulas are those of `Predictive`, traced. All
draws of a batch are evaluated at once: what `predict` cuts into chunks is cut by the caller's batches here.
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.export import Dim, ExportedProgram
from torch.func import vmap
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils import _pytree as pytree

from bayesify.data import num_rows
from bayesify.errors import UnsupportedError
from bayesify.model.model import explained
from bayesify.model.network import Buffers, Mode
from bayesify.posterior.base import Particles, Posterior, require_draws
from bayesify.posterior.calibrated import Calibrated
from bayesify.posterior.draws import Draws
from bayesify.posterior.gaussian import Gaussian
from bayesify.posterior.mixture import Mixture
from bayesify.predictive import Predictive

One = Callable[[Tensor, Buffers, Any], Tensor]
Evaluate = Callable[[One, Particles, Any], Tensor]
Predict = Callable[[Any], Predictive]

EXPORT_ERRORS = (RuntimeError, TypeError, ValueError, IndexError, AssertionError, NotImplementedError)
"""What torch raises where it cannot batch or export a model, apart from errors of its own types, which are these."""


def export(posterior: Posterior, example_inputs: Any, num_samples: int | None, seed: int) -> ExportedProgram:
    """What `Posterior.export` does."""
    require_draws(num_samples)
    placed = posterior._place(example_inputs)
    if num_rows(placed) == 1:  # a batch of one would be taken for a constant
        placed = pytree.tree_map(lambda leaf: torch.cat([leaf, leaf]), placed)
    with torch.no_grad(), _without_validation(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*LeafSpec", FutureWarning)  # torch of its own code
        try:
            return _program(_Exported(_predictor(posterior, num_samples, seed, batched)), placed)
        except EXPORT_ERRORS:
            looped = _Exported(_predictor(posterior, num_samples, seed, one_by_one))
        with explained(placed):  # what is wrong with the inputs is said as predict says it
            looped(placed)
        try:
            return _program(looped, placed)
        except EXPORT_ERRORS as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
            raise UnsupportedError(
                f"the model cannot be exported ({reason}): torch.export takes models whose forward() does not branch "
                "on values or on the size of the batch."
            ) from error


def _program(module: nn.Module, inputs: Any) -> ExportedProgram:
    """The graph of a module, for batches of any size."""
    module(inputs)  # before torch.export: a vmap that fails inside it is never left
    batch = Dim("batch")
    shapes = {"inputs": pytree.tree_map(lambda _: {0: batch}, inputs)}
    program = torch.export.export(module, (inputs,), dynamic_shapes=shapes, strict=False)
    simplified: ExportedProgram = program.run_decompositions({})  # vmap leaves calls that only Python has
    return simplified


@contextmanager
def _without_validation() -> Iterator[None]:
    # torch's Student distribution checks the one inside it by its values, whatever it is told.
    before: bool = Distribution._validate_args
    Distribution.set_default_validate_args(False)
    try:
        yield
    finally:
        Distribution.set_default_validate_args(before)


class _Exported(nn.Module):
    """Inputs (B, ...) → named tensors."""

    def __init__(self, predict: Predict) -> None:
        nn.Module.__init__(self)
        self.predict = predict

    def forward(self, inputs: Any) -> dict[str, Tensor]:
        """The predictive's summaries, by the names that `Predictive` gives them."""
        predictive = self.predict(inputs)
        if predictive.kind == "classification":
            first = {"probs": predictive.probs, "entropy": predictive.entropy()}
        else:
            first = {"mean": predictive.mean}
        if predictive.kind == "loss":
            return first | {"epistemic": predictive.epistemic}
        return first | {"epistemic": predictive.epistemic, "aleatoric": predictive.aleatoric}


def batched(function: One, particles: Particles, inputs: Any) -> Tensor:
    """Outputs of all draws at once, (S, B, C)."""
    with sdpa_kernel(SDPBackend.MATH):  # vmap can batch its parts, but not the fused kernels
        return vmap(function, in_dims=(0, 0, None))(*particles, inputs)


def one_by_one(function: One, particles: Particles, inputs: Any) -> Tensor:
    """Outputs of one draw after the other, (S, B, C): for networks that cannot be batched."""
    theta, buffers = particles
    draws = range(len(theta))
    return torch.stack([function(theta[s], {n: value[s] for n, value in buffers.items()}, inputs) for s in draws])


def _stored(value: Tensor) -> Tensor:
    """A tensor of its own for the graph; (1, ...) of what all draws share, as the weights under dropout."""
    return (value[:1] if value.stride(0) == 0 else value).clone()


def _predictor(posterior: Posterior, num_samples: int | None, seed: int, evaluate: Evaluate) -> Predict:
    """`posterior._predict` with its draws taken beforehand."""
    if isinstance(posterior, Calibrated):
        base = _predictor(posterior.base, num_samples, seed, evaluate)
        return lambda inputs: base(inputs).calibrated(posterior.predictive_temperature)
    if isinstance(posterior, Mixture):
        share = posterior.share(num_samples)
        parts = [_predictor(component, share, seed, evaluate) for component in posterior.components]
        return lambda inputs: Predictive.pooled([part(inputs) for part in parts])
    if not isinstance(posterior, (Draws, Gaussian)):
        raise UnsupportedError(
            f"a {posterior.form} posterior cannot be exported, because it takes derivatives of the network when it "
            "predicts: fit laplace(linearised=False), or another method."
        )
    model = posterior.model
    drawn = posterior.particles(num_samples, seed)
    theta, own = (_stored(part) for part in model.split(drawn.theta))
    buffers = {name: _stored(value) for name, value in drawn.buffers.items()}
    count = len(drawn.theta)

    def function(theta: Tensor, buffers: Buffers, inputs: Any) -> Tensor:
        return model.network(theta, buffers, inputs, Mode.PREDICT)

    def predict(inputs: Any) -> Predictive:
        each = {name: value.expand(count, *value.shape[1:]) for name, value in buffers.items()}
        outputs = evaluate(function, Particles(theta.expand(count, -1), each), inputs)
        return Predictive(model.likelihood, outputs, own.expand(count, -1))

    return predict
