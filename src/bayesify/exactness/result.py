"""What a check found: plain text of one page, and JSON."""

import math
import textwrap
from dataclasses import dataclass
from typing import Any

from bayesify.exactness.calibration import Calibration
from bayesify.exactness.closeness import Closeness
from bayesify.exactness.measure import Distances, Measured, Moments
from bayesify.methods.base import Exactness

RANKS = list(Exactness)
"""From exact to not a posterior."""
WIDTH = 100
"""Columns of the plain text."""


@dataclass(frozen=True)
class ProblemCheck:
    """One method on one problem.

    Attributes:
        problem: what was inferred.
        temperature: T of the posterior that it was compared with.
        exactness: what was measured.
        words: the same, and by how much.
        draws: of how many kept or fresh draws the moments are.
        moments: distances of the parameters.
        distances: distances of the predictive.
        evidence_error: estimated minus exact log evidence in nats, where the method estimates it.
        law: log ratio of standard deviations to those of the best Gaussian without correlations, for methods that
            give such a Gaussian, where that is known.
        notes: what the method changed in the model, if anything.
        seconds: wall time of the fit.
    """

    problem: str
    temperature: float
    exactness: Exactness
    words: str
    draws: int
    moments: Moments
    distances: Distances
    evidence_error: float | None
    law: Measured | None
    notes: tuple[str, ...]
    seconds: float

    @property
    def verdict(self) -> str:
        """The sentence."""
        return f"{self.exactness.value} ({self.words})" if self.words else self.exactness.value

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "problem": self.problem,
            "temperature": self.temperature,
            "exactness": self.exactness.value,
            "verdict": self.verdict,
            "draws": self.draws,
            "effective_draws": self.moments.effective_draws,
            "centre": _json(self.moments.centre),
            "log_spread": _json(self.moments.log_spread),
            "correlation": _json(self.moments.correlation),
            "kl": self.distances.kl._asdict(),
            "total_variation": self.distances.total_variation._asdict(),
            "joint_log_density": self.distances.joint._asdict(),
            "log_evidence": self.evidence_error,
            "mean_field_log_spread": None if self.law is None else self.law._asdict(),
            "notes": list(self.notes),
            "seconds": self.seconds,
        }


@dataclass(frozen=True)
class Failure:
    """A problem that the method could not be run on.

    Attributes:
        problem: what should have been inferred.
        temperature: T.
        reason: the error's message.
        excused: whether the method does not apply here, rather than failing.
    """

    problem: str
    temperature: float
    reason: str
    excused: bool


@dataclass(frozen=True)
class CheckResult:
    """What a method is, measured, and whether that is what it declares.

    Attributes:
        method: as written on the command line.
        declared: its `exactness`.
        bias: its `info.bias`.
        problems: one entry per problem that it ran on.
        failures: the others.
        seed: of everything.
        calibration: simulation-based, on small networks, where that was asked for.
        closeness: to long chains on real data, where those were given.
    """

    method: str
    declared: Exactness
    bias: str
    problems: tuple[ProblemCheck, ...]
    failures: tuple[Failure, ...]
    seed: int
    calibration: Calibration | None = None
    closeness: tuple[Closeness, ...] = ()

    @property
    def worst(self) -> ProblemCheck:
        """The known posterior that it is furthest from."""
        return max(self.problems, key=_badness)

    @property
    def exactness(self) -> Exactness:
        """The worst that was measured."""
        found = [self.worst.exactness]
        if self.calibration is not None and self.calibration.deviates:
            found.append(self.calibration.exactness)
        return max(found, key=RANKS.index)

    @property
    def verdict(self) -> str:
        """The worst in words."""
        if self.calibration is None:
            return self.worst.verdict
        words = [f"{self.worst.words} on {_title(self.worst)}"] if self.worst.words else []
        words.append(f"on small networks {self.calibration.words}")
        return f"{self.exactness.value} ({'; '.join(words)})"

    @property
    def complaints(self) -> tuple[str, ...]:
        """In what the method is not what it declares; empty if it is."""
        found = []
        if _rank(self.worst.exactness) > _rank(self.declared):
            found.append(f"declares itself {self.declared.value} but is {self.worst.verdict} on {_title(self.worst)}")
        if self.calibration is not None and _rank(self.calibration.exactness) > _rank(self.declared):
            found.append(f"declares itself {self.declared.value} but is {self.calibration.verdict} on small networks")
        for check in self.problems:
            if check.law is not None and not check.law.is_zero:
                found.append(
                    f"without correlations its standard deviations should be 1/√diag(precision), but they are "
                    f"{_percent(check.law.value)} off on {_title(check)}"
                )
        found += [f"failed on {_title(failure)}: {failure.reason}" for failure in self.failures if not failure.excused]
        return tuple(found)

    @property
    def passed(self) -> bool:
        """Whether it is at least what it declares."""
        return not self.complaints

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "method": self.method,
            "declared": self.declared.value,
            "bias": self.bias,
            "exactness": self.exactness.value,
            "verdict": self.verdict,
            "passed": self.passed,
            "complaints": list(self.complaints),
            "seed": self.seed,
            "problems": [check.as_dict() for check in self.problems],
            "failures": [vars(failure) for failure in self.failures],
            "calibration": None if self.calibration is None else self.calibration.as_dict(),
            "closeness": [found.as_dict() for found in self.closeness],
        }

    def __str__(self) -> str:
        lines = _wrapped(f"{self.method}: declared {self.declared.value}" + (f" — {self.bias}" if self.bias else ""))
        for check in self.problems:
            lines += ["", *_paragraph(check)]
        if self.calibration is not None:
            title = f"{self.calibration.problem}, weights from the prior: {self.calibration.verdict}"
            lines += ["", *_wrapped(title), *self.calibration.lines()]
        for found in self.closeness:
            lines += ["", *_wrapped(found.sentence)]
        for failure in self.failures:
            word = "does not apply" if failure.excused else "failed"
            lines += ["", *_wrapped(f"{_title(failure)}: {word}: {failure.reason}")]
        lines += ["", "* more than Monte Carlo error explains", *_wrapped(f"measured: {self.verdict}")]
        for text in self.complaints:
            lines += _wrapped(f"NOT AS DECLARED: {self.method} {text}")
        if self.passed:
            better = _rank(self.exactness) < _rank(self.declared)
            lines.append("better than declared, on these problems" if better else "as declared")
        return "\n".join(lines)


