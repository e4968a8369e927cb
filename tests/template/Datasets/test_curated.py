"""The curated dataset is read back as written, by us and by what others use."""

import hashlib

import duckdb
import numpy as np
import pytest

import Datasets.format.curated as module
from Datasets.format.curated import Curated, read_origins, write_annotations, write_curated
from Datasets.format.records import empty_record, implied
from Datasets.tools.errors import UserError

BOX = {"name": "car", "x1": 1.5, "y1": 2.0, "x2": 3.25, "y2": 4.0, "crowd": False, "segmentation": None}


def image_file(image: str) -> bytes:
    return np.random.default_rng(int(image)).bytes(1000 + int(image))


def write(directory, number: int) -> dict:
    records = [
        implied(
            {
                **empty_record(f"{i}", "s"),
                "boxes": [BOX] * (i % 3),
                "sha256": hashlib.sha256(image_file(f"{i}")).hexdigest(),
            }
        )
        for i in range(number)
    ]
    splits = {"train": records[2:], "val": records[:1], "test": records[1:2]}
    sizes = {split: [len(image_file(r["image"])) for r in part] for split, part in splits.items()}
    written = list(write_curated(directory, splits, sizes, lambda record: (image_file(record["image"]), None)))
    assert len(written) == number
    write_annotations(directory, written, {"car": 0})
    return splits


def test_records_and_images_come_back_in_many_shards_and_row_groups(tmp_path, monkeypatch):
    small = {"SHARD_BYTES": 20_000, "ROW_GROUP_BYTES": 4_000, "HELD_ROW_GROUPS": 2, "OPEN_SHARDS": 1}
    for limit, value in small.items():
        monkeypatch.setattr(module, limit, value)
    splits = write(tmp_path, 60)
    shards = sorted(tmp_path.glob("train-*.parquet"))
    assert [s.name for s in shards] == [f"train-{i:05d}-of-{len(shards):05d}.parquet" for i in range(len(shards))]
    assert len(shards) > 2
    dataset = Curated(tmp_path)
    records, images = dataset.records("train"), dataset.images("train")
    assert [{**r, "image": r["image"].removeprefix("s/")} for r in records] == splits["train"]
    assert len(images) == len(records)
    for index in (0, 57, 31, 32, 3, 0):
        assert hashlib.sha256(images[index]).hexdigest() == records[index]["sha256"]
    with pytest.raises(IndexError):
        images[58]
    shards[1].unlink()
    for read in (dataset.records, dataset.images):
        with pytest.raises(UserError, match=f"{len(shards) - 1} shards of train, which are not all"):
            read("train")
    next(tmp_path.glob("val-*")).unlink()
    with pytest.raises(UserError, match="0 shards of val, which"):
        dataset.records("val")


CHANGES = {
    "nothing": lambda record: None,
    "image": lambda record: record.update(image="1"),
    "file": lambda record: record.update(sha256="1" * 64),
    "group": lambda record: record.update(group="h"),
    "width": lambda record: record.update(width=9),
    "split": lambda record: record.update(split="test"),
    "label": lambda record: record["labels"].append("bus"),
    "count": lambda record: record["counts"][0].update(count=2),
    "count is unknown": lambda record: record.update(counts=None),
    "corner": lambda record: record["boxes"][0].update(x2=3.5),
    "name": lambda record: record["boxes"][0].update(name="bus"),
    "crowd": lambda record: record["boxes"][0].update(crowd=True),
    "segmentation": lambda record: record["boxes"][0]["segmentation"].update(counts="07"),
    "no box": lambda record: record["boxes"].clear(),
    "mask": lambda record: record["mask"].update(bytes=b"other"),
    "no mask": lambda record: record.update(mask=None),
}


def fingerprint(directory, change, classes=("car", "bus")) -> str:
    """Of a dataset of one image about which everything is known, once `change` was made to its record."""
    box = {**BOX, "segmentation": {"size": [6, 8], "counts": "16"}}
    known = {"labels": ["car"], "counts": [{"name": "car", "count": 1}], "boxes": [box]}
    record = {**empty_record("0", "s"), "width": 8, "height": 6, "sha256": "0" * 64, "group": "g", "split": "train"}
    record |= known | {"mask": {"bytes": b"mask", "path": "s/0.mask.png"}}
    change(record)
    directory.mkdir()
    splits = {split: [record] * (split == record["split"]) for split in ("train", "val", "test")}
    sizes = {split: [1] * len(part) for split, part in splits.items()}
    written = list(write_curated(directory, splits, sizes, lambda r: (b"x", r["mask"] and r["mask"]["bytes"])))
    write_annotations(directory, written, {name: number for number, name in enumerate(classes)})
    return Curated(directory).fingerprint()


def test_the_fingerprint_follows_every_annotation(tmp_path):
    prints = {name: fingerprint(tmp_path / name, change) for name, change in CHANGES.items()}
    prints["classes"] = fingerprint(tmp_path / "classes", CHANGES["nothing"], ("bus", "car"))
    prints["more classes"] = fingerprint(tmp_path / "more classes", CHANGES["nothing"], ("car", "bus", "van"))
    assert len(set(prints.values())) == len(prints), prints
    assert fingerprint(tmp_path / "again", CHANGES["nothing"]) == prints["nothing"]


def test_the_files_of_masks_are_left_out_if_they_are_not_wanted(tmp_path):
    fingerprint(tmp_path / "dataset", CHANGES["nothing"])
    dataset = Curated(tmp_path / "dataset")
    [whole], [bare] = dataset.records("train"), dataset.records("train", masks=False)
    assert whole["mask"] == {"bytes": b"mask", "path": "s/0.mask.png"}
    assert bare == {**whole, "mask": {"path": "s/0.mask.png"}}


def test_a_directory_without_a_dataset_is_refused(tmp_path):
    with pytest.raises(UserError, match="classes.json: not found"):
        Curated(tmp_path)


def test_a_shard_that_was_cut_off_is_named(tmp_path):
    write(tmp_path, 10)
    shard = next(tmp_path.glob("train-*"))
    shard.write_bytes(shard.read_bytes()[: shard.stat().st_size // 2])
    for read in (Curated(tmp_path).records, Curated(tmp_path).images):
        with pytest.raises(UserError, match=f"{shard.name}: cannot be read as Parquet: .*dvc pull"):
            read("train")


def test_a_dataset_from_before_has_no_origins(tmp_path):
    write(tmp_path, 3)
    assert read_origins(tmp_path) == {}


def test_duckdb_answers_sql_over_the_shards(curated):
    query = f"select b.name, count(*) from '{curated}/*.parquet', unnest(boxes) as t(b) group by 1"
    expected = {}
    for split in ("train", "val", "test"):
        for record in Curated(curated).records(split):
            for box in record["boxes"]:
                expected[box["name"]] = expected.get(box["name"], 0) + 1
    assert dict(duckdb.sql(query).fetchall()) == expected
