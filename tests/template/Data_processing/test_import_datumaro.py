"""What Datumaro reads becomes records. It needs an environment of its own: without one, what it does is skipped."""

import os
import shutil
import subprocess
from pathlib import Path

import msgspec
import pytest

from Data_processing.readers.datumaro import Annotation, Item, _record
from Datasets.tools.errors import UserError
from tests.template.conftest import ROOT, refused, run_in, succeeded
from tests.template.Data_processing.annotated import corners, rows_of
from tests.template.Data_processing.sources import pack, picture
from tests.template.Data_processing.stages import stage

there = os.environ.get("DATUMARO_PYTHON") or shutil.which("datum")
needs_datumaro = pytest.mark.skipif(not there, reason="Datumaro is not installed: pipx install 'datumaro[cli]'")


def write_kitti(directory: Path) -> Path:
    """A car in a.png, a van in sub-image b.png, nothing said of c.png."""
    for folder in ("image_2", "label_2"):
        (directory / "training" / folder).mkdir(parents=True)
    for number, name in enumerate("abc"):
        (directory / f"training/image_2/{name}.png").write_bytes(picture(number))
    for name, kind in (("a", "Car"), ("b", "Van")):
        line = f"{kind} 0.0 0 0.0 3.0 4.0 20.0 30.0 0 0 0 0 0 0 0\n"
        (directory / f"training/label_2/{name}.txt").write_text(line)
    return directory


def write_wider(directory: Path) -> Path:
    """Two faces in a picture of WIDER FACE's training part."""
    image = directory / "WIDER_train/images/0--Parade/0_Parade_a.jpg"
    image.parent.mkdir(parents=True)
    image.write_bytes(picture(0))
    (directory / "wider_face_split").mkdir()
    faces = "0--Parade/0_Parade_a.jpg\n2\n3 4 17 26 0 0 0 0 0 0\n30 5 10 10 0 0 0 0 0 0\n"
    (directory / "wider_face_split/wider_face_train_bbx_gt.txt").write_text(faces)
    return directory


@needs_datumaro
@pytest.mark.parametrize("packed", [False, True])
def test_kitti_from_a_directory_and_an_archive(tmp_path, packed):
    source = write_kitti(tmp_path / "kitti")
    path = pack(source, tmp_path / "kitti.zip") if packed else source
    rows = rows_of(path, "datumaro", preset="kitti_detection")
    assert list(rows) == [f"item {name} of training" for name in "abc"]
    assert [row.image for row in rows.values()] == [f"training/image_2/{name}.png" for name in "abc"]
    assert [row.split for row in rows.values()] == ["train"] * 3
    assert corners(rows["item a of training"]) == [("Car", 3, 4, 20, 30)]
    assert rows["item c of training"].boxes is None


@needs_datumaro
def test_wider_face(tmp_path):
    [row] = rows_of(write_wider(tmp_path / "wider"), "datumaro", preset="wider_face").values()
    assert (row.image, row.split) == ("WIDER_train/images/0--Parade/0_Parade_a.jpg", "train")
    assert [box[1:] for box in corners(row)] == [(3, 4, 20, 30), (30, 5, 40, 15)]


@needs_datumaro
def test_a_delivery_is_added_by_one_command(tmp_path):
    (tmp_path / "Datasets/raw").mkdir(parents=True)
    for name in ("params.yaml", "dvc.yaml"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    for command in (["git", "init", "-q"], ["dvc", "init", "-q"]):
        succeeded(run_in(tmp_path, *command))
    command = ["python", "-m", "Data_processing.add_source", "k", write_kitti(tmp_path / "kitti")]
    environment = {"PYTHONPATH": str(ROOT)}
    done = succeeded(run_in(tmp_path, *command, "--format", "datumaro:kitti_detection", **environment))
    assert "Car 1, Van 1" in done.stdout
    assert "format: datumaro\n    path: Datasets/raw/k\n    preset: kitti_detection" in (
        tmp_path / "params.yaml"
    ).read_text().replace("  k:\n", "")


@needs_datumaro
@pytest.mark.parametrize(("preset", "parts"), [("kity", ["no format kity", "wider_face"]), ("voc", ["as voc"])])
def test_what_datumaro_does_not_know_or_read_is_one_line(tmp_path, preset, parts):
    options = ["--source", "k", "--path", write_kitti(tmp_path / "k"), "--out", tmp_path / "out", "--preset", preset]
    refused(stage("Data_processing.import_source", "--format", "datumaro", *options), *parts)
    assert not (tmp_path / "out").exists()


def test_without_datumaro_it_says_how_to_get_it(tmp_path, monkeypatch):
    source = write_kitti(tmp_path / "k")
    monkeypatch.setenv("DATUMARO_PYTHON", str(tmp_path / "no/python"))
    with pytest.raises(UserError, match="pipx install"):
        rows_of(source, "datumaro", preset="kitti_detection")
    with pytest.raises(UserError, match="`preset` must be"):
        rows_of(source, "datumaro")
    bare = tmp_path / "bare"
    subprocess.run(["python3", "-m", "venv", "--without-pip", bare], check=True)
    monkeypatch.setenv("DATUMARO_PYTHON", str(bare / "bin/python"))
    with pytest.raises(UserError, match="No module named 'datumaro': `pipx install"):
        rows_of(source, "datumaro", preset="kitti_detection")


def test_areas_of_a_group_are_one_object_and_what_has_none_is_counted():
    polygons = [[3.0, 4.0, 20.0, 4.0, 3.0, 30.0]], [[5.0, 5.0, 25.0, 5.0, 25.0, 35.0]]
    drawn = [
        Annotation("polygon", "cat", 1, box=(3, 4, 20, 30), outline=polygons[0]),
        Annotation("polygon", "cat", 1, box=(5, 5, 25, 35), outline=polygons[1]),
        Annotation("polygon", "dog", 1, box=(5, 5, 25, 35), outline=polygons[1]),
        Annotation("bbox", "cat", 0, box=(1, 1, 2, 2), crowd=True),
        Annotation("bbox", "cat", 0, box=(20, 10, 40, 20), rotation=90),
        Annotation("polygon", "cow", 2, box=(3, 4, 20, 30), outline=polygons[0]),
        Annotation("bbox", "cow", 2, box=(5, 5, 18, 28)),
        Annotation("label", "outdoors", 0),
        Annotation("points", "cat", 1),
        Annotation("bbox", None, 0, box=(1, 1, 9, 9)),
    ]
    row = _record(Item("a.png", "a", "validation", drawn), "part")
    assert (row.image, row.split, row.labels) == ("part/a.png", "val", ["outdoors"])
    assert corners(row) == [
        ("cat", 3, 4, 25, 35),
        ("dog", 5, 5, 25, 35),
        ("cat", 1, 1, 2, 2),
        ("cat", 25, 5, 35, 25),
        ("cow", 5, 5, 18, 28),  # as stated, whatever the polygon reaches
    ]
    assert msgspec.json.decode(row.boxes[0].outline) == [*polygons[0], *polygons[1]]
    assert [box.crowd for box in row.boxes] == [False, False, True, False, False]
    assert row.left_out == ["points"]
    assert row.problems == [("unknown category", "a bbox without a class in item a of validation")]
