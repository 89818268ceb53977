"""Bayesian methods for a training loop of one's own: optimizers of torch's kind, and collectors of weights.

They take the steps of the methods of those names, with the same functions: `bay.methods.IVON` is `IVON` in a loop that
bayesify writes. The loss is the mean negative log likelihood of a batch (`cross_entropy` as it is), without weight
decay: the prior is the optimizer's. The number of training data is given once, `num_data`, and the temperature is the
only dial.
"""

from bayesify.optim.collect import SWAG as SWAG
from bayesify.optim.collect import Samples as Samples
from bayesify.optim.ivon import IVON as IVON
from bayesify.optim.sgmcmc import SGHMC as SGHMC
from bayesify.optim.sgmcmc import SGLD as SGLD
