"""Random variations of a training batch, which follow from a seed."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from Datasets.format.images import FILL
from Datasets.tools.errors import UserError
from Models.learning.data_loading import IGNORED, Batch
from Models.learning.options import Options

LEAST_VISIBLE = 0.4  # of a box's area; one that is cut off further is neither object nor background
LUMINANCE = (0.299, 0.587, 0.114)  # of red, green and blue: ITU-R BT.601


def check_augmentation(how: Options, task: str) -> None:
    """Raise UserError for what would make the targets of a task wrong."""
    if task == "counts" and (how.zoom or how.crop):
        raise UserError("zoom, crop: would cut off objects that are still counted; set both to 0 for a task of counts")


def augment(batch: Batch, how: Options, seed: Sequence[int], rows: slice | None = None, of: int = 0) -> Batch:
    """The batch, varied; its targets `boxes` and `mask` (int [N, H, W]), where it has them, move with the images.

    flip: mirror half of them left to right. zoom: 0.5 scales by 1/1.5 to 1.5 and shifts by up to a quarter of the image
    to each side; what comes from outside is grey. crop: 0.5 cuts out a part, with sides of half to all of the image's,
    and scales it up. colour: 0.5 changes brightness, contrast and saturation each by a factor of 0.5 to 1.5. A box that
    is mostly cut off becomes a crowd box, which the loss ignores. rows: which images of a larger batch of
    `of` these are, if they are a part of one; they are varied as they would be in the whole.
    """
    random = np.random.default_rng(seed)
    rows, of = (rows, of) if rows else (slice(None), len(batch.indices))
    device = batch.images.device
    scale, shift = (values[rows].to(device) for values in _placement(how, of, random))
    if how.colour:
        factors = torch.tensor(random.uniform(1 - how.colour, 1 + how.colour, (3, of, 1, 1, 1))[:, rows])
        batch = batch._replace(images=_recolour(batch.images, factors.float().to(device)))
    if not (how.flip or how.zoom or how.crop):
        return batch
    targets = dict(batch.targets)
    if "boxes" in targets:
        _move_boxes(targets, scale, shift, batch.images.shape[-1])
    if "mask" in targets:
        mask = targets["mask"]
        targets["mask"] = _warp(mask[:, None], scale, shift, IGNORED, "nearest")[:, 0].to(mask.dtype)
    images = _warp(batch.images, scale, shift, FILL).round().clamp(0, 255).byte()
    return batch._replace(images=images, targets=targets)


def _placement(how: Options, count: int, random: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Scale and shift [N, 2] that move x (from -1 to 1) to x * scale + shift."""
    sign = np.where(random.random(count) < 0.5 * how.flip, -1.0, 1.0)[:, None] * [[1.0, 1.0]]
    sign[:, 1] = 1
    scale = (1 + how.zoom) ** random.uniform(-1, 1, (count, 1)) * sign
    shift = random.uniform(-how.zoom, how.zoom, (count, 2)) / 2
    half = 1 - how.crop * random.random((count, 1))  # of the side of the part that is cut out
    middle = random.uniform(-1, 1, (count, 2)) * (1 - half)
    return torch.tensor(scale / half), torch.tensor(shift - scale * middle / half)


def _move_boxes(targets: dict[str, Tensor], scale: Tensor, shift: Tensor, size: int) -> None:
    count = len(scale)
    corners = targets["boxes"].double().reshape(count, -1, 2, 2) * 2 / size - 1
    moved = ((corners * scale[:, None, None] + shift[:, None, None]) + 1) * size / 2
    low, high = moved.amin(2), moved.amax(2)
    seen = torch.cat([low, high], 2).clamp(0, size)
    visible = (seen[..., 2:] - seen[..., :2]).prod(2) / (high - low).prod(2).clamp(min=1e-9)
    targets["boxes"] = seen.float()
    targets["crowd"] = targets["crowd"] | (visible < LEAST_VISIBLE) & (targets["classes"] >= 0)


def _warp(images: Tensor, scale: Tensor, shift: Tensor, fill: int, mode: str = "bilinear") -> Tensor:
    """Move the pixel at x (from -1 to 1) to x * scale + shift; what comes from outside is `fill`. Gives floats."""
    theta = torch.cat([torch.diag_embed(1 / scale), (-shift / scale)[..., None]], 2).float()
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images.float() - fill, grid, mode=mode, align_corners=False) + fill


def _recolour(images: Tensor, factors: Tensor) -> Tensor:
    """Change saturation, contrast and brightness by factors [3, N, 1, 1, 1]; the letterbox's padding stays as it is."""
    saturation, contrast, brightness = factors
    pixels = images.float()
    grey = (pixels * torch.tensor(LUMINANCE, device=images.device)[:, None, None]).sum(1, keepdim=True)
    pixels = grey + (pixels - grey) * saturation
    middle = grey.mean((1, 2, 3), keepdim=True)
    pixels = (middle + (pixels - middle) * contrast) * brightness
    padding = (images == FILL).all(1, keepdim=True)
    return torch.where(padding, images, pixels.round().clamp(0, 255).byte())
