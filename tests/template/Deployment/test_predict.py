"""Many images into a file of records, and that file as the next dataset's annotations."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from PIL import Image

from Datasets.format.images import MAX_PIXELS
from Deployment.predict import image_files
from tests.template.Deployment.made_export import SAMPLES, TRUTH, encoded, scene
from tests.template.Deployment.running_service import ROOT, command, is_one_line

NAMES = ["a/one.png", "b/three.png", "b/two.JPG"]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three images in two folders, an image that is none, a file and a folder that are none, and a hidden image."""
    directory = tmp_path / "photos"
    for name, image in zip(NAMES, SAMPLES.values(), strict=True):
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(encoded(image, "PNG"))
    (directory / "b/broken.jfif").write_bytes(encoded(SAMPLES["000.jpg"])[:300])
    (directory / "notes.md").write_text("not an image")
    (directory / "empty.jpg").mkdir()
    (directory / ".trash").mkdir()
    (directory / ".trash/old.png").write_bytes(encoded(SAMPLES["000.jpg"], "PNG"))
    return directory


def predict(export: Path, *words: object) -> Any:
    process = command("Deployment.predict", export, *words)
    assert process.returncode == 0, process.stderr
    return process


def rows(path: Path) -> dict[str, Any]:
    """The rows of a .json file, by their images."""
    return {row["image"]: row for row in json.loads(path.read_text())}


