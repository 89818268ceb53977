"""Public names of the priors."""

from bayesify.model.prior import Prior as Prior
from bayesify.model.priors import ARD as ARD
from bayesify.model.priors import ByName as ByName
from bayesify.model.priors import CorrelatedNormal as CorrelatedNormal
from bayesify.model.priors import Flat as Flat
from bayesify.model.priors import Horseshoe as Horseshoe
from bayesify.model.priors import Laplace as Laplace
from bayesify.model.priors import Normal as Normal
from bayesify.model.priors import StudentT as StudentT
from bayesify.model.priors import get_prior as get_prior
