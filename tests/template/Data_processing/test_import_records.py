"""Fourfold's own records as a source: the JSON interchange form and Parquet."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from Data_processing.shared.outlines import to_rle
from Datasets.format.curated import write_annotations, write_curated
from Datasets.format.records import SCHEMA, contradictions, empty_record, implied, to_json
from Datasets.tools.errors import UserError
from tests.template.Data_processing.test_import_formats import CONTENT, imported, records, relaxed, write

name = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=5)
finite = st.floats(-1e6, 1e6)
stated = st.fixed_dictionaries(
    {
        "labels": st.none() | st.lists(name, max_size=3),
        "counts": st.none()
        | st.lists(st.fixed_dictionaries({"name": name, "count": st.integers(0, 9)}), unique_by=lambda c: c["name"]),
        "boxes": st.none()
        | st.lists(
            st.fixed_dictionaries({"name": name, **dict.fromkeys(("x1", "y1", "x2", "y2"), finite)})
            | st.just({"name": "crowd", "x1": 0.0, "y1": 0.0, "x2": 1.0, "y2": 1.0}),
            max_size=3,
        ),
    }
)


def full(parts: dict, number: int) -> dict:
    boxes = parts["boxes"]
    whole = None if boxes is None else [{**box, "crowd": False, "segmentation": None} for box in boxes]
    return empty_record(f"{number}.png", "s") | parts | {"boxes": whole}


def what_is_stated(row) -> tuple:
    keys = ("name", "x1", "y1", "x2", "y2")
    boxes = None if row.boxes is None else [{key: getattr(box, key) for key in keys} for box in row.boxes]
    return row.labels, row.counts, boxes


@relaxed
@given(parts=st.lists(stated, max_size=3))
def test_all_that_either_form_can_say_comes_through(tmp_path_factory, parts):
    wanted = [(part["labels"], part["counts"], part["boxes"]) for part in parts]
    root = tmp_path_factory.mktemp("s")
    whole = [full(part, number) for number, part in enumerate(parts)]
    pq.write_table(pa.Table.from_pylist(whole, schema=SCHEMA), root / "r.parquet")
    write(root, {"m.json": json.dumps([to_json(record) for record in whole])})
    for form in ("json", "parquet"):
        assert [what_is_stated(row) for row in imported(root, form)] == wanted


def test_a_missing_part_is_not_an_empty_one(tmp_path):
    entries = [["a.png"], ["b.png", "cat"], ["c.png", None, {"cat": 2}], ["d.png", [], [{"x": 1}, {"y": 2}], []]]
    rows = imported(write(tmp_path, {"m.json": json.dumps(entries)}), "json")
    assert [what_is_stated(row) for row in rows] == [
        (None, None, None),
        (["cat"], None, None),
        (None, [{"name": "cat", "count": 2}], None),
        ([], [{"name": "x", "count": 1}, {"name": "y", "count": 2}], []),
    ]
    assert [row.origin for row in rows] == [f"m.json: entry {number}" for number in range(4)]


BOX = {"name": "cat", "x1": 1, "x2": 5, "y1": 2, "y2": 6}


@pytest.mark.parametrize(
    ("entry", "rule"),
    [
        ([3], "malformed annotation"),
        (["a.png", None, None, None, None, 1], "malformed annotation"),
        (["a.png", ["cat", None]], "malformed annotation"),
        (["a.png", None, {"cat": 1.5}], "malformed annotation"),
        (["a.png", None, {"cat": 2**40}], "malformed annotation"),
        (["a.png", None, None, BOX], "malformed annotation"),
        (["a.png", None, None, [{**BOX, "x1": "1"}]], "malformed box"),
        (["a.png", None, None, [{"name": "cat"}]], "malformed box"),
        (["../a.png", "cat"], "outside the source"),
    ],
)
def test_a_wrong_entry_is_a_problem_of_its_record_alone(tmp_path, entry, rule):
    first, second = imported(write(tmp_path, {"m.json": json.dumps([entry, ["b.png"]])}), "json")
    assert [found for found, _ in first.problems] == [rule]
    assert (second.image, second.problems) == ("b.png", [])


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ("", "not JSON"),
        ('[["a.png"', "cut off"),
        ('[["a.png", null, null, [{"x1": NaN}]]]', "NaN"),
        ("[" * 100_000, "nested"),
        ('[["é"]]'.encode("latin-1"), "m.json"),
        ('[["a.png", null, null, null, "m.png"]]', "holds masks, but no classes.json"),
    ],
)
def test_json_of_no_use_is_refused_in_one_line(tmp_path, content, part):
    with pytest.raises(UserError) as error:
        imported(write(tmp_path, {"m.json": content}), "json")
    assert part in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("classes", ['["cat"]', '{"cat": 254}', '{"cat": 0, "dog": 0}', "{"])
def test_a_mask_needs_classes_that_make_sense(tmp_path, classes):
    write(tmp_path, {"m.json": '[["a.png", null, null, null, "m.png"]]', "classes.json": classes})
    record = empty_record("a.png", "s") | {"mask": {"bytes": None, "path": "m.png"}}
    pq.write_table(pa.Table.from_pylist([record], schema=SCHEMA), tmp_path / "r.parquet")
    for form in ("json", "parquet"):
        with pytest.raises(UserError, match=r"classes\.json"):
            imported(tmp_path, form)


def test_masks_are_paths_with_their_meaning(tmp_path, capsys):
    masks = [{"bytes": None, "path": "m/a.png"}, {"bytes": b"x", "path": "m/b.png"}, {"bytes": b"x", "path": "m/c.png"}]
    whole = [empty_record(f"{number}.png", "s") | {"mask": mask} for number, mask in enumerate(masks)]
    write(tmp_path, {"d/m.json": json.dumps([to_json(record) for record in whole])})
    write(tmp_path, {"d/classes.json": '\ufeff{"cat": 0, "dog": 1}', "d/0.png": b"", "d/m/b.png": b""})
    pq.write_table(pa.Table.from_pylist(whole, schema=SCHEMA), tmp_path / "d/r.parquet")
    rows = imported(tmp_path, "json")
    assert [row.mask for row in rows] == ["d/m/a.png", "d/m/b.png", "d/m/c.png"]
    assert rows[0].mask_names == {1: "cat", 2: "dog"}
    assert [row.mask for row in imported(tmp_path, "parquet")] == ["d/m/a.png", "d/m/b.png", None]
    assert "d/r.parquet: 1 masks inside the file are left out" in capsys.readouterr().err


def test_a_mask_outside_the_source_is_a_problem(tmp_path):
    write(tmp_path, {"m.json": '[["a.png", null, null, null, "../m.png"]]', "classes.json": '{"cat": 0}'})
    record = empty_record("a.png", "s") | {"mask": {"bytes": None, "path": "../m.png"}}
    pq.write_table(pa.Table.from_pylist([record], schema=SCHEMA), tmp_path / "r.parquet")
    for form in ("json", "parquet"):
        assert [len(row.problems) for row in imported(tmp_path, form)] == [1]


def curated(root) -> list[dict]:
    """A curated dataset as the curate stage writes it, and its records."""
    square = np.zeros((40, 60), np.uint8)
    square[4:30, 3:21] = 1
    rle = coco_mask.encode(np.asfortranarray(square))
    whole = [
        implied({**record, "split": split, "group": f"g{split}", "width": 60, "height": 40})
        for record, split in zip(records(), ("train", "val", "test"), strict=True)
    ]
    whole[0]["boxes"][0]["segmentation"] = {"size": [40, 60], "counts": rle["counts"].decode()}
    whole[1]["boxes"][0]["crowd"] = True
    root.mkdir()
    by_split = {record["split"]: [record] for record in whole}
    for _ in write_curated(root, by_split, {split: [1] for split in by_split}, lambda record: (b"x", None)):
        pass
    write_annotations(root, whole, {"cat": 0, "dog": 1})
    return whole


def test_a_curated_dataset_keeps_all_that_it_says(tmp_path):
    whole = curated(tmp_path / "s")
    rows = sorted(imported(tmp_path / "s", "parquet"), key=lambda row: row.image)
    for row, record in zip(rows, whole, strict=True):
        assert row.image == f"theirs/{record['image']}"
        assert row.problems == []
        for key in ("width", "height", "split", "group", "labels", "counts"):
            assert getattr(row, key) == record[key]
    assert rows[1].boxes[0].crowd
    drawn = to_rle(rows[0].boxes[0].outline, 60, 40)
    assert drawn == whole[0]["boxes"][0]["segmentation"]
    [row] = imported(tmp_path / "s", "parquet", annotations="train-00000-of-00001.parquet")
    assert row.image == "theirs/a.png"
    assert not any(contradictions(record) for record in whole)


def test_the_json_of_a_curated_dataset_is_found_beside_its_classes(tmp_path):
    curated(tmp_path / "s")
    write(tmp_path / "s", {"notes.json": "{}"})
    rows = {row.image: row for row in imported(tmp_path / "s", "json")}
    assert {image: len(row.boxes) for image, row in rows.items()} == {f"theirs/{k}": len(v) for k, v in CONTENT.items()}
    with pytest.raises(UserError, match=r"has no file x\.json"):
        imported(tmp_path / "s", "json", annotations="x.json")


def test_other_widths_of_the_same_types_are_taken_and_others_refused(tmp_path):
    path = tmp_path / "r.parquet"
    pq.write_table(
        pa.table({"image": pa.array(["a.png"], pa.large_string()), "labels": [["cat"]], "width": [60]}), path
    )
    [row] = imported(tmp_path, "parquet")
    assert (row.labels, row.width, row.boxes) == (["cat"], 60, None)
    for columns, part in [
        ({"file": ["a.png"]}, "its columns are file"),
        ({"image": ["a.png"]}, "no records"),
        ({"image": ["a.png"], "boxes": ["none"]}, "column boxes is string"),
        ({"image": ["a.png"], "labels": [["cat"]], "width": [2**40]}, "column width"),
        ({"image": [b"\xff"], "labels": [["cat"]]}, "column image"),
    ]:
        pq.write_table(pa.table(columns), path)
        with pytest.raises(UserError) as error:
            imported(tmp_path, "parquet")
        assert part in str(error.value)
        assert "\n" not in str(error.value)


def test_a_parquet_file_that_was_cut_off_is_refused(tmp_path):
    path = tmp_path / "r.parquet"
    pq.write_table(pa.Table.from_pylist(records(), schema=SCHEMA), path)
    whole = path.read_bytes()
    for length in (0, 97, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match=r"r\.parquet: no whole Parquet file"):
            imported(tmp_path, "parquet")
    with pytest.raises(UserError, match=r"no Parquet files called x"):
        imported(tmp_path, "parquet", annotations="x")
