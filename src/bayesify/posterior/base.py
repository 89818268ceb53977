"""What every method returns: a posterior that predicts, draws functions, reports its cost and can be saved."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from bayesify.data import as_inputs
from bayesify.engine.budget import Cost
from bayesify.engine.rng import generator
from bayesify.errors import MethodError, UnsupportedError
from bayesify.model.model import Model, explained
from bayesify.model.network import Buffers
from bayesify.predictive import Predictive

if TYPE_CHECKING:
    from torch.export import ExportedProgram

Function = Callable[[Any], Tensor]
"""x (B, ...) → outputs (B, C)."""


class Particles(NamedTuple):
    """S complete parameter settings of the model."""

    theta: Tensor  # (S, P)
    buffers: Buffers  # {name: (S, ...)}


class Functions(NamedTuple):
    """Values of S functions at B inputs, and the likelihood's own parameters that belong to each."""

    outputs: Tensor  # (S, B, C)
    parameters: Tensor  # (S, L)


@dataclass(frozen=True)
class Diagnostics:
    """How the fit went: numbers by name, and warnings in words that say what to do."""

    values: dict[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = [f"{name}: {value}" for name, value in self.values.items()]
        return "\n".join([*lines, *(f"warning: {text}" for text in self.warnings)]) or "nothing to report"


@dataclass
class Record:
    """What `fit` writes on a finished posterior."""

    method: str = ""
    temperature: float = 1.0
    seed: int = 0
    cost: Cost = field(default_factory=Cost)
    diagnostics: Diagnostics = field(default_factory=Diagnostics)
    log_evidence: float | None = None


class Posterior(ABC):
    """A (possibly approximate) posterior over functions. Subclasses are its few forms."""

    form: ClassVar[str]

    def __init__(self, model: Model) -> None:
        self.model = model
        self.record = Record()

    # ---- what each form defines ----------------------------------------------------------------------------------

    @abstractmethod
    def particles(self, num_samples: int | None = None, seed: int = 0) -> Particles:
        """Parameter draws; None gives the form's natural number of them."""

    @abstractmethod
    def _predict(self, inputs: Any, num_samples: int | None, seed: int) -> Predictive:
        """The predictive for inputs already on the device."""

    @abstractmethod
    def _functions(self, inputs: Any, num_samples: int | None, seed: int) -> Functions:
        """Values of functions at inputs already on the device."""

    @abstractmethod
    def _draw(self, seed: int) -> Function:
        """One function of inputs already on the device."""

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """All numbers that must be saved."""

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """All else that must be saved, JSON-ready."""

    # ---- what every user calls -----------------------------------------------------------------------------------

    def predict(self, inputs: Any, num_samples: int | None = None, seed: int = 0) -> Predictive:
        """The posterior predictive.

        Args:
            inputs: (B, ...) in any form `fit` takes.
            num_samples: how many draws to average; None uses all that were kept, or the form's default.
            seed: of the draws.

        Returns:
            A distribution over the B targets.

        Raises:
            DataError, ModelError: the inputs are not finite numbers, or not of the shape that the model takes.
        """
        require_draws(num_samples)
        placed = self._place(inputs)
        with explained(placed):
            return self._predict(placed, num_samples, seed)

    def draw(self, seed: int = 0) -> Function:
        """ONE function from the posterior: the same weights (and dropout mask) at every call and every input."""
        function = self._draw(seed)

        def evaluate(inputs: Any) -> Tensor:
            placed = self._place(inputs)
            with explained(placed):
                return function(placed)

        return evaluate

    def functions(self, inputs: Any, num_samples: int | None = None, seed: int = 0) -> Functions:
        """Values of many functions at once: each is ONE draw at all inputs, as `draw` gives them one by one.

        Args:
            inputs: (B, ...) in any form `fit` takes.
            num_samples: S; None uses all that were kept, in the order in which they were, or the form's default.
            seed: of the draws.

        Raises:
            DataError, ModelError: as in `predict`.
        """
        require_draws(num_samples)
        placed = self._place(inputs)
        with explained(placed):
            return self._functions(placed, num_samples, seed)

    def sample(self, num_samples: int | None = None, seed: int = 0) -> dict[str, Tensor]:
        """Parameter draws by name, {name: (S, *shape)}; the likelihood's own parameters under 'likelihood'."""
        theta = self.particles(num_samples, seed).theta
        network, own = self.model.split(theta)
        named = self.model.network.layout.unflatten(network)
        return {**named, "likelihood": own} if own.shape[-1] else named

    @property
    def cost(self) -> Cost:
        """What the fit spent."""
        return self.record.cost

    @property
    def diagnostics(self) -> Diagnostics:
        """How the fit went."""
        return self.record.diagnostics

    @property
    def log_marginal_likelihood(self) -> float:
        """The evidence log p(D), where the method estimates it.

        Raises:
            UnsupportedError: this method does not.
        """
        if self.record.log_evidence is None:
            raise UnsupportedError(
                f"{self.record.method or self.form} gives no marginal likelihood: use laplace, which does."
            )
        return self.record.log_evidence

    def update(self, data: Any) -> "Posterior":
        """Conditions on more data without refitting, where the method can: Laplace, for its linearised functions.

        Exact for them under Gaussian noise, with full curvature; otherwise an approximation
        (`bayesify.posterior.updating`). Prior, noise and features stay as they were fitted.

        Args:
            data: in any form `fit` takes.

        Returns:
            A new posterior; this one stays as it is.

        Raises:
            UnsupportedError: it cannot; refit on all data.
        """
        from bayesify.posterior.updating import update

        return update(self, data)

    def save(self, path: str | Path) -> None:
        """Writes one file of tensors and JSON; reading it back runs no code."""
        from bayesify.posterior.saving import save

        save(self, Path(path))

    def export(self, example_inputs: Any, num_samples: int | None = None, seed: int = 0) -> "ExportedProgram":
        """The predictive as one graph that runs wherever torch does, without bayesify.

        Write it with `torch.export.save(program, path)`; `torch.export.load(path).module()(inputs)` then gives a dict
        of tensors of (B, ...) inputs of any B: 'mean', 'epistemic' and 'aleatoric' variance of regression and counts;
        'probs', 'entropy' (the total), 'epistemic' and 'aleatoric' of classification; of a loss 'mean' and 'epistemic'.
        All draws of a batch are evaluated at once: split large batches.

        Args:
            example_inputs: (B, ...) inputs, whose types and sizes beyond the first are the graph's; tensors or dicts.
            num_samples: as in `predict`.
            seed: of the draws, which are fixed in the graph: it gives what `predict` gives with the same seed.

        Raises:
            UnsupportedError: the posterior is linearised, or torch.export does not take the model.
            DataError, ModelError: as in `predict`.
        """
        from bayesify.posterior.exporting import export

        return export(self, example_inputs, num_samples, seed)

    def to_arviz(self, inputs: Any, data: Any = None) -> Any:
        """The chains' function values for ArviZ: its plots, diagnostics and leave-one-out cross-validation.

        Weights are left out: networks whose hidden units are exchanged are the same function, so that R-hat and
        effective sample sizes of weights say nothing.

        Args:
            inputs: (B, ...) at which functions are compared: `posterior["function"]` of shape (chain, draw, B), or
                (chain, draw, B, C) for several outputs; the likelihood's own parameters are beside it.
            data: (X, y) whose log likelihood is wanted by draw and example, `log_likelihood["y"]`; None leaves it out.

        Returns:
            An xarray DataTree with ArviZ 1, an InferenceData with 0.x.

        Raises:
            UnsupportedError: the draws are not of Markov chains, or ArviZ is not installed.
        """
        from bayesify.posterior.inference_data import to_arviz

        return to_arviz(self, inputs, data)

    def _place(self, inputs: Any) -> Any:
        return as_inputs(inputs, self.model.network.device, self.model.network.dtype)

    def __repr__(self) -> str:
        size = self.model.network.layout.num_parameters
        return f"<{self.form} posterior by {self.record.method or 'hand'}: {size} parameters>"


def require_draws(num_samples: int | None) -> None:
    """At least one draw, or the default.

    Raises:
        MethodError: there is none.
    """
    if num_samples is not None and num_samples < 1:
        raise MethodError(f"predict(num_samples={num_samples}): at least one draw is needed; None takes the default.")


def mixture_of(model: Model, particles: Particles, inputs: Any) -> Predictive:
    """The predictive that averages the likelihood over particles."""
    outputs = model.outputs(particles.theta, inputs, particles.buffers)
    return Predictive(model.likelihood, outputs, model.split(particles.theta)[1])


def functions_of(model: Model, particles: Particles, inputs: Any) -> Functions:
    """The functions that particles are."""
    outputs = model.outputs(particles.theta, inputs, particles.buffers)
    return Functions(outputs, model.split(particles.theta)[1])


def function_of(model: Model, particles: Particles, index: int) -> Function:
    """The function of one particle."""
    theta = particles.theta[index : index + 1]
    buffers = {name: value[index : index + 1] for name, value in particles.buffers.items()}
    return lambda inputs: model.outputs(theta, inputs, buffers)[0]


def chooser(model: Model, seed: int, *names: object) -> torch.Generator:
    """The generator behind `draw` and `sample`."""
    return generator(model.network.device, "posterior", seed, *names)
