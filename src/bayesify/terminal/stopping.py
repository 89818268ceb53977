"""What Ctrl-C does."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def keeping_what_finished() -> Iterator[None]:
    """Ctrl-C is one line and exit code 130.

    The process ends inside the signal handler: an exception raised inside torch's callbacks aborts it. Records
    are written by rename, and workers end with their parent, so nothing is lost or left behind.
    """

    def stop(signum: int, frame: object) -> None:
        del signum, frame
        if sys.stderr.isatty():
            sys.stderr.write("\x1b[?25h\n")  # the live bar hides the cursor
        sys.stderr.write("stopped; what had finished is kept: the same command continues.\n")
        sys.stderr.flush()
        os._exit(130)

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
