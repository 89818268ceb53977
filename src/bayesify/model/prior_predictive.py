"""What functions does a prior over weights believe in? Draws some, measures them, and says in words what is wrong.

Nothing here looks at targets: a prior that is certain of one class everywhere, or of outputs a hundred times the
targets' scale, is a mistake before any data are seen (Gelman, Simpson & Betancourt 2017; Wenzel et al., ICML 2020,
section 5.4, for networks).
"""

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from bayesify.data import as_inputs, num_rows
from bayesify.engine.rng import generator
from bayesify.errors import DataError, MethodError
from bayesify.model.likelihoods import Categorical, Gaussian, HeteroscedasticGaussian, Likelihood, get_likelihood
from bayesify.model.network import Mode, Network
from bayesify.model.prior import Prior
from bayesify.model.priors import Normal

MAX_ROWS = 500
"""Inputs that are looked at: a random subset of more."""
ONE_CLASS = 0.95
"""A function that predicts one class for more than this share of the inputs is a one-class function."""
CERTAIN = 0.99
"""Mean largest probability of a function that is certain of its classes."""
SATURATED = 0.95
"""Mean largest class probability, of all functions, above which a prior is certain of labels it has not seen."""
MOST, NEARLY_ALL = 0.5, 0.7
"""Shares of functions from which a fault is the prior's. Two classes and fan-in scaling give up to 0.5 one-class
functions, which is harmless while they are not certain."""
CONSTANT = 0.02
"""Standard deviation across inputs, relative to the size of the function or to 1, below which it is flat."""
EXPLODING = 10.0
"""Root mean square of outputs: ten times the spread of standardised targets, or rates of exp(10)."""

LARGEST = 1e100
"""Overflowing outputs are measured as this."""


@dataclass(frozen=True)
class PriorCheck:
    """What prior functions look like.

    Attributes:
        kind: 'classification', 'regression', 'count' or 'loss', as the likelihood says.
        num_functions: how many were drawn.
        num_inputs: on how many inputs.
        one_class: share of functions that predict one class for more than 95% of the inputs; None without classes.
        one_class_certain: share of those that do so with a mean probability above 0.99.
        confidence: mean largest class probability; None without classes.
        entropy: mean entropy of a function's class probabilities, as a share of that of equal chances; None without
            classes.
        between_functions: standard deviation between functions at one input, median over inputs. Outputs here and
            below are class logits about their mean, means in units of standardised targets, or log rates.
        across_inputs: standard deviation of one function across inputs, median over functions.
        constant: share of functions that hardly change across inputs.
        exploding: share of functions whose outputs have a root mean square above 10 or are not finite; None for
            classes.
        warnings: what is wrong, and what to do.
    """

    kind: str
    num_functions: int
    num_inputs: int
    one_class: float | None
    one_class_certain: float | None
    confidence: float | None
    entropy: float | None
    between_functions: float
    across_inputs: float
    constant: float
    exploding: float | None
    warnings: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)

    def __str__(self) -> str:
        lines = [f"{self.num_functions} functions from the prior on {self.num_inputs} inputs ({self.kind})"]
        if self.one_class is not None and self.confidence is not None and self.entropy is not None:
            lines.append(f"one class for all inputs      {self.one_class:.0%} of functions")
            lines.append(f"largest class probability     {self.confidence:.2f} on average")
            lines.append(f"entropy of classes            {self.entropy:.0%} of that of equal chances")
        lines.append(f"spread between functions      {self.between_functions:.3g}")
        lines.append(f"spread across inputs          {self.across_inputs:.3g}")
        lines.append(f"constant                      {self.constant:.0%} of functions")
        if self.exploding is not None:
            lines.append(f"exploding                     {self.exploding:.0%} of functions")
        return "\n".join([*lines, *(f"warning: {text}" for text in self.warnings)])


def check_prior(
    prior: Prior,
    model: nn.Module,
    inputs: Any,
    likelihood: str | Likelihood | None = None,
    num_functions: int = 100,
    seed: int = 0,
) -> PriorCheck:
    """Draws functions from a prior and measures them; see `Prior.check`.

    Networks with batch normalisation use the statistics of the inputs given; dropout is off.
    """
    if num_functions < 2:
        raise MethodError(f"num_functions={num_functions}: at least 2 functions are needed to see a spread.")
    network = Network(model)
    rng = generator(network.device, "prior", seed)
    placed = _some_rows(as_inputs(inputs, network.device, network.dtype), rng)
    given = None if likelihood is None else get_likelihood(likelihood)
    bound = prior.bind(network.layout, 0 if given is None else given.num_parameters, network.initial)
    theta = bound.sample(num_functions, rng)
    outputs = _functions(network, theta[:, : network.layout.num_parameters], placed)
    chosen = given or (Categorical() if outputs.shape[-1] > 1 else Gaussian(scale=1.0))
    overflow = _share(~torch.isfinite(outputs).flatten(1).all(1))
    measure = _classification if chosen.kind == "classification" else _regression
    found = measure(outputs.nan_to_num(LARGEST).clamp(-LARGEST, LARGEST), chosen, prior)
    if overflow == 0:
        return found
    text = f"{overflow:.0%} of prior functions overflow: the prior {_written(prior)} is far too wide; {_remedy(prior)}."
    return replace(found, warnings=(text, *found.warnings))


def _some_rows(inputs: Any, rng: torch.Generator) -> Any:
    count = num_rows(inputs)
    if count < 2:
        raise DataError(f"prior.check got {count} rows: at least 2 inputs are needed to see whether functions vary.")
    if count <= MAX_ROWS:
        return inputs
    rows = torch.randperm(count, generator=rng, device=rng.device)[:MAX_ROWS]
    return pytree.tree_map(lambda leaf: leaf[rows], inputs)


