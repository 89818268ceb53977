"""What is installed, and what each missing part would add."""

import importlib.metadata
import os
import platform
from typing import Any

from bayesify.engine.preflight import available_memory

PARTS = {
    "torch": "everything",
    "scikit-learn": "bundled data, encoding, the scikit-learn wrappers",
    "skrub": "tables with dates and text",
    "altair": "the report's charts",
    "vl-convert-python": "the report's charts",
    "duckdb": "queries over stored results",
    "optuna": "--tune",
    "mapie": "conformal sets and intervals",
    "arviz": "posterior.to_arviz()",
}


def examine() -> dict[str, Any]:
    """Versions, cores, memory, accelerator."""
    import torch

    versions = {name: _version(name) for name in PARTS}
    return {
        "python": platform.python_version(),
        "packages": versions,
        "missing": {name: PARTS[name] for name, version in versions.items() if version is None},
        "cores": os.cpu_count(),
        "memory_available_gb": round(available_memory(torch.device("cpu")) / 1e9, 1),
        "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "data_folder": os.environ.get("BAYESIFY_DATA"),
    }


def print_examination(found: dict[str, Any]) -> None:
    """As lines, and what to do about what is missing."""
    from bayesify.terminal.tables import console

    out = console()
    out.print(f"Python {found['python']}, {found['cores']} cores, {found['memory_available_gb']} GB of memory free")
    out.print(f"accelerator: {found['cuda'] or 'none; everything runs on the CPU'}")
    out.print(f"BAYESIFY_DATA: {found['data_folder'] or 'not set; only bundled data sets are known by name'}")
    for name, version in found["packages"].items():
        state = version or f"[red]missing[/]: needed for {PARTS[name]}; pip install {name}"
        out.print(f"  {name:<18} {state}")


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
