"""Feature maps for the model scripts: a backbone by its name, and a neck that joins its maps at stride 8.

Copy a backbone's file, or write another one beside it, and name it in BACKBONES: all of this folder travels with the
export.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch.nn.functional as F  # noqa: N812
from torch import Tensor, distributed, nn

from Models.backbones.efficientnet_lite import EfficientNetLite
from Models.backbones.tiny import Tiny, convolution

BACKBONES: dict[str, Callable[[int], Tiny | EfficientNetLite]] = {
    "tiny": Tiny,
    "efficientnet_lite0": lambda width: EfficientNetLite(0),
    "efficientnet_lite1": lambda width: EfficientNetLite(1),
    "efficientnet_lite2": lambda width: EfficientNetLite(2),
}


class Features(NamedTuple):
    """Feature maps of N images of H x W pixels; sides are rounded up."""

    at2: Tensor  # float [N, channels[0], H/2, W/2], of the backbone
    at4: Tensor  # float [N, channels[1], H/4, W/4], of the backbone
    at8: Tensor  # float [N, 2 * width, H/8, W/8], of all strides from 4 on together
    image: Tensor  # float32 [N, channels[-1]], the means of the backbone's last map: what the image looks like


class Pyramid(nn.Module):
    """A backbone, and its maps from stride 4 on summed at stride 8 (as Lin et al., 2017, arXiv:1612.03144).

    backbone: a name in BACKBONES. width: half the channels of the sum; of tiny also its channels at stride 4.
    """

    def __init__(self, backbone: str, width: int) -> None:
        super().__init__()
        if backbone not in BACKBONES:
            raise ValueError(f"backbone ({backbone}) must be one of: {', '.join(BACKBONES)}")
        self.body = body = BACKBONES[backbone](width)
        self.channels = body.channels
        _, at4, *others = body.channels
        self.lateral4 = convolution(at4, 2 * width, 3, stride=2)
        self.laterals = nn.ModuleList(convolution(channels, 2 * width, 1) for channels in others)
        self.neck = nn.Sequential(nn.ReLU(), convolution(2 * width, 2 * width, 3), nn.ReLU())

    def forward(self, images: Tensor) -> Features:
        """The features of uint8 [N, 3, H, W], RGB, of any size."""
        at2, at4, *others = self.body(images)
        joined = self.lateral4(at4)
        for times, lateral, x in zip((1, 2, 4), self.laterals, others, strict=False):
            joined = joined + upsample(lateral(x), times, joined)
        return Features(at2, at4, self.neck(joined), others[-1].mean((2, 3)).float())


def upsample(x: Tensor, times: int, like: Tensor) -> Tensor:
    """The map `x` enlarged, cut to the size of `like`; between the cells it is linear, so that boxes have no steps."""
    if times > 1:
        x = F.interpolate(x, scale_factor=float(times), mode="bilinear")
    return x[:, :, : like.shape[2], : like.shape[3]]


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
