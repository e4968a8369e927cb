"""VOC's pictures of objects become the outlines of the boxes that they belong to."""

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco_mask

from Data_processing.shared.imported import ImportedBox
from Data_processing.shared.outlines import to_rle
from Data_processing.sources.voc_objects import Objects, add_outlines, read_objects
from tests.template.Data_processing.annotated import rows_of
from tests.template.Data_processing.broken import Memory
from tests.template.Data_processing.sources import SIZE, pack, write_voc

HORSE, PERSON, DOG = (2, 10, 40, 38), (12, 4, 28, 30), (45, 20, 58, 36)


def ellipse(x1: int, y1: int, x2: int, y2: int) -> np.ndarray:
    """The mask of an ellipse that touches all sides of a rectangle, bool [H, W]."""
    y, x = np.mgrid[: SIZE[1], : SIZE[0]] + 0.5
    return ((2 * x - x1 - x2) / (x2 - x1)) ** 2 + ((2 * y - y1 - y2) / (y2 - y1)) ** 2 <= 1


def picture(*masks: tuple[int, np.ndarray]) -> bytes:
    """A PNG file in which each mask has its value, later ones on top, and between two of them is nothing known."""
    pixels = np.zeros((SIZE[1], SIZE[0]), np.uint8)
    for value, mask in masks:
        pixels[mask] = value
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def source(root: Path, boxes: list, png: bytes) -> Path:
    write_voc(root, {"a.png": boxes, "b.png": [("cat", 1, 2, 30, 30)]})
    (root / "SegmentationObject").mkdir()
    (root / "SegmentationObject/a.png").write_bytes(png)
    return root


def outlined(path: Path) -> tuple[list, list]:
    """The names and masks of a.png's boxes, and its problems."""
    row = rows_of(path, "voc")["Annotations/a.xml"]
    masks = [box.outline and coco_mask.decode(to_rle(box.outline, *SIZE)).astype(bool) for box in row.boxes]
    return list(zip([box.name for box in row.boxes], masks, strict=True)), row.problems


THREE = [("horse", *HORSE), ("person", *PERSON), ("dog", *DOG)]


@pytest.mark.parametrize("archive", [None, "s.zip", "s.tar.gz"])
@pytest.mark.parametrize("values", [(1, 2, 3), (2, 1, 3), (7, 9, 200)])
def test_each_box_gets_the_pixels_that_fit_it_in_whatever_order(tmp_path, values, archive):
    horse, person, dog = map(ellipse, *zip(HORSE, PERSON, DOG, strict=True))
    png = picture((255, horse | dog), (values[0], horse), (values[1], person), (values[2], dog))
    path = source(tmp_path / "s", THREE, png)
    found, problems = outlined(pack(path, tmp_path / archive) if archive else path)
    assert [name for name, _ in found] == ["horse", "person", "dog"]
    for (_, mask), expected in zip(found, (horse & ~person, person, dog), strict=True):
        assert np.array_equal(mask, expected)
    assert problems == []
    assert rows_of(path, "voc")["Annotations/b.xml"].boxes[0].outline is None


def test_of_what_others_nearly_hide_the_order_tells_the_box(tmp_path):
    head = np.zeros((SIZE[1], SIZE[0]), bool)
    head[12:15, 4:8] = True
    person = ellipse(*PERSON)
    found, problems = outlined(source(tmp_path, THREE[:2], picture((1, head), (2, person))))
    assert np.array_equal(found[0][1], head)
    assert np.array_equal(found[1][1], person)
    assert problems == []


def test_pixels_without_a_box_are_told_and_a_box_without_pixels_keeps_none(tmp_path):
    found, problems = outlined(source(tmp_path, THREE[:2], picture((1, ellipse(*HORSE)), (3, ellipse(*DOG)))))
    assert found[1] == ("person", None)
    assert found[0][1].any()
    told = "SegmentationObject/a.png: no box fits the object 3 around (45, 20, 58, 36)"
    assert problems == [("malformed segmentation", told)]


def new_png(mode: str) -> bytes:
    file = io.BytesIO()
    Image.new(mode, SIZE).save(file, "PNG")
    return file.getvalue()


def test_pictures_in_colour_give_no_outlines_and_a_warning(tmp_path, capsys):
    path = source(tmp_path, THREE, new_png("RGB"))
    (path / "SegmentationObject/b.png").write_bytes(new_png("RGBA"))
    found, problems = outlined(path)
    assert [mask for _, mask in found] == [None] * 3
    assert problems == []
    told = capsys.readouterr().err
    assert f"warning: {path}: 2 of 2 pictures of objects, such as SegmentationObject/a.png, are in colour" in told
    assert told.count("\n") == 1


@pytest.mark.parametrize(("png", "why"), [(b"\x89PNG", "not an image file"), (new_png("I;16"), "this one is I;16")])
def test_a_picture_that_cannot_be_used_is_told(tmp_path, png, why):
    found, problems = outlined(source(tmp_path, THREE, png))
    assert [mask for _, mask in found] == [None] * 3
    assert [rule for rule, _ in problems] == ["malformed segmentation"]
    assert problems[0][1].startswith("SegmentationObject/a.png: ")
    assert why in problems[0][1]


rectangles = st.tuples(*[st.tuples(st.integers(0, 20), st.integers(1, 12))] * 2).map(
    lambda sides: (sides[0][0], sides[1][0], sum(sides[0]), sum(sides[1]))
)


@given(places=st.lists(rectangles, max_size=6), values=st.permutations(range(1, 7)), drawn=st.integers(0, 6))
def test_no_object_is_lost_or_given_twice(places, values, drawn):
    pixels = np.zeros((40, 40), np.uint8)
    for value, (x1, y1, x2, y2) in zip(values, places[:drawn], strict=False):
        pixels[y1:y2, x1:x2] = value
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    objects = read_objects(Memory({"a.png": file.getvalue()}), {"a": "a.png"})["a"]
    boxes = [ImportedBox("cat", *map(float, place), "a") for place in places]
    problems = add_outlines(boxes, objects)
    given_out = sorted(box.outline for box in boxes if box.outline)
    left = [outline for _, outline in objects.found.values() if outline not in given_out]
    assert len(set(given_out)) == len(given_out)
    assert set(given_out) <= {outline for _, outline in objects.found.values()}
    assert bool(problems) == bool(left)
    assert all(f"{value} around" in problems[0][1] for value, (_, o) in objects.found.items() if o in left)


def test_a_box_of_the_very_same_place_is_told_by_the_order():
    boxes = [ImportedBox(name, 2.0, 2.0, 9.0, 9.0, "a") for name in ("cup", "tea")]
    objects = Objects("a.png", {1: ((2, 2, 9, 9), b"cup"), 2: ((3, 3, 9, 9), b"tea")})
    assert add_outlines(boxes, objects) == []
    assert [box.outline for box in boxes] == [b"cup", b"tea"]
