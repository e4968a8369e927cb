"""e002: a small network for semantic segmentation, which asks separately where objects are and of which class they are.

Where one begins needs detail: a logit for each pixel, made at stride 2, with 4 pixels in each cell (Shi et al., 2016,
arXiv:1609.05158). Which class it is needs a view of the whole object: logits at stride 8, from the backbone and neck of
e001, whose weights fit. A pixel of the foreground has the class of the cell that it lies in. From little data this
learns far faster than one map of all classes and background at full detail.

This file is the whole model, and travels with every export: it imports torch and the standard library only.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, distributed, nn

TASK = "mask"  # the record's field that this model learns
STRIDE = 8  # of the class logits
IGNORED = -1  # in the targets: a pixel that is neither of a class nor background


def build(classes: int, width: int = 32) -> nn.Module:
    """A network for `classes` classes with random weights. width: channels at stride 4, doubled at 8 and 16."""
    if not (0 < classes < 255 and width > 1):
        raise ValueError(f"classes ({classes}) must be 1 to 254, width ({width}) 2 or more")
    return CoarseToFine(classes, width)


class Maps(NamedTuple):
    """What the network says of an image of H x W pixels."""

    foreground: Tensor  # float [N, H, W]: logit that the pixel is of an object
    kind: Tensor  # float [N, C, H/8, W/8], rounded up: logits of the class of the foreground in the cell


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
        thinned = x[:, :, :: self.stride, :: self.stride]
        return F.relu(self.second(F.relu(self.first(x))) + self.shortcut(thinned))


class CoarseToFine(nn.Module):
    """The network, its decoding (`forward`) and its training objective (`loss`)."""

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(convolution(3, width, 3, stride=2), nn.ReLU())
        self.stage4 = Residual(width, width, stride=2)
        self.stage8 = Residual(width, 2 * width, stride=2)
        self.stage16 = Residual(2 * width, 4 * width, stride=2)
        self.lateral4 = convolution(width, 2 * width, 3, stride=2)
        self.lateral8 = convolution(2 * width, 2 * width, 1)
        self.lateral16 = convolution(4 * width, 2 * width, 1)
        self.neck = nn.Sequential(nn.ReLU(), convolution(2 * width, 2 * width, 3), nn.ReLU())
        self.kind = nn.Conv2d(2 * width, classes, 1)
        self.fine2 = convolution(width, width // 2, 3)
        self.fine4 = convolution(width, width // 2, 1)
        self.fine8 = convolution(2 * width, width // 2, 1)
        self.foreground = nn.Conv2d(width // 2, 4, 3, padding=1)
        nn.init.constant_(self.foreground.bias, -2.2)  # type: ignore[arg-type]  # a pixel is of an object in 1 of 10

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Segment. images: uint8 [N, 3, H, W], RGB, of any size.

        mask: uint8 [N, H, W]: class id + 1, or 0 for background.
        """
        height, width = images.shape[2:]
        maps = self.maps(images)
        kind = F.interpolate(maps.kind.argmax(1, keepdim=True).float() + 1, scale_factor=float(STRIDE))
        return {"mask": ((maps.foreground > 0) * kind[:, 0, :height, :width]).to(torch.uint8)}

    def maps(self, images: Tensor) -> Maps:
        """The raw maps for uint8 [N, 3, H, W]."""
        at2 = self.stem(images.float() / 127.5 - 1)
        at4 = self.stage4(at2)
        at8 = self.stage8(at4)
        at16 = self.lateral16(self.stage16(at8))
        x = self.neck(self.lateral4(at4) + self.lateral8(at8) + enlarged(at16, 2, at8))
        fine = self.fine2(at2) + enlarged(self.fine4(at4), 2, at2) + enlarged(self.fine8(x), 4, at2)
        foreground = F.pixel_shuffle(self.foreground(F.relu(fine)), 2)
        return Maps(foreground[:, 0, : images.shape[2], : images.shape[3]].float(), self.kind(x).float())

    def loss(self, images: Tensor, targets: dict[str, Tensor]) -> dict[str, Tensor]:
        """The parts of the loss, scalars to be summed.

        images: uint8 [N, 3, H, W]. targets: mask int64 [N, H, W], class id + 1, 0 for background, IGNORED.
        """
        maps, mask = self.maps(images), targets["mask"]
        known = (mask != IGNORED).float()
        wrong = F.binary_cross_entropy_with_logits(maps.foreground, (mask > 0).float(), reduction="none")
        foreground = (wrong * known).sum() / whole_batch(known.sum(), least=1)
        return {"foreground": foreground, "class": class_loss(maps.kind, mask)}


def class_loss(kind: Tensor, mask: Tensor) -> Tensor:
    """Cross-entropy of each foreground pixel with the logits of its cell; the mean over all of them."""
    height, width = mask.shape[1:]
    padded = F.pad(mask, (0, -width % STRIDE, 0, -height % STRIDE), value=IGNORED)
    pixels = F.pixel_unshuffle(padded[:, None], STRIDE)  # [N, 64, H/8, W/8]: the pixels of each cell
    likely = kind.log_softmax(1).gather(1, (pixels - 1).clamp(min=0))
    foreground = pixels > 0
    return -(likely * foreground).sum() / whole_batch(foreground.sum(), least=1)


def whole_batch(total: Tensor, least: float) -> Tensor:
    """A sum over the batch, at least `least`, to divide a loss by.

    Where processes share a batch, the sum over all of them, divided by their number: the mean of the processes' losses
    is then the loss of the whole batch.
    """
    if not (distributed.is_available() and distributed.is_initialized()):
        return total.clamp(min=least)
    summed = total.detach().float()
    distributed.all_reduce(summed)
    return summed.clamp(min=least) / distributed.get_world_size()


def enlarged(x: Tensor, times: int, like: Tensor) -> Tensor:
    """The map `x`, each cell repeated, cut to the size of `like`."""
    return F.interpolate(x, scale_factor=float(times))[:, :, : like.shape[2], : like.shape[3]]


def convolution(channels_in: int, channels: int, kernel: int, stride: int = 1) -> nn.Module:
    """A convolution and batch normalisation that keep the size (rounded up, divided by the stride)."""
    layer = nn.Conv2d(channels_in, channels, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(channels))
