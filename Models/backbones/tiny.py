"""A small residual backbone with a neck at stride 8, for boxes, masks and counts, and what goes with it.

Trained from random weights on a CPU in a minute or two. Copy this file, or write another one beside it, and name it
under `helpers` in the experiment's entry in params.yaml: it travels with the export.
"""

from typing import NamedTuple

import torch.nn.functional as F  # noqa: N812
from torch import Tensor, distributed, nn


class Features(NamedTuple):
    """Feature maps of N images of H x W pixels; sides are rounded up."""

    at2: Tensor  # float [N, width, H/2, W/2]
    at4: Tensor  # float [N, width, H/4, W/4]
    at8: Tensor  # float [N, 2 * width, H/8, W/8], of strides 4, 8 and 16 together


class Tiny(nn.Module):
    """Three residual stages at strides 4, 8 and 16, summed at stride 8. width: channels at stride 4, doubled at 8."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(convolution(3, width, 3, stride=2), nn.ReLU())
        self.stage4 = Residual(width, width, stride=2)
        self.stage8 = Residual(width, 2 * width, stride=2)
        self.stage16 = Residual(2 * width, 4 * width, stride=2)
        self.lateral4 = convolution(width, 2 * width, 3, stride=2)
        self.lateral8 = convolution(2 * width, 2 * width, 1)
        self.lateral16 = convolution(4 * width, 2 * width, 1)
        self.neck = nn.Sequential(nn.ReLU(), convolution(2 * width, 2 * width, 3), nn.ReLU())

    def forward(self, images: Tensor) -> Features:
        """The features of uint8 [N, 3, H, W], RGB, of any size."""
        at2 = self.stem(images.float() / 127.5 - 1)
        at4 = self.stage4(at2)
        at8 = self.stage8(at4)
        at16 = self.lateral16(self.stage16(at8))
        return Features(at2, at4, self.neck(self.lateral4(at4) + self.lateral8(at8) + upsample(at16, 2, at8)))


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


def upsample(x: Tensor, times: int, like: Tensor) -> Tensor:
    """The map `x` with each cell repeated, cut to the size of `like`."""
    return F.interpolate(x, scale_factor=float(times))[:, :, : like.shape[2], : like.shape[3]]


def whole_batch(total: Tensor, least: float) -> Tensor:
    """A sum over the batch, at least `least`, to divide a loss by.

    Where several processes share a batch, the sum over all of them, divided by their number: the mean of the processes'
    losses is then the loss of the whole batch.
    """
    if not (distributed.is_available() and distributed.is_initialized()):
        return total.clamp(min=least)
    summed = total.detach().float()
    distributed.all_reduce(summed)
    return summed.clamp(min=least) / distributed.get_world_size()
