"""Posteriors and their forms."""

from bayesify.posterior.base import Diagnostics as Diagnostics
from bayesify.posterior.base import Function as Function
from bayesify.posterior.base import Particles as Particles
from bayesify.posterior.base import Posterior as Posterior
from bayesify.posterior.calibrated import Calibrated as Calibrated
from bayesify.posterior.draws import Draws as Draws
from bayesify.posterior.gaussian import Gaussian as Gaussian
from bayesify.posterior.linearised import Linearised as Linearised
from bayesify.posterior.mixture import Mixture as Mixture
from bayesify.posterior.saving import load as load
