"""EfficientNet-Lite0 to Lite2: networks for photographs, whose weights from ImageNet a package carries.

Tan and Le, EfficientNet, 2019, arXiv:1905.11946; the Lite variants have ReLU6 and no squeeze and excitation (Liu,
Higher accuracy on vision models with EfficientNet-Lite, TensorFlow blog, 2020). The attributes are named as in the
published weights, so that they load as they are.
"""

import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

ROWS = (  # repeats, kernel, stride, expansion, channels
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
STEM = 32
TAPS = (0, 1, 2, 4, 6)  # the rows whose output is the last at strides 2, 4, 8, 16 and 32
SCALES = ((1.0, 1.0), (1.0, 1.1), (1.1, 1.2))  # of channels and repeats, for Lite0, Lite1 and Lite2


class EfficientNetLite(nn.Module):
    """The network without its classifier. variant: 0 to 2. frozen: blocks that `freeze` keeps as they are.

    channels: of the maps that `forward` gives.
    """

    def __init__(self, variant: int = 0, frozen: int = 3) -> None:
        super().__init__()
        wider, deeper = SCALES[variant]
        self.frozen = frozen
        self._conv_stem = SameConv2d(3, STEM, 3, stride=2)
        self._bn0 = norm(STEM)
        self._blocks = nn.ModuleList()
        self.taps: list[int] = []  # the blocks after which there is a map to give
        self.channels: list[int] = []
        before = STEM
        for row, (repeats, kernel, stride, expansion, channels) in enumerate(ROWS):
            ends = row in (0, len(ROWS) - 1)
            for repeat in range(repeats if ends else -int(-repeats * deeper // 1)):
                after = rounded(channels * wider)
                self._blocks.append(Block(before, after, kernel, 1 if repeat else stride, expansion))
                before = after
            if row in TAPS:
                self.taps.append(len(self._blocks) - 1)
                self.channels.append(before)

    def forward(self, images: Tensor) -> list[Tensor]:
        """The maps at strides 2, 4, 8, 16 and 32, sides rounded up, of uint8 [N, 3, H, W], RGB."""
        x = F.relu6(self._bn0(self._conv_stem((images.float() - 127) / 128)))
        maps = []
        for number, block in enumerate(self._blocks):
            x = block(x)
            if number in self.taps:
                maps.append(x)
        return maps

    def freeze(self) -> None:
        """Keep stem and first blocks as they are in training, and the statistics and factors of all norms."""
        norms = [each for each in self.modules() if isinstance(each, nn.BatchNorm2d)]
        for module in [*norms, *([self._conv_stem, *self._blocks[: self.frozen]] if self.frozen else [])]:
            module.requires_grad_(False)
        for module in norms:
            module.eval()


class Block(nn.Module):
    """An inverted residual (Sandler et al., MobileNetV2, 2018, arXiv:1801.04381)."""

    def __init__(self, before: int, after: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = before * expansion
        self.shortcut = stride == 1 and before == after
        if expansion > 1:
            self._expand_conv = SameConv2d(before, inner, 1)
            self._bn0 = norm(inner)
        self._depthwise_conv = SameConv2d(inner, inner, kernel, stride, groups=inner)
        self._bn1 = norm(inner)
        self._project_conv = SameConv2d(inner, after, 1)
        self._bn2 = norm(after)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu6(self._bn0(self._expand_conv(x))) if hasattr(self, "_expand_conv") else x
        y = self._bn2(self._project_conv(F.relu6(self._bn1(self._depthwise_conv(y)))))
        return x + y if self.shortcut else y


class SameConv2d(nn.Conv2d):
    """A convolution without bias, padded as TensorFlow pads, which at stride 2 is more on the right and below.

    A side of odd length counts as one pixel longer, so that one padding serves all sizes.
    """

    def __init__(self, before: int, after: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__(before, after, kernel, stride, kernel // 2 if stride == 1 else 0, groups=groups, bias=False)
        self.around = [] if stride == 1 else [(kernel - 2) // 2, (kernel + 1) // 2] * 2

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.pad(x, self.around) if self.around else x)


def norm(channels: int) -> nn.BatchNorm2d:
    """A batch normalisation as in the published weights."""
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


def rounded(channels: float) -> int:
    """A number of channels as a multiple of 8, at least 0.9 of it."""
    near = max(8, int(channels + 4) // 8 * 8)
    return near + 8 if near < 0.9 * channels else near
