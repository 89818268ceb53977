"""What stands in the options of the command line, taken apart; heavy imports wait until a command runs."""

from contextlib import suppress
from typing import Any

import typer


def names_of(text: str | None) -> list[str]:
    """Words separated by commas."""
    return [] if text is None else [name.strip() for name in text.split(",") if name.strip()]


def methods_of(text: str | None) -> list[str] | None:
    """Splits at commas outside parentheses: 'swag, multi(swag, 5)' is two methods."""
    from bayesify.errors import MethodError

    if text is None:
        return None
    parts, depth = [""], 0
    for character in text:
        depth += (character == "(") - (character == ")")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    if depth != 0:
        raise MethodError(f"--methods {text!r}: the parentheses do not match.")
    found = [part.strip() for part in parts if part.strip()]
    if not found:
        raise MethodError("--methods is empty: name at least one method, or leave the option out for all.")
    return found


def given_problems(text: str) -> list[Any]:
    """Real problems of references that are named: NAME is looked up in the cache, NAME=FOLDER is not."""
    from bayesify.datasets import make_task
    from bayesify.exactness import problem_of
    from bayesify.reference import cached_reference, read_reference

    found = []
    for part in names_of(text):
        name, _, folder = part.partition("=")
        task = make_task(name)
        found.append(problem_of(task, read_reference(task, folder) if folder else cached_reference(task)))
    return found


def default_problems() -> list[Any]:
    """Those of the default sets that have references; of the others one is told what makes them."""
    from bayesify.errors import DataError
    from bayesify.exactness import DEFAULT_SETS
    from bayesify.reference import cached_folders

    found = []
    for name in DEFAULT_SETS:
        with suppress(DataError):  # what is there is unfinished or of other data
            found += given_problems(name) if cached_folders(name) else []
        if not any(problem.name == name for problem in found):
            typer.echo(f"not compared with long chains on {name}: bayesify reference {name} makes them.", err=True)
    return found


def epochs_of(text: str | None) -> float | None:
    """A number of epochs; None where none is given."""
    from bayesify.errors import BudgetError

    if text is None:
        return None
    number = text.strip().removesuffix("epochs").strip()
    try:
        return float(number)
    except ValueError:
        raise BudgetError(f"--budget {text!r} is not a number of epochs: write for example --budget 100.") from None


def minutes_of(minutes: float) -> Any:
    """A budget of time."""
    from bayesify.engine.budget import Budget

    return Budget(seconds=60 * minutes)


def multiples_of(text: str) -> list[float]:
    """Positive numbers separated by commas."""
    from bayesify.errors import BudgetError

    try:
        found = [float(part) for part in text.split(",")]
    except ValueError:
        found = []
    if not found or min(found) <= 0:
        raise BudgetError(f"--budgets {text!r}: write positive multiples separated by commas, for example 1,4,16.")
    return found
