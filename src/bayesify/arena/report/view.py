"""The result dictionary, read into what the page is made of.

Reading never fails on something missing: an absent value is None or empty, and the page says that it is missing.
Everything here is still numbers and words; how they are written is decided in `tables` and `charts`.
"""

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, NamedTuple

from bayesify.arena.report.plain import Plain, as_number, number, table, tables, text, whole, words
from bayesify.arena.report.wording import Metric, metric, plural

Verdict = Literal["better", "equivalent", "undecided", "worse", "control"]
VERDICTS: tuple[Verdict, ...] = ("better", "equivalent", "undecided", "worse")
SYMBOLS = {"better": "▲", "equivalent": "◆", "undecided": "○", "worse": "▼", "control": "●"}
KINDS = {
    "regression": "regression",
    "binary": "two-class classification",
    "multiclass": "multi-class classification",
}
_SEEDS_NAMED = 4  # more than that are only counted


class Difference(NamedTuple):
    """Score difference to the control with its interval; positive is better than the control.

    Infinite where a method gave an observed outcome probability zero.
    """

    metric: str
    estimate: float
    low: float
    high: float


@dataclass(frozen=True)
class MethodView:
    """One method: what it reached, what it cost, what was concluded."""

    name: str
    label: str
    family: str
    exactness: str
    is_control: bool
    is_null: bool
    status: str
    reason: str
    scores: dict[str, float | None]
    by_split: dict[str, tuple[float | None, ...]]
    difference: Difference | None
    p_value: float | None
    p_adjusted: float | None
    minimum_detectable: float | None
    verdict: Verdict | None
    verdict_sentence: str
    spent: dict[str, float | None]
    budget_fraction: float | None
    unspent_reason: str
    predict_seconds: float | None
    warnings: tuple[str, ...]
    diagnostics: tuple[str, ...]

    @property
    def role(self) -> str:
        """``control``, ``reference`` (a plain network, not Bayesian) or ``method``."""
        return "control" if self.is_control else "reference" if self.is_null else "method"


class CalibrationPoint(NamedTuple):
    """One bin of a reliability diagram, or one level of an interval coverage curve; all between 0 and 1."""

    stated: float
    observed: float
    low: float | None
    high: float | None
    examples: float | None


class CurvePoint(NamedTuple):
    """The score of a method at a multiple of the control's default budget."""

    multiple: float
    score: float
    low: float | None
    high: float | None
    verdict: Verdict | None
    gradient_evaluations: float | None


class ChainsView(NamedTuple):
    """One function value of a sampler's chains, one tuple per chain."""

    row: int | None
    tested: int | None
    r_hat: float | None
    ess: float | None
    trace: tuple[tuple[float, ...], ...]
    ranks: tuple[tuple[float, ...], ...]
    autocorrelation: tuple[tuple[float, ...], ...]


class MissingRuns(NamedTuple):
    """Runs of one method that are not in the result for one reason."""

    method: str
    runs: str
    reason: str


