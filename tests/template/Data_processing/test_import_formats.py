"""What all formats have in common: recognised, read alike from every container, and no traceback from rubbish."""

import codecs
import csv
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from Data_processing.add_source import entry_of, try_import
from Data_processing.adding.recognise import recognise
from Data_processing.import_source import check_paths, read_annotations
from Data_processing.shared.files import open_source
from Data_processing.shared.imported import Imported, ImportedBox, ImportOptions, from_arrow, to_arrow
from Datasets.format.records import SCHEMA, Box, empty_record, write_json
from Datasets.tools.errors import UserError
from tests.template.conftest import ROOT, refused, succeeded
from tests.template.Data_processing import annotated
from tests.template.Data_processing.sources import SIZE, pack, picture, write_coco, write_masks
from tests.template.Data_processing.stages import accepted, clean, stage, take_in

CONTENT = {"a.png": [("cat", 3, 4, 21, 30), ("dog", 0, 0, 60, 40)], "b.png": [("cat", 12, 10, 15, 20)], "c.png": []}


def imported(path: Path, form: str, **options) -> list[Imported]:
    """The rows of a source, as they come back from the import stage's file."""
    rows = read_annotations(open_source(path), form, ImportOptions(**options))[2]
    return from_arrow(to_arrow(list(check_paths(rows))))


def problems(rows: list[Imported]) -> list[str]:
    """The rules that rows broke."""
    return [rule for row in rows for rule, _ in row.problems]


