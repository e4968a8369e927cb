"""Names of images, label files and classes that are nearly right: the only one that can be meant, or a reason."""

import shutil
import unicodedata
import zipfile
from pathlib import Path

import pytest

from Data_processing.add_source import try_import
from Data_processing.adding.recognise import recognise
from Data_processing.import_source import read_annotations
from Data_processing.shared.files import open_source
from Data_processing.shared.image_names import NearNames
from Data_processing.shared.imported import ImportOptions
from Datasets.format.classes import ClassRules, parse_rules
from Datasets.tools.errors import UserError
from tests.template.Data_processing.annotated import (
    labelme_file,
    percent,
    region,
    shape,
    task,
    write_label_studio,
)
from tests.template.Data_processing.sources import picture, write_coco, write_voc
from tests.template.Data_processing.test_import_formats import write

BOX = "0 0.5 0.5 0.2 0.4\n"
YAML = "train: images/train\nval: images/val\nnames: [cat]\n"
COMPOSED = "B\xe4r"
DECOMPOSED = unicodedata.normalize("NFD", COMPOSED)


def read(path: Path) -> dict[str, tuple[int, list[str]]]:
    """The images of a source as they are recognised and read: how many boxes, which problems."""
    files = open_source(path)
    found, options = recognise(files, ImportOptions(), None, lambda *asked: pytest.fail(str(asked)))
    rows = list(read_annotations(files, found.format, options)[2])
    return {
        row.image: (-1 if row.boxes is None else len(row.boxes), [rule for rule, _ in row.problems]) for row in rows
    }


def coco(root: Path, *names: str) -> Path:
    return write_coco(root, {name: [("cat", 3, 4, 30, 36)] for name in names}, files=False)


def labelme(root: Path, *names: str) -> Path:
    for number, name in enumerate(names):
        labelme_file(root / f"annotations/{number}.json", [shape("rectangle", [[3, 4], [30, 36]])], name)
    return root


def label_studio(root: Path, *names: str) -> Path:
    regions = [region("rectangle", percent(3, 4, 30, 36))]
    write_label_studio(root, *(task(number, f"/data/upload/1/{n}", regions) for number, n in enumerate(names, 1)))
    return root


def voc(root: Path, *names: str) -> Path:
    write_voc(root / "other", {f"{number}.png": [("cat", 3, 4, 30, 36)] for number in range(len(names))})
    for number, name in enumerate(names):
        text = (root / f"other/Annotations/{number}.xml").read_text().replace(f"{number}.png", name)
        write(root, {f"Annotations/{number}.xml": text})
    shutil.rmtree(root / "other")
    return root


@pytest.mark.parametrize("writer", [coco, labelme, label_studio, voc])
def test_an_image_is_found_by_a_name_that_is_nearly_right(tmp_path, writer):
    there = {f"{DECOMPOSED}.png": f"{COMPOSED}.png", "img_1.png": "IMG_1.PNG", "a b.png": "a%20b.png", "c.png": "c.jpg"}
    write(tmp_path / "s/JPEGImages", {name: picture(seed) for seed, name in enumerate([*there, "other.png"])})
    seen = read(writer(tmp_path / "s", *sorted(there.values())))
    assert seen == {f"JPEGImages/{name}": (1, []) for name in there}


def test_several_or_no_candidates_reject_the_image_and_name_what_is_there(tmp_path):
    source = coco(tmp_path / "s", "A.JPG", "gone_07.png", "right.png")
    write(source, {f"{folder}/a.png": b"" for folder in ("x", "y")} | {"right.png": b"", "gone_08.png": b""})
    rows = {row.image: row for row in read_annotations(open_source(source), "coco", ImportOptions())[2]}
    assert list(rows) == ["right.png", "A.JPG", "gone_07.png"]
    assert rows["A.JPG"].problems == [("ambiguous image", "A.JPG: x/a.png or y/a.png")]
    assert rows["gone_07.png"].problems == [
        ("missing image", "there is no file gone_07.png; the nearest is gone_08.png")
    ]


def test_an_image_with_annotations_of_its_own_is_not_taken_for_another(tmp_path):
    source = coco(tmp_path / "s", "a.jpg", "a.png", "train/b.jpg")
    write(source, {"a.png": b"", "val/b.png": b"", "SegmentationClass/c.png": b""})
    assert read(source) == {"a.png": (1, []), "a.jpg": (1, ["missing image"]), "train/b.jpg": (1, ["missing image"])}


def test_a_mask_is_not_taken_for_its_image(tmp_path):
    write(coco(tmp_path / "s", "a.jpg"), {"masks/a.png": b""})
    with pytest.raises(UserError, match=r"none of its images is there: there is no file a.jpg; the nearest is masks/a"):
        read(tmp_path / "s")


