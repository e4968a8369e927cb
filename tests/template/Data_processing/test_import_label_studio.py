"""Label Studio's export becomes records: regions, choices, brush strokes, addresses, several annotators."""

import json

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from Data_processing.shared.outlines import rle_pack, to_rle
from Datasets.tools.errors import UserError
from tests.template.Data_processing.annotated import (
    BOX,
    corners,
    mask_of,
    percent,
    region,
    rows_of,
    task,
    write_label_studio,
)
from tests.template.Data_processing.sources import picture

UPLOAD = "/data/upload/7/0a1b2c3d-a.png"
PACKED = [0, 0, 0, 140, 57, 27, 254, 35, 0, 191, 255, 108, 2, 63, 248, 192, 39, 255, 182, 1, 127, 255, 15, 128, 0]
"""What encode_rle of label_studio_sdk 2.1.2 makes of STROKE, each pixel four times."""
STROKE = np.array([[0] * 7, [0, 0, 1, 1, 1, 1, 0], [0, 0, 1, 0, 1, 1, 0], [0, 0, 1, 1, 1, 1, 0], [0] * 7], bool)


def one(tmp_path, *results, **more):
    source = write_label_studio(tmp_path / "s", task(1, UPLOAD, list(results), **more))
    return rows_of(source, "label_studio")["project.json: task 1"]


def test_every_area_becomes_a_box_in_fractions(tmp_path):
    ellipse = {"x": 50, "y": 50, "radiusX": 10, "radiusY": 25, "rotation": 0}
    triangle = {"points": [[5, 10], [50, 10], [5, 75]]}
    row = one(
        tmp_path,
        region("rectangle", percent(*BOX), ["cat", "animal"]),
        region("polygon", triangle, id="p"),
        region("ellipse", ellipse),
    )
    assert (row.image, row.width, row.height, row.normalized) == ("images/a.png", 60, 40, True)
    assert corners(row) == [
        ("cat", *BOX),
        ("animal", *BOX),
        ("cat", 3, 4, 30, 30),
        ("cat", 24, 10, 36, 30),
    ]
    assert row.boxes[2].origin == "project.json: task 1, region p"
    assert mask_of(row.boxes[2], row.normalized).sum() == pytest.approx(27 * 26 / 2, rel=0.1)
    assert row.boxes[0].outline is None


def test_rectangles_turn_about_their_upper_left_corner_in_pixels(tmp_path):
    row = one(tmp_path, region("rectangle", percent(20, 10, 30, 14, rotation=90)))
    assert corners(row) == [("cat", 16, 10, 20, 20)]
    assert mask_of(row.boxes[0], row.normalized).sum() == 40


def test_brush_strokes_are_decoded_as_label_studio_packs_them(tmp_path):
    assert np.array_equal(rle_pack(bytes(PACKED), 7, 5), STROKE)
    stroke = region("brush", {"format": "rle", "rle": PACKED}, original_width=7, original_height=5)
    row = one(tmp_path, stroke)
    box = row.boxes[0]
    assert [box.x1 * 7, box.y1 * 5, box.x2 * 7, box.y2 * 5] == pytest.approx([2, 1, 6, 4])
    assert np.array_equal(coco_mask.decode(to_rle(box.outline, 7, 5, True)), STROKE)


@pytest.mark.parametrize("packed", [[], ["a"], PACKED[:9], [255] * 40, [0, 0, 0, 0, *PACKED[4:]]])
def test_a_brush_stroke_that_does_not_fit_is_a_problem(tmp_path, packed):
    row = one(tmp_path, region("brush", {"rle": packed}, original_width=7, original_height=5))
    ((rule, value),) = row.problems
    assert rule == "malformed box"
    assert "task 1, region r" in value


@pytest.mark.parametrize(
    "wrong",
    [
        region("rectangle", {"x": 1, "y": 1, "width": 1}),
        region("rectangle", {**percent(*BOX), "x": "1"}),
        {**region("rectangle", percent(*BOX)), "type": "rectangle"},
        region("polygon", {"points": [[1, 1], [2, 2]]}),
        region("bitmask", {"imageDataURL": "data:image/png;base64,"}),
        region("brush", {"rle": PACKED}),
    ],
)
def test_a_region_that_cannot_be_is_a_problem_and_named(tmp_path, wrong):
    row = one(tmp_path, wrong, region("rectangle", percent(*BOX), id="other"))
    ((rule, value),) = row.problems
    assert rule == "malformed box"
    assert "task 1, region r" in value
    assert corners(row) == [("cat", *BOX)]


