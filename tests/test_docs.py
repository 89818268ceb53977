"""The documentation against the code: examples run, tables say what the code says, commands and options exist."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from bayesify import priors
from bayesify.datasets.corrupt_images import IMAGE_CORRUPTIONS
from bayesify.datasets.corrupt_tables import TABLE_CORRUPTIONS
from bayesify.methods.registry import method_class, method_names

ROOT = Path(__file__).parents[1]
COMBINATORS = {"cyclical", "multi", "subset", "tempered", "temperature_scaled", "tuned"}
NAME, EXACTNESS = 0, 2  # columns of the tables of methods


def page(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def table(text: str, first: str) -> list[list[str]]:
    """The cells of the rows of the Markdown table whose header starts with `first`."""
    lines = text.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(f"| {first} |"))
    rows = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]])
    return rows


def command_line(*arguments: str) -> str:
    result = subprocess.run(
        [sys.executable, "-c", "from bayesify.cli import main; main()", *arguments],
        env={**os.environ, "COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


# Blocks marked `py` are not run: they show a call that takes minutes.
def test_quickstart_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", page("docs/quickstart.md"), flags=re.DOTALL)
    assert len(blocks) >= 4
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, "docs/quickstart.md", "exec"), names)


def stated_exactness(name: str) -> dict[str, str]:
    return {row[NAME].strip("`"): row[EXACTNESS] for row in table(page(name), "name")}


def test_method_tables_say_what_the_methods_say() -> None:
    """All methods in the documentation, the best known in the README."""
    # Other tests of this process may have registered methods of their own.
    built_in = {name: method_class(name) for name in method_names()}
    built_in = {name: cls for name, cls in built_in.items() if cls.__module__.startswith("bayesify.")}
    declared = {name: str(cls.info.exactness) for name, cls in built_in.items() if name not in COMBINATORS}
    assert stated_exactness("docs/methods.md") == declared
    shown = stated_exactness("README.md")
    assert len(shown) >= 10
    assert shown.items() <= declared.items()


@pytest.mark.parametrize("name", ["README.md", "docs/methods.md"])
def test_combinators_are_explained(name: str) -> None:
    assert {combinator for combinator in COMBINATORS if f"`{combinator}(" in page(name)} == COMBINATORS


def test_commands_exist() -> None:
    stated = {re.match(r"`bayesify (\w+)", row[0])[1] for row in table(page("docs/cli.md"), "command")}  # type: ignore[index]
    shown = command_line("--help")
    assert {name for name in stated if re.search(rf"^\W*{name}\b", shown, flags=re.MULTILINE)} == stated


def test_options_exist() -> None:
    stated = set(re.findall(r"--[a-z-]+", " ".join(row[0] for row in table(page("docs/cli.md"), "option"))))
    shown = set(re.findall(r"--[a-z-]+", command_line("compare", "--help")))
    assert stated <= shown, f"documented and not there: {sorted(stated - shown)}"


def test_tables_of_corruptions_say_what_there_is() -> None:
    text = page("docs/data.md")
    for header, known in (("images", IMAGE_CORRUPTIONS), ("tables", TABLE_CORRUPTIONS)):
        assert [row[NAME].strip("`") for row in table(text, header)] == list(known)


def test_every_prior_is_explained() -> None:
    text = page("docs/priors.md")
    families = [name for name, kind in vars(priors).items() if isinstance(kind, type) and kind is not priors.Prior]
    assert len(families) >= 8
    assert not [name for name in families if f"`{name}(" not in text]
