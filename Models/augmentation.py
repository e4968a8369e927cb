"""Random variations of a training batch, which follow from a seed."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812

from Datasets.images import FILL
from Models.data_loading import Batch

LEAST_VISIBLE = 0.4  # of a box's area; one that is cut off further is neither object nor background


def augment(batch: Batch, flip: bool, zoom: float, seed: Sequence[int]) -> Batch:
    """Mirror half of the images left to right (`flip`), and scale and shift each at random (`zoom`).

    zoom: 0.5 scales by 1/1.5 to 1.5 and shifts by up to a quarter of the image to each side; what comes from outside
    is grey. A box that is mostly cut off becomes a crowd box, which the loss ignores.
    """
    if not flip and not zoom:
        return batch
    random = np.random.default_rng(seed)
    count, size = len(batch.indices), batch.images.shape[-1]
    sign = torch.tensor(np.where(random.random(count) < 0.5 * flip, -1.0, 1.0)[:, None] * [[1.0, 1.0]])
    sign[:, 1] = 1
    scale = torch.tensor((1 + zoom) ** random.uniform(-1, 1, (count, 1))) * sign
    shift = torch.tensor(random.uniform(-zoom, zoom, (count, 2)) / 2)  # of coordinates from -1 to 1
    images = _warp(batch.images, scale, shift)
    targets = dict(batch.targets)
    corners = targets["boxes"].double().reshape(count, -1, 2, 2) * 2 / size - 1
    moved = ((corners * scale[:, None, None] + shift[:, None, None]) + 1) * size / 2
    low, high = moved.amin(2), moved.amax(2)
    seen = torch.cat([low, high], 2).clamp(0, size)
    visible = (seen[..., 2:] - seen[..., :2]).prod(2) / (high - low).prod(2).clamp(min=1e-9)
    targets["boxes"] = seen.float()
    targets["crowd"] = targets["crowd"] | (visible < LEAST_VISIBLE) & (targets["classes"] >= 0)
    return batch._replace(images=images, targets=targets)


def _warp(images: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    """Move the pixel at x (from -1 to 1) to x * scale + shift."""
    theta = torch.cat([torch.diag_embed(1 / scale), (-shift / scale)[..., None]], 2).float()
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    moved = F.grid_sample(images.float() - FILL, grid, align_corners=False) + FILL
    return moved.round().clamp(0, 255).byte()
