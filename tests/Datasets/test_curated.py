"""The curated dataset is read back as written, by us and by what others use."""

import hashlib

import datasets
import duckdb
import numpy as np
import pyarrow.parquet as pq
import pytest

import Datasets.curated as module
from Datasets.curated import Curated, write_annotations, write_curated
from Datasets.errors import UserError
from Datasets.records import empty_record, implied

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


def test_image_bytes_are_stored_uncompressed_and_apart_from_annotations(tmp_path):
    write(tmp_path, 10)
    group = pq.ParquetFile(next(tmp_path.glob("train-*"))).metadata.row_group(0)
    codecs = {group.column(i).path_in_schema: group.column(i).compression for i in range(group.num_columns)}
    assert codecs.pop("image.bytes") == "UNCOMPRESSED"
    assert set(codecs.values()) == {"ZSTD"}


def test_the_fingerprint_follows_every_annotation(tmp_path):
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
    write(tmp_path / "a", 10)
    write(tmp_path / "b", 10)
    write(tmp_path / "c", 11)
    prints = [Curated(tmp_path / name).fingerprint() for name in ("a", "b", "c")]
    assert prints[0] == prints[1] != prints[2]


def test_a_directory_without_a_dataset_is_refused(tmp_path):
    with pytest.raises(UserError, match="classes.json: not found"):
        Curated(tmp_path)


def test_hugging_face_datasets_loads_the_shards_with_images(curated, tmp_path):
    files = {split: str(curated / f"{split}-*.parquet") for split in ("train", "val", "test")}
    loaded = datasets.load_dataset("parquet", data_files=files, cache_dir=str(tmp_path))
    ours = Curated(curated)
    assert {split: len(part) for split, part in loaded.items()} == {s: len(ours.records(s)) for s in files}
    first, record = loaded["train"][0], ours.records("train")[0]
    assert first["image"].size == (record["width"], record["height"])
    assert [box["name"] for box in first["boxes"]] == [box["name"] for box in record["boxes"]]


def test_duckdb_answers_sql_over_the_shards(curated):
    query = f"select b.name, count(*) from '{curated}/*.parquet', unnest(boxes) as t(b) group by 1"
    expected = {}
    for split in ("train", "val", "test"):
        for record in Curated(curated).records(split):
            for box in record["boxes"]:
                expected[box["name"]] = expected.get(box["name"], 0) + 1
    assert dict(duckdb.sql(query).fetchall()) == expected
