"""Groups stay together, splits stay put, and shares come out as wished as far as groups allow."""

import hashlib
from collections import Counter

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from Data_processing.duplicates import compile_pattern, exact_pairs, find_groups, join_groups, near_pairs, own_key
from Data_processing.split import balance, best_seeds, split_of
from Datasets.curated import Curated
from Datasets.errors import UserError
from tests.conftest import refused, stage, succeeded
from tests.Data_processing.sources import write_coco

SHARES = {"train": 0.7, "val": 0.15, "test": 0.15}


def rows(number: int, seed: int = 0) -> list[dict]:
    rng = np.random.default_rng(seed)
    return [
        {
            "image": f"images/{rng.integers(30):02d}_{i}_1.jpg",
            "source": "s",
            "sha256": hashlib.sha256(rng.bytes(8)).hexdigest(),
            "phash": rng.bytes(32),
        }
        for i in range(number)
    ]


@given(groups=st.sets(st.text(min_size=1), min_size=1), more=st.sets(st.text(min_size=1)), seed=st.integers(0, 99))
def test_a_groups_split_depends_on_nothing_else(groups, more, seed):
    before = {group: split_of(group, SHARES, seed) for group in groups}
    after = {group: split_of(group, SHARES, seed) for group in groups | more}
    assert before.items() <= after.items()


def test_adding_images_never_moves_an_old_one():
    old = rows(300)
    new = old + rows(150, seed=1)
    splits = []
    for part in (old, new):
        groups, _, _ = find_groups(part, r"(?P<pool>\d+)_\d+", 24)
        splits.append([split_of(group, SHARES, 0) for group in groups])
    assert splits[1][:300] == splits[0]


def test_a_group_that_duplicates_joined_does_not_move_as_it_grows():
    old = rows(300)
    double = {**old[0], "image": "images/99_300_1.jpg"}
    grown = [{**row, "image": f"images/99_{301 + i}_1.jpg"} for i, row in enumerate(rows(100, seed=2))]
    before, _, _ = find_groups([*old, double], r"(?P<pool>\d+)_\d+", 24)
    after, _, _ = find_groups([*old, double, *grown], r"(?P<pool>\d+)_\d+", 24)
    assert after[:301] == before
    assert before[300] == before[0]


def test_an_exact_duplicate_of_a_single_image_does_not_move_it():
    old = rows(50)
    doubled = [*old, {**old[7], "image": "elsewhere/x.jpg", "source": "other"}]
    before, _, _ = find_groups(old, "", 24)
    after, exact, _ = find_groups(doubled, "", 24)
    assert exact == [(7, 50)]
    assert after[:50] == before
    assert after[50] == before[7]


def test_shares_are_met_within_chance():
    splits = Counter(split_of(f"group {i}", SHARES, 0) for i in range(20_000))
    for split, share in SHARES.items():
        assert abs(splits[split] / 20_000 - share) < 0.01


def test_a_share_of_zero_gets_nothing():
    splits = {split_of(f"{i}", {"train": 0.5, "val": 0.5, "test": 0.0}, 0) for i in range(1000)}
    assert splits == {"train", "val"}


def test_near_pairs_are_all_pairs_within_the_bits():
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 256, (3000, 32), dtype=np.uint8)
    hashes[2999] = hashes[5]
    hashes[2999, :3] ^= 1
    hashes[17] = hashes[2500]
    assert sorted(near_pairs(hashes, 3)) == [(5, 2999), (17, 2500)]
    assert sorted(near_pairs(hashes, 2)) == [(17, 2500)]


def test_exact_pairs_point_to_the_first():
    assert list(exact_pairs(["a", "b", "a", "a"])) == [(0, 2), (0, 3)]


def test_groups_join_by_key_and_by_duplicates_in_chains():
    assert join_groups(["a", "a", "b", "c", "d"], [(1, 2), (2, 3)]) == ["a", "a", "a", "a", "d"]


def test_the_pattern_groups_by_its_named_parts_within_a_source():
    pattern = compile_pattern(r"(?P<session>\d+)_(?P<scene>\d+)_\d+\.jpg")
    same = [own_key({"source": "s", "image": f"x/1_2_{camera}.jpg", "sha256": "0" * 64}, pattern) for camera in (1, 2)]
    assert same == ["s/1_2", "s/1_2"]
    assert own_key({"source": "t", "image": "1_2_1.jpg", "sha256": "0" * 64}, pattern) == "t/1_2"
    assert own_key({"source": "t", "image": "other.jpg", "sha256": "abc" * 20}, pattern) == ("abc" * 20)[:16]
    for wrong in ("(a", r"\d+"):
        with pytest.raises(UserError, match="group_pattern"):
            compile_pattern(wrong)


