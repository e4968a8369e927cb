import numpy as np
import pytest

from Datasets.images import letterbox
from Datasets.predictions import largest_difference, to_prediction

CLASSES = ["cat", "dog"]


def outputs(*rows):
    """Rows of (x1, y1, x2, y2, score, class) in the square."""
    table = np.array(rows, np.float32).reshape(-1, 6)
    return {"boxes": table[:, :4], "scores": table[:, 4], "classes": table[:, 5].astype(np.int64)}


@pytest.fixture
def square():
    return letterbox(np.zeros((50, 100, 3), np.uint8), 200)  # twice the size, 50 pixels of grey above and below


def test_boxes_return_to_the_pixels_of_the_image_and_stay_inside_it(square):
    found = to_prediction(
        outputs((20, 60, 80, 100, 0.9, 1), (150, 40, 230, 120, 0.8, 0)), square, 100, 50, CLASSES, 0.5
    )
    first, second = found["boxes"]
    assert first == {"name": "dog", "x1": 10, "y1": 5, "x2": 40, "y2": 25, "score": pytest.approx(0.9)}
    assert (second["x1"], second["y1"], second["x2"], second["y2"]) == (75, 0, 100, 35)
    assert (found["width"], found["height"], found["labels"]) == (100, 50, ["cat", "dog"])
    assert found["counts"] == [{"name": "cat", "count": 1}, {"name": "dog", "count": 1}]


def test_what_is_not_believed_or_lies_in_the_padding_is_left_out(square):
    found = to_prediction(
        outputs((0, 60, 9, 80, 0.5, 0), (0, 60, 9, 80, 0.49, 0), (0, 0, 90, 50, 0.9, 1)), square, 100, 50, CLASSES, 0.5
    )
    assert [box["score"] for box in found["boxes"]] == [0.5]


def test_the_order_does_not_depend_on_that_of_the_outputs(square):
    rows = [(30, 60, 40, 80, 0.5, 1), (10, 60, 20, 80, 0.5, 1), (50, 60, 60, 80, 0.5, 0), (70, 60, 90, 80, 0.75, 1)]
    answers = [
        to_prediction(outputs(*(rows[i] for i in order)), square, 100, 50, CLASSES, 0.1)
        for order in ([0, 1, 2, 3], [3, 2, 1, 0])
    ]
    assert answers[0] == answers[1]
    assert [(box["name"], box["x1"]) for box in answers[0]["boxes"]] == [
        ("dog", 35),
        ("cat", 25),
        ("dog", 5),
        ("dog", 15),
    ]


def test_no_detection_is_an_answer(square):
    found = to_prediction(outputs(), square, 100, 50, CLASSES, 0.5)
    assert found == {"width": 100, "height": 50, "labels": [], "counts": [], "boxes": []}


def test_the_difference_is_the_largest_of_paired_boxes(square):
    def answer(*rows):
        return to_prediction(outputs(*rows), square, 100, 50, CLASSES, 0.5)

    first = answer((20, 60, 80, 100, 0.75, 1), (150, 60, 190, 120, 0.625, 0))
    assert largest_difference(first, first, 0.5) == {"boxes": 0, "scores": 0}
    moved = answer((150, 61, 190, 120, 0.6875, 0), (20, 60, 80, 100, 0.75, 1))
    assert largest_difference(first, moved, 0.5) == {"boxes": 0.5, "scores": 0.0625}
    fewer = answer((20, 60, 80, 100, 0.75, 1))
    assert largest_difference(first, fewer, 0.5)["boxes"] == float("inf")
    other_class = answer((20, 60, 80, 100, 0.75, 0), (150, 60, 190, 120, 0.625, 0))
    assert largest_difference(first, other_class, 0.5)["boxes"] == float("inf")


def test_a_box_at_the_threshold_may_be_on_one_side_only(square):
    with_it = to_prediction(outputs((20, 60, 80, 100, 0.50005, 1)), square, 100, 50, CLASSES, 0.5)
    without = to_prediction(outputs(), square, 100, 50, CLASSES, 0.5)
    assert largest_difference(with_it, without, 0.5) == {"boxes": 0, "scores": 0}
