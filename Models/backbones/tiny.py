"""A small residual backbone, which learns from random weights on a CPU in a minute or two."""

from itertools import pairwise

import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn


class Tiny(nn.Module):
    """A stem and three residual stages. width: channels at stride 4, doubled at 8 and 16.

    channels: of the maps that `forward` gives.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.channels = [width, width, 2 * width, 4 * width]
        self.stem = nn.Sequential(convolution(3, width, 3, stride=2), nn.ReLU())
        self.stages = nn.ModuleList(Residual(*pair, stride=2) for pair in pairwise(self.channels))

    def forward(self, images: Tensor) -> list[Tensor]:
        """The maps at strides 2, 4, 8 and 16, sides rounded up, of uint8 [N, 3, H, W], RGB."""
        maps = [self.stem(images.float() / 127.5 - 1)]
        for stage in self.stages:
            maps.append(stage(maps[-1]))
        return maps


class Residual(nn.Module):
    """Two 3 x 3 convolutions beside a shortcut (He et al., 2015, arXiv:1512.03385)."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.first = convolution(channels_in, channels, 3, stride)
        self.second = convolution(channels, channels, 3)
        self.shortcut = convolution(channels_in, channels, 1)
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        # A strided 1 x 1 convolution of 8 channels corrupts memory in oneDNN's backward pass: so subsample before it.
        subsampled = x[:, :, :: self.stride, :: self.stride]
        return F.relu(self.second(F.relu(self.first(x))) + self.shortcut(subsampled))


def convolution(channels_in: int, channels: int, kernel: int, stride: int = 1) -> nn.Module:
    """A convolution and batch normalisation that keep the size (divided by the stride, rounded up)."""
    layer = nn.Conv2d(channels_in, channels, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(channels))
