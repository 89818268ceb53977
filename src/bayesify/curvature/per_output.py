"""The Gauss–Newton matrix of a last layer, without what couples its outputs: one (in, in) block for each.

With the layer's inputs a and Λ the Fisher information of the outputs (`curvature.ggn`, equation 1),

    H_c = Σ_n Λ_n,cc a_n a_nᵀ,                                                                                  (1)

the precision of spectral-normalised Gaussian processes (Liu et al. 2020, equation 9). It is all of H where Λ is
diagonal: one output, or Gaussian noise. Cost: one forward pass, and C · in² per example. Not here: hidden layers.
"""

import torch
from torch import Tensor

from bayesify.curvature.factored import Part, for_each_part
from bayesify.curvature.fisher import Vectors
from bayesify.curvature.ggn import Expansion
from bayesify.curvature.layers import find_layers
from bayesify.curvature.spectrum import PerOutputSpectrum, eigen
from bayesify.errors import UnsupportedError
from bayesify.model.network import Buffers
from bayesify.model.problem import Problem


def expand_per_output(
    problem: Problem, theta: Tensor, buffers: Buffers, scale: Tensor, vectors: Vectors, rng: torch.Generator
) -> Expansion:
    """The blocks (1). Arguments as in `curvature.ggn.expand_diagonal`.

    Raises:
        UnsupportedError: what is trained is not one linear last layer.
    """
    found = find_layers(problem, theta, buffers, rng)
    if not found.batched or len(found.layers) != 1 or not found.layers[0].is_output:
        raise UnsupportedError(
            "laplace(structure=per_output) is for a linear last layer alone: write "
            "subset(laplace(structure=per_output), last), or choose structure=kron."
        )
    layer = found.layers[0]
    shape = (layer.num_outputs, layer.num_inputs)
    total = theta.new_zeros(layer.num_outputs, layer.num_inputs, layer.num_inputs, dtype=torch.float64)
    gradient = theta.new_zeros(shape, dtype=torch.float64)
    log_likelihood = gradient.new_zeros(())

    def add(part: Part) -> None:
        a = part.forward.columns()[0][:, 0]
        weights = part.cotangents[:, : vectors.num_fisher].square().sum(1)  # (B, C): the diagonal of Λ
        for c in range(layer.num_outputs):
            rows = a * weights[:, c : c + 1].sqrt()
            total[c] += rows.mT @ rows
        log_likelihood.add_(part.log_likelihood.double().sum())
        if vectors.gradient:
            gradient.add_(part.cotangents[:, -1].mT @ a)

    for_each_part(problem, found, theta, buffers, vectors, rng, add, pulls=False)
    rows = scale.double()[layer.order].reshape(shape)
    values, basis = eigen(total * rows[:, :, None] * rows[:, None, :])
    spectrum = PerOutputSpectrum(values.flatten(), basis, layer.order)
    slope = torch.zeros_like(gradient.flatten())
    slope[layer.order] = gradient.flatten()
    return Expansion(log_likelihood, slope if vectors.gradient else None, spectrum)
