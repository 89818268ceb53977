"""Methods by name, and the little language of the command line: 'multi(swag, 5)', 'laplace(structure=diag)'."""

import ast
import dataclasses
import difflib
import importlib
from typing import Any

from bayesify.errors import MethodError, suggest
from bayesify.methods.base import Method

_TARGETS = {
    "map": "bayesify.methods.map:MAP",
    "deep_ensemble": "bayesify.methods.deep_ensemble:DeepEnsemble",
    "prior_ensemble": "bayesify.methods.prior_ensemble:PriorEnsemble",
    "epinet": "bayesify.methods.epinet:Epinet",
    "packed_ensemble": "bayesify.methods.packed_ensemble:PackedEnsemble",
    "batch_ensemble": "bayesify.methods.batch_ensemble:BatchEnsemble",
    "repulsive_ensemble": "bayesify.methods.repulsive_ensemble:RepulsiveEnsemble",
    "mc_dropout": "bayesify.methods.mc_dropout:MCDropout",
    "swag": "bayesify.methods.swag:SWAG",
    "pca_subspace": "bayesify.methods.pca_subspace:PCASubspace",
    "laplace": "bayesify.methods.laplace:Laplace",
    "sngp": "bayesify.methods.sngp:SNGP",
    "vbll": "bayesify.methods.vbll:VBLL",
    "ivon": "bayesify.methods.ivon:IVON",
    "mean_field_vi": "bayesify.methods.mean_field_vi:MeanFieldVI",
    "low_rank_vi": "bayesify.methods.low_rank_vi:LowRankVI",
    "von": "bayesify.methods.von:VON",
    "hmc": "bayesify.methods.hmc:HMC",
    "nuts": "bayesify.methods.nuts:NUTS",
    "chees_hmc": "bayesify.methods.chees_hmc:ChEESHMC",
    "sgld": "bayesify.methods.sgld:SGLD",
    "sghmc": "bayesify.methods.sghmc:SGHMC",
    "adaptive_sghmc": "bayesify.methods.adaptive_sghmc:AdaptiveSGHMC",
    "sgnht": "bayesify.methods.sgnht:SGNHT",
    "adam_sgld": "bayesify.methods.adam_sgld:AdamSGLD",
    "smile": "bayesify.methods.smile:SMILE",
    "split_hmc": "bayesify.methods.split_hmc:SplitHMC",
    "sae": "bayesify.methods.sae:SAE",
    "cyclical": "bayesify.methods.cyclical:Cyclical",
    "mclmc": "bayesify.methods.mclmc:MCLMC",
    "adjusted_mclmc": "bayesify.methods.adjusted_mclmc:AdjustedMCLMC",
    "mile": "bayesify.methods.mile:MILE",
    "multi": "bayesify.methods.multi:Multi",
    "subset": "bayesify.methods.subset:Subset",
    "tempered": "bayesify.methods.tempered:Tempered",
    "temperature_scaled": "bayesify.methods.temperature_scaled:TemperatureScaled",
    "tuned": "bayesify.methods.tuned:Tuned",
}
"""Imported when asked for, so that listing names costs nothing."""

SHORT = {
    "multi_swag": "multi(swag, 5)",
    "multi_laplace": "multi(laplace, 5)",
    "multi_ivon": "multi(ivon, 5)",
    "laplace_last_layer": "subset(laplace(structure=full), last)",
    "neural_linear": "subset(laplace(structure=per_output), last)",
}
"""What combinations are called in the literature. Neural linear (Snoek et al. 2015) is Bayesian linear regression on
the last hidden features: Laplace on the last layer, which is exact there under Gaussian noise."""

_registered: dict[str, type[Method]] = {}


def register(method: type[Method]) -> type[Method]:
    """Adds a user's method class under its `info.name`; usable as a decorator.

    Raises:
        MethodError: the name is taken.
    """
    name = method.info.name
    if name in _TARGETS or name in SHORT or name in _registered:
        raise MethodError(f"a method named {name!r} exists already: give yours another info.name.")
    _registered[name] = method
    return method


def method_names() -> list[str]:
    """All known names, built-in and registered."""
    return sorted([*_TARGETS, *_registered])


def method_class(name: str) -> type[Method]:
    """The class behind a name.

    Raises:
        MethodError: the name is unknown; the nearest is suggested.
    """
    if name in _registered:
        return _registered[name]
    if name not in _TARGETS:
        raise MethodError(f"unknown method {name!r}. {suggest(name, method_names())}")
    module, _, attribute = _TARGETS[name].partition(":")
    found: type[Method] = getattr(importlib.import_module(module), attribute)
    return found


def get_method(method: "str | Method") -> Method:
    """A method from its written form, or the one given.

    Args:
        method: a Method, a name ('swag'), or a call of names with settings: 'swag(num_samples=50)',
            'multi(ivon, 5)', 'subset(laplace(structure=full), last)'.

    Raises:
        MethodError: unknown name or setting, or not written as above.
    """
    if isinstance(method, Method):
        return method
    if not isinstance(method, str):
        raise MethodError(
            f"method={method!r} is neither a name nor a method: write 'swag', or methods.SWAG() with parentheses."
        )
    try:
        tree = ast.parse(method.strip(), mode="eval").body
    except SyntaxError as error:
        raise MethodError(f"cannot read the method {method!r}: write it like 'swag' or 'multi(swag, 5)'.") from error
    built = _build(tree, method)
    if not isinstance(built, Method):
        raise MethodError(f"unknown method {method!r}. {suggest(method, [*method_names(), *SHORT])}")
    return built


def _build(node: ast.expr, text: str) -> Any:
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_build(node.operand, text)
    if isinstance(node, ast.Name):
        # A bare word is a method where one is known, otherwise a string setting such as `kron` or `last`.
        if node.id in SHORT:
            return get_method(SHORT[node.id])
        return method_class(node.id)() if node.id in method_names() and _has_defaults(node.id) else node.id
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        arguments = [_build(argument, text) for argument in node.args]
        settings = {keyword.arg or "**": _build(keyword.value, text) for keyword in node.keywords}
        return _call(method_class(node.func.id), arguments, settings)
    raise MethodError(f"cannot read {ast.unparse(node)!r} in the method {text!r}: write it like 'multi(swag, 5)'.")


def _has_defaults(name: str) -> bool:
    return all(f.default is not dataclasses.MISSING for f in dataclasses.fields(method_class(name)))  # type: ignore[arg-type]


def _call(cls: type[Method], arguments: list[Any], settings: dict[str, Any]) -> Method:
    names = [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]
    for name in settings:
        if name not in names:
            raise MethodError(f"{cls.info.name} has no setting {name!r}. {suggest(name, names)}")
    fields: dict[str, Any] = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for name, value in [*zip(names, arguments, strict=False), *settings.items()]:
        wants_method = fields[name].type in (Method, "Method")
        if wants_method and not isinstance(value, Method):
            near = difflib.get_close_matches(str(value), method_names(), n=1)
            hint = f"Did you mean {near[0]!r}?" if near else f"Known: {', '.join(method_names())}."
            raise MethodError(f"{cls.info.name} needs a method as its {name}, got {value!r}. {hint}")
    try:
        return cls(*arguments, **settings)
    except TypeError as error:
        raise MethodError(f"{cls.info.name} takes ({', '.join(names)}): {error}.") from error
