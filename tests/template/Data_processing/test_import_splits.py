"""Deliveries with an annotation file a split are one source, whose records keep their splits."""

import csv
import json
import shutil
from pathlib import Path

import pytest

from Data_processing.add_source import entry_of, try_import
from Data_processing.adding.recognise import recognise
from Data_processing.shared.files import open_source
from Data_processing.shared.imported import ImportOptions, read_about
from Datasets.tools.errors import UserError
from tests.template.conftest import refused, succeeded
from tests.template.Data_processing.annotated import read_imported
from tests.template.Data_processing.sources import pack, picture, write_coco
from tests.template.Data_processing.stages import stage
from tests.template.Data_processing.test_import_formats import imported
from tests.template.Data_processing.test_import_formats import write as write_files

SPLITS = {"train": {"a.png": "cat", "b.png": "dog"}, "val": {"c.png": "cat"}, "test": {"d.png": "bird"}}


def as_roboflow(root: Path) -> Path:
    """A folder a split, of images and their annotations; ids and file names begin anew in each."""
    for split, images in SPLITS.items():
        folder = root / split.replace("val", "valid")
        write_coco(folder, {name: [(kind, 3, 4, 20, 30)] for name, kind in images.items()}, folder="")
        (folder / "annotations.json").rename(folder / "_annotations.coco.json")
    return root


def as_coco(root: Path) -> Path:
    """All annotation files in one folder, and a folder of images a split."""
    (root / "annotations").mkdir(parents=True)
    for split, images in SPLITS.items():
        boxes = {name: [(kind, 3, 4, 20, 30)] for name, kind in images.items()}
        source = write_coco(root / "made", boxes, folder=f"{split}2017")
        shutil.move(source / "annotations.json", root / f"annotations/instances_{split}2017.json")
        shutil.move(source / f"{split}2017", root)
    (root / "made").rmdir()
    (root / "annotations/captions_train2017.json").write_text('{"images": [], "annotations": []}')
    return root


def as_tables(root: Path) -> Path:
    """TensorFlow's tables beside the images."""
    for split, images in SPLITS.items():
        (root / split).mkdir(parents=True)
        with (root / split / "_annotations.csv").open("w", newline="") as file:
            rows = [[name, 60, 40, kind, 3, 4, 20, 30] for name, kind in images.items()]
            csv.writer(file).writerows(
                [["filename", "width", "height", "class", "xmin", "ymin", "xmax", "ymax"], *rows]
            )
        for number, name in enumerate(images):
            (root / split / name).write_bytes(picture(number))
    return root


@pytest.mark.parametrize("kind", ["directory", "all.tar.gz"])
@pytest.mark.parametrize(
    ("write", "entry"),
    [
        (as_roboflow, {"format": "coco", "annotations": "*/_annotations.coco.json"}),
        (as_coco, {"format": "coco", "annotations": "annotations/instances_*.json"}),
        (as_tables, {"format": "csv", "annotations": "*/_annotations.csv"}),
    ],
)
def test_files_of_several_splits_are_recognised_and_read_as_one_source(tmp_path, write, entry, kind):
    source = write(tmp_path / "source")
    source = source if kind == "directory" else pack(source, tmp_path / kind)
    files = open_source(source)
    guess, options = recognise(files, ImportOptions(), None, pytest.fail)
    assert entry_of(guess.format, Path("x"), options) == {**entry, "path": "x"}
    seen = try_import(files, "s", guess.format, options)
    assert (seen.records, seen.found, seen.problems) == (4, 4, {})
    assert seen.splits == {"train": 2, "val": 1, "test": 1}
    named = ("--format", entry["format"], "--annotations", entry["annotations"])
    out = tmp_path / "s.parquet"
    told = succeeded(stage("Data_processing.import_source", "--source", "s", "--path", source, "--out", out, *named))
    assert "s: 4 records from " in told.stdout
    rows = {Path(row.image).name: (row.split, row.boxes[0].name) for row in read_imported(out)}
    assert rows == {name: (split, kind) for split, images in SPLITS.items() for name, kind in images.items()}
    assert read_about(out).images == ""


@pytest.mark.parametrize("form", ["csv", "folders", "yolo", "cvat"])
def test_all_formats_take_the_same_words_for_a_split(tmp_path, form):
    words = {"train": "train Training", "val": "val valid Validation", "test": "test TESTING"}
    for split, word in ((split, word) for split, text in words.items() for word in text.split()):
        content = {
            "csv": {"t.csv": f"image,label,split\na.png,cat,{word}\n"},
            "folders": {f"{word}/cat/a.png": ""},
            "yolo": {"data.yaml": f"{word}: images\nnames: [cat]", "images/a.png": "", "labels/a.txt": ""},
            "cvat": {"a.xml": f"<annotations><image id='0' name='a.png' subset='{word}'></image></annotations>"},
        }
        assert [row.split for row in imported(write_files(tmp_path / word, content[form]), form)] == [split]


@pytest.mark.parametrize("form", ["voc", "labelme", "yolo"])
def test_folders_of_images_state_splits_where_nothing_else_does(tmp_path, form):
    folders = {"train": "train", "Valid/day": "val", "obj_test_data": "test", "train/test": None, "trained": None}
    xml = "<annotation><filename>{}.png</filename></annotation>"
    for number, folder in enumerate(folders):
        annotation = {
            "voc": {f"{folder}/{number}.xml": xml.format(number)},
            "labelme": {f"{folder}/{number}.json": json.dumps({"shapes": [], "imagePath": f"{number}.png"})},
            "yolo": {f"{folder}/{number}.txt": "0 0.5 0.5 0.1 0.1", "classes.txt": "cat"},
        }
        write_files(tmp_path / "s", {f"{folder}/{number}.png": "", **annotation[form]})
    rows = imported(tmp_path / "s", form, **({"annotations": ".", "images": ""} if form == "voc" else {}))
    assert {row.image.rpartition("/")[0]: row.split for row in rows} == folders


def test_one_file_of_several_states_no_split_and_is_read_alone(tmp_path):
    files = open_source(as_coco(tmp_path / "s"))
    chosen = ImportOptions(annotations="annotations/instances_val2017.json")
    guess, options = recognise(files, chosen, None, pytest.fail)
    seen = try_import(files, "s", guess.format, options)
    assert (seen.records, seen.splits, seen.folder) == (1, {}, "val2017")


def test_a_pattern_that_matches_nothing_is_named(tmp_path):
    options = ("--format", "coco", "--annotations", "*/x_*.json", "--path", as_coco(tmp_path / "s"))
    line = stage("Data_processing.import_source", "--source", "s", "--out", tmp_path / "o", *options)
    refused(line, "has no file like */x_*.json", "annotations")
    assert not (tmp_path / "o").exists()


def test_a_damaged_file_of_several_is_named(tmp_path):
    source = as_roboflow(tmp_path / "s")
    (source / "valid/_annotations.coco.json").write_text("{")
    with pytest.raises(UserError, match=r"valid/_annotations.coco.json: not JSON"):
        try_import(open_source(source), "s", "coco", ImportOptions(annotations="*/_annotations.coco.json"))
