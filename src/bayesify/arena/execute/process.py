"""Several cells side by side, each in a worker process of one thread.

Workers are spawned, not forked: torch's thread pools do not survive a fork. A worker whose parent has died ends itself,
so that kill -9 of the command leaves nothing behind.
"""

import multiprocessing
import os
import signal
import threading
import time
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool

from bayesify.arena.cell import Context, Outcome, run_cell
from bayesify.arena.execute.events import Watcher
from bayesify.arena.plan import Cell
from bayesify.errors import BayesifyError

_context: Context | None = None


def run_processes(cells: list[Cell], context: Context, watch: Watcher, workers: int) -> None:
    """Runs the cells on `workers` processes.

    Raises:
        BayesifyError: a worker was killed from outside, usually for memory; what had finished is kept.
    """
    pool = ProcessPoolExecutor(
        max_workers=min(workers, len(cells)),
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_start_worker,
        initargs=(context, os.getpid()),
    )
    futures: list[Future[Outcome]] = []
    try:
        futures = [pool.submit(_run, cell) for cell in cells]
        for future in as_completed(futures):
            watch(future.result())
        pool.shutdown()
    except BrokenProcessPool as error:
        _end(pool)
        raise BayesifyError(
            "a worker process was killed, most likely because memory ran out: finished cells are kept; run the same "
            "command again with --workers 1."
        ) from error
    except BaseException:
        _end(pool)
        raise


def _end(pool: ProcessPoolExecutor) -> None:
    processes = list((pool._processes or {}).values())
    pool.shutdown(wait=False, cancel_futures=True)
    for process in processes:
        process.kill()  # records are written by rename: a cell is either stored or was never run
    for process in processes:
        process.join()


def _start_worker(context: Context, parent: int) -> None:
    global _context
    _context = context
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which ends the workers
    threading.Thread(target=_end_with_parent, args=(parent,), daemon=True).start()


def _end_with_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def _run(cell: Cell) -> Outcome:
    assert _context is not None
    return run_cell(cell, _context)
