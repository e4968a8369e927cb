"""Masks hold class ids + 1, from a source or drawn from outlines; what sources state of splits and groups holds."""

import io
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco_mask

from Data_processing.curating import packing as masks
from Data_processing.shared.files import open_source
from Data_processing.shared.imported import About, Imported, ImportedBox, ImportOptions, write_imported
from Data_processing.shared.outlines import encode, run_lengths, to_rle
from Datasets.format.classes import read_classes
from Datasets.format.curated import Curated
from Datasets.format.images import mask_file
from Datasets.format.records import empty_record
from Datasets.tools.errors import UserError
from tests.template.conftest import refused, succeeded
from tests.template.Data_processing.annotated import read_imported
from tests.template.Data_processing.sources import SIZE, picture, write_coco
from tests.template.Data_processing.stages import ALL_TRAIN, clean, curate, rejected, splits_of, stage

CLASSES = {"sky": 0, "road": 1}


def rle(pixels: np.ndarray) -> dict:
    coded = coco_mask.encode(np.asfortranarray(pixels.astype(np.uint8)))
    return {"size": list(pixels.shape), "counts": coded["counts"].decode()}


def box(name: str, pixels: np.ndarray) -> dict:
    return {"name": name, "crowd": False, "segmentation": rle(pixels)}


def test_a_small_object_lies_on_top_of_a_large_one():
    large, small = np.ones((4, 6), bool), np.zeros((4, 6), bool)
    small[1:3, 2:4] = True
    for boxes in ([box("sky", large), box("road", small)], [box("road", small), box("sky", large)]):
        assert np.array_equal(masks.draw_mask(boxes, CLASSES, 6, 4), np.where(small, 2, 1))


def test_more_classes_than_a_pixel_can_tell_are_refused(tmp_path):
    (tmp_path / "a.png").write_bytes(picture(0))
    classes = {f"{number}": number for number in range(255)}
    record = {**empty_record("a.png", "s"), "sha256": None, "boxes": []}
    with pytest.raises(UserError, match="255 classes"):
        masks.RecordFiles({"s": str(tmp_path)}, classes, draw=True)(record)


@given(
    pixels=st.lists(st.lists(st.booleans(), min_size=1, max_size=9), min_size=1, max_size=9).filter(
        lambda x: len(set(map(len, x))) == 1
    )
)
def test_run_lengths_are_read_as_the_coco_api_writes_them(pixels):
    image = np.array(pixels)
    flat = image.ravel(order="F")
    ends = np.append(np.flatnonzero(np.diff(flat)) + 1, flat.size)
    expected = np.diff(np.concatenate([[0] * (1 + flat[0]), ends]))
    assert run_lengths(rle(image)["counts"]) == expected.tolist()
    outline = json.dumps(rle(image)).encode()
    assert to_rle(outline, image.shape[1], image.shape[0]) == (rle(image) if image.any() else None)


@given(
    outline=st.binary(max_size=60)
    | st.text(max_size=40).map(lambda text: json.dumps({"size": [4, 6], "counts": text}).encode())
)
def test_any_other_outline_is_refused_with_a_reason(outline):
    try:
        found = to_rle(outline, 6, 4)
    except ValueError as error:
        assert str(error)
    else:
        assert found is None or coco_mask.decode(found).shape == (4, 6)


def run_stages(tmp_path, rows: list[Imported], *curate_options: str):
    imported = tmp_path / "imported/s.parquet"
    imported.parent.mkdir(exist_ok=True)
    write_imported(rows, "s", imported, About((tmp_path / "source").as_posix(), "", ImportOptions()))
    options = ("--source", "s", "--imported", imported, "--out", tmp_path / "inspected/s.parquet")
    succeeded(stage("Data_processing.inspect_images", *options))
    cleaned = clean(tmp_path, "--max_rejected=0.9", "s")
    return cleaned if cleaned.returncode else curate(tmp_path, *curate_options)


def write_images(tmp_path, number: int) -> list[Imported]:
    write_coco(tmp_path / "source", {f"{n}.png": [] for n in range(number)}, folder="")
    return [Imported(f"{n}.png", f"list.txt:{n + 1}") for n in range(number)]


