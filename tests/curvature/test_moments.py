"""Second moments of what goes into layers, against patches cut out by torch."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bayesify.curvature.layers import Layer
from bayesify.curvature.moments import ColumnMoment, PatchMoment, Rows, moment_of, symmetric

OPTIONS: list[tuple[dict[str, object], bool]] = [
    ({}, True),
    ({"padding": 2}, True),
    ({"padding": (4, 0)}, True),  # more rows of zeros than the kernel needs
    ({"padding": 1, "stride": (1, 2)}, True),
    ({"dilation": (1, 2), "padding": (0, 1)}, True),
    ({"padding": "same"}, True),
    ({"padding": 1, "padding_mode": "reflect"}, True),
    ({"padding": 1, "padding_mode": "circular"}, True),
    ({"stride": 2}, False),
    ({"dilation": (2, 1), "padding": 1}, False),
    ({"padding": 2, "stride": (2, 1)}, False),
]


def layer_of(module: nn.Conv2d, has_bias: bool) -> Layer:
    size = module.weight[0].numel() + has_bias
    return Layer("", module, torch.arange(module.out_channels * size), module.out_channels, has_bias)


def by_unfolding(module: nn.Conv2d, inputs: Tensor, has_bias: bool) -> Tensor:
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    padded = F.pad(inputs, module._reversed_padding_repeated_twice, mode=mode)
    columns = F.unfold(padded, module.kernel_size, dilation=module.dilation, stride=module.stride).mT.flatten(0, 1)
    columns = F.pad(columns, (0, 1), value=1.0) if has_bias else columns
    return columns.mT @ columns


@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kernel", [(3, 2), (5, 5), (1, 3), (3, 1), (7, 2)])
@pytest.mark.parametrize(("options", "by_rows"), OPTIONS)
def test_convolutions(
    options: dict[str, object], by_rows: bool, kernel: tuple[int, int], channels: int, has_bias: bool
) -> None:
    rng = torch.Generator().manual_seed(2)
    module = nn.Conv2d(channels, 2, kernel, dtype=torch.float64, **options)  # type: ignore[arg-type]
    inputs = torch.randn(5, 14, 9, channels, generator=rng, dtype=torch.float64).permute(0, 3, 1, 2)
    moment = moment_of(layer_of(module, has_bias), inputs)
    assert isinstance(moment, PatchMoment if by_rows and kernel[0] > 1 else ColumnMoment)
    moment.add([inputs[:2]], 2)
    moment.add([inputs[2:4], inputs[4:]], 1)  # called twice in one pass
    torch.testing.assert_close(moment.total(), by_unfolding(module, inputs, has_bias), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(moment.total(), by_unfolding(module, inputs, has_bias), rtol=1e-12, atol=1e-12)


def test_float32_rounds_like_one_product() -> None:
    rng = torch.Generator().manual_seed(3)
    module = nn.Conv2d(4, 2, 5, padding=2)
    inputs = torch.randn(20, 4, 14, 14, generator=rng).relu()
    moment = moment_of(layer_of(module, True), inputs)
    for part in inputs.split(6):
        moment.add([part], len(part))
    expected = by_unfolding(module, inputs.double(), True)
    torch.testing.assert_close(moment.total(), expected, rtol=1e-5, atol=1e-6 * float(expected.abs().max()))


@pytest.mark.parametrize("size", [3, 300])
def test_rows_wait_and_none_is_lost(size: int) -> None:
    x = torch.randn(700, size, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    rows = Rows(size, x)
    for part in x.split(90):
        rows.add(part)
    rows.add_product(torch.eye(size))
    expected = x.mT @ x + torch.eye(size)
    torch.testing.assert_close(rows.total(), expected)
    torch.testing.assert_close(rows.total(), expected)
    torch.testing.assert_close(symmetric(x), x.mT @ x)