@pytest.mark.parametrize("kind", ["rectangle", "ellipse"])
def test_what_is_turned_needs_the_images_size(tmp_path, kind):
    value = {**percent(*BOX, rotation=9), "radiusX": 5, "radiusY": 6}
    row = one(tmp_path, region(kind, value, original_width=None))
    assert "without original_width" in row.problems[0][1]
    row = one(tmp_path, region(kind, {**value, "rotation": 0}, original_width=None))
    assert (row.problems, len(row.boxes), row.width) == ([], 1, None)


def test_regions_on_a_turned_image_are_a_problem(tmp_path):
    row = one(tmp_path, region("rectangle", percent(*BOX), image_rotation=90))
    assert row.problems == [("malformed annotation", "regions drawn on the turned image; annotate it upright")]


def test_regions_that_disagree_about_the_images_size_are_a_problem(tmp_path):
    other = region("rectangle", percent(*BOX), original_width=61)
    row = one(tmp_path, region("rectangle", percent(*BOX)), other)
    assert [rule for rule, _ in row.problems] == ["malformed annotation"]


def test_labels_may_stand_apart_from_their_region(tmp_path):
    shape = {**region("rectangle", percent(*BOX)), "type": "rectangle", "value": percent(*BOX)}
    label = {**region("rectangle", percent(*BOX)), "type": "labels", "value": {**percent(*BOX), "labels": ["dog"]}}
    row = one(tmp_path, shape, label)
    assert (corners(row), row.problems) == ([("dog", *BOX)], [])


def test_choices_are_labels_and_key_points_are_left_out(tmp_path):
    choice = {"type": "choices", "value": {"choices": ["day", "dry"]}, "id": "c"}
    other = {"type": "textarea", "value": {"text": ["a note"]}}
    relation = {"type": "relation", "from_id": "r", "to_id": "p", "direction": "right"}
    row = one(tmp_path, choice, other, relation)
    assert (row.labels, row.boxes, row.problems) == (["day", "dry"], None, [])
    row = one(tmp_path, choice, region("keypoint", {"x": 50, "y": 50, "width": 1}, ["nose"]))
    assert (row.labels, row.boxes, row.left_out) == (["day", "dry"], None, ["keypoint"])
    row = one(tmp_path, region("keypoint", {"x": 50, "y": 50, "width": 1}, ["nose"]))
    assert (row.boxes, row.problems) == (None, [("no annotation", "1 keypoint left out, and nothing else")])
    assert one(tmp_path, {"type": "choices", "value": {"choices": 3}}).problems[0][0] == "malformed annotation"


def test_taxonomies_are_labels_and_ratings_and_texts_say_nothing_of_objects(tmp_path):
    taxonomy = {"type": "taxonomy", "value": {"taxonomy": [["animal", "cat"], ["place"]]}, "id": "t"}
    row = one(tmp_path, taxonomy, {"type": "choices", "value": {"choices": ["day"]}, "id": "c"})
    assert (row.labels, row.boxes, row.problems) == (["cat", "day", "place"], None, [])
    row = one(tmp_path, {"type": "rating", "value": {"rating": 4}}, {"type": "textarea", "value": {"text": ["a cat"]}})
    assert (row.labels, row.boxes, row.problems) == (None, None, [])
    of_region = {**taxonomy, "id": "r", "value": {**percent(*BOX), **taxonomy["value"]}}
    row = one(tmp_path, region("rectangle", percent(*BOX)), of_region)
    assert (row.labels, corners(row), row.problems) == (None, [("cat", *BOX)], [])
    wrong = {"type": "taxonomy", "value": {"taxonomy": [[]]}}
    assert one(tmp_path, wrong).problems[0][0] == "malformed annotation"


def test_numbers_of_our_tasks_are_counts(tmp_path):
    def number(name, value):
        return {"id": name, "type": "number", "from_name": name, "to_name": "image", "value": {"number": value}}

    row = one(tmp_path, number("count_cat", 3), number("count_a dog", 0), number("age", 7))
    assert row.counts == [{"name": "cat", "count": 3}, {"name": "a dog", "count": 0}]
    assert row.boxes is row.labels is None
    assert one(tmp_path / "t", number("count_cat", 1.5)).problems == [("malformed annotation", "a count of cat: 1.5")]


