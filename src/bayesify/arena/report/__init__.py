"""One result dictionary → one self-contained HTML page, a Markdown file and the JSON itself.

The page needs nothing but itself: styles, script and drawings are inside, and its content security policy forbids
every request. Whatever the user named (columns, tasks, methods) is text, never markup. Anything may be missing from
the result; the page says what is.

Schema 1 of the result, all keys optional:

* ``sentence``: the answer; ``control``: the control's name; ``level``, ``margin``: of the intervals and of equivalence.
* ``task``: name, kind (regression, binary, multiclass), target, rows, features, classes, metric, metric_label, splits,
  seeds, split_kind, num_train, num_test, notes.
* ``budget``: gradient_evaluations, multiple, description. ``environment``: bayesify, torch, python, platform,
  threads, timing_exclusive, command, date.
* ``methods``: name, label, family, exactness, is_control, is_null, status, reason, scores, scores_by_split,
  difference (metric, estimate, low, high; positive is better than the control), p_value, p_adjusted,
  minimum_detectable, verdict, verdict_sentence, spent (gradient_evaluations, forward_evaluations, seconds, flops,
  peak_memory_bytes), budget_fraction, unspent_reason, predict_seconds, warnings, diagnostics.
* ``reliability``: per method, bins (confidence, accuracy, low, high, count) or levels (level, coverage).
* ``curve``: method, multiple, gradient_evaluations, score, low, high, verdict; drawn with two or more multiples.
* ``chains``: per method, row, tested, r_hat, ess, and per chain lists trace, ranks (counts in equal bins) and
  autocorrelation (by lag).
* ``shift``: sets (name, kind of corrupted, shifted or outside, sentence, examples, conditions), severities (per method:
  severity, nll, ...) and conditions; in ``methods`` then ``shift`` (per set with targets: difference, verdict, ...),
  ``shift_seconds``, and scores called ``nll@corrupted``, ``auroc_entropy@notmnist``, ....
* ``prior_check``: prior, reason (why there is nothing else), kind, num_functions, num_inputs, one_class,
  one_class_certain, confidence, entropy, between_functions, across_inputs, constant, exploding, warnings.
* ``progress``: done, planned, failed. ``missing``: method, split, seed, reason. ``caveats``: sentences.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from bayesify.arena.report.plain import Plain, plain, strict_json, whole
from bayesify.errors import DataError, SaveError
from bayesify.files import replacing

__all__ = ["SCHEMA", "ReportPaths", "render_html", "render_markdown", "write_report"]

SCHEMA = 1


class ReportPaths(NamedTuple):
    """The files of one report."""

    html: Path
    markdown: Path
    json: Path


def write_report(result: Mapping[str, Any], folder: Path) -> ReportPaths:
    """Write ``report.html``, ``report.md`` and ``report.json`` into `folder`, each in one step.

    Args:
        result: schema 1, whole or partial; NaN and infinities become ``null`` in the JSON file.
        folder: created where it does not exist; reports already there are replaced.

    Raises:
        DataError: the result is not a mapping, or of a schema that this version does not know.
        SaveError: the folder cannot be written to.
    """
    raw = _checked(result)
    folder = Path(folder)
    paths = ReportPaths(folder / "report.html", folder / "report.md", folder / "report.json")
    contents = (_html(raw), _markdown(raw), strict_json(raw))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, content in zip(paths, contents, strict=True):
            _write_whole(path, content)
    except OSError as error:
        reason = error.strerror or str(error)
        raise SaveError(f"the report cannot be written to {folder}: {reason}; choose another folder") from error
    return paths


def render_html(result: Mapping[str, Any]) -> str:
    """The report as one HTML page that works offline.

    Raises:
        DataError: the result is not a mapping, or of a schema that this version does not know.
    """
    return _html(_checked(result))


def render_markdown(result: Mapping[str, Any]) -> str:
    """The report as Markdown, without the charts.

    Raises:
        DataError: the result is not a mapping, or of a schema that this version does not know.
    """
    return _markdown(_checked(result))


def _checked(result: Mapping[str, Any]) -> Plain:
    if not isinstance(result, Mapping):
        raise DataError(
            f"a report is made from a result dictionary, not from a {type(result).__name__};"
            " pass what compare() returned or what report.json holds"
        )
    raw: Plain = plain(result)
    if whole(raw, "schema") not in (None, SCHEMA):
        raise DataError(
            f"the result has schema {raw['schema']!r} and this version of bayesify reads schema {SCHEMA};"
            " install the version that wrote it"
        )
    return raw


def _html(raw: Plain) -> str:
    # Altair and vl-convert are loaded only when a page is drawn.
    from bayesify.arena.report.page import html

    return html(raw)


def _markdown(raw: Plain) -> str:
    from bayesify.arena.report.page import markdown

    return markdown(raw)


def _write_whole(path: Path, content: str) -> None:
    with replacing(path) as partial:
        partial.write_text(content, encoding="utf-8", newline="\n")
