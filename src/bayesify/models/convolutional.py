"""Networks for small images: LeNet-5 and a residual network without batch statistics."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bayesify.errors import ModelError
from bayesify.model.normalisation import FilterResponseNorm2d

Shape = tuple[int, ...]
"""(channels, height, width) of one image."""

SMALLEST_LENET = 12
SMALLEST_RESNET = 5
RESNET_WIDTHS = (16, 32, 64)
BLOCKS_PER_STAGE = 3


def lenet(shape: Shape, num_outputs: int) -> nn.Sequential:
    """LeNet-5 (LeCun et al., 1998) as it is used today, with ReLU and max pooling; 61,706 parameters on 28 × 28 grey.

    Args:
        shape: (channels, height, width) of the images, 12 × 12 or more.
        num_outputs: of the network.

    Raises:
        ModelError: these are no images, or they are too small.
    """
    channels, height, width = _image_shape(shape, "lenet", SMALLEST_LENET)
    positions = _after_lenet(height) * _after_lenet(width)
    return nn.Sequential(
        nn.Conv2d(channels, 6, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(16 * positions, 120),
        nn.ReLU(),
        nn.Linear(120, 84),
        nn.ReLU(),
        nn.Linear(84, num_outputs),
    )


def resnet20_frn(shape: Shape, num_outputs: int) -> nn.Sequential:
    """ResNet-20 with filter response normalisation and SiLU, as in Izmailov et al. (2021).

    273,754 parameters on CIFAR-10. No layer mixes examples: with batch normalisation the likelihood of one example
    would depend on its batch.

    Args:
        shape: (channels, height, width) of the images, 5 × 5 or more.
        num_outputs: of the network.

    Raises:
        ModelError: these are no images, or they are too small.
    """
    channels, _, _ = _image_shape(shape, "resnet20_frn", SMALLEST_RESNET)
    before = RESNET_WIDTHS[0]
    layers: list[nn.Module] = [nn.Conv2d(channels, before, 3, padding=1), FilterResponseNorm2d(before), nn.SiLU()]
    for stage, width in enumerate(RESNET_WIDTHS):
        for block in range(BLOCKS_PER_STAGE):
            layers.append(ResidualBlock(before, width, stride=2 if stage and not block else 1))
            before = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, num_outputs))


class ResidualBlock(nn.Module):
    """Two normalised convolutions and a shortcut, which is a 1 × 1 convolution where the shape changes."""

    def __init__(self, before: int, width: int, stride: int) -> None:
        nn.Module.__init__(self)
        self.conv1 = nn.Conv2d(before, width, 3, stride, padding=1)
        self.norm1 = FilterResponseNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.norm2 = FilterResponseNorm2d(width)
        changes = stride != 1 or before != width
        self.shortcut: nn.Module = nn.Conv2d(before, width, 1, stride) if changes else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, width, H / stride, W / stride)."""
        inner = self.norm2(self.conv2(F.silu(self.norm1(self.conv1(x)))))
        return F.silu(torch.add(inner, self.shortcut(x)))


def _after_lenet(side: int) -> int:
    return (side // 2 - 4) // 2


def _image_shape(shape: Shape, name: str, smallest: int) -> tuple[int, int, int]:
    if len(shape) != 3:
        raise ModelError(
            f"{name} is for images, (channels, height, width), and these inputs have shape {tuple(shape)}: use the "
            "default network for tables."
        )
    channels, height, width = shape
    if min(height, width) < smallest:
        raise ModelError(
            f"{name} needs images of {smallest} × {smallest} or more and these are {height} × {width}: use "
            f"{'resnet20_frn' if min(height, width) >= SMALLEST_RESNET else 'the default network'}."
        )
    return channels, height, width
