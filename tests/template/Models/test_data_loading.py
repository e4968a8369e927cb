import functools

import numpy as np
import pytest
import torch

from Datasets.format.curated import Curated
from Datasets.tools.errors import UserError
from Models.learning import data_loading
from Models.learning.augmentation import augment
from Models.learning.data_loading import Batch, Samples, epoch_order
from Models.learning.options import Options
from tests.template.Models.shape_scenes import box, write_scenes


def test_boxes_follow_their_image_into_the_square(shapes):
    samples = Samples(Curated(shapes), "train", 96)
    batch = next(samples.batches([[0]]))
    x1, y1, x2, y2 = batch.targets["boxes"][0, 0].round().int().tolist()
    kind = int(batch.targets["classes"][0, 0])
    inside = batch.images[0, :, (y1 + y2) // 2, (x1 + x2) // 2].int()
    expected = torch.tensor([[200, 40, 40], [40, 60, 200]][kind])
    assert (inside - expected).abs().max() < 30
    assert batch.images.shape == (1, 3, 96, 96) and batch.images[0, 0, 0, 0] == 114


def test_images_not_annotated_are_left_out_and_empty_ones_kept(shapes):
    curated = Curated(shapes)
    samples = Samples(curated, "train", 48)
    names = [record["image"] for record in samples.records]
    assert len(samples) == len(curated.records("train")) - 1
    assert "shapes/train_2.png" not in names and "shapes/train_1.png" in names
    assert (next(samples.batches([[1]])).targets["classes"] == -1).all()


def test_crowds_are_marked_and_nothing_else(shapes):
    samples = Samples(Curated(shapes), "train", 48)
    index = [record["image"] for record in samples.records].index("shapes/train_3.png")
    boxes = samples.records[index]["boxes"]
    targets = next(samples.batches([[index]])).targets
    assert targets["crowd"][0].tolist() == [box["crowd"] for box in boxes] == [False] * (len(boxes) - 1) + [True]


def test_decoding_ahead_and_for_each_batch_give_the_same(shapes, monkeypatch):
    order = epoch_order(59, 8, 0, 0)
    held = Samples(Curated(shapes), "train", 48)
    held.cache()
    monkeypatch.setattr(data_loading, "CACHE_BYTES", 0)
    read = Samples(Curated(shapes), "train", 48)
    read.cache()
    for first, second in zip(held.batches(order), read.batches(order), strict=True):
        assert torch.equal(first.images, second.images) and torch.equal(first.targets["boxes"], second.targets["boxes"])


def test_the_order_follows_from_seed_and_epoch_and_leaves_nothing_out():
    order = epoch_order(100, 16, 3, 5)
    assert sorted(index for part in order for index in part) == list(range(100))
    assert {len(part) for part in order} == {14, 15}
    assert order == epoch_order(100, 16, 3, 5)
    assert order != epoch_order(100, 16, 3, 6) and order != epoch_order(100, 16, 4, 5)


@pytest.mark.parametrize(("images", "batch", "sizes"), [(75, 2, {2, 3}), (3, 2, {3}), (1, 4, {1}), (3, 1, {1})])
def test_no_image_is_alone_in_a_batch(images, batch, sizes):
    assert {len(part) for part in epoch_order(images, batch, 0, 0)} == sizes


def test_a_split_without_boxes_is_reported(tmp_path):
    curated = Curated(write_scenes(tmp_path / "curated", {"train": 2, "val": 0, "test": 1}))
    with pytest.raises(UserError, match="no image of the val split has boxes to learn from"):
        Samples(curated, "val", 48)


def test_a_split_whose_boxes_are_all_crowds_is_reported(tmp_path):
    def change(split, number, record, files):
        record["boxes"] = [box("disc", 1, 1, 9, 9, crowd=True)]

    curated = Curated(write_scenes(tmp_path / "curated", {"train": 2, "val": 1, "test": 0}, change=change))
    with pytest.raises(UserError, match="no image of the val split has boxes to learn from"):
        Samples(curated, "val", 48)


def drawn(count=24, size=64):
    """A batch of bright rectangles on grey, with their boxes and masks."""
    images = torch.full((count, 3, size, size), 100, dtype=torch.uint8)
    images[:, :, 20:40, 36:52] = 255
    targets = {
        "boxes": torch.tensor([[[36.0, 20, 52, 40]]]).repeat(count, 1, 1),
        "classes": torch.zeros(count, 1, dtype=torch.int64),
        "crowd": torch.zeros(count, 1, dtype=torch.bool),
        "mask": (images[:, 0] == 255).long() * 3,
    }
    return Batch(images, targets, range(count), [])


varied = functools.partial(Options, zoom=0.0)
MOVES = [varied(flip=True), varied(zoom=0.4), varied(crop=0.4), varied(flip=True, zoom=0.4, crop=0.3, colour=0.2)]


@pytest.mark.parametrize("how", MOVES)
def test_augmented_boxes_and_masks_stay_on_their_objects(how):
    batch, again = augment(drawn(), how, [0, 7]), augment(drawn(), how, [0, 7])
    assert torch.equal(batch.images, again.images) and torch.equal(batch.targets["mask"], again.targets["mask"])
    lefts = set()
    rows = zip(batch.images, batch.targets["mask"], batch.targets["boxes"][:, 0], batch.targets["crowd"], strict=True)
    for image, mask, sides, crowd in rows:
        low, high = image[0][mask >= 0].int().aminmax()
        bright = (image[0] > (low + high) / 2) & (mask >= 0)
        assert (bright ^ (mask == 3)).float().mean() < 0.01, "the mask covers the object"
        if not crowd:
            ys, xs = np.nonzero(mask.numpy() == 3)
            assert np.abs(np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]) - sides.numpy()).max() <= 1.01
        lefts.add(round(float(sides[0])))
    assert len(lefts) > 1


