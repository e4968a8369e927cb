"""e001: a small one-stage detector that finds objects by their centres, for boxes of up to about half the image.

At stride 8, each cell predicts whether it is the centre of an object (as in Zhou et al., Objects as Points, 2019,
arXiv:1904.07850, but one heatmap for all classes), of which class, and the distances to the box's four sides (Tian et
al., FCOS, 2019, arXiv:1904.01355). One heatmap for all classes learns far faster from little data than one per class.
Peaks of the heatmap are the detections: no non-maximum suppression is needed.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from Models.backbones.features import Features, Pyramid, whole_batch

TASK = "boxes"  # the record's field that this model learns
STRIDE = 8


def build(classes: int, backbone: str = "tiny", width: int = 32, detections: int = 100) -> nn.Module:
    """A detector of `classes` classes with random weights.

    backbone, width: as of Models/backbones/features.py. detections: how many boxes `forward` returns for each image.
    """
    if min(classes, width, detections) < 1:
        raise ValueError(f"classes ({classes}), width ({width}) and detections ({detections}) must be 1 or more")
    return CenterDetector(classes, backbone, width, detections)


class Maps(NamedTuple):
    """What the heads give: float [N, C, H/8, W/8], rounded up."""

    heatmap: Tensor  # C = 1: logit that the cell is the centre of an object
    kind: Tensor  # C = classes: logits of the object's class
    distances: Tensor  # C = 4: pixels from the cell's middle to the box's left, top, right, bottom


class CenterDetector(nn.Module):
    """The network, its decoding (`forward`) and its training objective (`loss`)."""

    def __init__(self, classes: int, backbone: str, width: int, detections: int) -> None:
        super().__init__()
        self.detections = detections
        self.backbone = Pyramid(backbone, width)
        self.heatmap = nn.Conv2d(2 * width, 1, 1)
        self.kind = nn.Conv2d(2 * width, classes, 1)
        self.distances = nn.Conv2d(2 * width, 4, 1)
        nn.init.constant_(self.heatmap.bias, -2.2)  # type: ignore[arg-type]  # a cell is a centre in 1 of 10

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Detect. images: uint8 [N, 3, H, W], RGB, of any size.

        boxes: float32 [N, K, 4], x1, y1, x2, y2 in pixels of the input; scores: float32 [N, K] in 0 to 1, descending;
        classes: int64 [N, K]. K is `detections`; where an image has fewer peaks, the rest has a score of 0. features:
        float32 [N, D], what each image looks like.
        """
        features = self.backbone(images)
        maps = self.maps(features)
        heatmap = maps.heatmap.sigmoid()
        peak = F.max_pool2d(heatmap, 3, stride=1, padding=1) == heatmap
        probability, kind = maps.kind.softmax(1).max(1)
        scores = (heatmap * peak)[:, 0].flatten(1) * probability.flatten(1)
        cells = scores.shape[1]
        scores, index = F.pad(scores, (0, self.detections)).topk(self.detections)
        index = index.clamp(max=cells - 1)
        boxes = box_map(maps.distances).flatten(2).transpose(1, 2)
        boxes = boxes.gather(1, index[..., None].expand(-1, -1, 4))
        kinds = kind.flatten(1).gather(1, index)
        return {"boxes": boxes, "scores": scores, "classes": kinds, "features": features.image}

    def maps(self, features: Features) -> Maps:
        """The raw maps of the backbone's features."""
        heads = (self.heatmap, self.kind, self.distances)
        # float(): under bf16 the heads give bfloat16
        heatmap, kind, distances = (head(features.at8).float() for head in heads)
        return Maps(heatmap, kind, distances.clamp(max=6).exp() * (2 * STRIDE))

    def loss(self, images: Tensor, targets: dict[str, Tensor]) -> dict[str, Tensor]:
        """The parts of the loss, scalars to be summed.

        images: uint8 [N, 3, H, W]. targets: boxes float32 [N, M, 4] (x1, y1, x2, y2 in pixels of the input), classes
        int64 [N, M], -1 where an image has fewer than M; crowd bool [N, M]. Cells inside a crowd box are neither
        centre nor background; images without boxes are background.
        """
        maps = self.maps(self.backbone(images))
        goal = assign(targets, maps.heatmap.shape[2], maps.heatmap.shape[3])
        weight = goal.weight / whole_batch(goal.weight.sum(), least=1e-6)
        kind = F.cross_entropy(maps.kind, goal.kind, reduction="none")
        return {
            "heat": focal_loss(maps.heatmap[:, 0], goal.heatmap, goal.ignored),
            "class": (kind * weight).sum(),
            "box": 2 * (giou_loss(box_map(maps.distances), goal.boxes) * weight).sum(),
        }


