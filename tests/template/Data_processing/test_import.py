"""Every format, from a directory or an archive, becomes the same records; bad input is refused in one line."""

import json
import shutil
import tarfile

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from Data_processing.shared.imported import read_about
from Data_processing.shared.outlines import to_rle
from tests.template.conftest import refused, succeeded
from tests.template.Data_processing.annotated import corners, read_imported, rows_of
from tests.template.Data_processing.sources import change_coco, pack, write_coco, write_voc
from tests.template.Data_processing.stages import stage

CONTENT = {"b.png": [("dog", 3, 4, 20, 30), ("cat", 0, 0, 60, 40)], "a.png": [("cat", 10, 10, 11, 12)], "c.png": []}


def import_source(path, tmp_path, form, *options):
    out = tmp_path / "imported.parquet"
    words = ("--source", "s", "--format", form, "--path", path, "--out", out)
    return stage("Data_processing.import_source", *words, *options), out


def boxes_of(out) -> dict:
    return {
        row.image.rpartition("/")[2]: sorted((box.name, box.x1, box.y1, box.x2, box.y2) for box in row.boxes)
        for row in read_imported(out)
    }


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
    row = next(read_imported(out))
    assert row.origin == "annotations.json: image 0"
    assert [box.origin for box in row.boxes] == ["annotations.json: annotation 100", "annotations.json: annotation 101"]
    out = import_source(write_voc(tmp_path / "voc", CONTENT), tmp_path, "voc")[1]
    row = next(row for row in read_imported(out) if row.image.endswith("b.png"))
    lines = (tmp_path / "voc/Annotations/b.xml").read_text().splitlines()
    assert [lines[int(origin.rpartition(":")[2]) - 1] for origin in [box.origin for box in row.boxes]] == [
        "<object>",
        "<object>",
    ]


@pytest.mark.parametrize("folder", ["", "images", "data/train"])
def test_the_folder_of_coco_images_is_found(tmp_path, folder):
    out = import_source(write_coco(tmp_path / "s", CONTENT, folder=folder), tmp_path, "coco")[1]
    assert read_about(out).images == folder
    assert next(read_imported(out)).image == f"{folder}/b.png".lstrip("/")


def test_voc_folders_are_options_and_the_message_names_those_there_are(tmp_path):
    source = write_voc(tmp_path / "s", CONTENT, annotations="xml", folder="pics")
    refused(import_source(source, tmp_path, "voc")[0], "Annotations", "xml", "set `annotations`")
    succeeded(import_source(source, tmp_path, "voc", "--annotations", "xml")[0])
    assert read_about(tmp_path / "imported.parquet").images == "pics"
    succeeded(import_source(source, tmp_path, "voc", "--annotations", "xml", "--images", "pics")[0])


def test_voc_files_that_name_a_wrong_image_mean_the_one_named_like_them(tmp_path):
    source = write_voc(tmp_path / "s", CONTENT)
    xml = source / "Annotations/a.xml"
    xml.write_text(xml.read_text().replace("a.png", "IMG_0001.JPG"))
    assert "a.png" in boxes_of(import_source(source, tmp_path, "voc")[1])


def test_swapped_corners_of_voc_stay_so_around_the_same_pixels(tmp_path):
    source = write_voc(tmp_path / "s", {"a.png": [("cat", 3, 4, 20, 30)]})
    xml = source / "Annotations/a.xml"
    xml.write_text(
        xml.read_text().replace("min", "x").replace("max", "min").replace("xx", "xmax").replace("yx", "ymax")
    )
    [box] = rows_of(source, "voc")["Annotations/a.xml"].boxes
    assert (box.x1, box.y1, box.x2, box.y2) == (20, 30, 3, 4)