def _paragraph(check: ProblemCheck) -> list[str]:
    moments, distances = check.moments, check.distances
    centre, spread = _worst(moments.centre), _worst(moments.log_spread)
    correlation = _worst(moments.correlation)
    rows = [
        ("centre, worst parameter", f"{centre.value:+.3f} sd", f"{centre.error:.3f}", centre),
        ("standard deviation, worst parameter", _percent(spread.value), f"{100 * spread.error:.1f}%", spread),
        ("correlation, worst pair", f"{correlation.value:+.3f}", f"{correlation.error:.3f}", correlation),
        ("predictive, KL per example", f"{distances.kl.value:.5f} nats", f"{distances.kl.error:.5f}", distances.kl),
        (
            "predictive, total variation",
            f"{distances.total_variation.value:.4f}",
            f"{distances.total_variation.error:.4f}",
            distances.total_variation,
        ),
        (
            "joint log density of the test set",
            f"{distances.joint.value:+.3f} nats",
            f"{distances.joint.error:.3f}",
            distances.joint,
        ),
    ]
    lines = _wrapped(f"{_title(check)}: {check.verdict}")
    lines += [
        f"  {name:<37}{value:>15}   Monte Carlo error {error:>8}{'' if measured.is_zero else '   *'}"
        for name, value, error, measured in rows
    ]
    if check.evidence_error is not None:
        lines.append(f"  {'log evidence':<37}{check.evidence_error:>+10.3f} nats")
    if check.law is not None:
        lines.append(f"  {'standard deviation, to mean field':<37}{_percent(check.law.value):>15}")
    return [*lines, *(f"  {note}" for note in check.notes)]


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, subsequent_indent="    ")


def _title(check: ProblemCheck | Failure) -> str:
    return f"{check.problem}, T = {check.temperature:g}"


def _worst(values: list[Measured]) -> Measured:
    return max(values, key=lambda m: abs(m.value) / max(m.tolerance, 1e-12))


def _percent(log_ratio: float) -> str:
    return f"{100 * (math.exp(log_ratio) - 1):+.1f}%"


def _rank(exactness: Exactness) -> int:
    # A sampler's draws cannot show more than agreement within their error: both count as exact.
    return max(1, RANKS.index(exactness))


def _badness(check: ProblemCheck) -> tuple[int, float]:
    spread = max(abs(m.value) for m in check.moments.log_spread)
    return RANKS.index(check.exactness), spread


def _json(values: list[Measured]) -> list[dict[str, float]]:
    return [value._asdict() for value in values]
