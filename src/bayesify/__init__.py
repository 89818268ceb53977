"""bayesify: turn any PyTorch network Bayesian, then prove whether that helped."""

from typing import TYPE_CHECKING, Any

from bayesify.engine.budget import Budget as Budget
from bayesify.engine.budget import Cost as Cost
from bayesify.errors import BayesifyError as BayesifyError
from bayesify.version import __version__ as __version__

if TYPE_CHECKING:
    from bayesify import likelihoods as likelihoods
    from bayesify import methods as methods
    from bayesify import metrics as metrics
    from bayesify import models as models
    from bayesify import optim as optim
    from bayesify import pfn as pfn
    from bayesify import priors as priors
    from bayesify.arena.compare import compare as compare
    from bayesify.conformal import conformalise as conformalise
    from bayesify.fitting import estimate as estimate
    from bayesify.fitting import fit as fit
    from bayesify.fitting import fit_splits as fit_splits
    from bayesify.integrations.sklearn import BayesClassifier as BayesClassifier
    from bayesify.integrations.sklearn import BayesRegressor as BayesRegressor
    from bayesify.metrics.evaluate import evaluate as evaluate
    from bayesify.posterior import Posterior as Posterior
    from bayesify.posterior.saving import load as load
    from bayesify.predictive import Predictive as Predictive


_LAZY = {
    "fit": "bayesify.fitting:fit",
    "fit_splits": "bayesify.fitting:fit_splits",
    "compare": "bayesify.arena.compare:compare",
    "estimate": "bayesify.fitting:estimate",
    "load": "bayesify.posterior.saving:load",
    "evaluate": "bayesify.metrics.evaluate:evaluate",
    "conformalise": "bayesify.conformal:conformalise",
    "BayesClassifier": "bayesify.integrations.sklearn:BayesClassifier",
    "BayesRegressor": "bayesify.integrations.sklearn:BayesRegressor",
    "Posterior": "bayesify.posterior.base:Posterior",
    "Predictive": "bayesify.predictive:Predictive",
    "methods": "bayesify.methods",
    "likelihoods": "bayesify.likelihoods",
    "priors": "bayesify.priors",
    "metrics": "bayesify.metrics",
    "models": "bayesify.models",
    "optim": "bayesify.optim",
    "pfn": "bayesify.pfn",
}
"""Public names that are imported when first used, so that `import bayesify` and `--help` stay quick."""

__all__ = ["BayesifyError", "Budget", "Cost", "__version__", *_LAZY]


def __getattr__(name: str) -> Any:
    import importlib

    if name not in _LAZY:
        raise AttributeError(f"module 'bayesify' has no attribute {name!r}")
    module, _, attribute = _LAZY[name].partition(":")
    found = importlib.import_module(module)
    value = getattr(found, attribute) if attribute else found
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
