"""e902: a network of timm that says which classes an image shows, one or several of them.

`init` weights of the same network, as timm publishes them; look at the licence of each. timm needs torchvision of the
version that goes with torch.
"""

import timm
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

TASK = "labels"  # the record's field that this model learns
REQUIRES = ["timm==1.0.31"]


def build(classes: int, network: str = "resnet18", exclusive: bool = False) -> nn.Module:
    """A classifier of `classes` classes with random weights.

    network: a name that timm knows, of one that takes images of any size. exclusive: each image shows exactly one class
    (softmax), not any number of them (a sigmoid each). Training gives it as the data has it, where it is not given.
    """
    if classes < 1 or (exclusive and classes < 2):
        raise ValueError(f"classes ({classes}) must be 1 or more, exclusive ones 2 or more")
    return Classifier(timm.create_model(network, pretrained=False, num_classes=classes), exclusive)


class Classifier(nn.Module):
    """timm's network, with normalisation and decoding (`forward`) and its training objective (`loss`)."""

    def __init__(self, net: nn.Module, exclusive: bool) -> None:
        super().__init__()
        self.net = net
        self.exclusive = exclusive
        self.mean: Tensor
        self.std: Tensor
        for name in ("mean", "std"):  # of the images that the published weights learned from
            values = torch.tensor(net.pretrained_cfg[name]).view(1, 3, 1, 1)  # type: ignore[index]
            self.register_buffer(name, values, persistent=False)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Classify. images: uint8 [N, 3, H, W], RGB.

        scores: float32 [N, C], the probability that the image shows each class; exclusive ones add up to 1.
        """
        logits = self.logits(images)
        return {"scores": logits.softmax(1) if self.exclusive else logits.sigmoid()}

    def logits(self, images: Tensor) -> Tensor:
        """float32 [N, C] for uint8 [N, 3, H, W]."""
        return self.net((images.float() / 255 - self.mean) / self.std).float()

    def loss(self, images: Tensor, targets: dict[str, Tensor]) -> dict[str, Tensor]:
        """Cross-entropy, summed over the classes, the mean over images: a scalar.

        images: uint8 [N, 3, H, W]. targets: labels bool [N, C].
        """
        logits, labels = self.logits(images), targets["labels"].float()
        if self.exclusive:
            each = -logits.log_softmax(1) * labels
        else:
            each = F.binary_cross_entropy_with_logits(logits, labels, reduction="none")
        return {"class": each.sum(1).mean()}