def test_segmentations_of_all_three_kinds_become_run_lengths(tmp_path):
    source = write_coco(tmp_path / "s", {"a.png": [("cat", 10, 10, 30, 20)] * 4})
    square = np.zeros((40, 60), np.uint8)
    square[10:20, 10:30] = 1
    plain = [10 * 40 + 10, *[10, 30] * 19, 10, 40 * 30 + 20]
    polygon = [10, 10, 30, 10, 30, 20, 10, 20]
    counts = coco_mask.encode(np.asfortranarray(square))["counts"].decode()
    kinds = [[polygon], polygon, *({"size": [40, 60], "counts": each} for each in (counts, plain))]  # VIA's has no list
    change_coco(
        source, lambda coco: [a.update(segmentation=s) for a, s in zip(coco["annotations"], kinds, strict=True)]
    )
    boxes = next(read_imported(import_source(source, tmp_path, "coco")[1])).boxes
    for box in boxes:
        assert np.array_equal(coco_mask.decode(to_rle(box.outline, 60, 40)), square)


def test_statements_that_cannot_be_a_records_are_kept_as_problems(tmp_path):
    source = write_coco(tmp_path / "s", CONTENT)

    def change(coco):
        coco["annotations"][0]["category_id"] = 999
        coco["annotations"][1]["bbox"] = [1, 2, 3]
        coco["annotations"] += [{"id": 5, "image_id": 77, "category_id": 7, "bbox": [0, 0, 1, 1]}]
        coco["images"] += [{"id": 8, "file_name": "../../etc/passwd"}]

    change_coco(source, change)
    rows = rows_of(source, "coco").values()
    assert sorted(rule for row in rows for rule, _ in row.problems) == [
        "malformed box",
        "outside the source",
        "unknown category",
        "unlisted image",
    ]


def test_images_that_share_an_id_cannot_be_told_apart(tmp_path):
    source = write_coco(tmp_path / "s", CONTENT)
    change_coco(source, lambda coco: coco["images"][1].update(id=0))
    rows = {row.image: row for row in read_imported(import_source(source, tmp_path, "coco")[1])}
    assert rows["images/a.png"].problems[0][0] == rows["images/b.png"].problems[0][0] == "repeated id"
    assert rows["images/c.png"].problems == []


def test_of_several_folders_with_the_same_names_the_one_the_file_is_named_after_is_meant(tmp_path):
    source = write_coco(tmp_path / "s", CONTENT, folder="train")
    shutil.copytree(source / "train", source / "val")
    refused(import_source(source, tmp_path, "coco")[0], "train", "val", "set `images`")
    (source / "annotations.json").rename(source / "instances_val.json")
    assert read_about(import_source(source, tmp_path, "coco")[1]).images == "val"


@pytest.mark.parametrize("name", ["b.png", "./b.png", ".\\b.png"])
def test_names_are_taken_as_they_are_meant(tmp_path, name):
    source = write_coco(tmp_path / "s", CONTENT)
    change_coco(source, lambda coco: coco["images"][0].update(file_name=name))
    row = next(read_imported(import_source(source, tmp_path, "coco", "--images", "./images/")[1]))
    assert row.image == "images/b.png"
    assert row.problems == []


@pytest.mark.parametrize(
    ("name", "image"),
    [
        ("..\\..\\label-studio\\media\\upload\\4\\cb0618f6-b.png", "images/b.png"),
        ("/home/me/images/b.png", "images/b.png"),
        ("C:\\data\\b.png", "images/b.png"),
        ("https://example.org/x/images/b.png?size=3", "images/b.png"),
        ("/data/local-files/?d=images/b.png", "images/b.png"),
        ("../more/a.png", "more/a.png"),
    ],
)
def test_names_that_lead_out_of_the_source_mean_the_image_that_they_end_in(tmp_path, name, image):
    source = write_coco(tmp_path / "s", CONTENT)
    shutil.copytree(source / "images", source / "more", ignore=shutil.ignore_patterns("b.png"))
    content = [name, "/elsewhere/a.png", "/nowhere.png"]
    change_coco(source, lambda coco: [i.update(file_name=n) for i, n in zip(coco["images"], content, strict=True)])
    (source / "t.csv").write_text("image,label\n" + "".join(f"{name},cat\n" for name in content))
    for form in ("coco", "csv"):
        rows = read_imported(import_source(source, tmp_path, form)[1])
        told = [(row.image, [rule for rule, _ in row.problems]) for row in rows]
        assert told[0] == (image, [])
        assert [problems for _, problems in told[1:]] == [["ambiguous image"], ["outside the source"]]


