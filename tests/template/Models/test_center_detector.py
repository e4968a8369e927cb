import numpy as np
import pytest
import torch

from Models import e001_center_detector as e001


def targets(boxes, classes, crowd=None):
    return {
        "boxes": torch.tensor(boxes, dtype=torch.float32).reshape(1, -1, 4),
        "classes": torch.tensor([classes]),
        "crowd": torch.tensor([crowd or [False] * len(classes)]),
    }


@pytest.mark.parametrize(("height", "width"), [(96, 96), (100, 37), (33, 50), (5, 5)])
def test_it_takes_images_of_any_size(height, width):
    model = e001.build(classes=3, width=8, detections=20).eval()
    found = model(torch.randint(0, 256, (2, 3, height, width), dtype=torch.uint8))
    assert (found["boxes"].shape, found["boxes"].dtype) == ((2, 20, 4), torch.float32)
    assert (found["scores"].shape, found["scores"].dtype) == ((2, 20), torch.float32)
    assert (found["classes"].shape, found["classes"].dtype) == ((2, 20), torch.int64)
    assert (found["scores"].diff(dim=1) <= 0).all() and (found["scores"] >= 0).all() and (found["scores"] <= 1).all()
    assert torch.isfinite(found["boxes"]).all()


def test_images_without_a_box_give_a_finite_loss_that_teaches_background():
    model = e001.build(classes=2, width=8)
    image = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
    losses = model.loss(image, targets([[0, 0, 0, 0]], [-1]))
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert losses["heat"] > 0 and losses["class"] == 0 and losses["box"] == 0


def test_a_crowd_is_neither_object_nor_background():
    goal = e001.assign(targets([[8, 8, 32, 32], [32, 0, 64, 64]], [1, 0], [False, True]), 8, 8)
    assert goal.ignored[0].nonzero()[:, 1].min() == 4 and goal.ignored.sum() == 32
    assert goal.heatmap[0, :, 4:].max() < 0.1 and goal.heatmap.max() == 1
    logits = torch.full((1, 8, 8), -3.0)
    inside = logits.clone()
    inside[0, 5, 6] = 5.0
    assert e001.focal_loss(inside, goal.heatmap, goal.ignored) == e001.focal_loss(logits, goal.heatmap, goal.ignored)
    outside = logits.clone()
    outside[0, 6, 0] = 5.0
    assert e001.focal_loss(outside, goal.heatmap, goal.ignored) > e001.focal_loss(logits, goal.heatmap, goal.ignored)


def test_each_object_has_a_cell_of_its_own_class_and_box():
    boxes = [[0, 0, 16, 16], [30, 40, 62, 50], [60, 60, 64, 64]]
    goal = e001.assign(targets(boxes, [2, 0, 1]), 8, 8)
    for (row, column), kind, sides in zip([(1, 1), (5, 5), (7, 7)], [2, 0, 1], boxes, strict=True):
        assert goal.heatmap[0, row, column] == 1
        assert goal.kind[0, row, column] == kind
        assert goal.boxes[0, :, row, column].tolist() == sides


def test_giou_loss_is_that_of_the_paper():
    def loss(first, second):
        return float(e001.giou_loss(torch.tensor([first]), torch.tensor([second]))[0])

    assert loss([0.0, 0, 2, 2], [0.0, 0, 2, 2]) == pytest.approx(0)
    assert loss([0.0, 0, 2, 2], [1.0, 0, 3, 2]) == pytest.approx(1 - 2 / 6)
    assert loss([0.0, 0, 1, 1], [3.0, 0, 4, 1]) == pytest.approx(1 + 2 / 4)


def test_nonsense_sizes_are_refused():
    with pytest.raises(ValueError, match="width \\(0\\)"):
        e001.build(classes=2, width=0)


def test_what_it_learns_it_finds_again():
    """The goal maps, given as if the network had said them, decode to the boxes that they were made from."""
    boxes = [[3.0, 5, 20, 30], [40, 34, 64, 60]]
    goal = e001.assign(targets(boxes, [1, 0]), 8, 8)
    x, y = e001.cell_middles(8, 8, torch.device("cpu"))
    x1, y1, x2, y2 = goal.boxes.unbind(1)
    model = e001.build(classes=2, width=8, detections=5).eval()
    maps = e001.Maps(
        heatmap=(goal.heatmap.clamp(1e-4, 1 - 1e-4).logit())[:, None],
        kind=torch.nn.functional.one_hot(goal.kind, 2).permute(0, 3, 1, 2) * 20.0,
        distances=torch.stack([x - x1, y - y1, x2 - x, y2 - y], 1),
    )
    model.maps = lambda images: maps
    found = model(torch.zeros(1, 3, 64, 64, dtype=torch.uint8))
    assert sorted(found["classes"][0, :2].tolist()) == [0, 1]
    np.testing.assert_allclose(sorted(found["boxes"][0, :2].tolist()), sorted(boxes), atol=1e-4)
    assert found["scores"][0, 1] > 0.99 and found["scores"][0, 2] < 0.1
