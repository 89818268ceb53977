"""Prior-data fitted networks: Bayesian prediction learned once for a prior, then made in one pass (see `fit_pfn`)."""

from bayesify.pfn.fit import fit_pfn as fit_pfn
from bayesify.pfn.priors import DataPrior as DataPrior
from bayesify.pfn.priors import GPPrior as GPPrior
from bayesify.pfn.priors import NetworkPrior as NetworkPrior
from bayesify.pfn.transformer import PFN as PFN
from bayesify.pfn.transformer import load_pfn as load_pfn
