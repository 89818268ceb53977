"""Before the work starts: what it will cost, and a refusal with numbers where it cannot fit."""

import os
import statistics
import time
from typing import NamedTuple

import torch
from torch import Tensor

from bayesify.engine.optimise import Moments, adam, init
from bayesify.engine.rng import generator, seeded
from bayesify.engine.vectorise import TRACE_AFTER
from bayesify.errors import MethodError
from bayesify.model.chunks import Watched
from bayesify.model.network import Mode
from bayesify.model.problem import Batch, Gradient, Problem

USABLE = 0.9
"""The share of free memory a fit may plan on."""
TIMED_STEPS, TIMED_SECONDS = 3, 0.25
"""Steps that are timed, at least, and for how long: long enough to feel what else the machine does."""
ALIVE = 0.5
"""The share of what a gradient's operations allocate that is held at its peak: about what the way forward keeps."""


class Estimate(NamedTuple):
    """The predicted cost of a fit."""

    num_parameters: int
    gradient_evaluations: float
    flops: float
    memory_bytes: float
    """At the peak, beyond the data and the model."""
    seconds: float
    """On this machine as busy as it was when asked; nothing is compiled."""


class Work(NamedTuple):
    """A stage of a fit: what is evaluated at a time, and for how long."""

    num_particles: int  # K
    num_rows: int  # B, of all particles' each
    evaluations: float  # gradient evaluations


class Probe(NamedTuple):
    """A few real steps."""

    start_seconds: float  # until the gradient's graph is there
    step_seconds: float  # with an optimiser's update
    step_flops: float
    workspace_bytes: float  # of one gradient


def probe(problem: Problem, work: Work) -> Probe:
    """Takes the gradient of K particles on B rows, and Adam's step, a few times; the problem's meter counts them."""
    theta = problem.initial().repeat(work.num_particles, 1)
    rng = generator(problem.network.device, "preflight")
    moments = Moments(*init(theta)[:4])
    began = time.perf_counter()
    with seeded(0), Watched() as watched:
        before = problem.meter.flops
        _gradient(problem, theta, work.num_rows, rng)
        flops = problem.meter.flops - before
    with seeded(0):
        for _ in range(TRACE_AFTER):
            adam(moments, _gradient(problem, theta, work.num_rows, rng).gradient, 0.0)
        start = time.perf_counter() - began
        seconds: list[float] = []
        while len(seconds) < TIMED_STEPS or sum(seconds) < TIMED_SECONDS:
            began = time.perf_counter()
            adam(moments, _gradient(problem, theta, work.num_rows, rng).gradient, 0.0)
            seconds.append(time.perf_counter() - began)
    workspace = ALIVE * watched.total * theta.element_size()
    return Probe(start, statistics.fmean(seconds), flops, workspace)


def _gradient(problem: Problem, theta: Tensor, num_rows: int, rng: torch.Generator) -> Gradient:
    """Of all data as full-batch methods take it, or of each particle's own batch."""
    if num_rows >= problem.num_examples:
        return problem.full_gradient(theta)
    shape = (len(theta), num_rows) if len(theta) > 1 else (num_rows,)
    rows = torch.randint(problem.num_examples, shape, generator=rng, device=rng.device)
    mode = Mode.PREDICT if problem.pretrained else Mode.TRAIN
    return problem.gradient(theta, Batch(problem.data.select(rows), len(theta) > 1), mode)


def estimate_of(problem: Problem, stages: list[Work], kept_bytes: float) -> Estimate:
    """The cost of a fit from a probe of each stage, and what the method keeps besides a step's own memory."""
    seconds = flops = workspace = 0.0
    for work in stages:
        found = probe(problem, work)
        steps = work.evaluations / (work.num_rows * work.num_particles)
        flops += steps * found.step_flops
        seconds += found.start_seconds + steps * found.step_seconds
        workspace = max(workspace, found.workspace_bytes)
    evaluations = sum(work.evaluations for work in stages)
    return Estimate(problem.num_parameters, evaluations, flops, kept_bytes + workspace, seconds)


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
