"""The export command: the same bytes again, whole or not at all, names that stay apart, and one line for a mistake."""

import os
import re
import signal
import subprocess
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from Datasets.export import Format
from Datasets.exporters.files import Names
from Datasets.format.coco import encode
from Datasets.format.records import is_safe_path
from tests.template.conftest import ROOT, refused, succeeded, until
from tests.template.Data_processing.stages import stage
from tests.template.Datasets.random_datasets import png, write_dataset

FORMATS = [form.value for form in Format]


def box(**changes) -> dict:
    return {"name": "car", "x1": 1.0, "y1": 1.5, "x2": 4.0, "y2": 5.0, "crowd": False, "segmentation": None, **changes}


def record(image: str, **fields) -> dict:
    empty = dict.fromkeys(("sha256", "group", "labels", "counts", "boxes", "mask"))
    return {**empty, "image": image, "source": "s", "width": 8, "height": 6, "split": "train", **fields}


def export(curated: Path, form: str, out: Path, *options: str):
    return stage("Datasets.export", "--curated", curated, "--to", form, "--out", out, *options)


@pytest.mark.parametrize("form", FORMATS)
def test_the_same_dataset_gives_the_same_bytes_and_chosen_splits_only(tmp_path, form):
    content = [record(f"{i}.png", boxes=[box()] * i, split=split) for i, split in enumerate(("train", "val", "train"))]
    write_dataset(tmp_path / "curated", content)
    succeeded(export(tmp_path / "curated", form, tmp_path / "a"))
    result = succeeded(export(tmp_path / "curated", form, tmp_path / "b"))
    assert f"2 train, 1 val images as {form}" in result.stdout
    assert "export: 3 images in" in result.stderr
    assert tree(tmp_path / "a") == tree(tmp_path / "b")
    succeeded(export(tmp_path / "curated", form, tmp_path / "c", "--split", "val"))
    assert len(list((tmp_path / "a").rglob("*.png"))) == 3
    assert len(list((tmp_path / "c").rglob("*.png"))) == 1


def test_an_image_with_a_segmentation_has_polygons_alone_in_yolo(tmp_path):
    mask = np.zeros((6, 8), np.uint8)
    mask[0:3, 2:6] = 1
    mask[1, 3:5] = 0
    segmentation = encode(mask)
    write_dataset(tmp_path / "curated", [record("a.png", boxes=[box(segmentation=segmentation), box()])])
    told = succeeded(export(tmp_path / "curated", "yolo", tmp_path / "out")).stdout
    assert "boxes beside segmentations, which become rectangles among polygons: 1" in told
    first, second = (tmp_path / "out/labels/train/s_a.txt").read_text().splitlines()
    assert second == "1 0.125 0.25 0.5 0.25 0.5 0.83333333 0.125 0.83333333"
    places = np.array(first.split()[1:], float).reshape(-1, 2) * (8, 6)
    around, hole = [(2, 0), (6, 0), (6, 3), (2, 3), (2, 0)], [(3, 2), (5, 2), (5, 1), (3, 1), (3, 2)]
    assert np.allclose(places, around + hole, rtol=0, atol=1e-6)