def test_json_of_other_programs_is_understood(tmp_path):
    source = write_coco(tmp_path / "s", CONTENT)
    change_coco(
        source, lambda coco: [a.update(iscrowd=None, image_id=float(a["image_id"])) for a in coco["annotations"]]
    )
    file = source / "annotations.json"
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    (source / "._annotations.json").write_bytes(b"\0\5\x16\7")
    assert boxes_of(import_source(source, tmp_path, "coco")[1]) == {k: sorted(v) for k, v in CONTENT.items()}


def test_numbers_may_be_text_or_have_a_fraction_of_nothing(tmp_path):
    source = write_coco(tmp_path / "s", CONTENT)
    plain = rows_of(source, "coco")

    def change(coco):
        coco["images"][0] |= {"width": "60", "height": 40.0}
        for number, annotation in enumerate(coco["annotations"]):
            annotation |= {"iscrowd": ["0", 0.0][number % 2], "bbox": list(map(str, annotation["bbox"]))}

    change_coco(source, change)
    assert [list(row.boxes) for row in rows_of(source, "coco").values()] == [list(r.boxes) for r in plain.values()]
    change_coco(source, lambda coco: coco["annotations"][0].update(category_id=None))
    first, *others = rows_of(source, "coco").values()
    assert [rule for rule, _ in first.problems] == ["unknown category"]
    assert not any(row.problems for row in others)


@pytest.mark.parametrize("kind", [str, float])
def test_ids_may_be_text_in_one_list_and_numbers_in_the_other(tmp_path, kind):
    source = write_coco(tmp_path / "s", CONTENT)
    change_coco(
        source, lambda coco: [a.update(image_id=str(a["image_id"]), category_id="7") for a in coco["annotations"][1:]]
    )
    change_coco(source, lambda coco: [c.update(id=kind(c["id"])) for c in coco["categories"]])
    rows = rows_of(source, "coco")
    assert [row.problems for row in rows.values()] == [[]] * len(CONTENT)
    assert [len(row.boxes) for row in rows.values()] == [len(boxes) for boxes in CONTENT.values()]
    assert [box.name for row in rows.values() for box in row.boxes] == ["dog", "cat", "cat"]


def test_images_of_lvis_are_named_by_the_end_of_their_address(tmp_path):
    source = write_coco(tmp_path / "s", CONTENT, folder="val2017")

    def change(coco):
        for image in coco["images"]:
            image["coco_url"] = f"http://images.cocodataset.org/val2017/{image.pop('file_name')}"
        coco["images"] += [{"id": 9}]

    change_coco(source, change)
    *rows, nameless = read_imported(import_source(source, tmp_path, "coco")[1])
    assert [(row.image, row.problems) for row in rows] == [(f"val2017/{name}", []) for name in CONTENT]
    assert nameless.problems[0] == ("malformed annotation", "an image without file_name")


def test_a_file_without_any_annotation_says_nothing_of_its_images(tmp_path):
    source = write_coco(tmp_path / "s", CONTENT)
    change_coco(source, lambda coco: coco.update(annotations=[]))
    assert [(row.boxes, row.labels) for row in rows_of(source, "coco").values()] == [(None, None)] * len(CONTENT)


