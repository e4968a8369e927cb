"""LabelMe's files become records: every kind of shape, groups, flags, images beside them or inside."""

import base64
import io
import json
import math

import numpy as np
import pytest
from PIL import Image

from tests.template.Data_processing.annotated import corners, labelme_file, mask_of, rows_of, shape
from tests.template.Data_processing.sources import SIZE, pack, picture
from tests.template.Data_processing.stages import accepted, rejected, stage
from tests.template.Data_processing.stages import take_in_and_clean as clean

IMPORT = ("--source", "s", "--format", "labelme")


def one(tmp_path, *shapes, **more):
    labelme_file(tmp_path / "s/a.json", list(shapes), "a.png", **more)
    return rows_of(tmp_path / "s", "labelme")["a.json"]


def png(pixels: np.ndarray) -> str:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def test_polygons_circles_and_turned_rectangles_become_boxes_with_outlines(tmp_path):
    triangle = shape("polygon", [[3, 4], [20, 4], [3, 30]])
    turned = shape("oriented_rectangle", [[10, 5], [15, 10], [10, 15], [5, 10]], "dog")
    row = one(tmp_path, triangle, turned, shape("circle", [[30, 20], [33, 24]], "ball"))
    assert corners(row) == [("cat", 3, 4, 20, 30), ("dog", 5, 5, 15, 15), ("ball", 25, 15, 35, 25)]
    assert [box.origin for box in row.boxes] == [
        "a.json: shape 1 (polygon)",
        "a.json: shape 2 (oriented_rectangle)",
        "a.json: shape 3 (circle)",
    ]
    assert mask_of(row.boxes[0]).sum() == pytest.approx(17 * 26 / 2, rel=0.1)
    assert mask_of(row.boxes[2]).sum() == pytest.approx(math.pi * 25, rel=0.1)


def test_shapes_of_one_label_and_group_are_one_object(tmp_path):
    left, right = [[0, 0], [4, 0], [4, 4], [0, 4]], [[10, 0], [14, 0], [14, 8], [10, 8]]
    other = shape("polygon", left, "dog", group_id=1)
    drawn = shape("polygon", left, group_id=1), other, shape("rectangle", right[::2], group_id=1)
    row = one(tmp_path, *drawn, shape("point", [[1, 1]], group_id=1))
    assert corners(row) == [("cat", 0, 0, 14, 8), ("dog", 0, 0, 4, 4)] and row.left_out == ["point"]
    assert row.boxes[0].origin == "a.json: shapes 1 and 3 (polygon)"
    assert mask_of(row.boxes[0]).sum() == 4 * 4 + 4 * 8


def test_a_mask_becomes_its_pixels(tmp_path):
    pixels = np.zeros((4, 6), np.uint8)
    pixels[1:3, 2:5] = 255
    row = one(tmp_path, shape("mask", [[10, 20], [15, 23]], mask=png(pixels)))
    assert corners(row) == [("cat", 12, 21, 15, 23)]
    expected = np.zeros(SIZE[::-1], bool)
    expected[21:23, 12:15] = True
    assert np.array_equal(mask_of(row.boxes[0]), expected)


@pytest.mark.parametrize(
    "wrong",
    [
        shape("mask", [[10, 20], [15, 23]], mask=png(np.ones((9, 9), np.uint8))),
        shape("mask", [[58, 20], [61, 21]], mask=png(np.ones((2, 4), np.uint8))),
        shape("mask", [[0, 0], [1, 1]], mask=png(np.zeros((2, 2), np.uint8))),
        shape("mask", [[0, 0], [1e300, 1]], mask=""),
        shape("polygon", [[0, 0], [1, 1]]),
        shape("star", [[0, 0], [1, 1], [2, 2]]),
        shape("rectangle", [[0, 0], [1, 1]], " "),
    ],
)
def test_a_shape_that_cannot_be_is_a_problem_and_named(tmp_path, wrong):
    row = one(tmp_path, wrong, shape("rectangle", [[3, 4], [20, 30]]))
    ((rule, value),) = row.problems
    assert rule == "malformed box"
    assert "a.json: shape 1" in value
    assert " object at 0x" not in value
    assert corners(row) == [("cat", 3, 4, 20, 30)]


def test_points_and_lines_are_left_out_and_an_image_of_nothing_else_is_no_negative(tmp_path):
    source = tmp_path / "s"
    source.mkdir()
    for number, name in enumerate(("a", "b", "c", "d")):
        (source / f"{name}.png").write_bytes(picture(number))
    box = shape("rectangle", [[3, 4], [20, 30]])
    labelme_file(
        source / "a.json", [box, shape("linestrip", [[1, 1], [5, 9], [9, 1]], "road")], "a.png", flags={"night": True}
    )
    labelme_file(source / "b.json", [box, shape("point", [[1, 1]])], "b.png")
    labelme_file(source / "c.json", [shape("point", [[1, 1]]), shape("line", [[1, 1], [9, 9]])], "c.png")
    labelme_file(source / "d.json", [shape("point", [[1, 1]])], "d.png", flags={"night": True})
    importing = stage("Data_processing.import_source", *IMPORT, "--path", source, "--out", tmp_path / "i.parquet")
    assert "warning: s: 1 linestrip, 3 points, 1 line left out" in importing.stderr
    clean(source, tmp_path, "--keep", "cat", "--keep", "night", "--max-rejected", "0.9", form="labelme")
    found = {image: (record["labels"], record["boxes"]) for image, record in accepted(tmp_path).items()}
    cat = [{"name": "cat", "x1": 3, "y1": 4, "x2": 20, "y2": 30, "crowd": False, "segmentation": None}]
    assert found == {"a.png": (["cat", "night"], cat), "b.png": (["cat"], cat), "d.png": (["night"], None)}
    assert rejected(tmp_path) == {"c.png": "no annotation"}


