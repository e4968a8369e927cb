"""e003: a small network that counts the objects of each class in an image, without locating them.

The backbone, neck and heads of e001, whose weights fit: each cell at stride 8 gives the probability that it holds an
object, and of which class. Summed over the image these are the expected counts, and together they give the probability
that there is an object at all (noisy-or; Viola, Platt and Zhang, Multiple instance boosting, 2005). From random weights
it learns slowly, as counts alone say little of where to look: start it from a detector.
"""

import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from Models.backbones.features import Pyramid, whole_batch

TASK = "counts"  # the record's field that this model learns


def build(classes: int, backbone: str = "tiny", width: int = 32) -> nn.Module:
    """A network for `classes` classes with random weights. backbone, width: as of Models/backbones/features.py."""
    if min(classes, width) < 1:
        raise ValueError(f"classes ({classes}) and width ({width}) must be 1 or more")
    return DensityCounter(classes, backbone, width)


class DensityCounter(nn.Module):
    """The network, its decoding (`forward`) and its training objective (`loss`)."""

    def __init__(self, classes: int, backbone: str, width: int) -> None:
        super().__init__()
        self.backbone = Pyramid(backbone, width)
        self.heatmap = nn.Conv2d(2 * width, 1, 1)
        self.kind = nn.Conv2d(2 * width, classes, 1)
        nn.init.constant_(self.heatmap.bias, -4.0)  # type: ignore[arg-type]  # few of the cells hold an object

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Count. images: uint8 [N, 3, H, W], RGB, of any size.

        scores: float32 [N, C], the probability that there is an object of each class; counts: float32 [N, C], how many
        to expect. features: float32 [N, D], what each image looks like.
        """
        features = self.backbone(images)
        density = self.density(features.at8)
        return {"scores": -log_none(density).expm1(), "counts": density.sum((2, 3)), "features": features.image}

    def density(self, x: Tensor) -> Tensor:
        """For features at stride 8 each cell's probability to hold an object of each class, float [N, C, H/8, W/8]."""
        return self.heatmap(x).float().sigmoid() * self.kind(x).float().softmax(1)

    def loss(self, images: Tensor, targets: dict[str, Tensor]) -> dict[str, Tensor]:
        """The parts of the loss, scalars to be summed: cross-entropy of the labels, smooth L1 of the counts.

        images: uint8 [N, 3, H, W]. targets: counts int64 [N, C].
        """
        density, counts = self.density(self.backbone(images).at8), targets["counts"].float()
        none = log_none(density)
        some = (-none.expm1()).clamp(min=1e-6).log()
        label = -some.where(counts > 0, none).sum(1)
        count = F.smooth_l1_loss(density.sum((2, 3)), counts, reduction="none").sum(1)
        number = whole_batch(counts.new_tensor(len(counts)), least=1)
        return {"label": label.sum() / number, "count": count.sum() / number}


def log_none(density: Tensor) -> Tensor:
    """The logarithm of the probability that no cell holds an object of the class: [N, C] of [N, C, H, W]."""
    return (-density.clamp(max=1 - 1e-6)).log1p().sum((2, 3))
