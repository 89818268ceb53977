"""What Gaussian weights do to a linearised network's outputs, layer by layer and without Jacobians of all parameters.

With a layer's inputs a and output gradients g (`curvature.factored`), output c changes with the layer's matrix W by

    Σ_t g_cᵀ W a = ⟨G_c, W⟩,      G_c = Σ_t g_c aᵀ,      W = L (√V ∘ ε) Rᵀ,                                        (1)

so that its variance is ⟨(Lᵀ G_c R)², V⟩. For one position, (Lᵀ G_c R)² = (Lᵀ g_c)² ((Rᵀ a)²)ᵀ. The bases L and R act
on whichever is smaller: activations, their products, or draws of W. A last layer's g_c are unit vectors: closed forms,
no backward pass.

Cost: one forward pass, C backward passes unless only the last layer is uncertain, and the products (1).
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from bayesify.covariance import Block
from bayesify.curvature.factored import Pass
from bayesify.curvature.layers import Layer, Layers

PIECE_ELEMENTS = 2**21
"""Numbers of scaled draws at a time: a few megabytes that the allocator hands out again without a page fault."""


class _Drawn(NamedTuple):
    """One layer, ready for its gradients."""

    inputs: Tensor  # (B, T, in), in the basis of the draws
    draws: Tensor | None  # (S, out, in), where G_c is formed
    pushed: Tensor | None  # (S, B, T, out), W a where that is cheaper than G_c
    left: Tensor | None  # what is left to do to g_c


def num_pulls(layers: Layers, num_outputs: int) -> int:
    """Backward passes per forward pass."""
    return 0 if all(layer.is_output for layer in layers.layers) else num_outputs


def elements_per_row(layers: Layers, num_outputs: int, num_draws: int) -> int:
    """Numbers held at once for every row of a batch; no draws for `variances`."""
    total = num_draws * num_outputs
    for layer in layers.layers:
        total += layer.elements
        if layer.is_output or not _forms(layer, num_outputs, num_draws):
            total += num_draws * _positions(layer) * layer.num_outputs
        else:
            total += layer.num_outputs * layer.num_inputs
    return total


def changes(forward: Pass, blocks: list[Block], white: Tensor) -> Tensor:
    """J Δθ for the draws of `Covariance.white`, (S, P): (S, B, C)."""
    outputs, columns = forward.outputs.detach(), forward.columns()
    result = outputs.new_zeros(len(white), *outputs.shape)
    hidden: dict[int, _Drawn] = {}
    for i, (layer, block, a) in enumerate(zip(forward.layers.layers, blocks, columns, strict=True)):
        if layer.is_output:
            result += torch.cat([_last(block, a[:, 0], draws) for draws in _pieces(block, white)])
        else:
            hidden[i] = _drawn(layer, block, a, white, outputs.shape[1])
    if hidden:
        for c in range(outputs.shape[1]):
            pulled = forward.pull(_unit(outputs, c))
            for i, drawn in hidden.items():
                result[:, :, c] += _change(drawn, pulled[i])
    return result


def variances(forward: Pass, blocks: list[Block]) -> Tensor:
    """The diagonal of J Σ Jᵀ, (B, C)."""
    outputs, columns = forward.outputs.detach(), forward.columns()
    result = torch.zeros_like(outputs)
    hidden = []
    for i, (layer, block, a) in enumerate(zip(forward.layers.layers, blocks, columns, strict=True)):
        if layer.is_output:
            along = _along(block, a[:, 0])
            result += along if block.left is None else along @ block.left.square().mT
        else:
            hidden.append(i)
    if hidden:
        for c in range(outputs.shape[1]):
            pulled = forward.pull(_unit(outputs, c))
            for i in hidden:
                result[:, c] += _variance(blocks[i], columns[i], pulled[i])
    return result


def _along(block: Block, a: Tensor) -> Tensor:
    """The variance of (√V ∘ ε) Rᵀ a, (B, in) → (B, out)."""
    if block.right is not None and block.right.dim() == 3:
        return torch.einsum("cbi,ci->bc", (a @ block.right).square(), block.variance)
    return _times(a, block.right).square() @ block.variance.mT


def _last(block: Block, a: Tensor, draws: Tensor) -> Tensor:
    """W a of the last layer, (B, in) → (S, B, out)."""
    if block.right is not None and block.right.dim() == 3:
        return torch.bmm(a @ block.right, draws.permute(1, 2, 0)).permute(2, 1, 0)
    num_draws, num_outputs, num_inputs = draws.shape
    if block.right is not None:
        if len(a) <= num_draws * num_outputs:
            a = a @ block.right
        else:
            draws = draws @ block.right.mT
    if block.left is not None and len(a) > num_inputs:
        draws, left = block.left @ draws, None
    else:
        left = block.left
    pushed = (a @ draws.flatten(0, 1).mT).reshape(len(a), num_draws, num_outputs)
    if left is not None:
        pushed = pushed @ left.mT  # one large product, not one for every draw
    return pushed.transpose(0, 1)


def _pieces(block: Block, white: Tensor) -> Iterator[Tensor]:
    """√V ∘ ε of a layer for some draws after others, each (S_piece, out, in)."""
    root = block.variance.sqrt()
    at_once = max(1, PIECE_ELEMENTS // root.numel())
    for start in range(0, len(white), at_once):
        yield white[start : start + at_once, block.places].reshape(-1, *root.shape) * root


def _drawn(layer: Layer, block: Block, a: Tensor, white: Tensor, num_outputs: int) -> _Drawn:
    num_draws, (size_out, size_in) = len(white), block.variance.shape
    rows = a.shape[0] * a.shape[1]
    left_first = block.left is not None and num_outputs * rows > num_draws * size_in
    right_last = block.right is not None and rows <= num_draws * size_out
    if right_last:
        a = _times(a, block.right)

    def turned(draws: Tensor) -> Tensor:
        if block.left is not None and left_first:
            draws = block.left @ draws
        return draws if block.right is None or right_last else draws @ block.right.mT

    left = None if left_first else block.left
    draws = map(turned, _pieces(block, white))
    if _forms(layer, num_outputs, num_draws):
        return _Drawn(a, torch.cat(list(draws)), None, left)
    flat = torch.cat([a.flatten(0, 1) @ piece.flatten(0, 1).mT for piece in draws], dim=1)  # (B T, S out)
    return _Drawn(a, None, flat.reshape(*a.shape[:2], num_draws, size_out).permute(2, 0, 1, 3), left)


def _change(drawn: _Drawn, g: Tensor) -> Tensor:
    """⟨G, W⟩ for gradients (B, T, out) of one output: (S, B)."""
    g = _times(g, drawn.left)
    if drawn.pushed is not None:
        return torch.einsum("sbto,bto->sb", drawn.pushed, g)
    assert drawn.draws is not None
    return drawn.draws.flatten(1) @ torch.bmm(g.mT, drawn.inputs).flatten(1).mT


def _variance(block: Block, a: Tensor, g: Tensor) -> Tensor:
    """⟨(Lᵀ G R)², V⟩, (B,)."""
    if a.shape[1] == 1:
        along = _times(a[:, 0], block.right).square() @ block.variance.mT
        return (along * _times(g[:, 0], block.left).square()).sum(1)
    product = _times(torch.bmm(_times(g, block.left).mT, a), block.right)
    return product.square().flatten(1) @ block.variance.flatten()


def _forms(layer: Layer, num_outputs: int, num_draws: int) -> bool:
    """Whether G_c of every output costs less than W a of every draw."""
    positions = _positions(layer)
    return num_outputs * (positions + num_draws) < num_draws * positions


def _positions(layer: Layer) -> int:
    return layer.elements // (layer.num_inputs + layer.num_outputs)


def _unit(outputs: Tensor, index: int) -> Tensor:
    cotangent = torch.zeros_like(outputs)
    cotangent[:, index] = 1.0
    return cotangent


def _times(rows: Tensor, basis: Tensor | None) -> Tensor:
    return rows if basis is None else rows @ basis
