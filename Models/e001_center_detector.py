"""e001: a small one-stage detector that finds objects by their centres, for boxes of up to about half the image.

A residual backbone of three stages (strides 4, 8, 16) is gathered at stride 8, where each cell says how much it is the
centre of an object (as in Zhou et al., Objects as Points, 2019, arXiv:1904.07850, but one map for all classes), of
which class, and how far the box reaches left, up, right and down of it (Tian et al., FCOS, 2019, arXiv:1904.01355).
One map for all classes learns far faster from little data than a map for each. Peaks of the map are the detections: no
non-maximum suppression is needed.

This file is the whole model, and travels with every export: it imports torch and the standard library only.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, distributed, nn

TASK = "boxes"  # the record's field that this model learns
STRIDE = 8


def build(classes: int, width: int = 32, detections: int = 100) -> nn.Module:
    """A detector of `classes` classes with random weights.

    width: channels at stride 4, doubled at 8 and 16. detections: how many boxes `forward` returns for each image.
    """
    if min(classes, width, detections) < 1:
        raise ValueError(f"classes ({classes}), width ({width}) and detections ({detections}) must be 1 or more")
    return CenterDetector(classes, width, detections)


class Maps(NamedTuple):
    """What the network says of each cell: float [N, C, H/8, W/8], rounded up."""

    heat: Tensor  # C = 1: logit that the cell is the centre of an object
    kind: Tensor  # C = classes: logits of the object's class
    reach: Tensor  # C = 4: pixels from the cell's middle to the box's left, top, right, bottom


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


class CenterDetector(nn.Module):
    """The network, its decoding (`forward`) and its training objective (`loss`)."""

    def __init__(self, classes: int, width: int, detections: int) -> None:
        super().__init__()
        self.detections = detections
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
        self.reach = nn.Conv2d(2 * width, 4, 1)
        nn.init.constant_(self.heat.bias, -2.2)  # type: ignore[arg-type]  # a cell is a centre with a chance of 0.1

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Detect. images: uint8 [N, 3, H, W], RGB, of any size.

        boxes: float32 [N, K, 4], x1, y1, x2, y2 in pixels of the input; scores: float32 [N, K] in 0 to 1, descending;
        classes: int64 [N, K]. K is `detections`; where an image has fewer peaks, the rest has a score of 0.
        """
        maps = self.maps(images)
        heat = maps.heat.sigmoid()
        peak = F.max_pool2d(heat, 3, stride=1, padding=1) == heat
        chance, kind = maps.kind.softmax(1).max(1)
        scores = (heat * peak)[:, 0].flatten(1) * chance.flatten(1)
        cells = scores.shape[1]
        scores, index = F.pad(scores, (0, self.detections)).topk(self.detections)
        index = index.clamp(max=cells - 1)
        boxes = box_map(maps.reach).flatten(2).transpose(1, 2)
        boxes = boxes.gather(1, index[..., None].expand(-1, -1, 4))
        return {"boxes": boxes, "scores": scores, "classes": kind.flatten(1).gather(1, index)}

    def maps(self, images: Tensor) -> Maps:
        """The raw maps for uint8 [N, 3, H, W]."""
        x = self.stem(images.float() / 127.5 - 1)
        at4 = self.stage4(x)
        at8 = self.stage8(at4)
        at16 = self.lateral16(self.stage16(at8))
        height, width = at8.shape[2:]
        upsampled = F.interpolate(at16, scale_factor=2.0)[:, :, :height, :width]
        x = self.neck(self.lateral4(at4) + self.lateral8(at8) + upsampled)
        heat, kind, reach = (head(x).float() for head in (self.heat, self.kind, self.reach))  # bfloat16, if told so
        return Maps(heat, kind, reach.clamp(max=6).exp() * (2 * STRIDE))

    def loss(self, images: Tensor, targets: dict[str, Tensor]) -> dict[str, Tensor]:
        """The parts of the loss, scalars to be summed.

        images: uint8 [N, 3, H, W]. targets: boxes float32 [N, M, 4] (x1, y1, x2, y2 in pixels of the input), classes
        int64 [N, M], -1 where an image has fewer than M; crowd bool [N, M]. Cells inside a crowd box are neither
        centre nor background; images without boxes are background.
        """
        maps = self.maps(images)
        goal = make_goal(targets, maps.heat.shape[2], maps.heat.shape[3])
        weight = goal.weight / whole_batch(goal.weight.sum(), least=1e-6)
        kind = F.cross_entropy(maps.kind, goal.kind, reduction="none")
        return {
            "heat": focal_loss(maps.heat[:, 0], goal.heat, goal.ignored),
            "class": (kind * weight).sum(),
            "box": 2 * (giou_loss(box_map(maps.reach), goal.boxes) * weight).sum(),
        }


