"""The page's words: what was done, what is missing, what to be careful about, and how to read it."""

from typing import NamedTuple

from bayesify.arena.report import wording
from bayesify.arena.report.plain import Plain, number, text, whole, words
from bayesify.arena.report.tables import underspent
from bayesify.arena.report.view import KINDS, MethodView, ReportView


class Fact(NamedTuple):
    """A name and what it is."""

    name: str
    value: str


class Progress(NamedTuple):
    """How much of the plan is done."""

    done: int
    planned: int
    failed: int
    sentence: str


class Remarks(NamedTuple):
    """What one method reported about itself."""

    label: str
    warnings: tuple[str, ...]
    diagnostics: tuple[str, ...]


def facts(view: ReportView) -> list[Fact]:
    """The line below the answer: data, design, control, budget."""
    task = view.task
    rows, features = whole(task, "rows"), whole(task, "features")
    classes = task.get("classes")
    splits, seeds = whole(task, "splits"), whole(task, "seeds")
    train, test = whole(task, "num_train"), whole(task, "num_test")
    data = [
        wording.plural(rows, "row") if rows is not None else "",
        _inputs(task, features),
        wording.plural(len(classes), "class").replace("classs", "classes") if isinstance(classes, list) else "",
    ]
    target = text(task, "target")
    design = [
        f"{wording.count(splits)} {text(task, 'split_kind')} split{'' if splits == 1 else 's'}".replace("  ", " ")
        if splits is not None
        else "",
        wording.plural(seeds, "seed") if seeds is not None else "",
        f"{wording.count(train)} train, {wording.count(test)} test" if train is not None and test is not None else "",
    ]
    named = [
        Fact("Data", ", ".join(filter(None, data))),
        Fact("Target", f"{target} ({KINDS.get(text(task, 'kind'), 'unknown kind')})" if target else ""),
        Fact("Design", ", ".join(filter(None, design))),
        Fact("Score", view.metric_label),
        Fact("Control", view.control_label if view.control or view.methods else ""),
        Fact("Budget each", _budget(view)),
    ]
    return [fact for fact in named if fact.value]


def progress(view: ReportView) -> Progress | None:
    """What is still to come or has failed; None when all planned runs are there."""
    done, planned = whole(view.progress, "done"), whole(view.progress, "planned")
    failed = whole(view.progress, "failed") or 0
    if done is None or planned is None or planned <= 0 or (done >= planned and failed == 0):
        return None
    sentence = f"{done:,} of {planned:,} runs are done"
    if failed:
        sentence += f", {failed:,} failed"
    if done + failed < planned:
        sentence += "; this page will change as the rest come in. The same command continues."
    return Progress(done, planned, failed, sentence.rstrip(".") + ".")


def not_compared(view: ReportView) -> list[Fact]:
    """Methods that the forest plot cannot show, with the reason."""
    by_reason: dict[str, list[str]] = {}
    for method in view.ranked:
        if method.difference is None and not method.is_control:
            by_reason.setdefault(_absence(method), []).append(method.label)
    return [Fact("; ".join(labels), reason) for reason, labels in by_reason.items()]


def caveats(view: ReportView) -> list[str]:
    """What a careful reader should know, the result's own caveats first."""
    notes = [*view.caveats, *words(view.task, "notes")]
    if not any(m.is_control for m in view.methods):
        notes.append("The control is not among the results, so nothing can be compared with it.")
    elif all(m.status != "done" for m in view.methods if m.is_control):
        notes.append(f"The control, {view.control_label}, is not complete: every difference to it may still change.")
    notes += _unspent(view)
    if view.environment.get("timing_exclusive") is False:
        notes.append(
            "Other work ran beside these runs: seconds are not comparable between methods; gradient evaluations are."
        )
    return list(dict.fromkeys(note if note.endswith((".", "!", "?")) else f"{note}." for note in notes))


def remarks(view: ReportView) -> list[Remarks]:
    """Warnings and diagnostics, per method that has any."""
    return [Remarks(m.label, m.warnings, m.diagnostics) for m in view.ranked if m.warnings or m.diagnostics]


def definitions(view: ReportView) -> list[Fact]:
    """What the four verdicts mean here."""
    margin = "" if view.margin is None else f" of ±{wording.fixed(view.margin, wording.decimals_for([view.margin], 1))}"
    chance = f"p, adjusted for the number of methods compared, is at most {1 - view.level:.3g}"
    return [
        Fact("better", f"it scored better than the control by more than chance explains: {chance}."),
        Fact(
            "equivalent",
            f"the whole interval lies inside the margin{margin}: whatever the difference is, zero or not, it is too"
            " small to matter. This is a finding, not a failure to find one.",
        ),
        Fact(
            "undecided",
            "the data cannot tell. That is not “no difference”: more splits or more data might show one, or show that"
            " there is none.",
        ),
        Fact("worse", f"it scored worse than the control by more than chance explains: {chance}."),
    ]


def environment(view: ReportView) -> list[Fact]:
    """Versions and machine."""
    named = {
        "bayesify": "bayesify",
        "torch": "PyTorch",
        "python": "Python",
        "platform": "Platform",
        "threads": "Threads",
        "date": "Date",
    }
    rows = [Fact(label, text(view.environment, key)) for key, label in named.items()]
    exclusive = view.environment.get("timing_exclusive")
    if isinstance(exclusive, bool):
        rows.append(Fact("Timing", "nothing else ran" if exclusive else "other work ran at the same time"))
    return [row for row in rows if row.value]


def _unspent(view: ReportView) -> list[str]:
    by_reason: dict[str, list[str]] = {}
    for method in underspent(view):
        spent = f"{method.label} ({wording.percent(method.budget_fraction)} spent)"
        by_reason.setdefault(method.unspent_reason or "no reason was given", []).append(spent)
    return [f"Budget left unspent by {wording.listing(methods)}: {reason}" for reason, methods in by_reason.items()]


def _inputs(task: Plain, features: int | None) -> str:
    shape = task.get("image_shape")
    if isinstance(shape, list) and len(shape) == 3:
        return f"images of {shape[1]} × {shape[2]}" + (f" in {shape[0]} channels" if shape[0] != 1 else "")
    return wording.plural(features, "feature") if features is not None else ""


def _budget(view: ReportView) -> str:
    described = text(view.budget, "description")
    evaluations = number(view.budget, "gradient_evaluations")
    counted = f"{wording.compact(evaluations)} gradient evaluations" if evaluations is not None else ""
    return f"{counted} ({described})" if counted and described else counted or described


def _absence(method: MethodView) -> str:
    status = {"done": "no difference was computed", "missing": "not run yet", "partial": "not complete yet"}
    words_ = status.get(method.status, method.status)
    return f"{words_}: {method.reason}" if method.reason else words_