def test_annotations_of_whole_images_become_labels(tmp_path):
    source = write_coco(tmp_path / "s", CONTENT)
    change_coco(source, lambda coco: [annotation.pop("bbox") for annotation in coco["annotations"]])
    rows = {row.image: row for row in read_imported(import_source(source, tmp_path, "coco")[1])}
    assert [rows[f"images/{name}.png"].labels for name in "abc"] == [["cat"], ["cat", "dog"], []]
    assert all(row.boxes is None for row in rows.values())
    drawn = {"bbox": [3, 4, 17, 26], "segmentation": [[3, 4, 20, 4, 20, 30]], "iscrowd": 1}
    change_coco(source, lambda coco: coco["annotations"][0].update(drawn))
    rows = {row.image: row for row in rows_of(source, "coco").values()}
    assert rows["images/b.png"].labels == ["cat", "dog"]
    [box] = rows["images/b.png"].boxes
    assert (box.name, box.x2, box.crowd, json.loads(box.outline)) == ("dog", 20, True, drawn["segmentation"])
    assert rows["images/c.png"].boxes == []


def test_a_segmentation_without_a_box_gets_the_box_around_it(tmp_path):
    source = write_coco(tmp_path / "s", {"a.png": [("cat", 1, 1, 2, 2)] * 2})

    def change(coco):
        coco["annotations"][0] |= {"bbox": None, "segmentation": [[3, 4, 20, 4, 20, 30], [1, 2, 3, 4, 5, 9]]}
        coco["annotations"][1] |= {"bbox": None, "segmentation": {"size": [40, 60], "counts": [45, 5, 2350]}}
        coco["annotations"][1]["iscrowd"] = 1

    change_coco(source, change)
    boxes = next(read_imported(import_source(source, tmp_path, "coco")[1])).boxes
    assert [(box.x1, box.y1, box.x2, box.y2) for box in boxes] == [(1, 2, 20, 30), (1, 5, 2, 10)]
    assert [box.crowd for box in boxes] == [False, True]


def test_voc_images_are_found_by_name_before_they_are_guessed(tmp_path):
    names = ["a.png", "a.b.png", "a.jpg", "c.png"]
    source = write_voc(tmp_path / "s", {name: [("cat", 1, 1, 9, 9)] for name in names[1:]})
    (source / "JPEGImages/a.png").write_bytes((source / "JPEGImages/c.png").read_bytes())
    images = {row.origin: row.image for row in read_imported(import_source(source, tmp_path, "voc")[1])}
    assert images["Annotations/a.b.xml"] == "JPEGImages/a.b.png"
    assert images["Annotations/a.xml"] == "JPEGImages/a.jpg"
    for filename in ("/", ".", "a.gif"):
        xml = source / "Annotations/c.xml"
        xml.write_text(f"<annotation><filename>{filename}</filename></annotation>")
        images = {row.origin: row.image for row in read_imported(import_source(source, tmp_path, "voc")[1])}
        assert images["Annotations/c.xml"] == "JPEGImages/c.png"


def test_voc_folders_may_have_folders_below(tmp_path):
    source = write_voc(tmp_path / "s", CONTENT)
    for folder, name in (("Annotations", "a.xml"), ("JPEGImages", "a.png")):
        (source / folder / "day 1").mkdir()
        (source / folder / name).rename(source / folder / "day 1" / name)
    images = {row.origin: row.image for row in read_imported(import_source(source, tmp_path, "voc")[1])}
    assert images["Annotations/day 1/a.xml"] == "JPEGImages/day 1/a.png"


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        (
            '<!DOCTYPE a [<!ENTITY e "cat">]><annotation><object><name>&e;</name></object></annotation>',
            "malformed annotation",
        ),
        ("<html/>", "malformed annotation"),
        ("<annotation><object>", "malformed annotation"),
        ("<annotation><object/></annotation>", "malformed box"),
        ("<annotation><object><name>cat</name><robndbox/></object></annotation>", "malformed box"),
        ("<annotation><size><width>1e12</width></size></annotation>", "malformed annotation"),
    ],
)
def test_xml_that_says_something_else_is_a_problem_of_its_record(tmp_path, text, rule):
    source = write_voc(tmp_path / "s", CONTENT)
    (source / "Annotations/a.xml").write_text(text)
    rows = {row.origin: row for row in read_imported(import_source(source, tmp_path, "voc")[1])}
    assert rows["Annotations/a.xml"].problems[0][0] == rule
    assert rows["Annotations/a.xml"].image == "JPEGImages/a.png"
    assert rows["Annotations/b.xml"].problems == []


