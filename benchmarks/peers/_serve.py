"""The peer's side of benchmarks/_peer.py."""

import json
import sys
import time


def serve(run, note):
    """Warms up, says so, then times one run per line of standard input."""
    run()
    print(json.dumps({"note": note}), flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        run()
        print(json.dumps({"seconds": time.perf_counter() - start}), flush=True)