@dataclass(frozen=True)
class ReportView:
    """The whole page; `raw` is the plain result it was read from."""

    raw: Plain
    sentence: str
    task: Plain
    metric: Metric
    metric_label: str
    control: str
    level: float
    margin: float | None
    budget: Plain
    environment: Plain
    methods: tuple[MethodView, ...]
    reliability: dict[str, tuple[CalibrationPoint, ...]]
    curve: dict[str, tuple[CurvePoint, ...]]
    chains: dict[str, ChainsView]
    prior_check: Plain
    missing: tuple[MissingRuns, ...]
    caveats: tuple[str, ...]
    progress: Plain = field(default_factory=dict)

    @property
    def task_name(self) -> str:
        """What the data are called."""
        return text(self.task, "name", "unnamed data")

    @property
    def is_classification(self) -> bool:
        """Whether the calibration is of class probabilities rather than of intervals."""
        return text(self.task, "kind") in ("binary", "multiclass")

    @cached_property
    def labels(self) -> dict[str, str]:
        """From a method's name to its label."""
        return {method.name: method.label for method in self.methods}

    @cached_property
    def control_label(self) -> str:
        """How the control is called on the page."""
        named = self.labels.get(self.control) or next((m.label for m in self.methods if m.is_control), "")
        return named or self.control or "the control"

    @cached_property
    def ranked(self) -> tuple[MethodView, ...]:
        """The methods from the best difference to the worst; the control first, those without one last."""
        return tuple(sorted(self.methods, key=_rank))

    @cached_property
    def compared(self) -> tuple[MethodView, ...]:
        """The ranked methods that have a difference to the control."""
        return tuple(m for m in self.ranked if m.difference is not None and not m.is_control)

    @cached_property
    def counts(self) -> dict[Verdict, int]:
        """How many of the methods in question (not the control, not the references) got each verdict."""
        asked = [m.verdict for m in self.methods if m.role == "method"]
        return {verdict: asked.count(verdict) for verdict in VERDICTS}

    @cached_property
    def without_verdict(self) -> tuple[MethodView, ...]:
        """Methods in question about which nothing is concluded."""
        return tuple(m for m in self.methods if m.role == "method" and m.verdict not in VERDICTS)


def read(raw: Plain) -> ReportView:
    """The page's content from a plain result (see `plain`)."""
    task = table(raw, "task")
    methods = tuple(method_view(row, text(raw, "control")) for row in tables(raw, "methods"))
    known = metric(text(task, "metric", "nll"))
    level = number(raw, "level")
    return ReportView(
        raw=raw,
        sentence=text(raw, "sentence", "There is no answer yet: no method has been compared with the control."),
        task=task,
        metric=known,
        metric_label=text(task, "metric_label", known.label),
        control=text(raw, "control"),
        level=level if level is not None and 0 < level < 1 else 0.95,
        margin=_positive(number(raw, "margin")),
        budget=table(raw, "budget"),
        environment=table(raw, "environment"),
        methods=methods,
        reliability=_reliability(table(raw, "reliability")),
        curve=_curve(tables(raw, "curve")),
        chains=_chains(table(raw, "chains")),
        prior_check=table(raw, "prior_check"),
        missing=_missing(tables(raw, "missing"), {m.name: m.label for m in methods}),
        caveats=words(raw, "caveats"),
        progress=table(raw, "progress"),
    )


def _rank(method: MethodView) -> tuple[bool, bool, float, str]:
    worse_by = -method.difference.estimate if method.difference else 0.0
    return (not method.is_control, method.difference is None, worse_by, method.label)


def method_view(row: Plain, control: str) -> MethodView:
    """One method of the result."""
    name = text(row, "name", "unnamed")
    is_control = row.get("is_control") is True or (bool(control) and name == control)
    return MethodView(
        name=name,
        label=text(row, "label", name),
        family=text(row, "family"),
        exactness=text(row, "exactness"),
        is_control=is_control,
        is_null=row.get("is_null") is True,
        status=text(row, "status", "missing"),
        reason=text(row, "reason"),
        scores={key: as_number(value) for key, value in table(row, "scores").items()},
        by_split={
            key: tuple(map(as_number, values))
            for key, values in table(row, "scores_by_split").items()
            if isinstance(values, list)
        },
        difference=_difference(table(row, "difference")),
        p_value=number(row, "p_value"),
        p_adjusted=number(row, "p_adjusted"),
        minimum_detectable=number(row, "minimum_detectable"),
        verdict="control" if is_control else _verdict(row.get("verdict")),
        verdict_sentence=text(row, "verdict_sentence"),
        spent={key: as_number(value) for key, value in table(row, "spent").items()},
        budget_fraction=number(row, "budget_fraction"),
        unspent_reason=text(row, "unspent_reason"),
        predict_seconds=number(row, "predict_seconds"),
        warnings=words(row, "warnings"),
        diagnostics=words(row, "diagnostics"),
    )