def test_it_mirrors_left_to_right_only_and_zooms_to_any_side():
    flipped = augment(drawn(), varied(flip=True), [0, 7]).targets["boxes"][:, 0]
    assert set(map(tuple, flipped.tolist())) == {(36, 20, 52, 40), (12, 20, 28, 40)}
    zoomed = augment(drawn(), varied(zoom=0.4), [0, 7]).targets["boxes"][:, 0]
    middles = (zoomed[:, 1] + zoomed[:, 3]) / 2 - 32  # from the image's; -2 at first
    assert middles.min() < -3 and middles.max() > 1


def test_what_comes_from_outside_is_grey_and_ignored():
    batch = augment(drawn(), varied(zoom=1.0), [0, 7])
    outside = batch.targets["mask"] == -1
    assert outside.any() and set(batch.targets["mask"].unique().tolist()) == {-1, 0, 3}
    inner = torch.nn.functional.max_pool2d(1.0 - outside.float()[:, None], 3, 1, 1)[:, 0] == 0
    assert inner.any() and (batch.images[:, 0][inner] == 114).all()


def test_a_crop_enlarges_and_shows_nothing_from_outside():
    targets = augment(drawn(), varied(crop=0.5), [0, 3]).targets
    assert not (targets["mask"] == -1).any()
    areas = (targets["mask"] == 3).sum((1, 2))
    assert areas.max() > 1.5 * 20 * 16


def test_a_box_that_is_mostly_cut_off_is_a_crowd():
    batch = drawn(200)
    batch.targets["boxes"][:] = torch.tensor([2.0, 2, 12, 12])
    cropped = augment(batch, varied(crop=0.6), [0, 5]).targets
    gone = (cropped["boxes"][..., 2:] - cropped["boxes"][..., :2]).prod(2) == 0
    assert gone.any() and cropped["crowd"][gone].all() and not cropped["crowd"].all()


def test_colours_vary_and_nothing_moves():
    start = drawn()
    start.images[:, :, :8] = 114  # a letterbox's padding
    start.images[:, 0, 50:60] = 200  # reddish
    batch = augment(start, varied(colour=0.5), [0, 7])
    assert all(torch.equal(batch.targets[name], start.targets[name]) for name in start.targets)
    assert (batch.images[:, :, :8] == 114).all()
    assert len(batch.images[:, 0, 45, 5].unique()) > 8, "brightness varies from image to image"
    red = batch.images[:, :, 55, 5].float()
    assert (red[:, 0] - red[:, 1]).std() > 10, "so does saturation"
    ranges = batch.images[:, 0, 20:40].flatten(1).float()
    assert (ranges.amax(1) - ranges.amin(1)).std() > 10, "and contrast"
    assert torch.equal(batch.images, augment(start, varied(colour=0.5), [0, 7]).images)


def test_without_augmentation_the_batch_is_as_it_was(shapes):
    batch = next(Samples(Curated(shapes), "train", 48).batches([[0, 1]]))
    assert augment(batch, varied(), [0, 0]) is batch
