"""Predictions in pixels of the image, how far two differ, and their round trip through Parquet."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from Datasets.format.images import letterbox
from Datasets.format.predictions import largest_difference, mask_of, to_detection, to_prediction
from Datasets.format.records import read_predictions, write_predictions

CLASSES = ["cat", "dog"]


def outputs(*rows):
    """Rows of (x1, y1, x2, y2, score, class) in the square."""
    table = np.array(rows, np.float32).reshape(-1, 6)
    return {"boxes": table[:, :4], "scores": table[:, 4], "classes": table[:, 5].astype(np.int64)}


@pytest.fixture
def square():
    return letterbox(np.zeros((50, 100, 3), np.uint8), 200)  # twice the size, 50 pixels of grey above and below


def test_boxes_return_to_the_pixels_of_the_image_and_stay_inside_it(square):
    found = to_detection(outputs((20, 60, 80, 100, 0.9, 1), (150, 40, 230, 120, 0.8, 0)), square, 100, 50, CLASSES, 0.5)
    first, second = found["boxes"]
    assert first == {"name": "dog", "x1": 10, "y1": 5, "x2": 40, "y2": 25, "score": pytest.approx(0.9)}
    assert (second["x1"], second["y1"], second["x2"], second["y2"]) == (75, 0, 100, 35)
    assert (found["width"], found["height"], found["labels"]) == (100, 50, ["cat", "dog"])
    assert found["counts"] == [{"name": "cat", "count": 1}, {"name": "dog", "count": 1}]


def test_what_is_not_believed_or_lies_in_the_padding_is_left_out(square):
    found = to_detection(
        outputs((0, 60, 9, 80, 0.5, 0), (0, 60, 9, 80, 0.49, 0), (0, 0, 90, 50, 0.9, 1)), square, 100, 50, CLASSES, 0.5
    )
    assert [box["score"] for box in found["boxes"]] == [0.5]


def test_the_order_does_not_depend_on_that_of_the_outputs(square):
    rows = [(30, 60, 40, 80, 0.5, 1), (10, 60, 20, 80, 0.5, 1), (50, 60, 60, 80, 0.5, 0), (70, 60, 90, 80, 0.75, 1)]
    answers = [
        to_detection(outputs(*(rows[i] for i in order)), square, 100, 50, CLASSES, 0.1)
        for order in ([0, 1, 2, 3], [3, 2, 1, 0])
    ]
    assert answers[0] == answers[1]
    assert [(box["name"], box["x1"]) for box in answers[0]["boxes"]] == [
        ("dog", 35),
        ("cat", 25),
        ("dog", 5),
        ("dog", 15),
    ]


def test_the_difference_is_the_largest_of_paired_boxes(square):
    def answer(*rows):
        return to_detection(outputs(*rows), square, 100, 50, CLASSES, 0.5)

    first = answer((20, 60, 80, 100, 0.75, 1), (150, 60, 190, 120, 0.625, 0))
    assert largest_difference("boxes", first, first, 0.5) == {"boxes": 0, "scores": 0}
    moved = answer((150, 61, 190, 120, 0.6875, 0), (20, 60, 80, 100, 0.75, 1))
    assert largest_difference("boxes", first, moved, 0.5) == {"boxes": 0.5, "scores": 0.0625}
    fewer = answer((20, 60, 80, 100, 0.75, 1))
    assert largest_difference("boxes", first, fewer, 0.5)["boxes"] == float("inf")
    other_class = answer((20, 60, 80, 100, 0.75, 0), (150, 60, 190, 120, 0.625, 0))
    assert largest_difference("boxes", first, other_class, 0.5)["boxes"] == float("inf")


def test_a_box_at_the_threshold_may_be_on_one_side_only(square):
    with_it = to_detection(outputs((20, 60, 80, 100, 0.50005, 1)), square, 100, 50, CLASSES, 0.5)
    without = to_detection(outputs(), square, 100, 50, CLASSES, 0.5)
    assert largest_difference("boxes", with_it, without, 0.5) == {"boxes": 0, "scores": 0}


def in_square(fill=0):
    """A mask of the square that is 2 on the left half of the image, 0 on the right, and `fill` in the padding."""
    mask = np.full((200, 200), fill)
    mask[50:150, :100], mask[50:150, 100:] = 2, 0
    return {"mask": mask}


def test_a_mask_returns_to_the_size_of_the_image_without_the_padding(square):
    found = to_prediction("mask", in_square(fill=1), square, 100, 50, CLASSES, 0.5)
    mask = mask_of(found)
    assert mask.shape == (50, 100)
    assert (mask[:, :50] == 2).all()
    assert (mask[:, 50:] == 0).all()
    assert found["labels"] == ["dog"]
    assert (square.mask_to_square(mask, 9) == in_square(fill=9)["mask"]).all()


@pytest.mark.parametrize(("width", "height", "size"), [(7, 3, 200), (301, 200, 64), (1, 90, 32)])
def test_a_mask_keeps_its_place_at_any_scale(width, height, size):
    box = letterbox(np.zeros((height, width, 3), np.uint8), size)
    mask = np.add.outer(np.arange(height), np.arange(width) * 0).astype(np.int64)
    back = box.mask_to_image(box.mask_to_square(mask, -1), width, height)
    assert np.abs(back - mask).max() <= 1 / box.scale_y
    assert (back >= 0).all()


def test_counts_are_of_the_classes_that_are_believed(square):
    seen = {"scores": np.array([0.4, 0.75], np.float32), "counts": np.array([1.6, 0.25], np.float32)}
    found = to_prediction("counts", seen, square, 100, 50, CLASSES, 0.5)
    assert (found["labels"], found["counts"]) == (["dog"], [{"name": "dog", "count": 1}])
    assert found["expected"] == pytest.approx({"cat": 1.6, "dog": 0.25})
    assert to_prediction("counts", seen, square, 100, 50, CLASSES, 0.25)["counts"][0] == {"name": "cat", "count": 2}
    labels = to_prediction("labels", {"scores": seen["scores"]}, square, 100, 50, CLASSES, 0.5)
    assert labels == {"width": 100, "height": 50, "labels": ["dog"], "scores": pytest.approx({"cat": 0.4, "dog": 0.75})}
    changed = {**found, "expected": {"cat": 1.6, "dog": 0.5}, "scores": {**found["scores"], "cat": 0.5}}
    assert largest_difference("counts", found, changed, 0.5) == pytest.approx({"scores": 0.1, "counts": 0.25})


SIZE = {"width": 8, "height": 6}


def _mask():
    file = io.BytesIO()
    Image.fromarray(np.eye(6, 8, dtype=np.uint8)).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


BOX = {"name": "car", "x1": 0.5, "y1": 0.0, "x2": 7.25, "y2": 6.0, "score": 0.001}
PREDICTIONS = {
    "boxes": {"labels": ["car"], "counts": [{"name": "car", "count": 1}], "boxes": [BOX]},
    "no boxes": {"labels": [], "counts": [], "boxes": []},
    "mask": {"labels": ["car"], "mask": _mask()},
    "labels": {"labels": ["car"], "scores": {"car": 0.9, "dog": 0.1}},
    "counts": {
        "labels": ["car"],
        "scores": {"car": 0.9, "dog": 0.1},
        "counts": [{"name": "car", "count": 2}],
        "expected": {"car": 2.2, "dog": 0.1},
    },
}


@pytest.mark.parametrize("kind", PREDICTIONS)
def test_round_trip(kind, tmp_path):
    prediction = SIZE | PREDICTIONS[kind]
    rows = [{"image": "a/1.jpg", **prediction}, {"image": "a/2.jpg", "error": "damaged"}]
    write_predictions(rows, "e001", tmp_path / "predictions.parquet")
    assert read_predictions(tmp_path / "predictions.parquet") == {"a/1.jpg": prediction}
