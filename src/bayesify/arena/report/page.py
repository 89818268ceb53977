"""The templates filled in: every value that is not already markup made here is escaped."""

import base64
import hashlib
import re
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from bayesify.arena.report import forest, mixing, notes, panels, pareto, prior, shift, tables, wording
from bayesify.arena.report.plain import Plain, strict_json, text
from bayesify.arena.report.view import SYMBOLS, VERDICTS, ReportView, read

_SPACE = re.compile(r"\s+")
_MARKDOWN_SPECIAL = re.compile(r"([\\`*_\[\]<>|#~$])")


def html(raw: Plain) -> str:
    """The page for a plain result."""
    view = read(raw)
    fronts = pareto.pareto(view)
    style, script = _asset("report.css"), _asset("report.js")
    return (
        _environment("html")
        .get_template("report.html.j2")
        .render(
            **_content(view),
            style=Markup(style),
            script=Markup(script),
            # Only these very bytes may run: injected script is refused by the browser even if escaping failed.
            script_hash=_sha256(script),
            forest=forest.forest(view),
            forest_narrow=forest.forest(view, narrow=True),
            forest_is_cut=forest.is_cut(view),
            pareto=fronts,
            pareto_cut=wording.listing(list(dict.fromkeys(f"“{name}”" for panel in fronts for name in panel.cut))),
            reliability=panels.reliability(view),
            curves=panels.curves(view),
            chains=mixing.chains(view),
            shift=shift.shown(view, charts=True),
            download=base64.b64encode(strict_json(raw).encode()).decode(),
        )
    )


def markdown(raw: Plain) -> str:
    """The Markdown file for a plain result."""
    view = read(raw)
    return (
        _environment("markdown")
        .get_template("report.md.j2")
        .render(**_content(view), shift=shift.shown(view, charts=False))
    )


def _content(view: ReportView) -> dict[str, Any]:
    return {
        "view": view,
        "facts": notes.facts(view),
        "scores": tables.scores(view),
        "costs": tables.costs(view),
        "splits": tables.splits(view),
        "progress": notes.progress(view),
        "not_compared": notes.not_compared(view),
        "caveats": notes.caveats(view),
        "remarks": notes.remarks(view),
        "prior": prior.prior(view),
        "definitions": notes.definitions(view),
        "environment": notes.environment(view),
        "command": text(view.environment, "command"),
        "version": text(view.environment, "bayesify"),
        "level": wording.share(view.level),
        "error_rate": wording.share(1 - view.level),
        "verdicts": VERDICTS,
        "symbols": SYMBOLS,
    }


@cache
def _environment(kind: str) -> Environment:
    environment = Environment(
        loader=PackageLoader("bayesify.arena.report"),
        autoescape=kind == "html",
        finalize=None if kind == "html" else _markdown_text,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["sentence_start"] = lambda words: words[:1].upper() + words[1:]
    environment.filters["code"] = _code_block
    return environment


def _markdown_text(value: Any) -> Any:
    """What a template prints into Markdown: strings lose every character that Markdown or HTML would read."""
    if isinstance(value, Markup) or not isinstance(value, str):
        return value
    return _MARKDOWN_SPECIAL.sub(r"\\\1", _SPACE.sub(" ", value)).replace("&", "&amp;").replace("\\<", "&lt;")


def _code_block(value: str) -> Markup:
    """`value` as an indented Markdown code block, in which nothing is read as markup."""
    return Markup("\n".join(f"    {line}" for line in value.splitlines()))


@cache
def _asset(name: str) -> str:
    return files("bayesify.arena.report").joinpath("templates", name).read_text(encoding="utf-8")


def _sha256(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
