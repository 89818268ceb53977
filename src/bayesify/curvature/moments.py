"""Second moments Σ a aᵀ of a layer's inputs, and of gradients, added up over chunks of a data set in float64.

A convolution's inputs are patches, and patches overlap. With V_r the columns of the padded image's row r, at every
place along the width (C · kernel width numbers each), and stride 1 along the height, the block of Σ a aᵀ between the
kernel's rows i and j is

    Σ_h V_{h+i}ᵀ V_{h+j} = Σ_{r = i}^{i + H' − 1} V_rᵀ V_{r + j − i},       H' rows of outputs,                      (1)

so that each product of two image rows is computed once, not once for every kernel row, and patches are never formed:
for a k × k kernel about k/2 times fewer operations than half of the whole product, and k times less to copy.
Rows of padding with zeros are left out. Not here: other strides and dilations along the height, which take patches.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import groupby

import torch
from torch import Tensor, nn

from bayesify.curvature.layers import Layer, joined_inputs, padded_image, sliding_columns

GRAM_BLOCK = 128
"""Columns at a time, of a product whose other half is known by symmetry."""


class Moment(ABC):
    """A running Σ a aᵀ of what goes into a layer; subclasses are final."""

    @abstractmethod
    def add(self, inputs: Sequence[Tensor], num_rows: int) -> None:
        """The inputs of every call in one pass of `num_rows` examples."""

    @abstractmethod
    def total(self) -> Tensor:
        """(in, in), float64."""


def moment_of(layer: Layer, like: Tensor) -> Moment:
    """Nothing yet, for a layer's inputs; `like` has their device."""
    module = layer.module
    if isinstance(module, nn.Conv2d) and module.stride[0] == module.dilation[0] == 1 < module.kernel_size[0]:
        return PatchMoment(layer, like)
    return ColumnMoment(layer, like)


class Rows:
    """A running xᵀ x. Few rows make many sums of a large matrix, so they wait until they are as many as columns."""

    def __init__(self, size: int, like: Tensor) -> None:
        self._total = like.new_zeros((size, size), dtype=torch.float64)
        self._waiting: list[Tensor] = []

    def add(self, x: Tensor) -> None:
        """Rows (N, size)."""
        self._waiting.append(x)
        if sum(map(len, self._waiting)) >= len(self._total):
            self._put_together()

    def add_product(self, product: Tensor) -> None:
        """Some (size, size) xᵀ x."""
        self._total.add_(product)

    def total(self) -> Tensor:
        """(size, size)."""
        if self._waiting:
            self._put_together()
        return self._total

    def _put_together(self) -> None:
        self._total.add_(symmetric(self._waiting[0] if len(self._waiting) == 1 else torch.cat(self._waiting)))
        self._waiting.clear()


class ColumnMoment(Moment):
    """Any layer's, from its columns."""

    def __init__(self, layer: Layer, like: Tensor) -> None:
        self._layer, self._rows = layer, Rows(layer.num_inputs, like)

    def add(self, inputs: Sequence[Tensor], num_rows: int) -> None:  # noqa: D102
        self._rows.add(joined_inputs(self._layer, inputs, num_rows).flatten(0, 1))

    def total(self) -> Tensor:  # noqa: D102
        return self._rows.total()


class PatchMoment(Moment):
    """A convolution's, by (1)."""

    def __init__(self, layer: Layer, like: Tensor) -> None:
        assert isinstance(layer.module, nn.Conv2d)
        self._module, self._has_bias = layer.module, layer.has_bias
        self._height, self._width = layer.module.kernel_size
        self._size = layer.module.in_channels * self._width  # of one kernel row
        zeros = like.new_zeros
        self._upper = zeros((self._height, self._size, self._height, self._size), dtype=torch.float64)  # j ≥ i only
        self._sum = zeros((self._height, self._size), dtype=torch.float64)
        self._positions = 0

    def add(self, inputs: Sequence[Tensor], num_rows: int) -> None:  # noqa: D102
        del num_rows
        for value in inputs:
            self._add(value)

    def _add(self, inputs: Tensor) -> None:
        image, missing = padded_image(self._module, inputs, zero_rows=False)
        columns = sliding_columns(self._module, image)  # (B, W', H, C · width)
        num_images, num_places, num_rows, size = columns.shape
        num_outputs = num_rows + sum(missing) - self._height + 1
        x = columns.view(num_images * num_places, num_rows * size)
        sums = x.sum(0).view(num_rows, size) if self._has_bias else None
        self._positions += num_images * num_places * num_outputs

        def users(row: int) -> tuple[int, int]:
            """The kernel rows [first, end) for which image row r is among those in (1), as a range."""
            place = row + missing[0]
            return max(0, place - num_outputs + 1), min(self._height, place + 1)

        def lags(row: int) -> int:
            return min(self._height, num_rows - row)

        for ((first, end), count), group in groupby(range(num_rows), key=lambda row: (users(row), lags(row))):
            rows = list(group)
            product = x.new_zeros(size, count * size)
            for row in rows:
                product.addmm_(x[:, row * size : (row + 1) * size].mT, x[:, row * size : (row + count) * size])
            for i in range(first, end):
                reach = min(count, self._height - i)
                self._upper[i, :, i : i + reach] += product.view(size, count, size)[:, :reach]
                if sums is not None:
                    self._sum[i] += sums[rows[0] : rows[-1] + 1].sum(0)

    def total(self) -> Tensor:  # noqa: D102
        height, size, width = self._height, self._size, self._width
        whole = self._upper.clone()
        for i in range(height):
            for j in range(i):
                whole[i, :, j] = self._upper[j, :, i].mT
        channels = size // width
        ordered = whole.view(height, channels, width, height, channels, width).permute(1, 0, 2, 4, 3, 5)
        matrix = ordered.reshape(height * size, height * size)
        if not self._has_bias:
            return matrix
        ones = self._sum.view(height, channels, width).permute(1, 0, 2).reshape(-1, 1)
        corner = matrix.new_full((1, 1), self._positions)
        return torch.cat([torch.cat([matrix, ones], dim=1), torch.cat([ones.mT, corner], dim=1)])


def symmetric(x: Tensor) -> Tensor:
    """The symmetric xᵀ x, of which only what lies on and above the diagonal's blocks is computed."""
    size = x.shape[1]
    if size < 2 * GRAM_BLOCK:
        return x.mT @ x
    total = x.new_empty(size, size)
    for start in range(0, size, GRAM_BLOCK):
        end = min(size, start + GRAM_BLOCK)
        total[start:end, start:] = x[:, start:end].mT @ x[:, start:]
        total[end:, start:end] = total[start:end, end:].mT
    return total
