"""The answer in words: one sentence for the comparison, one for each method."""

import math
from typing import Any

from bayesify.arena.statistics import Comparison, Verdict

METRIC_WORDS = "nats per example"


def headline(methods: list[dict[str, Any]], task: str, level: float, margin: float) -> str:
    """One sentence: does anything beat the control on this task, and how sure is that?"""
    control = next(entry for entry in methods if entry["is_control"])["label"]
    rivals = [entry for entry in methods if not entry["is_control"] and not entry["is_null"]]
    judged = [entry for entry in rivals if entry["verdict"] in {str(v) for v in Verdict}]
    if not judged:
        return f"No verdict yet on {task}: no method and the control have finished the same split."
    counts = {verdict: [m for m in judged if m["verdict"] == str(verdict)] for verdict in Verdict}
    rest = _counted(counts, judged)
    unfinished = len(rivals) - len(judged)
    tail = f" {unfinished} of {len(rivals)} methods have no result yet." if unfinished else ""
    better = sorted(counts[Verdict.BETTER], key=lambda entry: -entry["difference"]["estimate"])
    if better:
        names = _names([entry["label"] for entry in better])
        verb = "beats" if len(better) == 1 else "beat"
        best = better[0]["difference"]
        gain = f"{_number(best['estimate'])} {METRIC_WORDS} ({level:.0%} interval {_interval(best)})"
        subject = "by" if len(better) == 1 else f"{better[0]['label']} by"
        return f"Yes: on {task}, {names} {verb} {control} at equal compute, {subject} {gain}; {rest}.{tail}"
    if len(counts[Verdict.UNDECIDED]) == 0:
        return f"No: on {task}, no method beats {control} at equal compute; {rest}.{tail}"
    finest = [m["minimum_detectable"] for m in counts[Verdict.UNDECIDED] if math.isfinite(m["minimum_detectable"])]
    limit = f" (differences below about {_number(max(finest))} {METRIC_WORDS} could go unseen)" if finest else ""
    return f"Not shown: on {task}, no method is found to beat {control} at equal compute; {rest}{limit}.{tail}"


def _counted(counts: dict[Verdict, list[dict[str, Any]]], judged: list[dict[str, Any]]) -> str:
    parts = [f"{len(counts[v])} {v}" for v in (Verdict.EQUIVALENT, Verdict.WORSE, Verdict.UNDECIDED) if counts[v]]
    if not parts:
        return f"that is all {len(judged)} compared"
    return f"of {len(judged)} compared, " + ", ".join(parts)


def verdict_sentence(label: str, comparison: Comparison, control: str) -> str:
    """What was found about one method, with its interval and what would have been needed."""
    difference = comparison.difference
    interval = f"{_signed(difference.estimate)} [{_signed(difference.low)}, {_signed(difference.high)}] {METRIC_WORDS}"
    if comparison.verdict == Verdict.BETTER:
        return f"{label} is better than {control}: {interval}."
    if comparison.verdict == Verdict.WORSE:
        return f"{label} is worse than {control}: {interval}."
    if comparison.verdict == Verdict.EQUIVALENT:
        return f"{label} and {control} are equivalent in practice: {interval}."
    needed = ""
    if math.isfinite(comparison.minimum_detectable):
        needed = f" Only a difference of about {_number(comparison.minimum_detectable)} would have been found reliably"
        more = comparison.splits_needed
        needed += f"; {more} splits would be needed to decide." if more else "; more splits alone would not decide it."
    return f"{label} against {control} is undecided: {interval}.{needed}"


def _interval(difference: dict[str, float]) -> str:
    return f"{_signed(difference['low'])} to {_signed(difference['high'])}"


def _number(value: float) -> str:
    return f"{value:.3f}" if abs(value) >= 0.01 else f"{value:.2g}"


def _signed(value: float) -> str:
    if not math.isfinite(value):
        return "−∞" if value < 0 else "∞" if value > 0 else "undefined"
    return ("+" if value >= 0 else "−") + _number(abs(value))


def _names(labels: list[str]) -> str:
    return labels[0] if len(labels) == 1 else ", ".join(labels[:-1]) + " and " + labels[-1]
