"""e004: a small network that says which classes an image shows, one or several of them.

The backbone and neck of e001, whose weights fit; what its cells give is averaged over the image, which tells what it
shows as a whole, and the largest value taken, which tells of small things in it (Oquab et al., Is object localization
for free?, CVPR 2015). A linear layer of both gives the class.
"""

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from Models.backbones.features import Pyramid, whole_batch

TASK = "labels"  # the record's field that this model learns


def build(
    classes: int,
    backbone: str = "tiny",
    width: int = 32,
    exclusive: bool = False,
    balance: bool = False,
    images: list[int] | None = None,
) -> nn.Module:
    """A classifier of `classes` classes with random weights.

    backbone, width: as of Models/backbones/features.py. exclusive: each image shows exactly one class (softmax), not
    any number of them (a sigmoid each). balance: rare classes weigh more. images: how many of the training images show
    each class. Training gives `exclusive` and `images` as the data has them, where they are not given.
    """
    if min(classes, width) < 1 or (exclusive and classes < 2):
        raise ValueError(f"classes ({classes}) and width ({width}) must be 1 or more, exclusive classes 2 or more")
    if balance and len(images or []) != classes:
        raise ValueError(f"balance needs the number of images of each class, not {images}")
    weights = [sum(images) / classes / max(1, number) for number in images] if balance and images else [1.0] * classes
    return Classifier(classes, backbone, width, exclusive, weights)


class Classifier(nn.Module):
    """The network, its decoding (`forward`) and its training objective (`loss`)."""

    def __init__(self, classes: int, backbone: str, width: int, exclusive: bool, weights: list[float]) -> None:
        super().__init__()
        self.exclusive = exclusive
        self.weights: Tensor
        self.backbone = Pyramid(backbone, width)
        self.kind = nn.Linear(4 * width, classes)
        self.register_buffer("weights", torch.tensor(weights), persistent=False)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Classify. images: uint8 [N, 3, H, W], RGB, of any size.

        scores: float32 [N, C], the probability that the image shows each class; exclusive ones add up to 1. features:
        float32 [N, D], what each image looks like.
        """
        features = self.backbone(images)
        logits = self.logits(features.at8.float())
        return {"scores": logits.softmax(1) if self.exclusive else logits.sigmoid(), "features": features.image}

    def logits(self, cells: Tensor) -> Tensor:
        """float32 [N, C] for features at stride 8."""
        return self.kind(torch.cat([cells.mean((2, 3)), cells.amax((2, 3))], 1)).float()

    def loss(self, images: Tensor, targets: dict[str, Tensor]) -> dict[str, Tensor]:
        """Cross-entropy, summed over the classes, the mean over images: a scalar.

        images: uint8 [N, 3, H, W]. targets: labels bool [N, C].
        """
        logits, labels = self.logits(self.backbone(images).at8.float()), targets["labels"].float()
        if self.exclusive:
            each = -logits.log_softmax(1) * labels * self.weights
        else:
            positive = self.weights  # of a label that is there; one that is not weighs 1
            each = F.binary_cross_entropy_with_logits(logits, labels, pos_weight=positive, reduction="none")
        return {"class": each.sum() / whole_batch(logits.new_tensor(len(logits)), least=1)}
