"""Every image ends as one row, accepted or rejected with a reason; what is mended is recorded."""

import json
import shutil

import pandas as pd
import pyarrow.parquet as pq
import pytest

from Data_processing.clean import source_names
from tests.conftest import png_bomb, refused, stage, succeeded
from tests.Data_processing.sources import pack, picture, write_coco, write_voc

CONTENT = {f"{number}.png": [("cat", 3, 4, 20, 30)] for number in range(6)}
PLANTED = {  # defect: rule by which it is rejected, or mended, or neither
    "truncated": ("unreadable image", None),
    "not an image": ("unreadable image", None),
    "image without annotation": ("no annotation", None),
    "annotation without image": ("missing image", None),
    "zero area": ("box without area", None),
    "wholly outside": ("box outside", None),
    "misspelt class": ("misspelt class", None),
    "wrong size": ("wrong size", None),
    "swapped corners": (None, "swapped corners"),
    "partly outside": (None, "clipped box"),
    "exact duplicate": (None, None),
    "near duplicate": (None, None),
    "EXIF orientation 6": (None, None),
    "grey": (None, None),
    "CMYK": (None, None),
    "16-bit PNG": (None, None),
}


def clean(source, tmp_path, *options, form="coco"):
    imported, inspected = tmp_path / "imported/s.parquet", tmp_path / "inspected/s.parquet"
    common = ("--source", "s", "--path", source)
    succeeded(stage("Data_processing.import_source", *common, "--format", form, "--out", imported))
    succeeded(stage("Data_processing.inspect_images", *common, "--imported", imported, "--out", inspected))
    directories = ("--imported", tmp_path / "imported", "--inspected", tmp_path / "inspected")
    return stage("Data_processing.clean", *directories, "--out", tmp_path / "clean", *options, "s")


def rejected(tmp_path) -> dict:
    table = pd.read_csv(tmp_path / "clean/rejected.csv")
    return dict(zip(table["image"], table["rule"], strict=True))


def accepted(tmp_path) -> dict:
    return {row["image"]: row for row in pq.read_table(tmp_path / "clean/accepted.parquet").to_pylist()}


def change_coco(source, change) -> None:
    coco = json.loads((source / "annotations.json").read_text())
    change(coco)
    (source / "annotations.json").write_text(json.dumps(coco))


def test_every_planted_defect_ends_in_the_row_expected(project):
    planted = json.loads((project / "Data_processing/intermediate/digits_defects.json").read_text())
    assert {entry["defect"] for entry in planted} == set(PLANTED)
    clean_directory = project / "Data_processing/intermediate/clean"
    out = pd.read_csv(clean_directory / "rejected.csv").set_index("image")["rule"].to_dict()
    mended = pd.read_csv(clean_directory / "repairs.csv").set_index("image")["rule"].to_dict()
    kept = {row["image"]: row for row in pq.read_table(clean_directory / "accepted.parquet").to_pylist()}
    expected = {entry["image"]: PLANTED[entry["defect"]] for entry in planted}
    assert out == {image: rule for image, (rule, _) in expected.items() if rule}
    assert mended == {image: rule for image, (_, rule) in expected.items() if rule}
    assert {image for image, (rule, _) in expected.items() if not rule} <= set(kept)
    upright = next(entry["image"] for entry in planted if entry["defect"] == "EXIF orientation 6")
    assert (kept[upright]["width"], kept[upright]["height"]) == (96, 72)


def test_imported_is_the_sum_of_accepted_and_rejected(project):
    summary = json.loads((project / "Data_processing/intermediate/clean/summary.json").read_text())
    files = {path.name for path in (project / "Datasets/raw/digits/images").iterdir()}
    listed = json.loads((project / "Datasets/raw/digits/annotations.json").read_text())["images"]
    assert (
        summary["imported"]
        == summary["accepted"] + summary["rejected"]
        == len(files | {i["file_name"] for i in listed})
    )
    assert sum(summary["rejected_by_rule"].values()) == summary["rejected"]


def test_a_repaired_box_has_its_corners_in_order_and_lies_inside(tmp_path):
    source = write_coco(tmp_path / "source", {"a.png": [("cat", 20, 30, 3, 4), ("cat", -5, 10, 70, 20)]})
    result = succeeded(clean(source, tmp_path))
    boxes = [tuple(box[k] for k in ("x1", "y1", "x2", "y2")) for box in accepted(tmp_path)["images/a.png"]["boxes"]]
    assert boxes == [(3, 4, 20, 30), (0, 10, 60, 20)]
    repairs = pd.read_csv(tmp_path / "clean/repairs.csv")
    assert list(repairs["rule"]) == ["swapped corners", "clipped box"]
    assert list(repairs["before"]) == ["(20, 30, 3, 4)", "(-5, 10, 70, 20)"]
    assert "1 images imported = 1 accepted + 0 rejected" in result.stdout


