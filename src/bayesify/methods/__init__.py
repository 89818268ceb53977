"""The methods, by the papers' names. Importing this package imports none of them: see `registry`."""

from typing import TYPE_CHECKING, Any

from bayesify.methods.base import Exactness as Exactness
from bayesify.methods.base import Method as Method
from bayesify.methods.base import MethodInfo as MethodInfo
from bayesify.methods.base import Range as Range
from bayesify.methods.registry import _TARGETS
from bayesify.methods.registry import get_method as get_method
from bayesify.methods.registry import method_names as method_names
from bayesify.methods.registry import register as register

if TYPE_CHECKING:
    from bayesify.methods.adam_sgld import AdamSGLD as AdamSGLD
    from bayesify.methods.adaptive_sghmc import AdaptiveSGHMC as AdaptiveSGHMC
    from bayesify.methods.adjusted_mclmc import AdjustedMCLMC as AdjustedMCLMC
    from bayesify.methods.batch_ensemble import BatchEnsemble as BatchEnsemble
    from bayesify.methods.chees_hmc import ChEESHMC as ChEESHMC
    from bayesify.methods.cyclical import Cyclical as Cyclical
    from bayesify.methods.deep_ensemble import DeepEnsemble as DeepEnsemble
    from bayesify.methods.epinet import Epinet as Epinet
    from bayesify.methods.hmc import HMC as HMC
    from bayesify.methods.ivon import IVON as IVON
    from bayesify.methods.laplace import Laplace as Laplace
    from bayesify.methods.low_rank_vi import LowRankVI as LowRankVI
    from bayesify.methods.map import MAP as MAP
    from bayesify.methods.mc_dropout import MCDropout as MCDropout
    from bayesify.methods.mclmc import MCLMC as MCLMC
    from bayesify.methods.mean_field_vi import MeanFieldVI as MeanFieldVI
    from bayesify.methods.mile import MILE as MILE
    from bayesify.methods.multi import Multi as Multi
    from bayesify.methods.nuts import NUTS as NUTS
    from bayesify.methods.packed_ensemble import PackedEnsemble as PackedEnsemble
    from bayesify.methods.pca_subspace import PCASubspace as PCASubspace
    from bayesify.methods.prior_ensemble import PriorEnsemble as PriorEnsemble
    from bayesify.methods.repulsive_ensemble import RepulsiveEnsemble as RepulsiveEnsemble
    from bayesify.methods.sae import SAE as SAE
    from bayesify.methods.sghmc import SGHMC as SGHMC
    from bayesify.methods.sgld import SGLD as SGLD
    from bayesify.methods.sgnht import SGNHT as SGNHT
    from bayesify.methods.smile import SMILE as SMILE
    from bayesify.methods.sngp import SNGP as SNGP
    from bayesify.methods.split_hmc import SplitHMC as SplitHMC
    from bayesify.methods.subset import Subset as Subset
    from bayesify.methods.swag import SWAG as SWAG
    from bayesify.methods.temperature_scaled import TemperatureScaled as TemperatureScaled
    from bayesify.methods.tempered import Tempered as Tempered
    from bayesify.methods.tuned import Tuned as Tuned
    from bayesify.methods.vbll import VBLL as VBLL
    from bayesify.methods.von import VON as VON

_BY_CLASS = {target.partition(":")[2]: name for name, target in _TARGETS.items()}


def __getattr__(name: str) -> Any:
    from bayesify.methods.registry import method_class

    if name in _BY_CLASS:
        return method_class(_BY_CLASS[name])
    raise AttributeError(f"module 'bayesify.methods' has no attribute {name!r}")
