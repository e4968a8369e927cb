"""What all formats have in common: the same records from every container, and no traceback from rubbish."""

import csv
import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from Data_processing.cleaning.records import clean_record
from Data_processing.cleaning.rules import REMEDIES, Rejection, Rules
from Data_processing.import_source import check_paths, read_annotations
from Data_processing.shared.files import open_source
from Data_processing.shared.imported import Imported, ImportOptions, from_arrow, to_arrow
from Data_processing.shared.inspected import Facts
from Datasets.format.records import SCHEMA, Box, empty_record, write_json
from Datasets.tools.errors import UserError
from tests.template.conftest import ROOT, refused, succeeded
from tests.template.Data_processing.sources import SIZE, pack, picture
from tests.template.Data_processing.stages import stage

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


@pytest.mark.parametrize("kind", ["all.zip", "all.tar", "all.tar.gz"])
@pytest.mark.parametrize("form", WRITERS)
def test_an_archive_gives_the_records_of_a_directory(tmp_path, form, kind):
    source = WRITERS[form](tmp_path / "source")
    rows = imported(source, form)
    assert len(rows) == 3
    assert all(row.origin and not row.problems for row in rows)
    in_archive = imported(pack(source, tmp_path / kind), form)
    assert sorted(in_archive, key=lambda row: row.image) == sorted(rows, key=lambda row: row.image)


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


@pytest.mark.parametrize("form", WRITERS)
def test_copies_in_hidden_folders_are_not_part_of_a_source(tmp_path, form):
    rows = imported(WRITERS[form](tmp_path / "s"), form)
    for file in [path for path in (tmp_path / "s").rglob("*") if path.is_file()]:
        write(file.parent, {f".ipynb_checkpoints/{file.name}": file.read_bytes()})
    assert imported(tmp_path / "s", form) == rows


@pytest.mark.parametrize("form", WRITERS)
def test_each_format_goes_through_inspect_and_clean(tmp_path, form):
    source = WRITERS[form](tmp_path / "source")
    common = ("--source", "s", "--path", source)
    out = {name: tmp_path / name / "s.parquet" for name in ("imported", "inspected")}
    result = succeeded(stage("Data_processing.import_source", *common, "--format", form, "--out", out["imported"]))
    assert "s: 3 records from " in result.stdout
    inspect = stage("Data_processing.inspect_images", *common, "--imported", out["imported"], "--out", out["inspected"])
    succeeded(inspect)
    directories = ("--imported", tmp_path / "imported", "--inspected", tmp_path / "inspected")
    result = succeeded(stage("Data_processing.clean", *directories, "--out", tmp_path / "clean", "s"))
    assert "3 images imported = 3 accepted + 0 rejected" in result.stdout
    rows = {Path(row["image"]).name: row for row in pq.read_table(tmp_path / "clean/accepted.parquet").to_pylist()}
    if form == "folders":
        assert [rows[image]["labels"] for image in sorted(rows)] == [["cat"], ["cat"], ["dog"]]
        return
    for image, boxes in CONTENT.items():
        corners = [(b["name"], *(round(b[k], 6) for k in ("x1", "y1", "x2", "y2"))) for b in rows[image]["boxes"]]
        assert sorted(corners) == sorted(boxes)


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


scalar = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
anything = st.recursive(
    scalar, lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(max_size=6), inner, max_size=4)
)
relaxed = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


FACTS = Facts("a.png", None, 99, "0" * 64, *SIZE, b"0" * 32, 99.0, 50.0, 50.0, values=None)


def survives(root: Path, form: str, **options) -> None:
    """Either one line, or rows that clean can judge, and of which each problem has a remedy."""
    try:
        rows = imported(root, form, **options)
    except UserError as error:
        assert "\n" not in str(error)
    else:
        assert set(problems(rows)) <= set(REMEDIES)
        for row in rows:
            with suppress(Rejection):
                clean_record(row, "s", FACTS, None, Rules())


@relaxed
@example(value="\N{RACCOON}", key="train")
@example(value="\ud800", key="names")
@given(value=anything, key=st.sampled_from(["path", "train", "val", "names", "nc", "kpt_shape"]))
def test_yaml_of_another_meaning_never_ends_in_a_traceback(tmp_path, value, key):
    if not (tmp_path / "labels").exists():
        write_yolo(tmp_path)
    fields = {"train": "images/train", "names": ["cat"], key: value}
    (tmp_path / "data.yaml").write_text(json.dumps(fields))
    survives(tmp_path, "yolo")


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