def test_the_best_seed_deals_classes_out_better_than_most():
    groups = [f"g{i % 40}" for i in range(800)]
    labels = [["rare"] if i % 40 < 6 else ["common"] for i in range(800)]
    found = best_seeds(groups, labels, SHARES, 200)
    assert found == sorted(found)
    best = balance(groups, labels, SHARES, found[0][1])
    assert all(part > 0 for part in best["rare"].values())
    assert found[0][0] < found[100][0]


def test_no_group_of_the_project_spans_two_splits_and_doubles_share_one(project):
    dataset = Curated(project / "Datasets/curated")
    splits: dict[str, set[str]] = {}
    by_image = {}
    for split in ("train", "val", "test"):
        for record in dataset.records(split):
            assert record["split"] == split
            splits.setdefault(record["group"], set()).add(split)
            by_image[record["image"].removeprefix("digits/")] = record
    assert all(len(found) == 1 for found in splits.values())
    pools = {}
    for image, record in by_image.items():
        pools.setdefault(image.split("/")[1].split("_")[0], set()).add(record["split"])
    assert all(len(found) == 1 for found in pools.values())
    planted = pq.read_table(project / "Data_processing/intermediate/clean/accepted.parquet").to_pylist()
    assert len(planted) == len(by_image)


def test_the_project_finds_the_planted_duplicates(project):
    import json

    planted = json.loads((project / "Data_processing/intermediate/digits_defects.json").read_text())
    dataset = Curated(project / "Datasets/curated")
    groups = {r["image"]: r["group"] for split in ("train", "val", "test") for r in dataset.records(split)}
    doubles = [entry for entry in planted if "duplicate" in entry["defect"]]
    assert len(doubles) == 2
    for entry in doubles:
        assert groups[f"digits/{entry['image']}"] == groups[f"digits/{entry['of']}"]


@pytest.fixture
def cleaned(tmp_path):
    source = write_coco(tmp_path / "source", {f"{i}.png": [("cat", 1, 1, 9, 9)] for i in range(12)})
    options = ("--source", "s", "--path", source)
    imported, inspected = tmp_path / "imported/s.parquet", tmp_path / "inspected/s.parquet"
    succeeded(stage("Data_processing.import_source", *options, "--format", "coco", "--out", imported))
    succeeded(stage("Data_processing.inspect_images", *options, "--imported", imported, "--out", inspected))
    directories = ("--imported", tmp_path / "imported", "--inspected", tmp_path / "inspected")
    succeeded(stage("Data_processing.clean", *directories, "--out", tmp_path / "clean", "s"))
    return tmp_path


def curate(directory, *options):
    out = ("--out", directory / "curated", "--summary", directory / "summary.json")
    return stage("Data_processing.curate", "--cleaned", directory / "clean", *out, *options)


def test_curate_refuses_shares_and_splits_that_cannot_be(cleaned):
    refused(curate(cleaned, "--train", "0.9"), "add up to 1.2")
    line = refused(curate(cleaned, "--train", "0.98", "--val", "0.01", "--test", "0.01"), "empty", "12 groups")
    assert "set its share to 0" in line or "curate.seed" in line
    refused(curate(cleaned, "--group-pattern", "(a"), "group_pattern")
    assert not (cleaned / "curated").exists()


def test_curate_refuses_an_image_that_changed_since_it_was_inspected(cleaned):
    image = cleaned / "source/images/3.png"
    image.write_bytes(image.read_bytes() + b"x")
    refused(curate(cleaned, "--train", "1", "--val", "0", "--test", "0"), "images/3.png", "changed")
    assert not (cleaned / "curated").exists()


def test_the_same_options_give_the_same_bytes(cleaned):
    options = ("--train", "1", "--val", "0", "--test", "0")
    files = []
    for _ in range(2):
        succeeded(curate(cleaned, *options))
        files.append({path.name: path.read_bytes() for path in sorted((cleaned / "curated").iterdir())})
    assert files[0] == files[1]
    assert "metadata.json" in files[0]