def _verdict(value: object) -> Verdict | None:
    return next((verdict for verdict in VERDICTS if verdict == value), None)


def _difference(row: Plain) -> Difference | None:
    estimate, low, high = (number(row, key) for key in ("estimate", "low", "high"))
    if estimate is None:
        return None
    return Difference(
        text(row, "metric"), estimate, estimate if low is None else low, estimate if high is None else high
    )


def _reliability(named: Plain) -> dict[str, tuple[CalibrationPoint, ...]]:
    points = {name: tuple(filter(None, map(_calibration_point, tables(named, name)))) for name in named}
    return {name: tuple(sorted(some)) for name, some in points.items() if some}


def _calibration_point(row: Plain) -> CalibrationPoint | None:
    stated = _first(number(row, "confidence"), number(row, "level"))
    observed = _first(number(row, "accuracy"), number(row, "coverage"))
    if stated is None or observed is None:
        return None
    low, high, count = (_finite(number(row, key)) for key in ("low", "high", "count"))
    return CalibrationPoint(stated, observed, low, high, count)


def _curve(rows: list[Plain]) -> dict[str, tuple[CurvePoint, ...]]:
    points: dict[str, list[CurvePoint]] = {}
    for row in rows:
        multiple, score = _positive(number(row, "multiple")), _finite(number(row, "score"))
        if multiple is None or score is None:
            continue
        low, high = _finite(number(row, "low")), _finite(number(row, "high"))
        verdict = "control" if row.get("verdict") == "control" else _verdict(row.get("verdict"))
        evaluations = number(row, "gradient_evaluations")
        point = CurvePoint(multiple, score, low, high, verdict, evaluations)
        points.setdefault(text(row, "method", "unnamed"), []).append(point)
    several = len({point.multiple for some in points.values() for point in some}) > 1
    ordered = {name: tuple(sorted(some, key=lambda p: p.multiple)) for name, some in points.items()}
    return ordered if several else {}


def _chains(named: Plain) -> dict[str, ChainsView]:
    found = {}
    for name in named:
        row = table(named, name)
        chains = ChainsView(
            whole(row, "row"),
            whole(row, "tested"),
            _finite(number(row, "r_hat")),
            _finite(number(row, "ess")),
            *(_series(row.get(key)) for key in ("trace", "ranks", "autocorrelation")),
        )
        if chains.trace:
            found[name] = chains
    return found


def _series(value: object) -> tuple[tuple[float, ...], ...]:
    lists = [one for one in value if isinstance(one, list)] if isinstance(value, list) else []
    numbers = (tuple(n for n in map(as_number, one) if n is not None and math.isfinite(n)) for one in lists)
    return tuple(one for one in numbers if one)


def _missing(rows: list[Plain], labels: dict[str, str]) -> tuple[MissingRuns, ...]:
    grouped: dict[tuple[str, str], list[Plain]] = {}
    for row in rows:
        key = (text(row, "method", "unnamed"), text(row, "reason", "not run yet"))
        grouped.setdefault(key, []).append(row)
    return tuple(
        MissingRuns(labels.get(method, method), _runs(runs), reason) for (method, reason), runs in grouped.items()
    )


def _runs(rows: list[Plain]) -> str:
    by_seed: dict[int | None, list[str]] = {}
    for row in rows:
        split = whole(row, "split")
        by_seed.setdefault(whole(row, "seed"), []).extend([] if split is None else [str(split)])
    if len(by_seed) > _SEEDS_NAMED or not all(by_seed.values()):
        return plural(len(rows), "run")
    return "; ".join(
        f"split{'' if len(splits) == 1 else 's'} {', '.join(splits)}" + ("" if seed is None else f" of seed {seed}")
        for seed, splits in by_seed.items()
    )


def _positive(value: float | None) -> float | None:
    return value if value is not None and 0 < value < math.inf else None


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _first(*values: float | None) -> float | None:
    return next((value for value in values if value is not None and math.isfinite(value)), None)
