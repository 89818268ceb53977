"""What functions the prior of a comparison believes in: drawn once per run, before any data count."""

import json
import math
from pathlib import Path
from typing import Any

from bayesify.arena.cell import Context, prepared_split
from bayesify.arena.models import build, likelihood_of, prior_of
from bayesify.arena.plan import Plan, digest
from bayesify.datasets.task import num_outputs
from bayesify.engine.rng import seed_of
from bayesify.errors import BayesifyError, SaveError
from bayesify.files import replacing

FILE = "prior.json"
NUM_FUNCTIONS, NUM_FUNCTIONS_OF_IMAGES = 100, 30
"""A share is then known to about 5, or 9, percentage points: some tenths of a second for the default networks."""
NUM_IMAGES = 50
"""Inputs looked at, where they are images; of rows of tables, 500."""


def keep_prior_check(plan: Plan, context: Context) -> None:
    """Writes prior.json into the results folder, unless it is there for this very prior, network and data."""
    key = digest([plan.fingerprint, context.settings.seed, context.splits[0].train.tolist()])
    stored = _stored(context.store.folder)
    if stored is not None and stored["key"] == key:
        return
    with replacing(context.store.folder / FILE) as partial:
        partial.write_text(json.dumps({"key": key, "check": _check(context)}), encoding="utf-8")


def stored_prior_check(folder: Path) -> dict[str, Any] | None:
    """What `keep_prior_check` found; None where there is nothing.

    Raises:
        SaveError: the file is damaged.
    """
    stored = _stored(folder)
    return None if stored is None else stored["check"]


def _stored(folder: Path) -> dict[str, Any] | None:
    try:
        found = json.loads((folder / FILE).read_text(encoding="utf-8"))
        return {"key": found["key"], "check": dict(found["check"])}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise SaveError(f"{folder / FILE} is damaged ({error}): delete it and run the same command again.") from error


def _check(context: Context) -> dict[str, Any]:
    """The check's numbers, or the reason why there are none: whatever it is, the comparison must go on."""
    prior, settings = prior_of(context.settings.prior), context.settings
    likelihood = likelihood_of(context.task.kind, settings.likelihood)
    try:
        inputs = prepared_split(context, 0).X_train
        outputs = num_outputs(context.task, likelihood)
        module = build(context.model, len(inputs), inputs.shape[1:], outputs, seed_of("model", 0, settings.seed))
        num_functions = NUM_FUNCTIONS
        if context.task.image_shape is not None:
            inputs, num_functions = inputs[:: math.ceil(len(inputs) / NUM_IMAGES)], NUM_FUNCTIONS_OF_IMAGES
        found = prior.check(module, inputs, likelihood, num_functions, settings.seed)
    except (BayesifyError, RuntimeError, ValueError, ArithmeticError, IndexError, TypeError) as error:
        return {"prior": repr(prior), "reason": str(error)}
    return {"prior": repr(prior), "reason": None, **found.as_dict()}
