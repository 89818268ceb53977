"""How long a user waits before anything happens: `import bayesify` beyond `import torch`, and `bayesify --help`.

Every measurement is a fresh interpreter; medians. First uses of `bay.fit` and `bay.compare`, which import
what `import bayesify` puts off, are shown too.

    python benchmarks/startup.py [--runs 9]
"""

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

MAX_IMPORT, MAX_HELP = 0.3, 0.5

TIMED = """
import time, torch
start = time.perf_counter()
{statement}
print(time.perf_counter() - start)
"""
COMMAND_LINE = "from bayesify.cli import main; main()"


class Question(NamedTuple):
    """Something to wait for, and how long at most."""

    label: str
    seconds: Callable[[], float]
    at_most: float | None = None


def after_torch(statement: str) -> float:
    """Seconds that a statement takes in a fresh interpreter that has imported torch."""
    program = TIMED.format(statement=statement)
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return float(found.stdout)


def command_line(*arguments: str) -> float:
    """Seconds from calling the command to its end."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", COMMAND_LINE, *arguments], capture_output=True, check=True)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=9)
    runs = parser.parse_args().runs
    questions = [
        Question("import bayesify, after torch", lambda: after_torch("import bayesify"), MAX_IMPORT),
        Question("first use of bay.fit, after torch", lambda: after_torch("import bayesify; bayesify.fit")),
        Question("first use of bay.compare, after torch", lambda: after_torch("import bayesify; bayesify.compare")),
        Question("bayesify --help", lambda: command_line("--help"), MAX_HELP),
        Question("bayesify compare --help", lambda: command_line("compare", "--help"), MAX_HELP),
        Question("bayesify methods", lambda: command_line("methods")),
    ]
    print(f"seconds, median of {runs} fresh interpreters (lowest, highest)\n")
    for question in questions:
        question.seconds()  # the first run fills the caches of the file system
        seconds = sorted(question.seconds() for _ in range(runs))
        middle = statistics.median(seconds)
        verdict = ""
        if question.at_most is not None:
            verdict = f"at most {question.at_most}: {'yes' if middle <= question.at_most else 'NO'}"
        print(f"{question.label:<40} {middle:>6.3f} ({seconds[0]:.3f}, {seconds[-1]:.3f})  {verdict}", flush=True)


if __name__ == "__main__":
    main()
