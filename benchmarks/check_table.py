"""The table of docs/check.md: what `bayesify check` measures of every method.

    python benchmarks/check_table.py [--simulations 0] [--methods "hmc" "laplace" ...] [--out bayesify-results/check]
        [--table-only]

Results are kept one by one, as the command's JSON, and are not measured again; the table is written again from all in
the folder. Without simulations all methods take about ten minutes on one core; 100 simulations take one to five minutes
more for each method, 400 as in `bayesify check --full` four times that.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from bayesify.errors import BayesifyError
from bayesify.exactness import check_method
from bayesify.exactness.result import RANKS
from bayesify.methods import method_names
from bayesify.methods.base import Exactness

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--simulations", type=int, default=0)
    parser.add_argument("--methods", nargs="+", default=[WRITTEN.get(name, name) for name in method_names()])
    parser.add_argument("--out", type=Path, default=Path("bayesify-results/check"))
    parser.add_argument("--table-only", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    folder = options.out / f"{options.simulations}-simulations"
    folder.mkdir(parents=True, exist_ok=True)
    for number, method in enumerate([] if options.table_only else options.methods):
        path = folder / f"{number:02}-{''.join(c if c.isalnum() else '-' for c in method)}.json"
        if not path.exists():
            path.write_text(json.dumps(measured(method, options.simulations)), encoding="utf-8")
            print(method, flush=True)
    found = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]
    write(sorted(found, key=lambda result: (RANKS.index(Exactness(result["declared"])), result["method"])))


def measured(method: str, simulations: int) -> dict[str, Any]:
    """The check's JSON, or why there is none."""
    try:
        return check_method(method, simulations=simulations).as_dict()
    except BayesifyError as error:
        return {"method": method, "declared": "not a posterior", "passed": None, "problems": [], "error": str(error)}


def row(result: dict[str, Any]) -> str:
    """One line: the worst of the temperatures on each kind of problem."""
    cells = [f"`{result['method']}`", result["declared"]]
    for kind in ("linear", "logistic"):
        found = [p for p in result["problems"] if p["problem"].startswith(kind)]
        worst = max(found, key=lambda p: RANKS.index(Exactness(p["exactness"])), default=None)
        cells.append(result.get("error", "cannot be run on it") if worst is None else worst["verdict"])
    calibration = result.get("calibration")
    if calibration is not None:
        cells.append(calibration["words"])
    cells.append({True: "yes", False: "**no**", None: "–"}[result["passed"]])
    return "| " + " | ".join(cells) + " |"


def write(results: list[dict[str, Any]]) -> None:
    """Puts the table between the page's marks."""
    titles = ["method", "declares", "linear regression", "logistic regression"]
    titles += ["simulations"] if any(result.get("calibration") for result in results) else []
    titles += ["as declared"]
    lines = ["| " + " | ".join(titles) + " |", "|---" * len(titles) + "|", *(row(result) for result in results)]
    before, rest = PAGE.read_text(encoding="utf-8").split(BEGIN)
    table = "\n".join(lines)
    PAGE.write_text(f"{before}{BEGIN}\n\n{table}\n\n{END}{rest.split(END)[1]}", encoding="utf-8")
    print(f"{len(results)} methods in {PAGE}")


if __name__ == "__main__":
    main()