class Goal(NamedTuple):
    """The targets of the maps, for each cell of [N, H, W]."""

    heatmap: Tensor  # float: 1 at the centre of each object, falling off around it
    kind: Tensor  # int64: class of the object that the cell is assigned to
    boxes: Tensor  # float [N, 4, H, W]: that object's box
    weight: Tensor  # float: of the cell in the losses of class and box
    ignored: Tensor  # bool: inside a crowd box


def assign(targets: dict[str, Tensor], height: int, width: int) -> Goal:
    """Assign the cells to objects, each a Gaussian around its centre, as wide as the object.

    Where objects overlap, a cell belongs to the one with the largest value there; the cell of its centre has 1.
    """
    boxes, classes, crowd = targets["boxes"], targets["classes"], targets["crowd"]
    x1, y1, x2, y2 = (side[:, :, None, None] for side in boxes.unbind(2))
    real = ((classes >= 0) & ~crowd)[:, :, None, None]
    x, y = (axis[None, None] for axis in cell_middles(height, width, boxes.device))
    gaussians = (offset(x, x1, x2, width) + offset(y, y1, y2, height)).neg().exp() * real
    heatmap, owner = gaussians.max(1)
    inside = (x >= x1) & (x < x2) & (y >= y1) & (y < y2) & crowd[:, :, None, None]
    flat = owner.flatten(1)
    return Goal(
        heatmap=heatmap,
        kind=classes.clamp(min=0).gather(1, flat).view_as(owner),
        boxes=boxes.gather(1, flat[..., None].expand(-1, -1, 4)).transpose(1, 2).reshape(-1, 4, height, width),
        weight=heatmap * (heatmap > 0.05),
        ignored=inside.any(1),
    )


def offset(middles: Tensor, low: Tensor, high: Tensor, cells: int) -> Tensor:
    """Half the squared distance from each cell to that of the centre between two sides, in standard deviations."""
    centre = ((low + high) / 2 / STRIDE).floor().clamp(0, cells - 1) * STRIDE + STRIDE / 2
    sigma = ((high - low) / 6).clamp(min=STRIDE / 4)
    return ((middles - centre) / sigma) ** 2 / 2


def box_map(distances: Tensor) -> Tensor:
    """The box of each cell, [N, 4, H, W] (x1, y1, x2, y2 in pixels), from the distances to its sides."""
    x, y = cell_middles(distances.shape[2], distances.shape[3], distances.device)
    left, top, right, bottom = distances.unbind(1)
    return torch.stack([x - left, y - top, x + right, y + bottom], 1)


def cell_middles(height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """x [1, W] and y [H, 1] of the cells' middles, in pixels."""
    x = (torch.arange(width, device=device) + 0.5) * STRIDE
    y = (torch.arange(height, device=device) + 0.5) * STRIDE
    return x[None], y[:, None]


def focal_loss(logits: Tensor, goal: Tensor, ignored: Tensor) -> Tensor:
    """Focal loss (Lin et al., 2017, arXiv:1708.02002), milder around centres as in Objects as Points, per object."""
    probability = logits.sigmoid()
    centre = goal == 1
    found = -F.logsigmoid(logits) * (1 - probability) ** 2
    background = -F.logsigmoid(-logits) * probability**2 * (1 - goal) ** 4
    each = torch.where(centre, found, background * ~ignored)
    return each.sum() / whole_batch(centre.sum(), least=1)


def giou_loss(boxes: Tensor, goal: Tensor) -> Tensor:
    """1 - GIoU of boxes [N, 4, ...] with those of the same place (Rezatofighi et al., 2019, arXiv:1902.09630)."""
    low, high = torch.maximum(boxes[:, :2], goal[:, :2]), torch.minimum(boxes[:, 2:], goal[:, 2:])
    outer_low, outer_high = torch.minimum(boxes[:, :2], goal[:, :2]), torch.maximum(boxes[:, 2:], goal[:, 2:])
    overlap = (high - low).clamp(min=0).prod(1)
    union = (boxes[:, 2:] - boxes[:, :2]).prod(1) + (goal[:, 2:] - goal[:, :2]).prod(1) - overlap
    outer = (outer_high - outer_low).prod(1).clamp(min=1e-6)
    return 1 - overlap / union.clamp(min=1e-6) + (outer - union) / outer