def test_a_directory_becomes_records_with_scores_and_reasons(export: Path, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "records.parquet"
    process = predict(export, photos, "--to", out)
    assert "4 images, 3 objects, 1 unreadable" in process.stdout
    table = {row["image"]: row for row in pq.read_table(out).to_pylist()}
    assert list(table) == ["a/one.png", "b/broken.jfif", "b/three.png", "b/two.JPG"]
    first = table["a/one.png"]
    assert (first["width"], first["height"], first["source"], first["error"]) == (64, 64, "e900", None)
    assert first["sha256"] == hashlib.sha256((photos / "a/one.png").read_bytes()).hexdigest()
    assert first["labels"] == ["blue", "red"]
    assert all(0.25 <= box["score"] <= 1 and box["crowd"] is False for box in first["boxes"])
    assert table["b/two.JPG"]["boxes"] == []
    broken = table["b/broken.jfif"]
    assert "damaged" in broken["error"]
    assert (broken["boxes"], broken["labels"], broken["width"]) == (None, None, None)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["e900", "photos", "records.parquet"]


def test_archives_lists_and_files_say_the_same(export: Path, photos: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "photos.tar.gz", "w:gz") as tar:
        tar.add(photos, ".")
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as file:
        for path in photos.rglob("*"):
            file.write(path, path.relative_to(photos))
    listed = "\ufeff" + "\n".join([*NAMES, "b/broken.jfif", ""])  # with a mark, as some editors write
    (tmp_path / "photos/list.txt").write_text(listed, encoding="utf-8")
    found = {}
    for source in ("photos", "photos.tar.gz", "photos.zip", "photos/list.txt"):
        out = tmp_path / f"{Path(source).name}.json"
        predict(export, tmp_path / source, "--to", out)
        found[source] = rows(out)
    assert set(found["photos"]) == {*NAMES, "b/broken.jfif"}
    assert all(answer == found["photos"] for answer in found.values())
    predict(export, photos / "a/one.png", photos / "b", "--to", tmp_path / "out.json")
    assert set(rows(tmp_path / "out.json")) == {"one.png", "b/broken.jfif", "b/three.png", "b/two.JPG"}


def test_a_missing_file_of_a_list_is_a_row_with_its_reason(export: Path, photos: Path, tmp_path: Path) -> None:
    (photos / "list.txt").write_text("\ufeffa/one.png\nnowhere.png\n")  # as Windows saves it
    predict(export, photos / "list.txt", "--to", tmp_path / "out.json")
    found = rows(tmp_path / "out.json")
    assert found["nowhere.png"]["error"] == "cannot be read: No such file or directory"
    assert len(found["a/one.png"]["boxes"]) == 2


def test_an_archives_images_are_those_that_are_unpacked(tmp_path: Path) -> None:
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked/a.jpg").write_bytes(b"a")
    (tmp_path / "linked/b.jpg").hardlink_to(tmp_path / "linked/a.jpg")
    (tmp_path / "linked/c.jpg").symlink_to("a.jpg")
    with tarfile.open(tmp_path / "linked.tar", "w") as tar:
        tar.add(tmp_path / "linked", ".")
    with zipfile.ZipFile(tmp_path / "written.zip", "w") as file:
        for name, data in (("a.jpg", b"old"), ("./a.jpg", b"a"), ("b.jpg", b"a"), ("in\\c.jpg", b"a")):
            file.writestr(zipfile.ZipInfo(name), data)
    for archive, last in (("linked.tar", "c.jpg"), ("written.zip", "in/c.jpg")):
        found = {name: read() for name, read in image_files([tmp_path / archive]).items()}
        assert found == dict.fromkeys(("a.jpg", "b.jpg", last), b"a")


def test_a_damaged_member_of_an_archive_is_a_row_with_its_reason(export: Path, tmp_path: Path) -> None:
    image = encoded(SAMPLES["000.jpg"], "PNG")
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as file:
        file.writestr("one.png", image)
        file.writestr("two.png", image)
    whole = (tmp_path / "photos.zip").read_bytes()
    place = whole.index(image) + 50
    (tmp_path / "photos.zip").write_bytes(whole[:place] + b"?" + whole[place + 1 :])
    predict(export, tmp_path / "photos.zip", "--to", tmp_path / "out.json")
    found = rows(tmp_path / "out.json")
    assert found["one.png"]["error"] == "cannot be read: Bad CRC-32 for file 'one.png'"
    assert len(found["two.png"]["boxes"]) == 2


def test_a_model_labels_the_next_dataset(export: Path, tmp_path: Path) -> None:
    """The whole circle: predict, import, inspect, clean: the accepted records have the boxes that the model drew."""
    source = tmp_path / "next"
    source.mkdir()
    for number, rectangles in enumerate(TRUTH):
        (source / f"{number}.png").write_bytes(encoded(scene(64, 64, rectangles), "PNG"))
    (source / "3.png").write_bytes(b"no image")
    predict(export, source, "--to", source / "coco.json")

    imported, inspected, clean = (tmp_path / name for name in ("imported", "inspected", "clean"))
    file = imported / "next.parquet"
    stages = [
        ["import_source", "--source", "next", "--format", "coco", "--path", source, "--out", file],
        [
            "inspect_images",
            "--source",
            "next",
            "--path",
            source,
            "--imported",
            file,
            "--out",
            inspected / "next.parquet",
        ],
        [
            "clean",
            "--imported",
            imported,
            "--inspected",
            inspected,
            "--out",
            clean,
            "--max-rejected",
            "0.5",
            "--min-contrast=0",  # scenes are of two colours, or of one
            "--min-sharpness=0",
            "--max-brightness=255",
            "--",
            "next",
        ],
    ]
    for name, *options in stages:
        process = command(f"Data_processing.{name}", *options)
        assert process.returncode == 0, process.stderr
    accepted = {row["image"]: row for row in pq.read_table(clean / "accepted.parquet").to_pylist()}
    assert set(accepted) == {"0.png", "1.png", "2.png"}
    for number, rectangles in enumerate(TRUTH):
        drawn = {b["name"]: (b["x1"], b["y1"], b["x2"], b["y2"]) for b in accepted[f"{number}.png"]["boxes"]}
        assert drawn == rectangles


def test_killed_it_goes_on_and_ends_with_the_same(export: Path, tmp_path: Path) -> None:
    source = tmp_path / "many"
    source.mkdir()
    image = encoded(Image.new("RGB", (1500, 1500)), "PNG")
    for number in range(60):
        (source / f"{number:03d}.png").write_bytes(image if number % 10 else encoded(SAMPLES["000.jpg"], "PNG"))
    out = tmp_path / "out.json"
    line = [sys.executable, "-m", "Deployment.predict", export, source, "--to", out, "--jobs", "1"]
    process = subprocess.Popen([*map(str, line)], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    journal = tmp_path / ".out.json.progress"
    deadline = time.monotonic() + 60
    while not (journal.exists() and journal.read_text().count("\n") > 10):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not out.exists()
    (source / "000.png").write_bytes(encoded(SAMPLES["001.jpg"], "PNG"))  # which was done
    with journal.open("ab") as file:
        file.write(b'\0\0\0\n{"image": "torn li')  # as a machine that lost its power leaves it
    again = predict(export, source, "--to", out)
    done = int(again.stdout.split("continues after ")[1].split()[0])
    assert 9 <= done < 60
    assert f"predict on cpu: {60 - done} images" in again.stderr
    whole = tmp_path / "whole.json"
    predict(export, source, "--to", whole)
    assert out.read_bytes() == whole.read_bytes()
    assert not journal.exists()


def test_other_options_are_other_work(export: Path, photos: Path, tmp_path: Path) -> None:
    out, journal = tmp_path / "out.json", tmp_path / ".out.json.progress"
    model = hashlib.sha256((export / "manifest.json").read_bytes()).hexdigest()
    sha256 = hashlib.sha256((photos / "a/one.png").read_bytes()).hexdigest()
    done = {"image": "a/one.png", "sha256": sha256, "error": "done before"}
    for options, work in (
        ([], {}),
        ([], {"model": "other"}),
        (["--threshold", 1], {}),
    ):
        work = {"model": model, "threshold": None, "max_pixels": MAX_PIXELS, "tile": 0, "overlap": 0.2} | work
        journal.write_text(f"{json.dumps(work)}\n{json.dumps(done)}\n")
        out.unlink(missing_ok=True)
        process = predict(export, photos, "--to", out, *options)
        same = work["model"] == model and not options
        assert ("continues after 1 images" in process.stdout) == same
        assert (done in rows(out).values()) == same


@pytest.mark.parametrize(
    ("source", "to", "words"),
    [
        ("nowhere", "out.json", "nowhere: no such file"),
        ("empty", "out.json", "empty: holds no image"),
        ("photos", "out.csv", "out.csv: ends neither in"),
        ("cut.zip", "out.json", "cut.zip: no whole archive"),
        ("cut.tar", "out.json", "cut.tar: no whole archive"),
        ("latin.txt", "out.json", "latin.txt: line 1: byte 0xfc is not UTF-8"),
    ],
)
def test_a_mistake_is_said(export: Path, photos: Path, tmp_path: Path, source: str, to: str, words: str) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("cut.zip", "cut.tar"):
        (tmp_path / name).write_bytes(b"PK\x03\x04 and no more")
    (tmp_path / "latin.txt").write_bytes("münchen.png\n".encode("latin-1"))
    process = command("Deployment.predict", export, tmp_path / source, "--to", tmp_path / to)
    assert is_one_line(process), process.stderr
    assert words in process.stderr
    assert not (tmp_path / to).exists()


def test_what_was_predicted_and_perhaps_corrected_since_is_not_replaced(export: Path, photos: Path) -> None:
    corrected = photos / "coco.json"
    corrected.write_text("by hand")
    process = command("Deployment.predict", export, photos, "--to", corrected)
    assert is_one_line(process)
    assert f"{corrected}: exists already" in process.stderr
    assert corrected.read_text() == "by hand"


def test_a_name_that_no_file_of_records_can_hold_is_said(export: Path, photos: Path, tmp_path: Path) -> None:
    latin = os.fsdecode("münchen".encode("latin-1"))
    (photos / f"{latin}.png").write_bytes(b"")
    process = command("Deployment.predict", export, photos, "--to", tmp_path / "out.json")
    assert is_one_line(process), process.stderr
    assert "is not in UTF-8; rename the file" in process.stderr


def test_two_images_of_one_name_are_said(export: Path, photos: Path, tmp_path: Path) -> None:
    shutil.copytree(photos, tmp_path / "other/photos")
    process = command("Deployment.predict", export, photos, tmp_path / "other/photos", "--to", tmp_path / "out.json")
    assert is_one_line(process)
    assert "photos/a/one.png is also in another source" in process.stderr
