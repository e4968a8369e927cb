"""e003: a small network that tells how many objects of each class an image shows, without saying where.

The backbone, neck and heads of e001, whose weights fit: each cell at stride 8 says with which chance it holds an
object, and of which class. Summed over the image these chances are the expected counts, and together they give the
chance that there is an object at all (noisy-or; Viola, Platt and Zhang, Multiple instance boosting, 2005). From random
weights it learns slowly, for counts alone tell little of where to look: start it from a detector.

This file is the whole model, and travels with every export: it imports torch and the standard library only.
"""

import torch.nn.functional as F  # noqa: N812
from torch import Tensor, distributed, nn

TASK = "counts"  # the record's field that this model learns


def build(classes: int, width: int = 32) -> nn.Module:
    """A network for `classes` classes with random weights. width: channels at stride 4, doubled at 8 and 16."""
    if min(classes, width) < 1:
        raise ValueError(f"classes ({classes}) and width ({width}) must be 1 or more")
    return DensityCounter(classes, width)


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


class DensityCounter(nn.Module):
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
        self.heat = nn.Conv2d(2 * width, 1, 1)
        self.kind = nn.Conv2d(2 * width, classes, 1)
        nn.init.constant_(self.heat.bias, -4.0)  # type: ignore[arg-type]  # few of the cells hold an object

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Count. images: uint8 [N, 3, H, W], RGB, of any size.

        scores: float32 [N, C], the chance of each class that there is an object; counts: float32 [N, C], how many to
        expect.
        """
        chances = self.chances(images)
        return {"scores": -log_none(chances).expm1(), "counts": chances.sum((2, 3))}

    def chances(self, images: Tensor) -> Tensor:
        """For uint8 [N, 3, H, W] the chance of each cell to hold an object of each class, float [N, C, H/8, W/8]."""
        at4 = self.stage4(self.stem(images.float() / 127.5 - 1))
        at8 = self.stage8(at4)
        at16 = self.lateral16(self.stage16(at8))
        height, width = at8.shape[2:]
        upsampled = F.interpolate(at16, scale_factor=2.0)[:, :, :height, :width]
        x = self.neck(self.lateral4(at4) + self.lateral8(at8) + upsampled)
        return self.heat(x).float().sigmoid() * self.kind(x).float().softmax(1)

    def loss(self, images: Tensor, targets: dict[str, Tensor]) -> dict[str, Tensor]:
        """The parts of the loss, scalars to be summed: cross-entropy of the labels, smooth L1 of the counts.

        images: uint8 [N, 3, H, W]. targets: counts int64 [N, C].
        """
        chances, counts = self.chances(images), targets["counts"].float()
        none = log_none(chances)
        some = (-none.expm1()).clamp(min=1e-6).log()
        label = -some.where(counts > 0, none).sum(1)
        count = F.smooth_l1_loss(chances.sum((2, 3)), counts, reduction="none").sum(1)
        number = whole_batch(counts.new_tensor(len(counts)), least=1)
        return {"label": label.sum() / number, "count": count.sum() / number}


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


def log_none(chances: Tensor) -> Tensor:
    """The logarithm of the chance that no cell holds an object of the class: [N, C] of [N, C, H, W]."""
    return (-chances.clamp(max=1 - 1e-6)).log1p().sum((2, 3))


def convolution(channels_in: int, channels: int, kernel: int, stride: int = 1) -> nn.Module:
    """A convolution and batch normalisation that keep the size (rounded up, divided by the stride)."""
    layer = nn.Conv2d(channels_in, channels, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(channels))