def write(root: Path, files: dict[str, str | bytes]) -> Path:
    """A directory with these files."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return root


def pictures(root: Path, folder: str = "") -> Path:
    return write(root, {f"{folder}{name}": picture(seed) for seed, name in enumerate(CONTENT)})


def records(content=CONTENT) -> list[dict]:
    empty = {"crowd": False, "segmentation": None}
    return [
        empty_record(image, "theirs")
        | {"boxes": [Box(name=n, x1=a, y1=b, x2=c, y2=d, **empty) for n, a, b, c, d in boxes]}
        for image, boxes in content.items()
    ]


def write_yolo(root: Path) -> Path:
    (width, height), names = SIZE, ["cat", "dog"]
    for image, boxes in CONTENT.items():
        corners = [
            (names.index(n), (a + c) / 2 / width, (b + d) / 2 / height, (c - a) / width, (d - b) / height)
            for n, a, b, c, d in boxes
        ]
        lines = "".join(" ".join(map(str, line)) + "\n" for line in corners)
        write(root, {f"labels/train/{Path(image).stem}.txt": lines})
    write(root, {"data.yaml": "path: ../datasets/s\ntrain: images/train\nval: images/train\nnames: [cat, dog]\n"})
    return pictures(root, "images/train/")


def write_csv(root: Path) -> Path:
    pictures(root)
    with (root / "boxes.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["filename", "width", "height", "class", "xmin", "ymin", "xmax", "ymax"])
        for image, boxes in CONTENT.items():
            table.writerows([image, *SIZE, *box] for box in boxes or [[""] * 5])
    return root


def write_parquet(root: Path) -> Path:
    pictures(root)
    pq.write_table(pa.Table.from_pylist(records(), schema=SCHEMA), root / "records.parquet")
    return root


def write_interchange(root: Path) -> Path:
    pictures(root)
    write_json(records(), root / "metadata.json")
    return root


def write_folders(root: Path) -> Path:
    names = {"a.png": "cat", "b.png": "cat", "c.png": "dog"}
    return write(root, {f"{label}/{image}": picture(seed) for seed, (image, label) in enumerate(names.items())})


WRITERS = {
    "yolo": write_yolo,
    "csv": write_csv,
    "parquet": write_parquet,
    "json": write_interchange,
    "folders": write_folders,
}
EVERY = {"coco": lambda root: write_coco(root, CONTENT), "masks": write_masks, **WRITERS, **annotated.WRITERS}


@pytest.mark.parametrize("form", EVERY)
def test_every_format_is_recognised_without_options_and_read_alike_from_archives(tmp_path, form):
    source = EVERY[form](tmp_path / "source")
    rows = imported(source, form)
    assert len(rows) == (2 if form in annotated.WRITERS else 3)
    assert all(row.origin and not row.problems for row in rows)
    for path in (source, *(pack(source, tmp_path / f"all.{kind}") for kind in ("zip", "tar", "tgz", "tar.gz"))):
        files = open_source(path)
        found, needed = recognise(files, ImportOptions(), None, pytest.fail)
        assert entry_of(found.format, Path("x"), needed) == {"format": form, "path": "x"}
        seen = try_import(files, "s", form, ImportOptions())
        assert (seen.records, seen.found, seen.problems) == (len(rows), len(rows), {})
        assert sorted(imported(path, form), key=by_origin) == sorted(rows, key=by_origin)


def by_origin(row: Imported) -> str:
    return row.origin


def test_a_compressed_tar_is_unpacked_into_a_temporary_file_that_does_not_stay(tmp_path):
    archive = pack(write_folders(tmp_path / "s"), tmp_path / "s.tar.gz")
    (tmp_path / "temporary").mkdir()
    code = """if True:
        import os
        from pathlib import Path
        from Data_processing.shared.files import open_source
        files = open_source(Path("s.tar.gz"))
        found = [files.read(name) for name in reversed(files.names())]
        assert files.read(files.names()[0]) == found[-1]
        open_source(Path("s.tar.gz"))
        print(len(list(Path(os.environ["TMPDIR"]).rglob("*.tar"))))
    """
    environment = {**os.environ, "TMPDIR": str(tmp_path / "temporary"), "PYTHONPATH": str(ROOT)}
    del environment["FOURFOLD_SCRATCH"]
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=archive.parent, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "1\n"
    assert list((tmp_path / "temporary").iterdir()) == []


@pytest.mark.parametrize("form", EVERY)
def test_copies_in_hidden_folders_are_not_part_of_a_source_and_a_byte_order_mark_does_not_matter(tmp_path, form):
    source = EVERY[form](tmp_path / "s")
    rows = imported(source, form)
    for file in [path for path in source.rglob("*") if path.is_file()]:
        write(file.parent, {f".ipynb_checkpoints/{file.name}": file.read_bytes(), f"._{file.name}": b"\0\5\x16\7"})
        if file.suffix in (".json", ".xml", ".csv", ".txt", ".yaml"):
            file.write_bytes(codecs.BOM_UTF8 + file.read_bytes())
    assert imported(source, form) == rows


@pytest.mark.parametrize("form", EVERY)
def test_each_format_goes_through_inspect_and_clean(tmp_path, form):
    source = pack(EVERY[form](tmp_path / "source"), tmp_path / "s.zip")
    content = {"a.png": [("cat", *annotated.BOX)], "b.png": []} if form in annotated.WRITERS else CONTENT
    assert f"s: {len(content)} records from " in take_in(tmp_path, "s", source, form).stdout
    total = f"{len(content)} images imported = {len(content)} accepted + 0 rejected"
    assert total in succeeded(clean(tmp_path, "s")).stdout
    rows = {Path(image).name: row for image, row in accepted(tmp_path).items()}
    if form == "folders":
        assert [rows[image]["labels"] for image in sorted(rows)] == [["cat"], ["cat"], ["dog"]]
    elif form == "masks":
        assert {row["mask"]["path"] for row in rows.values()} == {f"masks/{number}.png" for number in range(3)}
    else:
        for image, boxes in content.items():
            corners = [(b["name"], *(round(b[k], 3) for k in ("x1", "y1", "x2", "y2"))) for b in rows[image]["boxes"]]
            assert sorted(corners) == sorted(boxes)


@pytest.mark.parametrize("form", annotated.WRITERS)
def test_a_source_without_annotations_is_refused_in_one_line(tmp_path, form):
    (tmp_path / "s").mkdir()
    options = ("--source", "s", "--path", tmp_path / "s", "--out", tmp_path / "out.parquet", "--format", form)
    refused(stage("Data_processing.import_source", *options), str(tmp_path / "s"), "annotations")


WIDTHS = {"60": (60, []), "0": (None, []), **dict.fromkeys(("-1", "0.5", "1e9"), (None, ["malformed annotation"]))}
TEXTS = {"": (None, []), " ": (None, []), **dict.fromkeys(("abc", "nan"), (None, ["malformed annotation"]))}


@pytest.mark.parametrize(
    ("form", "name", "content", "widths"),
    [
        ("csv", "t.csv", "image,label,image_width\na.png,cat,WIDTH\n", WIDTHS | TEXTS),
        ("cvat", "a.xml", "<annotations><image name='a.png' width='WIDTH'></image></annotations>", WIDTHS | TEXTS),
        ("voc", "Annotations/a.xml", "<annotation><size><width>WIDTH</width></size></annotation>", WIDTHS | TEXTS),
        ("coco", "a.json", '{"images": [{"id": 0, "file_name": "a.png", "width": WIDTH}], NOTHING}', WIDTHS),
        ("labelme", "a.json", '{"imagePath": "a.png", "shapes": [], "imageWidth": WIDTH}', WIDTHS),
    ],
)
def test_a_width_that_makes_no_sense_is_told_in_every_format(tmp_path, form, name, content, widths):
    content = content.replace("NOTHING", '"annotations": [], "categories": []')
    found = {}
    for width in widths:
        [row] = imported(write(tmp_path, {name: content.replace("WIDTH", width)}), form)
        found[width] = row.width, problems([row])
    assert found == widths


def test_options_of_a_table_are_refused_for_other_formats(tmp_path):
    source = write_folders(tmp_path / "s")
    common = ("--source", "s", "--path", source, "--out", tmp_path / "o", "--format", "folders")
    refused(stage("Data_processing.import_source", *common, "--columns", "image=a"), "csv")


relaxed = settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])


odd = st.none() | st.text(max_size=6) | st.sampled_from(["a.png", "train", "../x", ""])
odd_number = st.none() | st.floats() | st.sampled_from([0.0, 1.0])
odd_box = st.fixed_dictionaries(
    {"name": odd, "crowd": st.none() | st.booleans()}
    | {key: odd_number for key in ("x1", "y1", "x2", "y2")}
    | {"segmentation": st.none() | st.fixed_dictionaries({"size": st.lists(st.integers(-3, 9)), "counts": odd})}
)
odd_record = st.fixed_dictionaries(
    {key: odd for key in ("image", "source", "sha256", "group", "split")}
    | {key: st.none() | st.integers(-(2**31), 2**31 - 1) for key in ("width", "height")}
    | {"labels": st.none() | st.lists(odd, max_size=3), "boxes": st.none() | st.lists(st.none() | odd_box, max_size=3)}
    | {"counts": st.none() | st.lists(st.fixed_dictionaries({"name": odd, "count": st.none() | st.integers(-2, 9)}))}
    | {"mask": st.none() | st.fixed_dictionaries({"bytes": st.none() | st.binary(), "path": odd})}
)


float_number = st.floats(allow_nan=False)
imported_box = st.builds(ImportedBox, st.text(), *[float_number] * 4, st.text(), st.booleans(), st.binary() | st.none())
imported_row = st.builds(
    Imported,
    st.text(),
    st.text(),
    width=st.none() | st.integers(1, 10**6),
    height=st.none() | st.integers(1, 10**6),
    group=st.none() | st.text(),
    split=st.none() | st.sampled_from(["train", "val", "test"]),
    labels=st.none() | st.lists(st.text(), max_size=3),
    counts=st.none()
    | st.lists(st.builds(lambda n, c: {"name": n, "count": c}, st.text(), st.integers(0, 99)), max_size=3),
    boxes=st.none() | st.lists(imported_box, max_size=3),
    normalized=st.booleans(),
    mask=st.none() | st.text(),
    mask_names=st.none() | st.dictionaries(st.integers(0, 255), st.text(), max_size=3),
    problems=st.lists(st.tuples(st.text(), st.text()), max_size=3),
)


@given(rows=st.lists(imported_row, max_size=5))
def test_rows_come_back_as_they_were(rows):
    assert from_arrow(to_arrow(rows)) == rows


def in_folders(root, *names, **options) -> dict:
    found = imported(write(root, dict.fromkeys(names, b"")), "folders", **options)
    return {row.image: (row.labels, row.split) for row in found}


def test_the_class_is_the_folder_and_what_lies_deeper_belongs_to_it(tmp_path):
    found = in_folders(tmp_path, "cat/a.jpg", "dog/day 1/b.PNG", "top.jpg", "cat/notes.txt", ".cache/c.jpg")
    assert found == {
        "cat/a.jpg": (["cat"], None),
        "dog/day 1/b.PNG": (["dog"], None),
        "top.jpg": (None, None),
    }


def test_splits_lie_above_the_classes(tmp_path):
    names = ("train/cat/a.jpg", "valid/cat/b.jpg", "test/dog/c.jpg", "test/d.jpg", "e.jpg")
    assert in_folders(tmp_path, *names) == {
        "train/cat/a.jpg": (["cat"], "train"),
        "valid/cat/b.jpg": (["cat"], "val"),
        "test/dog/c.jpg": (["dog"], "test"),
        "test/d.jpg": (None, "test"),
        "e.jpg": (None, None),
    }


def test_a_class_may_be_called_like_a_split(tmp_path):
    assert in_folders(tmp_path, "bus/a.jpg", "train/b.jpg")["train/b.jpg"] == (["train"], None)


def test_the_root_is_an_option(tmp_path):
    for folder in ("data", ".hidden"):
        found = in_folders(tmp_path, f"{folder}/cat/a.jpg", "docs/b.png", images=folder)
        assert found == {f"{folder}/cat/a.jpg": (["cat"], None)}


@pytest.mark.parametrize(
    ("names", "options", "part"),
    [
        (["a.txt"], {}, "no images"),
        (["cat/a.jpg"], {"images": "data"}, "no images in the folder data"),
        (["a.jpg"], {}, "no class folders"),
        (["train/a.jpg", "test/b.jpg"], {}, "no class folders"),
        (["train/cat/a.jpg", "extra/cat/b.jpg"], {}, "train would be a split, but extra beside it none"),
        (["images/a.jpg", "masks/a.png"], {}, "masks/a.png and its like look like masks"),
        (["train/Image/a.jpg", "train/other/b.png"], {}, "Image is a folder"),
        (["cat/a.jpg"], {"annotations": "a.txt"}, "`annotations`"),
    ],
)
def test_folders_that_say_nothing_are_refused_in_one_line(tmp_path, names, options, part):
    with pytest.raises(UserError, match=part):
        in_folders(tmp_path, *names, **options)
