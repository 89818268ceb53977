"""Public names of the likelihoods."""

from bayesify.model.likelihoods import Bernoulli as Bernoulli
from bayesify.model.likelihoods import Categorical as Categorical
from bayesify.model.likelihoods import Gaussian as Gaussian
from bayesify.model.likelihoods import HeteroscedasticGaussian as HeteroscedasticGaussian
from bayesify.model.likelihoods import Likelihood as Likelihood
from bayesify.model.likelihoods import Loss as Loss
from bayesify.model.likelihoods import Poisson as Poisson
from bayesify.model.likelihoods import StudentT as StudentT
from bayesify.model.likelihoods import get_likelihood as get_likelihood