def test_a_comment_in_a_name_is_no_part_of_it(tmp_path):
    source = write_voc(tmp_path / "s", {"a.png": [("cat<!-- or dog? -->", 1, 1, 9, 9)]})
    assert [box.name for box in next(read_imported(import_source(source, tmp_path, "voc")[1])).boxes] == ["cat"]


@pytest.mark.parametrize(
    ("change", "rule", "says"),
    [
        (lambda coco: coco["annotations"][0].update(image_id=None), "unlisted image", "image_id"),
        (lambda coco: coco["annotations"][0].update(bbox=[1, 2, "a few", 4]), "malformed box", "a few"),
        (lambda coco: coco["annotations"][0].update(bbox="1 2 3 4"), "malformed box", "1 2 3 4"),
        (lambda coco: coco["images"][0].update(width={"px": 60}), "malformed annotation", "width"),
        (lambda coco: coco["images"][0].pop("id"), "malformed annotation", "id"),
    ],
)
def test_one_wrong_entry_of_coco_costs_one_record(tmp_path, change, rule, says):
    source = write_coco(tmp_path / "s", CONTENT)
    change_coco(source, change)
    rows = list(rows_of(source, "coco").values())
    problems = [problem for row in rows for problem in row.problems]
    assert any(problem[0] == rule and says in problem[1] for problem in problems)
    whole = {row.image: len(row.boxes) for row in rows if not row.problems}
    assert whole["images/a.png"] == 1 and whole["images/c.png"] == 0


def test_fractions_in_coco_are_read_where_the_source_says_so(tmp_path):
    source = write_coco(tmp_path / "s", CONTENT)

    def scale(coco):
        for each in coco["annotations"]:
            each["bbox"] = [value / (60, 40)[place % 2] for place, value in enumerate(each["bbox"])]
            each["segmentation"] = [[0.1, 0.1, 0.5, 0.1, 0.5, 0.5]]

    change_coco(source, scale)
    refused(import_source(source, tmp_path, "coco")[0], "COCO can say so by `normalized: true`")
    rows = rows_of(source, "coco", normalized=True)
    assert all(row.normalized for row in rows.values())
    found = {row.image.rpartition("/")[2]: sorted(corners(row)) for row in rows.values()}
    assert found == {image: sorted(boxes) for image, boxes in CONTENT.items()}
    first = next(row for row in rows.values() if row.boxes)
    assert int(coco_mask.area(to_rle(first.boxes[0].outline, 60, 40, True))) in range(180, 205)  # half of 24 x 16


def test_key_points_are_left_out_and_counted(tmp_path):
    source = write_coco(tmp_path / "s", CONTENT)
    change_coco(source, lambda coco: coco["annotations"][0].update(keypoints=[5, 5, 2], num_keypoints=1))
    result, _ = import_source(source, tmp_path, "coco")
    assert "warning: s: 1 key point group left out" in succeeded(result).stderr


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
    segments = {"image_id": 1, "file_name": "a.png", "segments_info": [{"id": 7, "category_id": 1}]}
    panoptic = {"images": [], "categories": [], "annotations": [segments]}
    (source / "annotations.json").write_text(json.dumps(panoptic))
    refused(import_source(source, tmp_path, "coco")[0], "annotations.json", "panoptic form", "provide the instances")
    (source / "more.json").write_text("{}")
    refused(import_source(source, tmp_path, "coco")[0], "2 JSON files", "set `annotations`")
    refused(import_source(source, tmp_path, "yolo9")[0], "yolo9", "coco")
    result, out = import_source(source, tmp_path, "coco", "--colour", "red")
    refused(result, "--colour")
    assert not out.exists()
    assert list(tmp_path.glob(".*")) == []