def test_unwanted_classes_leave_a_negative_and_are_counted(tmp_path):
    source = write_coco(tmp_path / "source", {"a.png": [("cat", 1, 1, 9, 9)], "b.png": [("bus", 1, 1, 9, 9)]})
    result = succeeded(clean(source, tmp_path, "--keep", "cat"))
    rows = accepted(tmp_path)
    assert rows["images/b.png"]["boxes"] == rows["images/b.png"]["labels"] == []
    assert "boxes of classes not kept: 1 bus" in result.stdout


def test_classes_are_renamed_before_they_are_kept(tmp_path):
    source = write_coco(tmp_path / "source", {"a.png": [("kitty", 1, 1, 9, 9)], "b.png": [("cat", 1, 1, 9, 9)]})
    succeeded(clean(source, tmp_path, "--keep", "cat", "--rename", "kitty=cat"))
    assert [row["labels"] for row in accepted(tmp_path).values()] == [["cat"], ["cat"]]


def test_a_kept_class_that_no_image_has_is_refused(tmp_path):
    source = write_coco(tmp_path / "source", CONTENT)
    refused(clean(source, tmp_path, "--keep", "cat", "--keep", "zebra"), "'zebra'", "cat")
    assert not (tmp_path / "clean/accepted.parquet").exists()


def test_an_image_listed_without_boxes_is_a_negative_and_an_unlisted_one_is_rejected(tmp_path):
    source = write_coco(tmp_path / "source", {"a.png": [], **CONTENT})
    (source / "images/extra.png").write_bytes(picture(99))
    succeeded(clean(source, tmp_path, "--max_rejected", "0.2"))
    assert accepted(tmp_path)["images/a.png"]["counts"] == []
    assert rejected(tmp_path) == {"images/extra.png": "no annotation"}


def test_a_wrong_size_is_mended_if_the_user_says_so(tmp_path):
    source = write_coco(tmp_path / "source", CONTENT)
    change_coco(source, lambda coco: coco["images"][0].update(width=640, height=480))
    refused(clean(source, tmp_path), "1 of 6", "wrong size", "annotated for 640 x 480", "clean.trust_image_size")
    assert rejected(tmp_path) == {"images/0.png": "wrong size"}
    succeeded(clean(source, tmp_path, "--trust-image-size"))
    assert len(accepted(tmp_path)) == 6


def test_hostile_files_become_rejected_rows(tmp_path):
    source = write_coco(tmp_path / "source", CONTENT)
    (tmp_path / "secret.png").write_bytes(picture(5))
    (source / "images/0.png").unlink()
    (source / "images/0.png").symlink_to(tmp_path / "secret.png")
    (source / "images/1.png").write_bytes(png_bomb())
    change_coco(source, lambda coco: coco["images"][2].update(file_name="../../../etc/passwd"))
    change_coco(source, lambda coco: coco["images"][3].update(file_name="/etc/passwd"))
    succeeded(clean(source, tmp_path, "--max_rejected", "1"))
    rules = rejected(tmp_path)
    assert rules["images/0.png"] == "missing image"
    assert rules["images/1.png"] == "unreadable image"
    assert [rule for image, rule in rules.items() if "passwd" in image] == ["outside the source"] * 2
    assert set(accepted(tmp_path)) == {"images/4.png", "images/5.png"}
    values = pd.read_csv(tmp_path / "clean/rejected.csv").set_index("image")["value"]
    assert "outside" in values["images/0.png"]
    assert "more" in values["images/1.png"]


@pytest.mark.parametrize("archive", ["s.zip", "s.tar.gz"])
def test_an_archive_gives_the_rows_that_its_directory_gives(tmp_path, archive):
    source = write_voc(tmp_path / "source", CONTENT)
    succeeded(clean(source, tmp_path, form="voc"))
    from_directory = accepted(tmp_path)
    shutil.rmtree(tmp_path / "clean")
    succeeded(clean(pack(source, tmp_path / archive), tmp_path, form="voc"))
    assert accepted(tmp_path) == from_directory


def test_a_source_that_was_not_imported_is_named(tmp_path):
    succeeded(clean(write_coco(tmp_path / "source", CONTENT), tmp_path))
    directories = ("--imported", tmp_path / "imported", "--inspected", tmp_path / "inspected")
    refused(stage("Data_processing.clean", *directories, "--out", tmp_path / "clean", "s", "other"), "other.parquet")


def test_sources_are_named_plainly_or_as_dvc_unpacks_them():
    assert source_names(["b", "a"]) == ["a", "b"]
    unpacked = ["--b.format", "coco", "--b.path", "x y", "--no-a.flag", "--a.path", "z"]
    assert source_names(unpacked) == ["a", "b"]