def tree(folder: Path) -> dict[Path, bytes]:
    return {file.relative_to(folder): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_what_a_format_cannot_express_is_counted(tmp_path):
    crowd, narrow = box(name="no", crowd=True), box(x2=1.5)
    mask = {"bytes": png(np.zeros((6, 8), np.uint8)), "path": "m.png"}
    labels = ["car", "no"]
    content = [record("a.png", boxes=[box(), crowd, narrow], labels=labels, mask=mask), record("b.png", labels=["car"])]
    content.append(record("c.png", boxes=[box()], labels=labels))
    content += [record("d.GIF", boxes=[]), record("e.jfif", boxes=[], labels=["no"])]
    write_dataset(tmp_path / "curated", content)
    reported = {}
    for form in FORMATS:
        reported[form] = succeeded(export(tmp_path / "curated", form, tmp_path / form)).stdout.splitlines()[1:]
    assert reported == {
        "coco": ["coco cannot express: images with labels or counts that no boxes stand behind: 3"],
        "yolo": [
            "yolo cannot express: crowds: 1",
            "yolo cannot express: masks: 1",
            "yolo cannot express: images without known boxes, which readers take for empty: 1",
            "yolo cannot express: images with labels or counts that no boxes stand behind: 3",
            "yolo cannot express: images of types that Ultralytics ignores: 1",
            "yolo cannot express: splits that Ultralytics requires, and that are not there: 1",
        ],
        "voc": [
            "voc cannot express: crowds, which are left out: 1",
            "voc cannot express: boxes narrower than a pixel, which are left out: 1",
            "voc cannot express: class names that labelmap.txt has with an underscore: 1",
        ],
        "json": ["json cannot express: crowds, written as boxes like any other: 1"],
    }


def test_voc_lists_labels_of_each_class_where_they_stand_without_boxes(tmp_path):
    content = [
        record("a.png", boxes=[box()], labels=["car"]),
        record("b.png", labels=["no"]),
        record("c.png", boxes=[]),
    ]
    write_dataset(tmp_path / "curated", content)
    succeeded(export(tmp_path / "curated", "voc", tmp_path / "out"))
    main = tmp_path / "out/ImageSets/Main"
    assert (main / "car_train.txt").read_text() == "s_a  1\ns_b -1\n"
    assert (main / "no_train.txt").read_text() == "s_a -1\ns_b  1\n"
    assert (main / "train.txt").read_text() == "s_a\ns_c\n"
    write_dataset(tmp_path / "tagged", [record("a.png", boxes=[box()], labels=["car", "no"])])
    succeeded(export(tmp_path / "tagged", "voc", tmp_path / "tags"))
    assert (tmp_path / "tags/ImageSets/Main/no_train.txt").read_text() == "s_a  1\n"


def test_a_mistake_is_reported_in_one_line_and_leaves_nothing(tmp_path):
    write_dataset(tmp_path / "good", [record("a.png", boxes=[box()])])
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine.txt").write_text("mine")
    out = tmp_path / "out"
    refused(export(tmp_path / "nowhere", "coco", out), "nowhere/classes.json", "dvc pull")
    refused(export(tmp_path / "good", "coco3", out), "coco3", "yolo")
    refused(export(tmp_path / "good", "coco", out, "--split", "val"), "--split val", "has images in train")
    refused(export(tmp_path / "good", "coco", tmp_path / "full"), "full", "holds something else")
    refused(export(tmp_path / "good", "coco", tmp_path / "good"), "good", "holds something else")
    assert (tmp_path / "full/mine.txt").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["full", "good"]


def test_an_interrupted_export_leaves_nothing(tmp_path):
    write_dataset(tmp_path / "curated", [record(f"{i}.png", boxes=[]) for i in range(3_000)])
    command = ("-m", "Datasets.export", "--curated", tmp_path / "curated", "--to", "coco", "--out", tmp_path / "out")
    process = subprocess.Popen([sys.executable, *command], cwd=ROOT, stderr=subprocess.PIPE)
    until(lambda: process.poll() is not None or list(tmp_path.glob(".out.partial/out/images/train/s/*.png")))
    assert process.poll() is None
    os.kill(process.pid, signal.SIGINT)
    assert process.wait(30) == 130
    assert [path.name for path in tmp_path.iterdir()] == ["curated"]


def test_a_class_called_background_differs_from_the_background_in_voc(tmp_path):
    write_dataset(tmp_path / "curated", [record("a.png", boxes=[])], {"background": 0, "car": 1})
    result = succeeded(export(tmp_path / "curated", "voc", tmp_path / "out"))
    assert "class names that labelmap.txt has with an underscore: 1" in result.stdout
    lines = (tmp_path / "out/labelmap.txt").read_text().splitlines()
    assert [line.partition(":")[0] for line in lines[1:]] == ["background", "background_", "car"]


safe_paths = (
    st.text("aAsS\u017fäÄa\u0308/. \u2028", min_size=1, max_size=12).filter(is_safe_path).filter(lambda p: Path(p).name)
)


def folded(name: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


@given(st.lists(safe_paths, unique=True))
def test_names_stay_apart_where_case_and_unicode_could_mix_them(paths):
    flat, kept = Names(), Names()
    names = [flat.flat(path) for path in paths]
    assert all(re.fullmatch(r"[\w.-]+", name) and not name.startswith(".") for name in names)
    assert len({folded(Path(name).stem) for name in names}) == len(paths)
    assert len({folded(kept.keep(path)) for path in paths}) == len(paths)


def test_a_path_is_kept_unless_it_differs_from_another_by_case_only():
    names = Names()
    assert [names.keep(path) for path in ("s/a.jpg", "s/b.jpg", "s/A.jpg")] == ["s/a.jpg", "s/b.jpg", "2/s/A.jpg"]


def test_other_suffixes_of_jpeg_which_readers_ignore_become_the_usual_one():
    names = Names()
    paths = ("a.jfif", "a.jpg", "b.JPE", "c.jpeg", "d.gif")
    assert [names.flat(path) for path in paths] == ["a.jpg", "a_2.jpg", "b.jpg", "c.jpeg", "d.gif"]
