"""The table of docs/check.md: what `bayesify check` measures of every method.

    python benchmarks/check_table.py [--simulations 100] [--budget 2000] [--methods "hmc" "laplace" ...] [--workers 2]
        [--references yacht=FOLDER,credit-g=FOLDER] [--out bayesify-results/check] [--table-only]

Results are kept one by one, as the command's JSON, in a folder for each choice of settings, and are not measured again;
the table is written again from all in that folder. `--table-only` does nothing else. The page says how long it takes.
"""

import argparse
import json
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any, NamedTuple

import torch

from bayesify.engine.budget import Budget
from bayesify.errors import BayesifyError
from bayesify.exactness import check_method, problem_of
from bayesify.exactness.result import RANKS
from bayesify.methods import method_names
from bayesify.methods.base import Exactness
from bayesify.methods.registry import get_method

PAGE = Path(__file__).parents[1] / "docs" / "check.md"
BEGIN, END = "<!-- table: begin -->", "<!-- table: end -->"
WRITTEN = {
    "cyclical": "cyclical(sghmc, 2)",
    "multi": "multi(laplace, 3)",
    "subset": "subset(laplace(structure=full), last)",
    "temperature_scaled": "temperature_scaled(map)",
    "tempered": "tempered(hmc, 0.5)",
    "tuned": "tuned(map, 4)",
}
"""Combinators need a method."""
MORE = ["multi(map, 3)"]


class Cell(NamedTuple):
    """One method, and how it is measured."""

    method: str
    simulations: int
    epochs: float
    references: str
    path: Path


def main() -> None:
    options = parse()
    sets = [f"-{part.partition('=')[0]}" for part in options.references.split(",") if part]
    folder = options.out / f"{options.simulations}-simulations-{options.budget:g}-epochs{''.join(sets)}"
    folder.mkdir(parents=True, exist_ok=True)
    cells = [
        Cell(name, options.simulations, options.budget, options.references, folder / f"{file_name(name)}.json")
        for name in ([] if options.table_only else options.methods)
    ]
    spawning = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.workers, mp_context=spawning) as pool:
        for done in as_completed(pool.submit(measure, cell) for cell in cells if not cell.path.exists()):
            print(done.result(), flush=True)
    found = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]
    write(options.page, sorted(found, key=lambda one: (RANKS.index(Exactness(one["declared"])), one["method"])))
    print(f"{len(found)} methods in {options.page}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--simulations", type=int, default=100, help="400 is what bayesify check --full takes")
    parser.add_argument("--budget", type=float, default=2000, help="epochs per particle")
    parser.add_argument("--methods", nargs="+", default=[*(WRITTEN.get(name, name) for name in method_names()), *MORE])
    parser.add_argument("--references", default="", help="NAME=FOLDER of stored references, separated by commas")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("bayesify-results/check"))
    parser.add_argument("--page", type=Path, default=PAGE)
    parser.add_argument("--table-only", action="store_true")
    return parser.parse_args()


def file_name(method: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in method).strip("-")


def measure(cell: Cell) -> str:
    """Writes the check's JSON, or why there is none; what is told of it."""
    torch.set_num_threads(1)
    started = time.perf_counter()
    try:
        result = check_method(
            cell.method,
            budget=Budget(epochs=cell.epochs),
            simulations=cell.simulations,
            references=[problem(part) for part in cell.references.split(",") if part],
        )
        found = result.as_dict()
    except BayesifyError as error:
        declared = str(get_method(cell.method).exactness)
        found = {"method": cell.method, "declared": declared, "passed": False, "problems": [], "error": str(error)}
    partial = cell.path.with_suffix(".partial")
    partial.write_text(json.dumps(found | {"seconds": time.perf_counter() - started}), encoding="utf-8")
    partial.replace(cell.path)
    return f"{cell.method}: {time.perf_counter() - started:.0f} s{'' if found['passed'] else ', NOT AS DECLARED'}"


def problem(text: str) -> Any:
    from bayesify.datasets import make_task
    from bayesify.reference import read_reference

    name, _, folder = text.partition("=")
    task = make_task(name)
    return problem_of(task, read_reference(task, folder))


def row(result: dict[str, Any], references: list[str], simulated: bool) -> str:
    """One line: the worst of the temperatures on each kind of problem."""
    cells = [f"`{result['method']}`", result["declared"]]
    for kind in ("linear", "logistic"):
        found = [p for p in result["problems"] if p["problem"].startswith(kind)]
        worst = max(found, key=lambda p: RANKS.index(Exactness(p["exactness"])), default=None)
        cells.append(result.get("error", "cannot be run on it") if worst is None else worst["verdict"])
    calibration = result.get("calibration")
    if simulated:
        cells.append("" if calibration is None else calibration["verdict"])
    close = {one["name"]: one for one in result.get("closeness", [])}
    cells += [distance(close[name]) if name in close else "" for name in references]
    cells.append("yes" if result["passed"] else "**no**")
    return "| " + " | ".join(cells) + " |"


def distance(one: dict[str, Any]) -> str:
    found, name = one["distance"], "total_variation" if one["distance"]["wasserstein1"] is None else "wasserstein1"
    half = "" if one["ceiling"] is None else f" ({one['ceiling'][name]:.4f})"
    return f"{found[name]:.4f}{half}"


def write(page: Path, results: list[dict[str, Any]]) -> None:
    """Puts the table between the page's marks."""
    references = sorted({one["name"] for result in results for one in result.get("closeness", [])})
    simulated = any(one.get("calibration") for one in results)
    titles = ["method", "declares", "linear regression", "logistic regression"]
    titles += ["simulations"] if simulated else []
    titles += [f"from chains on {name} (their halves)" for name in references] + ["as declared"]
    lines = [
        "| " + " | ".join(titles) + " |",
        "|---" * len(titles) + "|",
        *(row(one, references, simulated) for one in results),
    ]
    before, rest = page.read_text(encoding="utf-8").split(BEGIN)
    table = "\n".join(lines)
    page.write_text(f"{before}{BEGIN}\n\n{table}\n\n{END}{rest.split(END)[1]}", encoding="utf-8")


if __name__ == "__main__":
    main()
