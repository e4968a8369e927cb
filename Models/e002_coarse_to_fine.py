"""e002: a small network for semantic segmentation that predicts foreground and class separately.

Where an object begins needs detail: a foreground logit for each pixel, made at stride 2, with 4 pixels in each cell
(Shi et al., 2016, arXiv:1609.05158). Its class needs a view of the whole object: logits at stride 8, from the backbone
and neck of e001, whose weights fit. A foreground pixel has the class of its cell. From little data this learns far
faster than one map of all classes and background at full detail.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from Models.backbones.features import Features, Pyramid, upsample, whole_batch
from Models.backbones.tiny import convolution

TASK = "mask"  # the record's field that this model learns
STRIDE = 8  # of the class logits
IGNORED = -1  # in the targets: a pixel that is neither of a class nor background


def build(classes: int, backbone: str = "tiny", width: int = 32) -> nn.Module:
    """A network for `classes` classes with random weights. backbone, width: as of Models/backbones/features.py."""
    if not (0 < classes < 255 and width > 1):
        raise ValueError(f"classes ({classes}) must be 1 to 254, width ({width}) 2 or more")
    return CoarseToFine(classes, backbone, width)


class Maps(NamedTuple):
    """What the heads give for images of H x W pixels."""

    foreground: Tensor  # float [N, H, W]: logit that the pixel is of an object
    kind: Tensor  # float [N, C, H/8, W/8], rounded up: logits of the class of the foreground in the cell


class CoarseToFine(nn.Module):
    """The network, its decoding (`forward`) and its training objective (`loss`)."""

    def __init__(self, classes: int, backbone: str, width: int) -> None:
        super().__init__()
        self.backbone = Pyramid(backbone, width)
        at2, at4 = self.backbone.channels[:2]
        self.kind = nn.Conv2d(2 * width, classes, 1)
        self.fine2 = convolution(at2, width // 2, 3)
        self.fine4 = convolution(at4, width // 2, 1)
        self.fine8 = convolution(2 * width, width // 2, 1)
        self.foreground = nn.Conv2d(width // 2, 4, 3, padding=1)
        nn.init.constant_(self.foreground.bias, -2.2)  # type: ignore[arg-type]  # a pixel is of an object in 1 of 10

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Segment. images: uint8 [N, 3, H, W], RGB, of any size.

        mask: uint8 [N, H, W]: class id + 1, or 0 for background. confidence: float32 [N, H, W], the probability of
        that. features: float32 [N, D], what each image looks like.
        """
        height, width = images.shape[2:]
        features = self.backbone(images)
        maps = self.maps(features, height, width)
        likely, kind = maps.kind.softmax(1).max(1, keepdim=True)
        cells = F.interpolate(torch.cat([kind.float() + 1, likely], 1), scale_factor=float(STRIDE))
        kinds, likely = cells[:, :, :height, :width].unbind(1)
        inside, probability = maps.foreground > 0, maps.foreground.sigmoid()
        confidence = (probability * likely).where(inside, 1 - probability)
        return {"mask": (inside * kinds).to(torch.uint8), "confidence": confidence, "features": features.image}

    def maps(self, features: Features, height: int, width: int) -> Maps:
        """The raw maps of the backbone's features, for images of height x width pixels."""
        at2, at4, at8, _ = features
        fine = self.fine2(at2) + upsample(self.fine4(at4), 2, at2) + upsample(self.fine8(at8), 4, at2)
        foreground = F.pixel_shuffle(self.foreground(F.relu(fine)), 2)
        return Maps(foreground[:, 0, :height, :width].float(), self.kind(at8).float())

    def loss(self, images: Tensor, targets: dict[str, Tensor]) -> dict[str, Tensor]:
        """The parts of the loss, scalars to be summed.

        images: uint8 [N, 3, H, W]. targets: mask int64 [N, H, W], class id + 1, 0 for background, IGNORED.
        """
        maps, mask = self.maps(self.backbone(images), *images.shape[2:]), targets["mask"]
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
