"""Before the work starts: what it will cost, and a refusal with numbers where it cannot fit."""

import os
from typing import NamedTuple

import torch

from bayesify.errors import MethodError

USABLE = 0.9
"""The share of free memory a fit may plan on."""


class Estimate(NamedTuple):
    """The predicted cost of a fit."""

    num_parameters: int
    gradient_evaluations: float
    flops: float
    memory_bytes: float


def check_memory(needed: float, method: str, device: torch.device) -> None:
    """Refuses what cannot fit.

    Raises:
        MethodError: with the predicted and the available bytes and a way out.
    """
    free = available_memory(device)
    if needed > USABLE * free:
        raise MethodError(
            f"{method} would need about {_size(needed)} of memory but {_size(free)} are free: use a cheaper structure "
            "(laplace(structure=kron) or diag), fewer particles, or part of the network (subset(..., last))."
        )


def available_memory(device: torch.device) -> float:
    """Free bytes on the device."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            lines = dict(line.split(":", 1) for line in file)
        return float(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError):
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"
