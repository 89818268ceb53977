"""A last layer with a Gaussian over its weights: gives the mean and the variance of each output."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bayesify.model.surgery import output_layer, replaced


class VariationalHead(nn.Module):
    """W ~ N(W̄, S), row by row, S_c = L_c L_cᵀ, with L_c = D (tril(root_c, −1) + diag exp(log_scale_c)).

    D holds the prior's standard deviations, so that root and log_scale are in units of the prior. A bias is the last
    column of W. Outputs are (W̄ a, aᵀ S_c a), 2 C numbers.
    """

    units: Tensor

    def __init__(self, mean: nn.Linear, weight_scale: float, bias_scale: float, start: float) -> None:
        nn.Module.__init__(self)
        self.mean = mean
        size = mean.in_features + (mean.bias is not None)
        units = mean.weight.new_full((size,), weight_scale)
        if mean.bias is not None:
            units[-1] = bias_scale
        self.register_buffer("units", units)
        self.start = start
        self.root = nn.Parameter(mean.weight.new_zeros(mean.out_features, size, size))
        self.log_scale = nn.Parameter(mean.weight.new_full((mean.out_features, size), start))

    def reset_parameters(self) -> None:
        """W̄ starts as in any network, S as independent entries of standard deviation exp(start)."""
        self.mean.reset_parameters()
        nn.init.zeros_(self.root)
        nn.init.constant_(self.log_scale, self.start)

    def forward(self, hidden: Tensor) -> Tensor:
        """(B, F) → (B, 2 C)."""
        a = hidden if self.mean.bias is None else F.pad(hidden, (0, 1), value=1.0)
        variance = (a @ roots(self.root, self.log_scale, self.units)).square().sum(-1).mT  # (C, B, in) → (B, C)
        return torch.cat([self.mean(hidden), variance], dim=-1)


def roots(root: Tensor, log_scale: Tensor, units: Tensor) -> Tensor:
    """L (C, in, in) from root (C, in, in), log_scale (C, in) and the prior's standard deviations (in,)."""
    return units[:, None] * (root.tril(-1) + torch.diag_embed(log_scale.exp()))


def with_variational_head(module: nn.Module, settings: Mapping[str, float]) -> nn.Module:
    """The output layer replaced; the module is changed.

    Args:
        module: whose last Linear gives its outputs.
        settings: the prior's standard deviations, 'weight' and 'bias', and 'start' of log_scale.
    """
    name = output_layer(module)
    layer = module.get_submodule(name)
    assert isinstance(layer, nn.Linear)
    return replaced(module, name, VariationalHead(layer, settings["weight"], settings["bias"], settings["start"]))
