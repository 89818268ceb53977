"""A method at several modes (Wilson & Izmailov, NeurIPS 2020, for SWAG: MultiSWAG).

The method runs from independent starts, each with an equal part of the budget; the posteriors are mixed equally,

    p(y | x) = (1/M) Σ_m p_m(y | x).                                                                            (1)

Modes found by training from random starts are not visited in proportion to their mass, so the equal weights are a
choice, not an estimate; and the evidence of one mode says nothing of the total over modes not found or found twice.
Modes report theirs in `diagnostics`, the mixture reports none. Cost: the method's, per mode.
"""

from dataclasses import dataclass
from typing import Any

from bayesify.engine.run import Run
from bayesify.errors import MethodError
from bayesify.methods.base import Exactness, Method, MethodInfo, Wrapper, describe, require
from bayesify.methods.temperature_scaled import TemperatureScaled
from bayesify.model.problem import Problem
from bayesify.posterior.base import Posterior
from bayesify.posterior.mixture import Mixture


@dataclass(frozen=True)
class Multi(Wrapper):
    """An equal mixture of `method` at several modes.

    Attributes:
        method: any method.
        num_modes: M, how many times it runs.
    """

    num_modes: int = 5

    info = MethodInfo(
        name="multi",
        family="combinator",
        exactness=Exactness.APPROXIMATE,
        reference="Wilson & Izmailov, NeurIPS 2020",
        summary="any method at several modes, mixed equally",
        bias="modes have equal weights, not those of the posterior",
    )

    def __post_init__(self) -> None:
        good = isinstance(self.num_modes, int) and not isinstance(self.num_modes, bool) and self.num_modes >= 1
        require(good, self, "num_modes", "a positive integer")
        if _calibrates(self.method) and self.num_modes > 1:
            raise MethodError(
                f"{describe(self)} would mix predictives at different temperatures: calibrate the mixture and not its "
                f"modes, temperature_scaled(multi(METHOD, {self.num_modes}))."
            )

    @property
    def num_particles(self) -> int:
        """Those of all modes, although only one mode's are trained at a time: the budget is theirs together."""
        return self.num_modes * self.method.num_particles

    @property
    def num_predictions(self) -> int:
        """The method's for every mode."""
        return self.num_modes * self.method.num_predictions

    def post_hoc_cost(self, problem: Problem) -> float:
        """The method's for every mode."""
        return self.num_modes * self.method.post_hoc_cost(problem)

    def memory(self, problem: Problem) -> float:
        """The method's, of which about half is kept for every mode that is finished."""
        return 0.5 * (1 + self.num_modes) * self.method.memory(problem)

    def fit(self, problem: Problem, run: Run) -> Posterior:
        """One mode after the other."""
        if problem.pretrained and self.num_modes > 1:
            run.notes.setdefault("warnings", []).append(
                "all modes start from the pretrained weights, so they are one mode: use pretrained=False for several."
            )
        components, notes = [], []
        for mode in range(self.num_modes):
            part = run.phase(f"mode-{mode}", 1 / (self.num_modes - mode))
            part.notes = {}  # each mode's own, so that none overwrites another's
            components.append(self.method.fit(problem, part))
            notes.append(part.notes)
        _report(run, notes)
        return Mixture(components)


def _calibrates(method: Method) -> bool:
    if isinstance(method, TemperatureScaled):
        return True
    return isinstance(method, Wrapper) and _calibrates(method.method)


def _report(run: Run, notes: list[dict[str, Any]]) -> None:
    for mode, own in enumerate(notes):
        for text in own.pop("warnings", ()):
            run.notes.setdefault("warnings", []).append(f"mode {mode}: {text}")
    if "temperature" in notes[0]:
        run.notes["temperature"] = notes[0]["temperature"]
    if any("unspent" in own for own in notes):
        run.notes["unspent"] = "; ".join(sorted({own.pop("unspent") for own in notes if "unspent" in own}))
    for own in notes:
        own.pop("temperature", None)
    run.notes["modes"] = notes
