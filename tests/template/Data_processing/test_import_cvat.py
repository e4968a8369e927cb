"""CVAT's XML becomes records: shapes, turned ones, masks, tags, subsets; bad XML is refused or costs one record."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from Datasets.tools.errors import UserError
from tests.template.Data_processing.annotated import corners, cvat_image, mask_of, rows_of, write_cvat, write_pictures
from tests.template.Data_processing.sources import SIZE, picture
from tests.template.Data_processing.stages import accepted, rejected
from tests.template.Data_processing.stages import take_in_and_clean as clean

BOX = '<box label="cat" xtl="3.0" ytl="4.0" xbr="20.0" ybr="30.0"/>'


def one(tmp_path, shapes, more=""):
    return rows_of(write_cvat(tmp_path / "s", cvat_image(7, "a.png", shapes, more)), "cvat")["annotations.xml: image 7"]


def test_every_area_becomes_a_box_and_says_where_it_stands(tmp_path):
    row = one(
        tmp_path,
        BOX
        + '<polygon label="dog" points="3.0,4.0;20.0,4.0;3.0,30.0"><attribute name="age">3</attribute></polygon>'
        + '<ellipse label="ball" cx="30.0" cy="20.0" rx="10.0" ry="5.0"/>'
        + '<box label="cat" xtl="1" ytl="1" xbr="2" ybr="2"/>',
    )
    assert (row.image, row.width, row.height, row.problems) == ("images/a.png", 60, 40, [])
    assert corners(row) == [("cat", 3, 4, 20, 30), ("dog", 3, 4, 20, 30), ("ball", 20, 15, 40, 25), ("cat", 1, 1, 2, 2)]
    assert [box.origin.removeprefix("annotations.xml: ") for box in row.boxes] == [
        "image 7, box 1",
        "image 7, polygon 1",
        "image 7, ellipse 1",
        "image 7, box 2",
    ]
    assert mask_of(row.boxes[2]).sum() == pytest.approx(math.pi * 50, rel=0.1)
    assert row.boxes[0].outline is None


def test_turned_shapes_are_turned_clockwise_about_their_centre(tmp_path):
    row = one(
        tmp_path,
        '<box label="a" xtl="10" ytl="10" xbr="30" ybr="14" rotation="90"/>'
        '<ellipse label="b" cx="30" cy="20" rx="10" ry="5" rotation="90.0"/>'
        '<box label="c" xtl="10" ytl="18" xbr="30" ybr="22" rotation="30"/>',
    )
    assert corners(row)[:2] == [("a", 18, 2, 22, 22), ("b", 25, 10, 35, 30)]
    rows, columns = np.nonzero(mask_of(row.boxes[2]))
    assert np.corrcoef(rows, columns)[0, 1] > 0.8  # its right end is lower, as y points down


def test_masks_are_run_lengths_row_by_row(tmp_path):
    row = one(tmp_path, '<mask label="cat" rle="1, 2, 1, 2" left="10" top="20" width="3" height="2"/>')
    expected = np.zeros(SIZE[::-1], bool)
    expected[20:22, 10:13] = [[False, True, True], [False, True, True]]
    assert np.array_equal(mask_of(row.boxes[0]), expected)
    assert corners(row) == [("cat", 11, 20, 13, 22)]
    whole = one(tmp_path, f'<mask label="cat" rle="0, {60 * 40}" left="0" top="0" width="60" height="40"/>')
    assert mask_of(whole.boxes[0]).all()


@pytest.mark.parametrize(
    "wrong",
    [
        '<mask label="cat" rle="1, 2" left="10" top="20" width="3" height="2"/>',
        '<mask label="cat" rle="6" left="1" top="20" width="3" height="2"/>',
        '<mask label="cat" rle="0,1000000000000" left="0" top="0" width="1000000" height="1000000"/>',
        '<box label="cat" xtl="3.0" ytl="4.0" xbr="20.0"/>',
        '<box label="cat" xtl="3,5" ytl="4.0" xbr="20.0" ybr="30.0"/>',
        '<polygon label="cat" points="1,1;2,2"/>',
        '<ellipse label="cat" cx="1e999" cy="1" rx="1" ry="1"/>',
        '<blob label="cat"/>',
    ],
)
def test_a_shape_that_cannot_be_is_a_problem_and_named(tmp_path, wrong):
    row = one(tmp_path, wrong + BOX)
    ((rule, value),) = row.problems
    assert rule == "malformed box"
    assert "annotations.xml: image 7, " in value
    assert corners(row) == [("cat", 3, 4, 20, 30)]


def test_what_has_no_area_is_left_out_and_an_image_of_nothing_else_is_no_negative(tmp_path):
    skeleton = '<skeleton label="cat"><points label="nose" points="5,6"/></skeleton>'
    source = write_cvat(
        tmp_path / "s",
        cvat_image(
            0,
            "a.png",
            f'<tag label="night"/>{BOX}<polyline label="road" points="1,1;9,9"/><points label="eye" points="1,1"/>',
        ),
        cvat_image(1, "b.png", skeleton),
    )
    rows = rows_of(source, "cvat")
    assert rows["annotations.xml: image 0"].left_out == ["polyline", "points"]
    assert rows["annotations.xml: image 1"].left_out == ["skeleton"]
    clean(source, tmp_path, "--keep", "cat", "--keep", "night", "--max-rejected", "0.9", form="cvat")
    ((image, record),) = accepted(tmp_path).items()
    assert (image, record["labels"], record["counts"]) == ("images/a.png", ["cat", "night"], None)
    assert rejected(tmp_path) == {"images/b.png": "no annotation"}


def test_tags_are_labels_and_subsets_splits(tmp_path):
    images = [
        cvat_image(0, "a.png", '<tag label="day" source="manual"></tag>\n', 'subset="Validation"'),
        cvat_image(1, "b.png", "", 'subset="default"'),
    ]
    rows = list(rows_of(write_cvat(tmp_path / "s", *images), "cvat").values())
    assert [(row.labels, row.boxes, row.split) for row in rows] == [(["day"], None, "val"), ([], None, None)]
    rows = list(rows_of(write_cvat(tmp_path / "s", *images, cvat_image(2, "c.png", BOX)), "cvat").values())
    assert [(row.labels, len(row.boxes)) for row in rows] == [(["day"], 0), ([], 0), (["cat"], 1)]


def test_images_are_found_by_the_end_of_their_path(tmp_path):
    source = write_cvat(tmp_path / "s", cvat_image(0, "day/a.png", ""), cvat_image(1, "b.png", ""))
    for folder in ("x/day", "x/night", "y"):
        (source / folder).mkdir(parents=True)
        (source / folder / "a.png").write_bytes(picture(0))
    (source / "y/b.png").write_bytes(picture(1))
    rows = rows_of(source, "cvat")
    assert rows["annotations.xml: image 0"].image == "x/day/a.png"
    assert rows["annotations.xml: image 1"].problems == [("ambiguous image", "b.png: images/b.png or y/b.png")]
    rows = rows_of(source, "cvat", images="y")
    assert [(row.image, row.problems) for row in rows.values()] == [("y/b.png", []), ("y/a.png", [])]


def test_images_are_found_without_suffix_and_by_their_subset(tmp_path):
    frames = [cvat_image(n, "frame.00", "", f'subset="{subset}"') for n, subset in enumerate(("Train", "Validation"))]
    source = write_cvat(tmp_path / "s", *frames, cvat_image(2, "x/frame.00", ""), cvat_image(3, "frame.png", ""))
    for folder in ("Train", "Validation", "x"):
        (source / "images" / folder).mkdir()
        (source / "images" / folder / "frame.00.PNG").write_bytes(picture(0))
    rows = list(rows_of(source, "cvat").values())
    images = [f"images/{folder}/frame.00.PNG" for folder in ("Train", "Validation", "x")]
    assert [(row.image, row.problems) for row in rows] == [
        *((image, []) for image in images),
        ("frame.png", [("missing image", "there is no file frame.png; the nearest is images/x/frame.00.PNG")]),
    ]
    assert rows_of(source, "cvat", images="images")["annotations.xml: image 2"].image == images[2]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"", "annotations"),
        (b"<annotations><image name='a.png'></annotations>", "line 1"),
        (b"<annotations><version>1.1</version></annotations>", "no <image>"),
        (b"<annotations><track id='0'/></annotations>", "CVAT for video"),
        (b"<!DOCTYPE a [<!ENTITY e 'cat'>]><annotations><image name='&e;'/></annotations>", "document type"),
        (b"<annotations>" + b"<image>" * 1000 + b"</image>" * 1000 + b"</annotations>", "depth"),
    ],
)
def test_a_file_that_is_not_cvats_is_refused_in_one_line(tmp_path, text, says):
    source = write_cvat(tmp_path / "s")
    (source / "annotations.xml").write_bytes(text)
    with pytest.raises(UserError, match=says) as refusal:
        rows_of(source, "cvat")
    assert "annotations.xml: " in str(refusal.value)
    assert "\n" not in str(refusal.value)


VOC_TURNED = """<annotation><filename>a.png</filename><object><name>cat</name>
<bndbox><xmin>21.0</xmin><ymin>11.0</ymin><xmax>40.0</xmax><ymax>20.0</ymax></bndbox><attributes>
<attribute><name>colour</name><value>red</value></attribute>
<attribute><name>rotation</name><value>90.0</value></attribute></attributes></object></annotation>"""


def write_turned(directory: Path, form: str) -> Path:
    """A box of 20 x 10 about (30, 15), turned by a quarter, as CVAT exports it in the forms of others."""
    write_pictures(directory / "JPEGImages")
    if form == "voc":
        (directory / "Annotations").mkdir()
        (directory / "Annotations/a.xml").write_text(VOC_TURNED)
        return directory
    box = {"image_id": 1, "category_id": 1, "bbox": [20.0, 10.0, 20.0, 10.0], "segmentation": [], "iscrowd": 0}
    attributes = [{"occluded": False, "rotation": 90.0}, {"occluded": False, "rotation": 0.0}, {"rotation": "left"}, []]
    annotations = [{"id": number, **box, "attributes": given} for number, given in enumerate(attributes)]
    said = {"images": [{"id": 1, "file_name": "a.png"}], "categories": [{"id": 1, "name": "cat"}]}
    (directory / "instances_default.json").write_text(json.dumps({**said, "annotations": annotations}))
    return directory


@pytest.mark.parametrize(("form", "upright"), [("coco", 3), ("voc", 0)])
def test_a_box_that_cvat_exports_with_its_rotation_is_turned(tmp_path, form, upright):
    [row] = rows_of(write_turned(tmp_path, form), form).values()
    assert sorted(corners(row)) == [*[("cat", 20, 10, 40, 20)] * upright, ("cat", 25, 5, 35, 25)]
    assert mask_of(row.boxes[0]).sum() == 200
    assert not row.problems
