"""Every format, from a directory or an archive, becomes the same records; bad input is refused in one line."""

import json
import tarfile

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from Data_processing.imported import images_folder, read_imported
from tests.conftest import refused, stage, succeeded
from tests.Data_processing.sources import pack, write_coco, write_voc

CONTENT = {"b.png": [("dog", 3, 4, 20, 30), ("cat", 0, 0, 60, 40)], "a.png": [("cat", 10, 10, 11, 12)], "c.png": []}


def import_source(path, tmp_path, form, *options):
    out = tmp_path / "imported.parquet"
    result = stage(
        "Data_processing.import_source", "--source", "s", "--format", form, "--path", path, "--out", out, *options
    )
    return result, out


def boxes_of(out) -> dict:
    return {
        row.record["image"].rpartition("/")[2]: sorted(
            (box["name"], box["x1"], box["y1"], box["x2"], box["y2"]) for box in row.record["boxes"]
        )
        for row in read_imported(out)
    }


@pytest.mark.parametrize("kind", ["directory", "all.zip", "all.tar", "all.tar.gz", "all.tgz"])
@pytest.mark.parametrize(("form", "write"), [("coco", write_coco), ("voc", write_voc)])
def test_the_same_records_from_any_form_and_container(tmp_path, form, write, kind):
    path = write(tmp_path / "source", CONTENT)
    if kind != "directory":
        path = pack(path, tmp_path / kind)
    result, out = import_source(path, tmp_path, form)
    assert "3 records" in succeeded(result).stdout
    assert boxes_of(out) == {image: sorted(boxes) for image, boxes in CONTENT.items()}
    first = read_imported(out)[0].record
    assert (first["width"], first["height"], first["source"]) == (60, 40, "s")
    assert first["sha256"] is first["split"] is first["mask"] is None


def test_annotations_alone_are_enough(tmp_path):
    succeeded(import_source(write_coco(tmp_path / "coco", CONTENT, files=False), tmp_path, "coco")[0])
    voc = write_voc(tmp_path / "voc", CONTENT)
    for image in (voc / "JPEGImages").iterdir():
        image.unlink()
    result, out = import_source(voc, tmp_path, "voc")
    succeeded(result)
    assert boxes_of(out)["a.png"] == [("cat", 10, 10, 11, 12)]


def test_every_annotation_says_where_it_came_from(tmp_path):
    out = import_source(write_coco(tmp_path / "coco", CONTENT), tmp_path, "coco")[1]
    row = read_imported(out)[0]
    assert row.origin == "annotations.json: image 0"
    assert row.box_origins == ["annotations.json: annotation 100", "annotations.json: annotation 101"]
    out = import_source(write_voc(tmp_path / "voc", CONTENT), tmp_path, "voc")[1]
    row = next(row for row in read_imported(out) if row.record["image"].endswith("b.png"))
    lines = (tmp_path / "voc/Annotations/b.xml").read_text().splitlines()
    assert [lines[int(origin.rpartition(":")[2]) - 1] for origin in row.box_origins] == ["<object>", "<object>"]


@pytest.mark.parametrize("folder", ["", "images", "data/train"])
def test_the_folder_of_coco_images_is_found(tmp_path, folder):
    out = import_source(write_coco(tmp_path / "s", CONTENT, folder=folder), tmp_path, "coco")[1]
    assert images_folder(out) == folder
    assert read_imported(out)[0].record["image"] == f"{folder}/b.png".lstrip("/")


def test_voc_folders_are_options_and_the_message_names_those_there_are(tmp_path):
    source = write_voc(tmp_path / "s", CONTENT, annotations="xml", folder="pics")
    refused(import_source(source, tmp_path, "voc")[0], "Annotations", "xml", "set `annotations`")
    refused(import_source(source, tmp_path, "voc", "--annotations", "xml")[0], "JPEGImages", "pics", "set `images`")
    succeeded(import_source(source, tmp_path, "voc", "--annotations", "xml", "--images", "pics")[0])


def test_voc_files_that_name_a_wrong_image_mean_the_one_named_like_them(tmp_path):
    source = write_voc(tmp_path / "s", CONTENT)
    xml = source / "Annotations/a.xml"
    xml.write_text(xml.read_text().replace("a.png", "IMG_0001.JPG"))
    assert "a.png" in boxes_of(import_source(source, tmp_path, "voc")[1])


