"""Every image ends as one row, accepted or rejected with a reason; what is repaired is recorded."""

import json
import re
import shutil
import tarfile
import zipfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import msgspec
import pyarrow.parquet as pq
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from Data_processing.clean import check_dependencies, check_share, source_names
from Data_processing.cleaning.batches import Outcome
from Data_processing.cleaning.records import clean_record
from Data_processing.cleaning.rules import Rejection, Rules
from Data_processing.shared.imported import About, Imported, ImportedBox, ImportOptions, write_imported
from Datasets.format.classes import ClassRules
from Datasets.tools.errors import UserError
from tests.template import conftest
from tests.template.conftest import ROOT, png_bomb, refused, succeeded
from tests.template.Data_processing.broken import FACTS
from tests.template.Data_processing.sources import change_coco, picture, write_coco
from tests.template.Data_processing.stages import accepted, rejected, stage, table, take_in
from tests.template.Data_processing.stages import clean as clean_again
from tests.template.Data_processing.stages import take_in_and_clean as clean

CONTENT = {f"{number}.png": [("cat", 3, 4, 20, 30)] for number in range(6)}
PLANTED = {  # defect: rule by which it is rejected, or repaired, or neither
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


def test_every_planted_defect_ends_in_the_row_expected(project):
    planted = json.loads((project / "Data_processing/intermediate/digits_defects.json").read_text())
    assert {entry["defect"] for entry in planted} == set(PLANTED)
    work = project / "Data_processing/intermediate"
    out, kept = rejected(work), accepted(work)
    repaired = table(work, "repairs").set_index("image")["rule"].to_dict()
    expected = {entry["image"]: PLANTED[entry["defect"]] for entry in planted}
    assert out == {image: rule for image, (rule, _) in expected.items() if rule}
    assert repaired == {image: rule for image, (_, rule) in expected.items() if rule}
    assert {image for image, (rule, _) in expected.items() if not rule} <= set(kept)
    upright = next(entry["image"] for entry in planted if entry["defect"] == "EXIF orientation 6")
    assert (kept[upright]["width"], kept[upright]["height"]) == (96, 72)
    summary = json.loads((work / "clean.json").read_text())
    assert summary["imported"] == summary["accepted"] + summary["rejected"] == len(kept) + len(out)
    assert sum(summary["rejected_by_rule"].values()) == summary["rejected"]


def test_a_repaired_box_has_its_corners_in_order_and_lies_inside(tmp_path):
    source = write_coco(tmp_path / "source", {"a.png": [("cat", 20, 30, 3, 4), ("cat", -5, 10, 70, 20)]})
    result = succeeded(clean(source, tmp_path))
    boxes = [tuple(box[k] for k in ("x1", "y1", "x2", "y2")) for box in accepted(tmp_path)["images/a.png"]["boxes"]]
    assert boxes == [(3, 4, 20, 30), (0, 10, 60, 20)]
    repairs = table(tmp_path, "repairs")
    assert list(repairs["rule"]) == ["swapped corners", "clipped box"]
    assert list(repairs["before"]) == ["(20, 30, 3, 4)", "(-5, 10, 70, 20)"]
    assert "1 images imported = 1 accepted + 0 rejected" in result.stdout


def test_unwanted_classes_leave_a_negative_and_are_counted(tmp_path):
    source = write_coco(tmp_path / "source", {"a.png": [("cat", 1, 1, 9, 9)], "b.png": [("bus", 1, 1, 9, 9)]})
    result = succeeded(clean(source, tmp_path, "--keep", "cat"))
    rows = accepted(tmp_path)
    assert rows["images/b.png"]["boxes"] == rows["images/b.png"]["labels"] == []
    assert "objects and labels of classes not kept: 1 bus" in result.stdout


def judged(row: Imported, keep: Sequence[str] = (), values: list[int] | None = None, negatives: bool = True):
    mask = values and msgspec.structs.replace(FACTS, values=values)
    return clean_record(row, "s", FACTS, mask, Rules(ClassRules(keep), negatives))


def test_a_crowd_is_no_double_of_an_object_in_the_same_place():
    boxes = [ImportedBox("cat", 1, 1, 20, 20, str(number), crowd=number > 0) for number in range(3)]
    assert len(judged(Imported("a.png", "x", boxes=boxes), ["cat"]).record["boxes"]) == 3


def test_boxes_that_may_lie_on_their_side_are_told():
    with pytest.raises(Rejection, match="annotated for 40 x 60, the image is 60 x 40: turned, as by EXIF, so were the"):
        judged(Imported("a.png", "x", 40, 60, boxes=[]), ["cat"])


def test_what_is_left_out_is_counted_by_object_or_else_once_an_image():
    labels, counts = ["dog", "dog", "cat"], [{"name": "dog", "count": 3}, {"name": "cow", "count": 0}]
    dogs = [ImportedBox("dog", 1, 1, side, side, "here") for side in (9, 20)]
    assert judged(Imported("a.png", "x", labels=labels), ["cat"]).unwanted == {"dog": 1}
    assert judged(Imported("a.png", "x", counts=counts), ["cat"]).unwanted == {"dog": 3}
    tagged = Imported("a.png", "x", labels=["dog", "night"], boxes=dogs)
    assert judged(tagged, ["cat"]).unwanted == {"dog": 2, "night": 1}
    shown = Imported("a.png", "x", mask="m.png", mask_names={1: "car", 2: "road"})
    assert judged(shown, ["cat"], [0, 2, 255]).unwanted == {"road": 1}


def test_an_image_is_rejected_for_classes_not_kept_only_if_it_shows_some_and_none_that_is_kept():
    shown = Imported("a.png", "x", mask="m.png", mask_names={1: "car", 2: "road"})
    with pytest.raises(Rejection, match="no kept class.*car, road"):
        judged(shown, ["cat"], [0, 1, 2], negatives=False)
    assert judged(shown, ["cat"], [0, 255], negatives=False).record["labels"] == []
    labelled = replace(shown, labels=["dog"])
    assert judged(labelled, ["car"], [1], negatives=False).mask_names == {1: "car"}
    none = Imported("a.png", "x", labels=[], counts=[{"name": "dog", "count": 0}])
    assert judged(none, ["cat"], negatives=False).record["labels"] == []


def test_a_kept_class_that_no_image_has_is_refused(tmp_path):
    source = write_coco(tmp_path / "source", CONTENT)
    refused(clean(source, tmp_path, "--keep", "cat", "--keep", "zebra"), "'zebra'", "cat")
    assert not (tmp_path / "clean/accepted.parquet").exists()


def test_a_wrong_size_is_repaired_if_the_user_says_so(tmp_path):
    source = write_coco(tmp_path / "source", CONTENT)
    change_coco(source, lambda coco: coco["images"][0].update(width=640, height=480))
    refused(clean(source, tmp_path), "1 of 6", "wrong size", "annotated for 640 x 480", "clean.trust_image_size")
    assert rejected(tmp_path) == {"images/0.png": "wrong size"}
    succeeded(clean(source, tmp_path, "--trust-image-size"))
    assert len(accepted(tmp_path)) == 6


def test_hostile_and_odd_files_become_rejected_rows(tmp_path):
    more = {"none.png": [], "nameless.png": [(" ", 3, 4, 20, 30)], "odd.jfif": CONTENT["0.png"]}
    source = write_coco(tmp_path / "source", CONTENT | more)
    (tmp_path / "secret.png").write_bytes(picture(5))
    (source / "images/0.png").unlink()
    (source / "images/0.png").symlink_to(tmp_path / "secret.png")
    (source / "images/1.png").write_bytes(png_bomb())
    (source / "images/x.heic").write_bytes(b"ftypheic")
    (source / "images/unlisted.png").write_bytes(picture(99))

    def change(coco):
        coco["images"][2]["file_name"], coco["images"][3]["file_name"] = "../../../etc/passwd", "/etc/passwd"
        coco["images"].append({"id": 99, "file_name": "./4.png"})

    change_coco(source, change)
    succeeded(clean(source, tmp_path, "--max_rejected", "1"))
    found = table(tmp_path, "rejected")
    assert set(zip(found["image"], found["rule"], strict=True)) >= {
        ("images/0.png", "missing image"),
        ("images/1.png", "unreadable image"),
        ("images/x.heic", "unreadable image"),
        ("images/unlisted.png", "no annotation"),
        ("images/nameless.png", "unknown category"),
    }
    assert found["rule"][found["image"].str.contains("passwd")].tolist() == ["outside the source"] * 2
    twice = found[found["rule"] == "second record"]
    assert list(twice["value"]) == ["also annotations.json: image 99", "also annotations.json: image 4"]
    assert set(accepted(tmp_path)) == {"images/5.png", "images/none.png", "images/odd.jfif"}
    assert accepted(tmp_path)["images/none.png"]["counts"] == []
    values = found.set_index("image")["value"]
    assert "outside" in values["images/0.png"] and "more" in values["images/1.png"]


def test_copies_of_an_image_with_other_labels_are_rejected(tmp_path):
    source = write_coco(tmp_path / "source", {**CONTENT, "x.png": [("dog", -3, 4, 20, 30)]})
    shutil.copy(source / "images/0.png", source / "images/x.png")
    refused(clean(source, tmp_path), "2 conflicting duplicates")
    assert rejected(tmp_path) == {"images/0.png": "conflicting duplicates", "images/x.png": "conflicting duplicates"}
    assert table(tmp_path, "repairs").empty
    succeeded(clean(source, tmp_path, "--max_rejected", "0.5"))
    assert len(accepted(tmp_path)) == 5
    boxes = pq.read_table(tmp_path / "clean/rejected.parquet")["boxes"].to_pylist()
    assert [[(box["name"], box["x2"]) for box in found] for found in boxes] == [[("cat", 20)], [("dog", 20)]]
    succeeded(clean(source, tmp_path, "--keep-conflicts"))
    assert len(accepted(tmp_path)) == 7


def test_copies_of_an_image_with_other_counts_are_rejected_and_other_boxes_alone_are_none(tmp_path):
    cat, far = ("cat", 3, 4, 20, 30), ("cat", 30, 4, 50, 30)
    source = write_coco(tmp_path / "source", {"a.png": [cat], "b.png": [cat, far], "c.png": [cat], "d.png": [far]})
    for one, other in ("ab", "cd"):
        shutil.copy(source / f"images/{one}.png", source / f"images/{other}.png")
    succeeded(clean(source, tmp_path, "--max_rejected", "0.5"))
    found = table(tmp_path, "rejected")
    assert list(found["image"]) == ["images/a.png", "images/b.png"]
    assert set(found["value"]) == {"s: images/a.png: 1 cat; s: images/b.png: 2 cat"}


def test_a_doubled_box_is_left_out_and_recorded(tmp_path):
    boxes = [("cat", 3, 4, 40, 30), ("cat", 3, 4, 40, 30.5), ("dog", 3, 4, 40, 30)]
    source = write_coco(tmp_path / "source", {"a.png": boxes})
    succeeded(clean(source, tmp_path))
    assert [box["name"] for box in accepted(tmp_path)["images/a.png"]["boxes"]] == ["cat", "dog"]
    repair = table(tmp_path, "repairs").iloc[0]
    assert (repair["rule"], repair["origin"]) == ("doubled box", "annotations.json: annotation 101")
    origins = accepted(tmp_path)["images/a.png"]["box_origins"]
    assert origins == ["annotations.json: annotation 100", "annotations.json: annotation 102"]
    succeeded(clean(source, tmp_path, "--doubled-iou", "0"))
    assert len(accepted(tmp_path)["images/a.png"]["boxes"]) == 3


def test_images_that_show_nothing_are_rejected(tmp_path):
    drawn = {
        "too small": Image.new("RGB", (60, 8)),
        "too large": Image.effect_noise((400, 100), 60),
        "extreme shape": Image.effect_noise((290, 30), 60),
        "too dark": Image.new("RGB", (60, 40)),
        "too bright": Image.new("RGB", (60, 40), "white"),
        "blank": Image.new("RGB", (60, 40), "red"),
        "blurred": Image.radial_gradient("L"),
    }
    content = {f"{number}.png": CONTENT["0.png"] for number in range(8)}
    source = write_coco(tmp_path / "source", content)
    change_coco(source, lambda coco: [image.update(width=None, height=None) for image in coco["images"]])
    for number, image in enumerate(drawn.values()):
        image.save(source / f"images/{number}.png")
    options = ("--max-rejected=0.9", "--max-aspect=9", "--max-side=300", "--min-side=16", "--min-sharpness=20")
    succeeded(clean(source, tmp_path, *options))
    assert rejected(tmp_path) == {f"images/{number}.png": rule for number, rule in enumerate(drawn)}


def test_a_box_that_covers_all_is_rejected_if_the_user_says_so(tmp_path):
    source = write_coco(tmp_path / "source", {**CONTENT, "a.png": [("cat", 0, 0, 60, 39.9)]})
    succeeded(clean(source, tmp_path))
    succeeded(clean(source, tmp_path, "--max-box-share", "0.95", "--max-rejected", "0.2"))
    assert rejected(tmp_path) == {"images/a.png": "box covers all"}


def test_a_polygon_becomes_a_mask_of_the_true_image_and_a_false_one_is_a_reason(tmp_path):
    source = write_coco(tmp_path / "source", {f"{n}.png": [("cat", 3, 4, 20, 30)] for n in range(10)})
    square = [[3, 4, 20, 4, 20, 30, 3, 30]]
    outlines = [
        square,
        [[3, 4, 20, 4]],
        [[3, 4, 20, 4, 10, 4]],
        [[3.1, 4.1, 3.2, 4.1, 3.2, 4.2]],
        {"size": [40, 60], "counts": [2400]},
        [[3, 4, 20, 4, 20]],
        [[3, 4, 20, 4, 1e9, 30]],
        {"size": [40, 60], "counts": [5, 5]},
        {"size": [41, 60], "counts": [0, 2460]},
        "a circle",
    ]

    def change(coco):
        for image, annotation, outline in zip(coco["images"], coco["annotations"], outlines, strict=True):
            annotation["segmentation"] = outline
            image.update(width=None, height=None)

    change_coco(source, change)
    succeeded(clean(source, tmp_path, "--max-rejected", "0.9"))
    rows = accepted(tmp_path)
    assert int(coco_mask.area(rows["images/0.png"]["boxes"][0]["segmentation"])) == 17 * 26
    assert [rows[f"images/{n}.png"]["boxes"][0]["segmentation"] for n in range(1, 5)] == [None] * 4
    repairs = table(tmp_path, "repairs")
    assert list(zip(repairs["rule"], repairs["before"], strict=True)) == [("segmentation left out", "no area")] * 4
    assert rejected(tmp_path) == {f"images/{n}.png": "malformed segmentation" for n in range(5, 10)}


def test_two_sources_may_share_a_folder_of_images(tmp_path):
    source = write_coco(tmp_path / "source", CONTENT)
    (source / "images/extra.png").write_bytes(picture(99))
    whole = json.loads((source / "annotations.json").read_text())
    for part, images in (("a", whole["images"][:2]), ("b", whole["images"][2:])):
        ids = [image["id"] for image in images]
        annotations = [a for a in whole["annotations"] if a["image_id"] in ids]
        (source / f"{part}.json").write_text(json.dumps({**whole, "images": images, "annotations": annotations}))
        take_in(tmp_path, part, source, "coco", "--annotations", f"{part}.json")
    result = succeeded(clean_again(tmp_path, "--max_rejected", "0.2", "b", "a"))
    assert "7 images imported = 6 accepted + 1 rejected" in result.stdout
    assert [row["source"] for row in accepted(tmp_path).values()] == ["b"] * 4 + ["a"] * 2


def test_merged_classes_are_one_and_an_image_without_any_kept_can_be_rejected(tmp_path):
    source = write_coco(tmp_path / "source", {f"{n}.png": [(n, 1, 1, 9, 9)] for n in ("car", "truck", "bus")})
    succeeded(clean(source, tmp_path, "--merge", "vehicle=car+truck", "--keep", "vehicle"))
    assert [row["labels"] for row in accepted(tmp_path).values()] == [["vehicle"], ["vehicle"], []]
    options = ("--merge=vehicle=car+truck", "--keep=vehicle", "--without_kept=reject", "--max_rejected=0.5")
    succeeded(clean(source, tmp_path, *options))
    assert rejected(tmp_path) == {"images/bus.png": "no kept class"}
    refused(clean(source, tmp_path, "--keep", "car", "--keep", "car"), "'car'", "twice")
    refused(clean(source, tmp_path, "--merge", "car"), "merge", "NEW=OLD+OLD")


def test_links_and_odd_names_in_archives_lose_no_image(tmp_path):
    source = write_coco(tmp_path / "source", CONTENT)
    (source / "images/1.png").unlink()
    (source / "images/1.png").hardlink_to(source / "images/0.png")
    (source / "images/2.png").unlink()
    (source / "images/2.png").symlink_to("0.png")
    (source / "images/3.png").unlink()
    (source / "images/3.png").symlink_to("/etc/passwd")
    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        tar.add(source, ".")
    succeeded(clean(tmp_path / "s.tar", tmp_path, "--max_rejected=0.5"))
    assert rejected(tmp_path) == {"images/3.png": "missing image"}
    assert len(accepted(tmp_path)) == 5
    with zipfile.ZipFile(tmp_path / "s.zip", "w") as zipped:
        for number in range(6):
            zipped.writestr(f".\\images\\{number}.png", picture(number))
        zipped.write(source / "annotations.json", "./annotations.json")
    succeeded(clean(tmp_path / "s.zip", tmp_path))
    assert len(accepted(tmp_path)) == 6


def test_an_image_that_is_also_a_mask_is_rejected(tmp_path):
    both = Imported("images/0.png", "x", boxes=[], mask="images/0.png", mask_names={1: "cat"})
    rows = [both, Imported("images/1.png", "y", boxes=[])]
    source = write_coco(tmp_path / "source", CONTENT)
    imported, inspected = tmp_path / "imported/s.parquet", tmp_path / "inspected/s.parquet"
    imported.parent.mkdir()
    write_imported(rows, "s", imported, About(source.as_posix(), "nowhere", ImportOptions()))
    succeeded(stage("Data_processing.inspect_images", "--source", "s", "--imported", imported, "--out", inspected))
    succeeded(clean_again(tmp_path, "--max_rejected", "0.5", "s"))
    assert len(rejected(tmp_path)) == 1
    more = [*rows, Imported("images/2.png", "z", boxes=[])]
    write_imported(more, "s", imported, About(source.as_posix(), "", ImportOptions()))
    refused(clean_again(tmp_path, "s"), "images/2.png", "inspect s again")


def test_names_that_no_source_has_are_warned_of(tmp_path):
    source = write_coco(tmp_path / "source", CONTENT)
    names = ("--rename", "kat=cat", "--rename", "cat=feline", "--merge", "pet=feline+hamster", "--drop", "cow")
    result = succeeded(clean(source, tmp_path, *names, "--keep", "pet"))
    assert "warning: clean.rename: no source has the class 'kat'" in result.stderr
    assert "warning: clean.merge: no source has the class 'hamster'" in result.stderr
    assert "warning: clean.drop: no source has the class 'cow'" in result.stderr
    assert result.stderr.count("warning") == 3


def test_labels_without_a_box_are_warned_of_where_their_class_has_boxes(tmp_path):
    source = write_coco(tmp_path / "source", CONTENT)
    label = {"id": 900, "image_id": 0, "category_id": 99}  # of the image
    change_coco(source, lambda coco: coco["annotations"].append(label))
    change_coco(source, lambda coco: coco["categories"].append({"id": 99, "name": "sunny"}))
    assert "warning" not in succeeded(clean(source, tmp_path)).stderr
    change_coco(source, lambda coco: coco["annotations"][0].update(bbox=None))
    result = succeeded(clean(source, tmp_path))
    assert "warning: 1 images, such as s/images/" in result.stderr and "have a label without a box" in result.stderr


def test_classes_that_differ_in_case_only_are_warned_of(tmp_path):
    content = {
        f"{n}.png": [(name, 1, 1, 9, 9)] for n, name in enumerate(("car", "Car", "stop_sign", "stop sign", "-1", "1"))
    }
    result = succeeded(clean(write_coco(tmp_path / "source", content), tmp_path))
    assert "warning: ['Car', 'car'] are 2 classes; with `rename: [Car=car]` in clean, one" in result.stderr
    assert "`rename: [stop sign=stop_sign]`" in result.stderr
    assert result.stderr.count("warning") == 2


@pytest.mark.parametrize(
    ("rejects", "kept", "share", "told"),
    [
        (0, 0, 0.05, "no source states or holds an image"),
        (1, 0, 1, "1 of 1 images rejected, so nothing is left: 1 blurred; see r.csv; the first: x: blurred: 0;"),
        (2, 8, 0.1, "2 of 10 images rejected, more than clean.max_rejected = 0.1 allows: 2 blurred"),
    ],
)
def test_why_clean_fails_is_told(rejects, kept, share, told):
    total = Outcome(kept)
    for number in range(rejects):
        total.reject("s", f"{number}.png", Rejection("blurred", "x", "0"))
    with pytest.raises(UserError, match=re.escape(told)):
        check_share(total, share, Path("r.csv"))


def test_many_records_are_cleaned_in_several_processes_with_the_same_result(tmp_path, monkeypatch):
    for module in ("Data_processing.clean", "Data_processing.cleaning.batches"):
        monkeypatch.setattr(f"{module}.BATCH", 5)
    take_in(tmp_path, "s", write_coco(tmp_path / "source", {f"{n}.png": [("cat", 3, 4, 20, 30)] for n in range(20)}))
    outputs = []
    for jobs in ("1", "2"):
        succeeded(clean_again(tmp_path, "--jobs", jobs, "s"))
        outputs.append({file.name: file.read_bytes() for file in (tmp_path / "clean").iterdir()})
    assert outputs[0] == outputs[1]


def test_a_source_that_was_not_imported_is_named(tmp_path):
    take_in(tmp_path, "s", write_coco(tmp_path / "source", CONTENT))
    refused(clean_again(tmp_path, "s", "other"), "other.parquet")


def test_sources_are_named_plainly_or_as_dvc_unpacks_them():
    assert source_names(["b", "a"]) == ["b", "a"]
    unpacked = ["--b.format", "coco", "--b.path", "x y", "--no-a.flag", "--a.path", "z"]
    assert source_names(unpacked) == ["b", "a"]


def test_boxes_that_a_rejected_record_states_in_fractions_are_kept_in_pixels(tmp_path):
    (tmp_path / "yolo/images").mkdir(parents=True)
    (tmp_path / "yolo/labels").mkdir()
    (tmp_path / "yolo/images/a.png").write_bytes(picture(0))
    (tmp_path / "yolo/labels/a.txt").write_text("0 0.5 0.6 0.5 0.2\n0 0.5 0.6 0.5 0\n")
    (tmp_path / "yolo/data.yaml").write_text("train: images\nnames: [cat]\n")
    refused(clean(tmp_path / "yolo", tmp_path, form="yolo"), "box without area")
    [row] = pq.read_table(tmp_path / "clean/rejected.parquet").to_pylist()
    assert {k: round(v, 6) for k, v in row["boxes"][0].items() if k != "name"} == {
        "x1": 15,
        "y1": 20,
        "x2": 45,
        "y2": 28,
    }


def test_a_rule_of_the_teams_rejects_with_its_remedy(tmp_path):
    """The example in own_rules/README.md, in a checkout of its own."""
    checkout = tmp_path / "checkout"
    for package in ("Datasets", "Data_processing"):
        ignored = shutil.ignore_patterns("raw", "curated", "pretrained", "intermediate", "__pycache__")
        shutil.copytree(ROOT / package, checkout / package, ignore=ignored)
    folder = checkout / "Data_processing/own_rules"
    [example] = re.findall("```python\n(.*?)```", (folder / "README.md").read_text(), re.S)
    (folder / "night_without_lamp.py").write_text(example)
    night = {"dark.png": [("cat", 1, 1, 9, 9)], "lit.png": [("lamp", 1, 1, 9, 9)]}
    source = write_coco(tmp_path / "source", {**CONTENT, **night})
    for name in night:
        Image.effect_noise((60, 40), 20).point(lambda value: value // 4).save(source / f"images/{name}")
    succeeded(clean(source, tmp_path, "--max-rejected=0.5"))
    assert rejected(tmp_path) == {}
    succeeded(clean_again(tmp_path, "--max-rejected=0.5", "s", run=conftest.stage, cwd=checkout))
    assert rejected(tmp_path) == {"images/dark.png": "night without lamp"}
    [row] = table(tmp_path, "rejected").to_dict("records")
    assert row["remedy"] == "mark the lamps, or delete the image" and row["value"].startswith("brightness ")


def test_sources_that_dvc_yaml_does_not_name_and_others_that_it_still_names_are_told(tmp_path):
    folders = [Path("Data_processing/intermediate") / name for name in ("imported", "inspected")]
    check_dependencies(ROOT / "dvc.yaml", ["digits"], folders)
    line = "`- Data_processing/intermediate/imported/cats.parquet`"
    with pytest.raises(UserError, match=f"dvc.yaml: stage clean does not depend on .* the line {line}"):
        check_dependencies(ROOT / "dvc.yaml", ["digits", "cats"], folders)
    with pytest.raises(UserError, match=r"imported/digits.parquet is of no source .* delete the line"):
        check_dependencies(ROOT / "dvc.yaml", [], folders)


def test_a_box_of_one_pixel_is_rejected_unless_the_user_says_otherwise(tmp_path):
    content = {
        **CONTENT,
        "0.png": [("cat", 3, 4, 4, 30)],
        "1.png": [("cat", 58, 4, 99, 30)],
        "2.png": [("cat", 3, 4, 5, 6)],
    }
    source = write_coco(tmp_path / "s", content)
    succeeded(clean(source, tmp_path, "--max-rejected", "0.9"))
    assert rejected(tmp_path) == {"images/0.png": "box too small"}
    succeeded(clean(source, tmp_path, "--min-box", "1"))
    refused(clean(source, tmp_path, "--min-box", "3"), "3 of 6 images rejected", "box too small", "clean.min_box")


def test_names_that_begin_like_formulas_stay_text_in_the_tables(tmp_path):
    content = {**CONTENT, "=1+2.png": [("cat", 9, 9, 9, 12)], "@a.png": [("cat", 20, 4, 3, 30)]}
    source = write_coco(tmp_path / "s", content, folder=".")
    succeeded(clean(source, tmp_path, "--max-rejected", "0.9"))
    assert rejected(tmp_path) == {"'=1+2.png": "box without area"}
    assert table(tmp_path, "repairs")["image"].tolist() == ["'@a.png"]
    assert pq.read_table(tmp_path / "clean/rejected.parquet")["image"].to_pylist() == ["=1+2.png"]


def test_control_characters_of_names_do_not_reach_the_terminal(tmp_path):
    name = "cat\x1b[31m\x1b]0;title\x07"
    source = write_coco(tmp_path / "s", {**CONTENT, "0.png": [(name, 3, 4, 20, 30)]})
    done = succeeded(clean(source, tmp_path, "--keep", "cat"))
    assert "1 cat\\x1b[31m\\x1b]0;title\\x07" in done.stdout and "\x1b" not in done.stdout
    done = clean(source, tmp_path, "--keep", "cat", "--rename", f"{name}=cat\x1b[2J")
    assert "\x1b" not in done.stdout + done.stderr