def test_skipped_and_untouched_tasks_have_no_annotation(tmp_path):
    skipped = task(1, UPLOAD, [region("rectangle", percent(*BOX))])
    skipped["annotations"][0]["was_cancelled"] = True
    rows = rows_of(write_label_studio(tmp_path / "s", skipped, task(2, "b.png")), "label_studio")
    assert [(row.boxes, row.labels, row.problems) for row in rows.values()] == [(None, None, [])] * 2
    assert list(rows) == ["project.json: task 1 (skipped)", "project.json: task 2"]


def test_of_several_annotations_the_ground_truth_counts_or_none(tmp_path):
    first, second = [region("rectangle", percent(*BOX))], [region("rectangle", percent(1, 1, 2, 2))]
    both = task(1, UPLOAD, first, second)
    row = next(iter(rows_of(write_label_studio(tmp_path / "s", both), "label_studio").values()))
    assert row.problems == [("second record", "2 annotations (10, 11); mark one as ground truth")]
    both["annotations"][0]["ground_truth"] = True
    row = next(iter(rows_of(write_label_studio(tmp_path / "s", both), "label_studio").values()))
    assert (corners(row), row.problems) == ([("cat", *BOX)], [])


@pytest.mark.parametrize(
    ("address", "image"),
    [
        ("/data/upload/7/0a1b2c3d-a.png", "images/a.png"),
        ("/data/local-files/?d=data%2Fday%201/c.png", "day 1/c.png"),
        ("/data/local-files/?d=images/a.png", "images/a.png"),
        ("https://example.org/x/day%201/c.png?X-Amz-Expires=3", "day 1/c.png"),
        ("C:\\pictures\\a.png", "images/a.png"),
        ("/data/upload/7/0a1b2c3d-%E7%8C%AB_1.png", "猫_1.png"),
    ],
)
def test_addresses_mean_images_of_the_source(tmp_path, address, image):
    source = write_label_studio(tmp_path / "s", task(1, address, []))
    (source / "day 1").mkdir()
    (source / "day 1/c.png").write_bytes(picture(3))
    (source / "猫_1.png").write_bytes(picture(4))
    row = rows_of(source, "label_studio")["project.json: task 1"]
    assert (row.image, row.problems) == (image, [])


def test_an_address_of_no_image_of_the_source_is_a_problem_that_names_the_nearest(tmp_path):
    source = write_label_studio(tmp_path / "s", task(1, "/data/upload/7/0a1b2c3d-nowhere.png", []))
    ((rule, value),) = rows_of(source, "label_studio")["project.json: task 1"].problems
    assert (rule, value.partition("; ")[2]) == ("outside the source", "the nearest is images/a.png")


def test_an_address_that_means_two_images_is_ambiguous(tmp_path):
    source = write_label_studio(tmp_path / "s", task(1, "https://example.org/a.png", []))
    (source / "more").mkdir()
    (source / "more/a.png").write_bytes(picture(3))
    assert rows_of(source, "label_studio")["project.json: task 1"].problems[0][0] == "ambiguous image"
    assert rows_of(source, "label_studio", images="more")["project.json: task 1"].image == "more/a.png"


@pytest.mark.parametrize(
    "data", [{}, {"image": 3}, {"image": "data:image/png;base64,AAAA"}, {"x": "a.png", "y": "b.png"}]
)
def test_a_task_without_one_image_is_a_problem(tmp_path, data):
    source = write_label_studio(tmp_path / "s", {**task(1, "", []), "data": data})
    assert rows_of(source, "label_studio")["project.json: task 1"].problems[0][0] == "malformed annotation"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "not JSON"),
        ("[" * 1000 + "]" * 1000, "project.json"),
        ('{"images": []}', "no Label Studio tasks"),
        (json.dumps([{"id": 1, "image": "/data/upload/a.png", "label": []}]), "not as JSON-MIN"),
    ],
)
def test_another_file_is_refused_in_one_line(tmp_path, text, says):
    source = write_label_studio(tmp_path / "s")
    (source / "project.json").write_text(text)
    with pytest.raises(UserError, match=says) as refusal:
        rows_of(source, "label_studio")
    assert "\n" not in str(refusal.value)