def test_masks_of_a_source_reach_the_curated_dataset_and_wrong_ones_are_rejected(tmp_path):
    rows = write_images(tmp_path, 7)
    drawn = np.zeros(SIZE[::-1], np.uint8)
    drawn[5:20, 10:40] = 9
    files = [
        drawn,
        np.where(drawn, 77, 0).astype(np.uint8),
        drawn[:, :-1],
        None,
        np.where(drawn, 255, 0).astype(np.uint8),
        drawn,
        np.where(drawn, 10, 0).astype(np.uint8),
    ]
    for number, (row, file) in enumerate(zip(rows, files, strict=True)):
        row.mask, row.mask_names = f"masks/{number}.png", {9: "road", 10: "sky"}
        if file is not None:
            (tmp_path / "source/masks").mkdir(exist_ok=True)
            (tmp_path / f"source/masks/{number}.png").write_bytes(mask_file(file))
    rows[5].boxes = [ImportedBox("car", 10, 5, 40, 20, "here")]
    rows[6].labels = ["car"]
    succeeded(run_stages(tmp_path, rows, *ALL_TRAIN))
    assert read_classes(tmp_path / "curated/classes.json") == {"car": 0, "road": 1, "sky": 2}
    assert rejected(tmp_path) == {"1.png": "unknown mask value", "2.png": "wrong mask", "3.png": "unreadable mask"}
    records = {record["image"]: record for record in Curated(tmp_path / "curated").records("train")}
    assert records["s/0.png"]["labels"] == ["road"]
    assert records["s/4.png"]["labels"] == []
    assert (records["s/5.png"]["labels"], records["s/5.png"]["counts"]) == (["car", "road"], None)
    assert records["s/6.png"]["labels"] == ["car"]  # as stated
    for image, value in (("s/0.png", 2), ("s/5.png", 2), ("s/6.png", 3)):
        pixels = Image.open(io.BytesIO(records[image]["mask"]["bytes"]))
        assert np.array_equal(np.asarray(pixels), np.where(drawn, value, 0))
    entry = next(e for e in json.loads((tmp_path / "curated/metadata.json").read_text()) if e[0] == "s/0.png")
    assert entry[4] == records["s/0.png"]["mask"]["path"]
    refused(run_stages(tmp_path, [rows[4]], *ALL_TRAIN), "s: its masks have no values but 0 and 255")


def test_masks_are_drawn_from_outlines_if_the_user_says_so(tmp_path):
    rows = write_images(tmp_path, 2)
    outline = encode([[10, 5, 40, 5, 40, 20, 10, 20]])
    rows[0].boxes = [ImportedBox("road", 10, 5, 40, 20, "here", outline=outline)]
    rows[1].boxes = [ImportedBox("road", 10, 5, 40, 20, "here")]
    succeeded(run_stages(tmp_path, rows, *ALL_TRAIN))
    assert [r["mask"] for r in Curated(tmp_path / "curated").records("train")] == [None, None]
    succeeded(run_stages(tmp_path, rows, *ALL_TRAIN, "--draw-masks"))
    first, second = Curated(tmp_path / "curated").records("train")
    assert np.asarray(Image.open(io.BytesIO(first["mask"]["bytes"]))).sum() == 30 * 15
    assert second["mask"] is None


def test_a_curated_dataset_is_a_source_with_its_images_and_masks(tmp_path):
    rows = write_images(tmp_path, 3)
    outline = encode([[10, 5, 40, 5, 40, 20, 10, 20]])
    for row in rows:
        row.boxes = [ImportedBox("road", 10, 5, 40, 20, "here", outline=outline)]
    succeeded(run_stages(tmp_path, rows, *ALL_TRAIN, "--draw-masks"))
    first = Curated(tmp_path / "curated").records("train")
    options = ("--source", "again", "--format", "parquet", "--path", tmp_path / "curated")
    succeeded(stage("Data_processing.import_source", *options, "--out", tmp_path / "again.parquet"))
    again = list(read_imported(tmp_path / "again.parquet"))
    (tmp_path / "source").rename(tmp_path / "first source")
    (tmp_path / "curated").rename(tmp_path / "source")
    succeeded(run_stages(tmp_path, again, *ALL_TRAIN))
    second = Curated(tmp_path / "curated").records("train")
    same = ("sha256", "width", "height", "labels", "counts", "boxes")
    assert [[r[key] for key in same] for r in first] == [[r[key] for key in same] for r in second]
    assert [r["mask"]["bytes"] for r in first] == [r["mask"]["bytes"] for r in second]
    files, images = open_source(tmp_path / "curated"), [record["image"] for record in second]
    assert [files.read(image) for image in images] == [picture(number) for number in range(3)]
    assert [files.read(f"{image}.mask.png") for image in images] == [r["mask"]["bytes"] for r in second]


def test_a_sources_splits_are_kept_if_the_user_says_so_and_groups_stay_whole(tmp_path):
    rows = write_images(tmp_path, 9)
    for number, row in enumerate(rows):
        row.labels, row.split = ["cat"], ("train", "val", "test")[number % 3]
    (tmp_path / "source/8.png").write_bytes(picture(0))  # test's, but the same file as train's 0.png
    result = succeeded(run_stages(tmp_path, rows, "--keep-splits"))
    assert "1 images do not keep their source's split" in result.stderr
    accepted = ("--accepted", tmp_path / "clean/accepted.parquet", "--tries", "3")
    told = succeeded(stage("Data_processing.split", *accepted, "--keep-splits")).stdout
    assert told.endswith("seed 0: 0, 0.1704\nseed 1: 0, 0.1704\nseed 2: 0, 0.1704\n")  # none is left out
    expected = {f"s/{n}.png": "train" if n == 8 else ("train", "val", "test")[n % 3] for n in range(9)}
    assert splits_of(tmp_path) == expected


def test_a_stated_group_stays_together(tmp_path):
    rows = write_images(tmp_path, 12)
    for number, row in enumerate(rows):
        row.labels, row.group = ["cat"], f"ward {number % 4}"
    succeeded(run_stages(tmp_path, rows, "--train=0.5", "--val=0.5", "--test=0", "--seed=3"))
    dataset = Curated(tmp_path / "curated")
    groups = [{r["group"] for r in dataset.records(split)} for split in ("train", "val")]
    assert groups[0] | groups[1] == {f"s/ward {n}" for n in range(4)}
    assert not groups[0] & groups[1]
