"""What went wrong, why, and what to do: every error a user can cause is one of these.

The message is one sentence of cause (with the offending value) and one of remedy. The command line prints it
without a traceback and exits with code 2; from Python it is an ordinary exception.
"""

import difflib
from collections.abc import Iterable


class BayesifyError(Exception):
    """The root of all errors a user can cause and mend."""


class DataError(BayesifyError, ValueError):
    """The data cannot be used as they are: empty, NaN, one class, wrong shape, unreadable file."""


class MethodError(BayesifyError, ValueError):
    """A method's hyperparameter, combination or requirement is not met."""


class ModelError(BayesifyError, ValueError):
    """The network cannot be used: no trainable parameter, wrong output shape, non-finite outputs."""


class BudgetError(BayesifyError, ValueError):
    """The budget is missing, negative or too small for what was asked."""


class SaveError(BayesifyError, ValueError):
    """A saved posterior or store cannot be read, or does not fit the given network."""


class UnsupportedError(BayesifyError, NotImplementedError):
    """What was asked for is not defined for this method or likelihood."""


def suggest(name: str, known: Iterable[str]) -> str:
    """Words that help after a misspelt name: the nearest known one, else all of them.

    Args:
        name: what the user wrote.
        known: the names that would have been accepted.

    Returns:
        A sentence such as ``Did you mean 'swag'?`` or ``Known: hmc, map, swag.``
    """
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if near:
        return f"Did you mean {near[0]!r}?"
    return f"Known: {', '.join(known)}." if known else "None is known."