def _functions(network: Network, theta: Tensor, inputs: Any) -> Tensor:
    """Outputs (S, B, C) of S parameter vectors, in float64; normalisation by the statistics of these inputs."""
    results = []
    with torch.no_grad():
        for one in theta:
            buffers = {name: value[0] for name, value in network.buffers(1).items()}
            results.append(network(one, buffers, inputs, Mode.DENSITY).double())
    return torch.stack(results)


def _classification(outputs: Tensor, likelihood: Likelihood, prior: Prior) -> PriorCheck:
    components: Any = likelihood.components(outputs, outputs.new_zeros(len(outputs), 0))
    probs = components.probs  # (S, B, C)
    confidence = probs.amax(-1)
    classes = probs.argmax(-1)
    shares = torch.stack([(classes == c).double().mean(1) for c in range(probs.shape[-1])])
    one_class = shares.amax(0) > ONE_CLASS
    certain = one_class & (confidence.mean(1) > CERTAIN)
    logits = components.logits - components.logits.mean(-1, keepdim=True)
    shape = _shape(logits)
    found = PriorCheck(
        kind=likelihood.kind,
        num_functions=len(outputs),
        num_inputs=outputs.shape[1],
        one_class=_share(one_class),
        one_class_certain=_share(certain),
        confidence=float(confidence.mean()),
        entropy=float(torch.special.entr(probs).sum(-1).mean()) / math.log(probs.shape[-1]),
        between_functions=shape.between,
        across_inputs=shape.across,
        constant=shape.constant,
        exploding=None,
        warnings=(),
    )
    return replace(found, warnings=tuple(_class_warnings(found, prior)))


def _regression(outputs: Tensor, likelihood: Likelihood, prior: Prior) -> PriorCheck:
    if isinstance(likelihood, HeteroscedasticGaussian):
        outputs = outputs.chunk(2, dim=-1)[0]
    size = outputs.square().mean((1, 2)).sqrt()
    shape = _shape(outputs)
    found = PriorCheck(
        kind=likelihood.kind,
        num_functions=len(outputs),
        num_inputs=outputs.shape[1],
        one_class=None,
        one_class_certain=None,
        confidence=None,
        entropy=None,
        between_functions=shape.between,
        across_inputs=shape.across,
        constant=shape.constant,
        exploding=_share(~(size <= EXPLODING)),
        warnings=(),
    )
    return replace(found, warnings=tuple(_output_warnings(found, prior)))


class _Shape(NamedTuple):
    between: float
    across: float
    constant: float


def _shape(outputs: Tensor) -> _Shape:
    """Spreads of outputs (S, B, C) between functions and across inputs: averages over C, medians over the rest."""
    across = outputs.std(1).mean(-1)  # (S,)
    size = outputs.mean(1).abs().mean(-1).clamp_min(1.0)
    return _Shape(float(outputs.std(0).mean(-1).median()), float(across.median()), _share(across < CONSTANT * size))


def _class_warnings(found: PriorCheck, prior: Prior) -> Iterator[str]:
    assert found.one_class is not None
    assert found.one_class_certain is not None
    assert found.confidence is not None
    if found.one_class_certain > MOST:
        yield (
            f"{found.one_class_certain:.0%} of prior functions predict one class for all inputs with probability > "
            f"{CERTAIN}: the prior {_written(prior)} is too wide for this network; {_remedy(prior)}."
        )
    elif found.confidence > SATURATED:
        yield (
            f"prior functions are saturated: their largest class probability is {found.confidence:.3f} on average, "
            f"before any data are seen: the prior {_written(prior)} is too wide for this network; {_remedy(prior)}."
        )
    if found.constant > MOST:
        yield _constant_warning(found, prior)
    elif found.one_class > NEARLY_ALL and found.one_class_certain <= MOST:
        yield (
            f"{found.one_class:.0%} of prior functions predict one class for all inputs: biases outweigh what the "
            "inputs contribute; standardise the inputs, or give biases a smaller prior scale."
        )


def _output_warnings(found: PriorCheck, prior: Prior) -> Iterator[str]:
    assert found.exploding is not None
    if found.exploding > MOST:
        what = "log rates" if found.kind == "count" else "outputs"
        yield (
            f"{found.exploding:.0%} of prior functions explode: their {what} are typically beyond ±{EXPLODING:g}, "
            f"where standardised targets spread by 1: the prior {_written(prior)} is too wide for this network; "
            f"{_remedy(prior)}, and standardise the targets."
        )
    if found.constant > MOST:
        yield _constant_warning(found, prior)


def _constant_warning(found: PriorCheck, prior: Prior) -> str:
    return (
        f"{found.constant:.0%} of prior functions are constant, changing by {found.across_inputs:.2g} across inputs: "
        f"the prior {_written(prior)} is too narrow for this network, or the inputs hardly differ; "
        f"{_remedy(prior)} and standardised inputs."
    )


def _remedy(prior: Prior) -> str:
    if isinstance(prior, Normal) and prior.scale == "fan_in":
        return "use another gain, Normal(gain=1.0) being usual"
    return "use Normal(scale='fan_in')"


def _written(prior: Prior) -> str:
    if isinstance(prior, Normal) and isinstance(prior.scale, (int, float)):
        return f"N(0,{prior.scale:g}²)" if prior.scale != 1 else "N(0,1)"
    return repr(prior)


def _share(chosen: Tensor) -> float:
    return float(chosen.double().mean())
