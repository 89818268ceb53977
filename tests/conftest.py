import os
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

# Tests run side by side, one process per core: threads inside a process would only compete with each other.
torch.set_num_threads(1)

# The same examples on every run and every machine: a red test means that somebody changed something.
# No deadline, because nothing is timed inside a test, and no example database, because a second run must
# equal the first.
settings.register_profile(
    "bayesify",
    derandomize=True,
    deadline=None,
    database=None,
    max_examples=30,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("bayesify")


@pytest.fixture(scope="session")
def bayesify_data() -> Path:
    """The folder of real data sets, laid out as docs/data.md says; without it the test skips."""
    folder = os.environ.get("BAYESIFY_DATA")
    if not folder:
        pytest.skip("BAYESIFY_DATA is not set: it names the folder of real data sets (docs/data.md)")
    path = Path(folder)
    if not path.is_dir():
        # A folder that was named and is not there is a mistake, not a reason to test less.
        raise FileNotFoundError(f"BAYESIFY_DATA={folder} is not a folder.")
    return path