@pytest.mark.parametrize(
    ("image", "label"),
    [
        ("images/train/a.jpg", "labels/train/a.TXT"),
        ("images/train/a.jpg", "labels/train/a.jpg.txt"),
        ("images/train/a.jpg", "labels/train/A.txt"),
        ("images/train/a.jpg", "labels/train/1a2b3c4d-a.txt"),
        ("images/train/a b.JPG", "labels/train/a%20b.txt"),
        (f"images/train/{DECOMPOSED}.jpg", f"labels/train/{COMPOSED}.txt"),
        ("Images/Train/a.jpg", "Labels/Train/a.txt"),
    ],
)
def test_a_label_file_is_found_by_a_name_that_is_nearly_right(tmp_path, image, label):
    files = {"images/val/b.jpg": b"", "labels/val/b.txt": BOX, "data.yaml": YAML, image: b"", label: BOX}
    assert read(write(tmp_path / "s", files)) == {image: (1, []), "images/val/b.jpg": (1, [])}
    source = open_source(tmp_path / "s")
    try_import(source, "s", "yolo", ImportOptions())
    assert source.matched[label] == image


def test_an_image_whose_label_file_may_be_another_is_no_negative(tmp_path):
    files = {f"images/{name}.jpg": b"" for name in ("train/a", "train/n", "val/b", "val/n")}
    labels = {f"labels/{name}.txt": BOX for name in ("train/a", "train/image000", "val/b")}
    seen = read(write(tmp_path / "s", {**files, **labels, "data.yaml": YAML}))
    assert seen["images/train/n.jpg"] == (0, ["unmatched labels"])
    assert seen["images/train/image000"] == (1, ["missing image"])
    assert seen["images/val/n.jpg"] == (0, [])


def test_the_message_that_no_image_is_there_says_what_was_sought(tmp_path):
    with pytest.raises(UserError, match=r"no file x1.png, nor any other image in it; add the images"):
        read(coco(tmp_path / "s", "x1.png"))
    write(tmp_path / "s", {"images/y1.png": b""})
    with pytest.raises(
        UserError, match=r"no file x1.png; the nearest is images/y1.png; add the image, correct its name"
    ):
        read(tmp_path / "s")


class Unflagged(zipfile.ZipInfo):
    """A member whose name is bytes of an encoding that the archive does not state."""

    def __init__(self, name: bytes) -> None:
        super().__init__(name.decode("latin-1"))
        self.bytes = name

    def _encodeFilenameFlags(self):  # noqa: N802
        return self.bytes, 0


def unflagged(path: Path, files: dict[bytes, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as zipped:
        for name, data in files.items():
            zipped.writestr(Unflagged(name), data)
    return path


@pytest.mark.parametrize(
    ("name", "encoding"),
    [("사진 1.jpg", "cp949"), ("表示.jpg", "cp932"), ("图片.jpg", "gbk"), ("Bär.jpg", "utf-8"), ("Bär.jpg", "cp1252")],
)
def test_names_in_a_zip_of_another_encoding_are_found(tmp_path, name, encoding):
    annotations = (coco(tmp_path / "s", name) / "annotations.json").read_bytes()
    files = {b"a.json": annotations, f"images/{name}".encode(encoding): picture(1), b"__MACOSX/._a.json": b"\0"}
    path = unflagged(tmp_path / "s.zip", files)
    [(image, seen)] = read(path).items()
    assert seen == (1, [])
    assert open_source(path).read(image) == picture(1)
    assert (image == f"images/{name}") == (encoding == "utf-8")
    assert bool(open_source(path).unclear) == (encoding not in ("utf-8", "gbk"))  # whose bytes could be UTF-8


def test_class_names_are_compared_in_one_unicode_form():
    rules = parse_rules([DECOMPOSED, "dog"], [f"{COMPOSED}en=dog"], [f"{COMPOSED}s"], [])
    assert rules.name(COMPOSED) == rules.name(DECOMPOSED) == COMPOSED
    assert rules.name(f"{DECOMPOSED}en") == "dog"
    assert rules.meant(f"{DECOMPOSED}s") is None
    assert ClassRules().name(DECOMPOSED) == COMPOSED
    with pytest.raises(UserError, match="named twice"):
        parse_rules([COMPOSED, DECOMPOSED], [], [], [])


def test_many_names_are_looked_for_in_one_index():
    names = [f"images/IMG_{number:06}.JPG" for number in range(50_000)]
    near = NearNames(names)
    assert [near.only(f"img_{number:06}.png") for number in (0, 7, 49_999)] == [names[0], names[7], names[49_999]]
    assert near.problem("img_04999x.png")[1].startswith(
        "there is no file img_04999x.png; the nearest is images/IMG_0499"
    )
    assert all(near.only(name.lower()) == name for name in names[:2000])
