"""Which posteriors hold only so many draws."""

from bayesify.posterior.base import Posterior
from bayesify.posterior.calibrated import Calibrated
from bayesify.posterior.draws import Draws
from bayesify.posterior.mixture import Mixture


def is_fixed(posterior: Posterior) -> bool:
    """Whether there are only so many draws, so that asking for more repeats them."""
    if isinstance(posterior, Calibrated):
        return is_fixed(posterior.base)
    if isinstance(posterior, Mixture):
        return any(is_fixed(part) for part in posterior.components)
    return isinstance(posterior, Draws)
