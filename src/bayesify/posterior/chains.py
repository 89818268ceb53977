"""Whose draws are Markov chains, and function values chain by chain."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from bayesify.errors import UnsupportedError
from bayesify.posterior.base import Posterior
from bayesify.posterior.draws import Draws
from bayesify.posterior.parts import parts_of


class ChainValues(NamedTuple):
    """Function values of K chains of S draws, in the order of their steps."""

    outputs: Tensor  # (K, S, B, C)
    parameters: Tensor  # (K, S, L), the likelihood's own


def chain_lengths(posterior: Posterior) -> tuple[int, ...]:
    """Draws of each chain, in the order in which they were kept; empty where the draws are not of chains."""
    parts = [_chain_lengths(part) for part in parts_of(posterior)]
    return sum(parts, ()) if all(parts) else ()


def _chain_lengths(part: Posterior) -> tuple[int, ...]:
    if isinstance(part, Draws) and part.num_chains is not None:
        return (len(part.kept.theta) // part.num_chains,) * part.num_chains
    return ()


def chain_values(posterior: Posterior, inputs: Any) -> ChainValues:
    """Values of the kept functions at inputs (B, ...); of chains of different length the last draws of each.

    Raises:
        UnsupportedError: the draws are not of chains.
    """
    lengths = chain_lengths(posterior)
    if not lengths:
        raise UnsupportedError(
            f"the draws of {posterior.record.method or posterior.form} are not of Markov chains: there is nothing to "
            "see chain by chain; use a sampler such as hmc."
        )
    found = posterior.functions(inputs)
    shortest = min(lengths)
    outputs, own = ([part[-shortest:] for part in torch.split(values, list(lengths))] for values in found)
    return ChainValues(torch.stack(outputs), torch.stack(own))