def test_segmentations_of_all_three_kinds_become_run_lengths(tmp_path):
    source = write_coco(tmp_path / "s", {"a.png": [("cat", 10, 10, 30, 20)] * 3})
    square = np.zeros((40, 60), np.uint8)
    square[10:20, 10:30] = 1
    coded = coco_mask.encode(np.asfortranarray(square))
    counts = coded["counts"].decode()
    plain = [10 * 40 + 10, *[10, 30] * 19, 10, 40 * 30 + 20]
    coco = json.loads((source / "annotations.json").read_text())
    polygon = [[10, 10, 30, 10, 30, 20, 10, 20]]
    kinds = [polygon, {"size": [40, 60], "counts": counts}, {"size": [40, 60], "counts": plain}]
    for annotation, segmentation in zip(coco["annotations"], kinds, strict=True):
        annotation["segmentation"] = segmentation
    (source / "annotations.json").write_text(json.dumps(coco))
    boxes = read_imported(import_source(source, tmp_path, "coco")[1])[0].record["boxes"]
    for box in boxes:
        assert np.array_equal(coco_mask.decode(box["segmentation"]), square)


def test_statements_that_cannot_be_a_records_are_kept_as_problems(tmp_path):
    source = write_coco(tmp_path / "s", CONTENT)
    coco = json.loads((source / "annotations.json").read_text())
    coco["annotations"][0]["category_id"] = 999
    coco["annotations"][1]["bbox"] = [1, 2, 3]
    coco["annotations"] += [{"id": 5, "image_id": 77, "category_id": 7, "bbox": [0, 0, 1, 1]}]
    coco["images"] += [{"id": 8, "file_name": "../../etc/passwd"}, {"id": 9, "file_name": "b.png"}]
    (source / "annotations.json").write_text(json.dumps(coco))
    rows = read_imported(import_source(source, tmp_path, "coco")[1])
    assert sorted(rule for row in rows for rule, _ in row.problems) == [
        "malformed box",
        "outside the source",
        "second record",
        "unknown category",
        "unlisted image",
    ]


def test_one_broken_xml_file_costs_one_record_and_is_named(tmp_path):
    source = write_voc(tmp_path / "s", CONTENT)
    (source / "Annotations/a.xml").write_text("<annotation><object>")
    rows = {row.origin: row for row in read_imported(import_source(source, tmp_path, "voc")[1])}
    assert rows["Annotations/a.xml"].problems[0][0] == "malformed annotation"
    assert rows["Annotations/a.xml"].record["image"] == "JPEGImages/a.png"
    assert rows["Annotations/b.xml"].problems == []


def test_bad_input_is_refused_in_one_line_and_writes_nothing(tmp_path):
    source = write_coco(tmp_path / "s", CONTENT)
    text = (source / "annotations.json").read_text()
    archive = pack(source, tmp_path / "whole.zip").read_bytes()
    tar = pack(source, tmp_path / "whole.tar").read_bytes()
    (tmp_path / "cut.zip").write_bytes(archive[: len(archive) // 2])
    (tmp_path / "cut.tar").write_bytes(tar[: len(tar) // 2])
    with tarfile.open(tmp_path / "whole.tar") as whole:
        (tmp_path / "cut between files.tar").write_bytes(tar[: whole.getmembers()[2].offset])
    refused(import_source(tmp_path / "nowhere", tmp_path, "coco")[0], "nowhere", "no such file")
    for cut in ("cut.zip", "cut.tar", "cut between files.tar"):
        refused(import_source(tmp_path / cut, tmp_path, "coco")[0], cut, "cut off")
    (source / "annotations.json").write_text(text[: len(text) // 2])
    refused(import_source(source, tmp_path, "coco")[0], "annotations.json", "truncated")
    (source / "annotations.json").write_text('{"images": 3}')
    refused(import_source(source, tmp_path, "coco")[0], "annotations.json", "no COCO annotations")
    (source / "more.json").write_text("{}")
    refused(import_source(source, tmp_path, "coco")[0], "2 JSON files", "set `annotations`")
    refused(import_source(source, tmp_path, "yolo9")[0], "yolo9", "coco")
    result, out = import_source(source, tmp_path, "coco", "--colour", "red")
    refused(result, "--colour")
    assert not out.exists()
    assert list(tmp_path.glob(".*")) == []
