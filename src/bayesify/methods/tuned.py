"""Tuning of a method's declared hyperparameters on held-out data, the trials charged to the same budget.

Half of the budget is divided among `num_trials` suggestions of Optuna's tree-structured Parzen estimator (Bergstra et
al., NeurIPS 2011), the first being the method's own settings; the best by validation log likelihood then gets the other
half. Tuning thus costs training, as it does in life.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch

from bayesify.engine.run import Run
from bayesify.errors import BayesifyError, DataError
from bayesify.methods.base import Exactness, Method, MethodInfo, Range, Wrapper, require_positive
from bayesify.model.problem import Problem
from bayesify.posterior.base import Posterior

TRIALS_SHARE = 0.5


@dataclass(frozen=True)
class Tuned(Wrapper):
    """`method` with the best of `num_trials` settings."""

    num_trials: int = 10

    info = MethodInfo(
        name="tuned",
        family="tuning",
        exactness=Exactness.NOT_A_POSTERIOR,
        reference="Bergstra et al., NeurIPS 2011; Optuna",
        summary="any method, its hyperparameters tuned within the budget",
        bias="settings were chosen on held-out data; otherwise the method's own",
        uses_validation=True,
    )

    def __post_init__(self) -> None:
        require_positive(self, "num_trials")

    @property
    def needs_validation(self) -> bool:
        """Yes."""
        return True

    @property
    def is_post_hoc(self) -> bool:
        """No: the trials need a budget, whatever the method."""
        return False

    def fit(self, problem: Problem, run: Run) -> Posterior:
        """Trials, then the final fit."""
        if problem.validation is None:
            raise DataError("tuning needs held-out data: pass validation data or a larger validation fraction.")
        best, values = self._search(problem, run)
        final = run.phase("final")
        posterior = best.fit(problem, final)
        run.notes["tuned"] = {name: value for name, value in values.items() if value is not None}
        return posterior

    def _search(self, problem: Problem, run: Run) -> tuple[Method, dict[str, Any]]:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        sampler = optuna.samplers.TPESampler(seed=run.seed % 2**31, n_startup_trials=max(2, self.num_trials // 3))
        study = optuna.create_study(direction="maximize", sampler=sampler)
        study.enqueue_trial(own_settings(self.method))
        for number in range(self.num_trials):
            trial = study.ask()
            # Of what remains, because a budget may be in seconds; a trial that stops early leaves more to the others.
            share = TRIALS_SHARE / (self.num_trials - TRIALS_SHARE * number)
            method = with_settings(self.method, lambda name, r, t=trial: _suggest(t, name, r))
            try:
                score = _score(method, problem, run.phase(f"trial-{number}", share))
            except BayesifyError:
                study.tell(trial, state=optuna.trial.TrialState.FAIL)  # e.g. it diverged: its cost stays charged
                continue
            study.tell(trial, score)
        if not any(trial.value is not None for trial in study.trials):
            return self.method, own_settings(self.method)
        chosen = study.best_trial.params
        return with_settings(self.method, lambda name, r: chosen[name]), chosen


def _score(method: Method, problem: Problem, run: Run) -> float:
    assert problem.validation is not None
    posterior = method.fit(problem, run)
    predictive = posterior.predict(problem.validation.inputs)
    passes = predictive.num_draws * posterior.model.network.passes
    problem.meter.forward(problem.validation.num_examples * passes)
    score = float(predictive.log_prob(problem.validation.targets).double().mean())
    if not torch.isfinite(torch.tensor(score)):
        raise BayesifyError("the trial's validation likelihood is not finite")
    return score


def _innermost(method: Method) -> Method:
    inner = next((v for f in dataclasses.fields(method) if isinstance(v := getattr(method, f.name), Method)), None)  # type: ignore[arg-type]
    return method if inner is None else _innermost(inner)


def own_settings(method: Method) -> dict[str, Any]:
    """The tunable settings of the innermost method as they are; None means 'automatic' and is left to the search."""
    inner = _innermost(method)
    values = {name: getattr(inner, name) for name in inner.info.search_space}
    return {name: value for name, value in values.items() if value is not None}


def with_settings(method: Method, choose: Any) -> Method:
    """The method with `choose(name, range)` for every tunable setting of the innermost method."""
    for field in dataclasses.fields(method):  # type: ignore[arg-type]
        value = getattr(method, field.name)
        if isinstance(value, Method):
            return dataclasses.replace(method, **{field.name: with_settings(value, choose)})  # type: ignore[type-var]
    changes = {name: choose(name, span) for name, span in method.info.search_space.items()}
    return dataclasses.replace(method, **changes)  # type: ignore[type-var]


def _suggest(trial: Any, name: str, span: Range) -> float | int:
    if span.integer:
        value: int = trial.suggest_int(name, int(span.low), int(span.high), log=span.log)
        return value
    number: float = trial.suggest_float(name, span.low, span.high, log=span.log)
    return number