def test_reserved_names_are_no_classes_and_a_background_shape_is_a_hole(tmp_path):
    whole, hole = [[10, 10], [30, 10], [30, 30], [10, 30]], [[15, 15], [20, 15], [20, 25], [15, 25]]
    ignored = shape("rectangle", [[0, 0], [9, 9]], "__ignore__")
    later = shape("polygon", whole, "dog")
    row = one(tmp_path, shape("polygon", whole), ignored, shape("polygon", hole, "_background_"), later)
    assert corners(row) == [("cat", 10, 10, 30, 30), ("dog", 10, 10, 30, 30)]
    assert row.left_out == ["ignored region", "background shape"]
    expected = np.zeros(SIZE[::-1], bool)
    expected[10:30, 10:30] = True
    assert np.array_equal(mask_of(row.boxes[1]), expected)
    expected[15:25, 15:20] = False
    assert np.array_equal(mask_of(row.boxes[0]), expected)
    assert one(tmp_path, ignored).problems == [("no annotation", "1 ignored region left out, and nothing else")]


def test_flags_that_are_true_are_labels(tmp_path):
    row = one(tmp_path, flags={"cat": True, "dog": False})
    assert (row.labels, row.boxes) == (["cat"], None)
    row = one(tmp_path, flags={"cat": False})
    assert (row.labels, row.boxes) == ([], [])
    row = one(tmp_path, shape("rectangle", [[3, 4], [20, 30]], "dog"), flags={"cat": True})
    assert row.labels == ["cat", "dog"]
    assert one(tmp_path).labels is None


@pytest.mark.parametrize("path", ["../images/a.png", "..\\images\\a.png"])
def test_image_paths_are_relative_to_the_json_file(tmp_path, path):
    labelme_file(tmp_path / "s/labels/a.json", [], path)
    assert rows_of(tmp_path / "s", "labelme")["labels/a.json"].image == "images/a.png"
    assert rows_of(tmp_path / "s", "labelme", annotations="labels")["labels/a.json"].image == "images/a.png"


def test_the_image_beside_the_file_is_meant_where_the_path_is_another_machines(tmp_path):
    labelme_file(tmp_path / "s/a.json", [], "C:\\Users\\me\\a.png")
    (tmp_path / "s/a.png").write_bytes(picture(0))
    assert rows_of(tmp_path / "s", "labelme")["a.json"].image == "a.png"


@pytest.mark.parametrize("kind", ["directory", "s.tar.gz"])
def test_an_image_inside_the_file_reaches_the_later_stages(tmp_path, kind):
    directory = tmp_path / "s"
    box = shape("rectangle", [[3, 4], [20, 30]])
    labelme_file(directory / "x/a.json", [box], "a.png", picture(0))
    labelme_file(directory / "x/b.json", [box], "b.png", b"no image")
    labelme_file(directory / "x/c.json", [box], "c.png")
    labelme_file(directory / "x/d.json", [box], "d.png", imageData="?")
    source = directory if kind == "directory" else pack(directory, tmp_path / kind)
    clean(source, tmp_path, "--max-rejected", "0.9", form="labelme")
    (row,) = accepted(tmp_path).values()
    assert row["image"] == "x/a.json#a.png"
    assert row["bytes"] == len(picture(0))
    found = rejected(tmp_path)
    assert (found["x/b.json#b.png"], found["x/c.png"]) == ("unreadable image", "missing image")
    assert found["x/d.json#d.png"] in ("unreadable image", "missing image")


def test_one_broken_file_costs_one_record(tmp_path):
    labelme_file(tmp_path / "s/a.json", [], "a.png")
    labelme_file(tmp_path / "s/b.json", [], "b.png", imageWidth=1e12)
    (tmp_path / "s/c.json").write_text('{"shapes": [')
    (tmp_path / "s/d.json").write_text(json.dumps({"images": [], "annotations": []}))
    (tmp_path / "s/e.json").write_bytes(b"")
    (tmp_path / "s/f.json").write_bytes((tmp_path / "s/a.json").read_text().encode("utf-16"))
    rows = rows_of(tmp_path / "s", "labelme")
    assert not {row.image for row in rows.values()} & set(rows)  # no image is there
    assert rows.pop("a.json").problems == []
    assert {row.problems[0][0] for row in rows.values()} == {"malformed annotation"}
    assert len(rows) == 5
