"""What posteriors are made of, and which of them hold only so many draws."""

from bayesify.posterior.base import Posterior
from bayesify.posterior.calibrated import Calibrated
from bayesify.posterior.draws import Draws
from bayesify.posterior.mixture import Mixture


def parts_of(posterior: Posterior) -> tuple[Posterior, ...]:
    """The simple posteriors it mixes or calibrates; itself if it is one."""
    if isinstance(posterior, Calibrated):
        return parts_of(posterior.base)
    if isinstance(posterior, Mixture):
        return tuple(part for component in posterior.components for part in parts_of(component))
    return (posterior,)


def is_fixed(posterior: Posterior) -> bool:
    """Whether there are only so many draws, so that asking for more repeats them."""
    return any(isinstance(part, Draws) for part in parts_of(posterior))
