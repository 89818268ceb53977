"""The table "method × fidelity × cost" of docs/fidelity.md: references and fits on six data sets, then the page.

    python benchmarks/fidelity_table.py [--sets yacht energy ...] [--minutes 30] [--seeds 3] [--budgets 1,4]
        [--chains 32] [--draws 100] [--network 16-16] [--method "hmc(trajectory_length=0.3)"] [--methods "swag, hmc"]
        [--workers 2] [--out bayesify-results/fidelity] [--table-only]

Data sets run side by side, each in a process of its own with one thread, and are resumed where they were: references
keep checkpoints, fits are kept one by one. The page's table is written again from all results in the folder, whatever
ran; `--table-only` does nothing else. Needs BAYESIFY_DATA or a connection for data sets that are not bundled.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

SETS = ("yacht", "energy", "concrete", "wine-red", "credit-g", "vehicle")
PAGE = Path(__file__).parents[1] / "docs" / "fidelity.md"
BEGIN, END = "<!-- table: begin -->", "<!-- table: end -->"


def main() -> None:
    options = parse()
    options.out.mkdir(parents=True, exist_ok=True)
    if not options.table_only:
        with ThreadPoolExecutor(options.workers) as pool:
            list(pool.map(lambda name: run(name, options), options.sets))
    found = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(options.out.glob("*.json"))]
    found.sort(key=lambda result: SETS.index(result["task"]) if result["task"] in SETS else len(SETS))
    write(options.page, "\n\n".join(section(result) for result in found))
    print(f"{len(found)} data sets in {options.page}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", default=list(SETS))
    parser.add_argument("--minutes", default="30", help="of sampling, for every reference")
    parser.add_argument("--seeds", default="3")
    parser.add_argument("--budgets", default="1,4")
    parser.add_argument("--budget", help="epochs of one of the ensemble's 10 members")
    parser.add_argument("--chains", default="32", help="many, because modes differ more than a chain's parts do")
    parser.add_argument("--draws", default="100", help="kept of each chain")
    parser.add_argument("--network", default="16-16")
    parser.add_argument("--method", help="the reference's sampler")
    parser.add_argument("--methods", help="who takes part")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("bayesify-results/fidelity"))
    parser.add_argument("--page", type=Path, default=PAGE)
    parser.add_argument("--table-only", action="store_true")
    return parser.parse_args()


def run(name: str, options: argparse.Namespace) -> None:
    """`bayesify fidelity NAME`, its result beside the reference's folder."""
    command = [sys.executable, "-m", "bayesify", "fidelity", name, "--json", "--out", str(options.out / name)]
    for option in ("minutes", "seeds", "budgets", "budget", "chains", "draws", "network", "method", "methods"):
        value = getattr(options, option)
        command += [] if value is None else [f"--{option}", value]
    started = time.perf_counter()
    done = subprocess.run(
        command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False
    )
    took = f"{(time.perf_counter() - started) / 60:.1f} min"
    if done.returncode:
        print(f"{name}: failed after {took}: {done.stderr.strip().splitlines()[-1]}", flush=True)
        return
    (options.out / f"{name}.json").write_text(done.stdout, encoding="utf-8")
    print(f"{name}: {took}", flush=True)


def section(result: dict[str, Any]) -> str:
    """A data set's heading, what its reference is worth, and its table."""
    main = result["main"]
    classes = main == "total_variation"
    reference, ceiling = result["reference"], result["reference"]["ceiling"]
    setup, halves = reference["setup"], ceiling["halves"]
    network = "-".join(map(str, setup["network"])) or "linear"
    titles = ["method", "budget", "TV" if classes else "W1", *(["agreement"] if classes else [])]
    titles += ["KL (nats)", "gradient evaluations", "MAP gap closed", "ensemble gap closed", "test NLL"]
    lines = [
        f"### {result['task']}",
        "",
        f"Network {network}, `{setup['likelihood']}`, prior `{setup['prior']}`, split {setup['split']}. Reference: "
        f"`{setup['method']}`, {reference['gradient_evaluations']:.2g} gradient evaluations in "
        f"{reference['seconds'] / 60:.1f} minutes; R-hat of functions {ceiling['r_hat'][0]:.2f} (median), "
        f"{ceiling['r_hat'][1]:.2f} (95%), {ceiling['r_hat'][2]:.2f} (worst test input); effective draws "
        f"{ceiling['ess'][0]:.0f} (median), {ceiling['ess'][1]:.0f} (worst).",
        "",
        "| " + " | ".join(titles) + " |",
        "|---|" + "---:|" * (len(titles) - 1),
    ]
    half = [
        "*half of the reference*",
        "",
        f"*{halves[main]:.4f}*",
        *([f"*{halves['agreement']:.1%}*"] if classes else []),
    ]
    lines.append("| " + " | ".join([*half, f"*{halves['kl']:.3f}*", "", "", "", f"*{reference['nll']:.3f}*"]) + " |")
    order = sorted(result["rows"], key=lambda row: (row["multiple"], row[main]["mean"] if row["seeds"] else 1e9))
    return "\n".join([*lines, *(line(row, main, classes) for row in order)])


def line(row: dict[str, Any], main: str, classes: bool) -> str:
    start = [f"`{row['label']}`", f"×{row['multiple']:g}"]
    if not row["seeds"]:
        return "| " + " | ".join([*start, f"failed: {row['failed'][0]}", *[""] * (6 if classes else 5)]) + " |"
    distance = row[main]
    error = "" if distance["standard_error"] is None else f" ± {distance['standard_error']:.1g}"
    cells = [*start, f"{distance['mean']:.4f}{error}", *([f"{row['agreement']['mean']:.1%}"] if classes else [])]
    cells += [f"{row['kl']['mean']:.3f}", f"{row['total']:.2g}", gap(row["map_gap"]), gap(row["ensemble_gap"])]
    return "| " + " | ".join([*cells, f"{row['nll']:.3f}"]) + " |"


def gap(value: dict[str, Any] | None) -> str:
    """The fraction, its standard error, and in brackets what half of the reference would reach."""
    if value is None:
        return ""
    error = "" if value["standard_error"] is None else f" ± {value['standard_error']:.0%}"
    return f"{value['fraction']:.0%}{error} ({value['ceiling']:.0%})".replace("-", "−")


def write(page: Path, table: str) -> None:
    """Puts the table between the page's marks."""
    text = page.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    page.write_text(f"{before}{BEGIN}\n\n{table}\n\n{END}{rest.split(END)[1]}", encoding="utf-8")


if __name__ == "__main__":
    main()