class Goal(NamedTuple):
    """What the maps should say, for each cell of [N, H, W]."""

    heat: Tensor  # float: 1 at the centre of each object, falling off around it
    kind: Tensor  # int64: the class of the object that the cell is nearest to
    boxes: Tensor  # float [N, 4, H, W]: that object's box
    weight: Tensor  # float: how much the cell counts for class and box
    ignored: Tensor  # bool: inside a crowd box


def make_goal(targets: dict[str, Tensor], height: int, width: int) -> Goal:
    """Spread each object over the cells around its centre, as a Gaussian as wide as the object.

    Where objects overlap, a cell belongs to the one with the largest value there; the cell of its centre has 1.
    """
    boxes, classes, crowd = targets["boxes"], targets["classes"], targets["crowd"]
    x1, y1, x2, y2 = (side[:, :, None, None] for side in boxes.unbind(2))
    real = ((classes >= 0) & ~crowd)[:, :, None, None]
    x, y = (axis[None, None] for axis in cell_middles(height, width, boxes.device))
    falls = (offset(x, x1, x2, width) + offset(y, y1, y2, height)).neg().exp() * real
    heat, owner = falls.max(1)
    inside = (x >= x1) & (x < x2) & (y >= y1) & (y < y2) & crowd[:, :, None, None]
    flat = owner.flatten(1)
    return Goal(
        heat=heat,
        kind=classes.clamp(min=0).gather(1, flat).view_as(owner),
        boxes=boxes.gather(1, flat[..., None].expand(-1, -1, 4)).transpose(1, 2).reshape(-1, 4, height, width),
        weight=heat * (heat > 0.05),
        ignored=inside.any(1),
    )


def offset(middles: Tensor, low: Tensor, high: Tensor, cells: int) -> Tensor:
    """Half the squared distance from each cell to that of the centre between two sides, in standard deviations."""
    centre = ((low + high) / 2 / STRIDE).floor().clamp(0, cells - 1) * STRIDE + STRIDE / 2
    sigma = ((high - low) / 6).clamp(min=STRIDE / 4)
    return ((middles - centre) / sigma) ** 2 / 2


def box_map(reach: Tensor) -> Tensor:
    """The box of each cell, [N, 4, H, W] (x1, y1, x2, y2 in pixels), from how far it reaches."""
    x, y = cell_middles(reach.shape[2], reach.shape[3], reach.device)
    left, top, right, bottom = reach.unbind(1)
    return torch.stack([x - left, y - top, x + right, y + bottom], 1)


def cell_middles(height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """x [1, W] and y [H, 1] of the cells' middles, in pixels."""
    x = (torch.arange(width, device=device) + 0.5) * STRIDE
    y = (torch.arange(height, device=device) + 0.5) * STRIDE
    return x[None], y[:, None]


def focal_loss(logits: Tensor, goal: Tensor, ignored: Tensor) -> Tensor:
    """Focal loss (Lin et al., 2017, arXiv:1708.02002), milder around centres as in Objects as Points, per object."""
    chance = logits.sigmoid()
    centre = goal == 1
    found = -F.logsigmoid(logits) * (1 - chance) ** 2
    background = -F.logsigmoid(-logits) * chance**2 * (1 - goal) ** 4
    each = torch.where(centre, found, background * ~ignored)
    return each.sum() / whole_batch(centre.sum(), least=1)


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


def giou_loss(boxes: Tensor, goal: Tensor) -> Tensor:
    """1 - GIoU of boxes [N, 4, ...] with those of the same place (Rezatofighi et al., 2019, arXiv:1902.09630)."""
    low, high = torch.maximum(boxes[:, :2], goal[:, :2]), torch.minimum(boxes[:, 2:], goal[:, 2:])
    outer_low, outer_high = torch.minimum(boxes[:, :2], goal[:, :2]), torch.maximum(boxes[:, 2:], goal[:, 2:])
    overlap = (high - low).clamp(min=0).prod(1)
    union = (boxes[:, 2:] - boxes[:, :2]).prod(1) + (goal[:, 2:] - goal[:, :2]).prod(1) - overlap
    outer = (outer_high - outer_low).prod(1).clamp(min=1e-6)
    return 1 - overlap / union.clamp(min=1e-6) + (outer - union) / outer


def convolution(channels_in: int, channels: int, kernel: int, stride: int = 1) -> nn.Module:
    """A convolution and batch normalisation that keep the size (rounded up, divided by the stride)."""
    layer = nn.Conv2d(channels_in, channels, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(channels))
