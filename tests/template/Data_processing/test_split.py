"""Near duplicates are found, groups stay together, splits stay put, and shares come out as far as groups allow."""

import hashlib
import json
import shutil

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from Data_processing.curate import assign, warn_shares
from Data_processing.curating.duplicates import (
    COLUMNS,
    Groups,
    compile_pattern,
    find_groups,
    first_of_component,
    near_duplicates,
    own_key,
)
from Data_processing.shared.inspected import perceptual_hash
from Data_processing.split import (
    best_seeds,
    count_classes,
    deal,
    missing_classes,
    name_hashes,
    split_numbers,
    stated_splits,
)
from Datasets.format.curated import Curated
from Datasets.format.records import SPLITS
from Datasets.tools.errors import UserError
from tests.template.conftest import refused, succeeded
from tests.template.Data_processing.sources import pack, picture, write_coco
from tests.template.Data_processing.stages import ALL_TRAIN, clean, curate, splits_of, take_in, take_in_and_clean

SHARES = {"train": 0.7, "val": 0.15, "test": 0.15}


def grouped(rows: list[dict], pattern: str = "", bits: int = 24) -> tuple[list[str], Groups]:
    """The name of each row's group, and all that was found."""
    types = {**dict.fromkeys(("image", "source", "group", "sha256"), pa.string()), "phash": pa.binary(32)}
    found = find_groups(pa.Table.from_pylist(rows, schema=pa.schema(types)).select(COLUMNS), pattern, bits)
    return [found.names[number] for number in found.numbers], found


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


@settings(max_examples=30)
@given(groups=st.sets(st.text(min_size=1), min_size=1), more=st.sets(st.text(min_size=1)), seed=st.integers(0, 99))
def test_a_groups_split_depends_on_nothing_else(groups, more, seed):
    before, after = (sorted(names) for names in (groups, groups | more))
    dealt = [
        dict(zip(names, split_numbers(name_hashes(names), SHARES, seed), strict=True)) for names in (before, after)
    ]
    assert dealt[0].items() <= dealt[1].items()


def changed(phash: bytes, bits: int) -> bytes:
    """A perceptual hash that differs in the first `bits` bits."""
    number = int.from_bytes(phash, "big") ^ ((1 << 256) - (1 << 256 - bits))
    return number.to_bytes(32, "big")


@settings(max_examples=40)
@given(data=st.data())
def test_later_images_rename_no_group_unless_they_join_two(data):
    centres = [row["phash"] for row in rows(6)]
    drawn = st.tuples(st.integers(0, 5), st.sampled_from([0, 10, 20, 40]), st.sampled_from(["1", "2", "3", "x"]))
    made = [
        {
            "image": f"{key}_{number}.jpg",
            "source": "s",
            "sha256": hashlib.sha256(f"{number // 2 if bits == 0 else number}/{centre}/{bits}".encode()).hexdigest(),
            "phash": changed(centres[centre], bits),
        }
        for number, (centre, bits, key) in enumerate(data.draw(st.lists(drawn, min_size=1, max_size=20)))
    ]
    old = data.draw(st.integers(0, len(made)))
    before, _ = grouped(made[:old], r"(?P<key>\d)_")
    after, found = grouped(made, r"(?P<key>\d)_")
    first = {name: after.index(name) for name in found.names}
    for index, (name, renamed) in enumerate(zip(before, after, strict=False)):
        joined = before[first[renamed]]  # another group that was there before, and whose first image comes earlier
        assert renamed == joined
        assert name == renamed or before.index(name) > first[renamed]
        assert after[before.index(name)] == after[index]


def test_a_new_near_duplicate_takes_the_group_of_the_old_image():
    old = rows(50)
    double = {
        **rows(1, seed=3)[0],
        "image": "elsewhere/x.jpg",
        "source": "other",
        "phash": changed(old[7]["phash"], 24),
    }
    before, _ = grouped(old)
    after, found = grouped([*old, double])
    assert found.near.tolist() == [[7, 50]]
    assert after == [*before, old[7]["sha256"][:16]]
    assert grouped([*old, double], bits=23)[1].near.tolist() == []


def test_each_image_with_an_earlier_near_duplicate_is_told_once_exact_ones_apart():
    base = rows(6)
    alike = [{**row, "phash": base[0]["phash"]} for row in base[:4]]  # four files that look the same
    found = grouped([*alike, {**base[1], "image": "copy.jpg", "phash": base[0]["phash"]}, base[5]])[1]
    assert found.near.tolist() == [[0, 1], [0, 2], [0, 3]]
    assert found.exact.tolist() == [[1, 4]]


def test_an_image_whose_source_states_its_group_is_none_that_the_pattern_matched(capsys):
    stated, *others = [*rows(4), {**rows(5)[4], "source": "other", "image": "x.jpg"}]
    for pattern, matched, missed in ((r"(?P<pool>\d+)_1", 3, 0), (r"(?P<pool>[12])_1", 2, 1), ("(?P<pool>no)", 0, 0)):
        _, found = grouped([{**stated, "group": "ward 3"}, *others], pattern)
        found.report(pattern)
        told = capsys.readouterr().err
        assert (found.matched, found.missed) == (matched, [others[2]["image"]] * missed)
        assert ("states no group" in told) == (matched == 0)
        assert (f"but not {others[2]['image']} and 0 more: each is a group of its own" in told) == bool(missed)


def test_augmented_copies_that_the_pattern_does_not_join_are_named_with_one_that_does(capsys):
    copies = [{**row, "image": f"train/images/{n % 3}_jpg.rf.{n:032x}.jpg"} for n, row in enumerate(rows(9))]
    _, found = grouped([*copies, *rows(3, seed=9)], r"(?P<pool>\d+)_\d+_\d+\.\w+$")
    found.report("")
    told = capsys.readouterr().err
    better = told.partition("set curate.group_pattern to ")[2].strip()
    names, found = grouped([*copies, *rows(3, seed=9)], better)
    assert names[:9] == ["s/0_jpg", "s/1_jpg", "s/2_jpg"] * 3 and not found.better
    assert names[9:] == grouped(rows(3, seed=9), r"(?P<pool>\d+)_\d+_\d+\.\w+$")[0]


def test_groups_join_by_key_and_by_duplicates_in_chains():
    a, b, c, d, e = (row | {"image": f"{key}_1"} for row, key in zip(rows(5), "11234", strict=True))
    c["phash"] = changed(b["phash"], 20)
    d["phash"] = changed(b["phash"], 40)
    assert grouped([a, b, c, d, e], r"(?P<key>\d)_")[0] == ["s/1", "s/1", "s/1", "s/1", "s/4"]


def test_the_pattern_groups_by_its_named_parts_within_a_source():
    pattern = compile_pattern(r"(?P<session>\d+)_(?P<scene>\d+)_\d+\.jpg")
    assert [own_key(pattern, f"x/1_2_{camera}.jpg", "s", None, "0" * 64) for camera in (1, 2)] == ["s/1_2", "s/1_2"]
    assert own_key(pattern, "1_2_1.jpg", "t", None, "0" * 64) == "t/1_2"
    assert own_key(pattern, "other.jpg", "t", None, "abc" * 20) == ("abc" * 20)[:16]
    assert own_key(pattern, "1_2_1.jpg", "t", "ward 3", "0" * 64) == "t/ward 3"
    for wrong in ("(a", r"\d+"):
        with pytest.raises(UserError, match="group_pattern"):
            compile_pattern(wrong)


def test_a_hopeless_class_does_not_decide_the_seed_and_is_named():
    """Of 200 images, four, three and two have rare classes; one more is of a class with a single image."""
    labels = [["a"]] * 4 + [["b"]] * 3 + [["c"]] * 2 + [["d"]] + [["common"]] * 190
    groups, none = [f"g{i}" for i in range(200)], np.full(200, -1)
    counts = count_classes(np.arange(200), pa.chunked_array([pa.array(labels, pa.list_(pa.string()))]))
    best = best_seeds(groups, counts, SHARES, none, 1000)[0]
    assert best[:2] == (0, 1 + 2)  # c from one split, d from two: no seed has fewer
    lines = missing_classes(counts, split_numbers(name_hashes(groups), SHARES, best[-1]), SHARES, none)
    assert [line.split("no image with ")[1].partition(";")[0] for line in lines] == [
        "c (groups that have it: 2)",
        "d (groups that have it: 1)",
    ]
    assert all("only more images of it, in other groups, help" in line for line in lines) and len(lines) == 2
    poor = next(seed for seed in range(99) if not (split_numbers(name_hashes(groups[:4]), SHARES, seed)).any())
    lines = missing_classes(counts, split_numbers(name_hashes(groups), SHARES, poor), SHARES, none)
    assert lines[0] == "val and test: no image with a (groups that have it: 4); try the seeds of Data_processing.split"


def test_what_no_source_states_is_taken_out_of_train_by_groups(capsys):
    _, groups = grouped(rows(400))
    where = np.random.default_rng(0).choice(["train", "train", "train", "test"], 400)
    stated = stated_splits(groups, pa.chunked_array([where]), True, SHARES)
    assert "val: stated of no image, so taken out of train by groups" in capsys.readouterr().out
    splits = deal(name_hashes(groups.names), SHARES, 0, stated)
    in_test = where == "test"
    assert (splits[groups.numbers[in_test]] == 2).all()
    assert 0.1 < (splits[groups.numbers[~in_test]] == 1).mean() < 0.26  # 0.15 of 0.85 are wanted
    assert not (splits[groups.numbers[~in_test]] == 2).any()
    shares = {"train": 0.85, "val": 0.0, "test": 0.15}
    kept = stated_splits(groups, pa.chunked_array([where]), True, shares)
    assert (deal(name_hashes(groups.names), shares, 0, kept)[groups.numbers] == np.where(in_test, 2, 0)).all()


def test_the_seed_advised_fills_every_split_beside_those_that_sources_state():
    _, groups = grouped(rows(40))
    counts = count_classes(groups.numbers, pa.chunked_array([pa.array([["cat"]] * 40)]))
    stated = np.repeat([0, 1, -1], [20, 19, 1])
    hashes = name_hashes(groups.names)
    seed = next(seed for seed in range(99) if split_numbers(hashes, SHARES, seed)[39] != 2)
    with pytest.raises(UserError, match="leaves test empty; set curate.seed: ") as told:
        assign(groups, counts, SHARES, seed, stated)
    splits = assign(groups, counts, SHARES, int(str(told.value).split()[-1]), stated)
    assert splits[39] == 2 and (splits[:39] == stated[:39]).all()


def fixed_camera(number: int) -> list[dict]:
    """Rows of images with one background, and in each a disc elsewhere."""
    rng = np.random.default_rng(0)
    background = Image.fromarray(rng.integers(0, 256, (24, 32), np.uint8)).resize((320, 240), Image.Resampling.BICUBIC)
    found = rows(number)
    for row in found:
        image = background.copy()
        (x, y), radius = rng.uniform((20, 20), (300, 220)), rng.uniform(6, 15)
        ImageDraw.Draw(image).circle((x, y), radius, fill=int(rng.integers(256)))
        row["phash"] = perceptual_hash(image)
    return found


def test_where_a_fixed_cameras_images_join_the_remedy_is_told_and_is_one(capsys):
    images = fixed_camera(60)
    labels = pa.chunked_array([pa.array([["cat"]] * 60)])

    def split_images(bits: int) -> set[int]:
        _, groups = grouped(images, bits=bits)
        counts = count_classes(groups.numbers, labels)
        return set(assign(groups, counts, SHARES, 0, np.full(len(groups.names), -1)).tolist())

    remedy = (
        "59 are near duplicates: if all that they share is a background, lower curate.near_duplicate_bits; or else "
    )
    with pytest.raises(UserError, match=remedy):
        split_images(24)
    assert split_images(4) == {0, 1, 2}
    warn_shares({"train": {"target": 0.7, "share": 0.95, "largest_group": 0.9}})
    assert "of a fixed camera, lower curate.near_duplicate_bits" in capsys.readouterr().err


def test_the_project_finds_the_planted_duplicates(project):
    planted = json.loads((project / "Data_processing/intermediate/digits_defects.json").read_text())
    dataset = Curated(project / "Datasets/curated")
    groups = {r["image"]: r["group"] for split in SPLITS for r in dataset.records(split)}
    doubles = [entry for entry in planted if "duplicate" in entry["defect"]]
    assert len(doubles) == 2
    for entry in doubles:
        assert groups[f"digits/{entry['image']}"] == groups[f"digits/{entry['of']}"]


@pytest.fixture(scope="module")
def as_cleaned(tmp_path_factory):
    """A small source taken as far as the clean stage."""
    directory = tmp_path_factory.mktemp("cleaned")
    source = write_coco(directory / "source", {f"{i}.png": [("cat", 1, 1, 9, 9)] for i in range(12)})
    succeeded(take_in_and_clean(source, directory))
    return directory


@pytest.fixture
def cleaned(as_cleaned, tmp_path):
    """Its tables, which name the images where they are."""
    shutil.copytree(as_cleaned / "clean", tmp_path / "clean")
    return tmp_path


def test_curate_refuses_shares_and_splits_that_cannot_be(cleaned):
    refused(curate(cleaned, "--train", "0.9"), "add up to 1.2")
    line = refused(curate(cleaned, "--train", "0.98", "--val", "0.01", "--test", "0.01"), "empty", "12 groups")
    assert "set its share to 0" in line or "curate.seed" in line
    refused(curate(cleaned, "--group-pattern", "(a"), "group_pattern")
    assert not (cleaned / "curated").exists()


def test_curate_refuses_an_image_that_changed_since_it_was_inspected(as_cleaned, cleaned):
    image = as_cleaned / "source/images/3.png"
    before = image.read_bytes()
    try:
        image.write_bytes(before + b"x")
        refused(curate(cleaned, *ALL_TRAIN), "images/3.png", "changed")
    finally:
        image.write_bytes(before)
    assert not (cleaned / "curated").exists()


def test_the_same_options_give_the_same_bytes(cleaned):
    files = []
    for _ in range(2):
        succeeded(curate(cleaned, *ALL_TRAIN))
        paths = sorted(path for path in (cleaned / "curated").rglob("*") if path.is_file())
        files.append({path.name: path.read_bytes() for path in paths})
    assert files[0] == files[1]
    assert "metadata.json" in files[0]


def test_a_tar_gives_each_record_its_own_image(tmp_path):
    source = write_coco(tmp_path / "source", {f"{i}.png": [("cat", 1, 1, 9, 9)] for i in range(12)})
    succeeded(take_in_and_clean(pack(source, tmp_path / "s.tar.gz"), tmp_path))
    succeeded(curate(tmp_path, "--train", "0.6", "--val", "0.2", "--test", "0.2", "--seed", "3"))
    assert sorted(splits_of(tmp_path)) == sorted(f"s/images/{i}.png" for i in range(12))
    dataset = Curated(tmp_path / "curated")
    for split in SPLITS:
        for record, data in zip(dataset.records(split), dataset.images(split), strict=True):
            assert hashlib.sha256(data).hexdigest() == record["sha256"]
            assert len(record["boxes"]) == 1


def test_a_pattern_that_matches_nothing_and_groups_too_large_are_warned_of(cleaned):
    result = succeeded(curate(cleaned, *ALL_TRAIN, "--group-pattern", "(?P<x>b)no"))
    told = [line for line in result.stderr.splitlines() if line.startswith("warning: ")]
    assert told == [
        "warning: curate.group_pattern: '(?P<x>b)no' matches no path of an image whose source states no group"
    ]
    one_and_rest = ("--group-pattern", r"(?P<part>1|\w)\w?\.png", "--train", "0.9", "--val", "0.1", "--test", "0")
    for seed in range(20):
        result = curate(cleaned, *one_and_rest, "--seed", str(seed))
        if result.returncode == 0 and ", target " in result.stderr:
            break
    succeeded(result)
    numbers = json.loads((cleaned / "curated.json").read_text())
    assert sum(numbers["images"].values()) == 12
    assert sum(sum(counts.values()) for counts in numbers["boxes"].values()) == 12
    for split, part in numbers["shares"].items():
        assert part["share"] == round(numbers["images"][split] / 12, 4)
        (line,) = [line for line in result.stderr.splitlines() if line.startswith(f"warning: {split}: ")]
        assert f"{part['share']:.1%} of images, target {part['target']:.1%}" in line
        assert line.endswith(f"its largest group has {part['largest_group']:.1%}")
    assert max(part["largest_group"] for part in numbers["shares"].values()) == round(3 / 12, 4)


def test_kept_splits_are_not_warned_of_and_what_none_states_is_taken_from_train(tmp_path):
    """As Roboflow delivers without a split for validation; the seed has nothing to do with the shares."""
    for split, numbers in (("train", range(12)), ("test", range(12, 15))):
        write_coco(tmp_path / "source" / split, {f"{n}.png": [("cat", 1, 1, 9, 9)] for n in numbers}, folder="")
        for number in numbers:
            (tmp_path / f"source/{split}/{number}.png").write_bytes(picture(number))
    take_in(tmp_path, "s", tmp_path / "source", "coco", "--annotations", "*/annotations.json")
    succeeded(clean(tmp_path, "s"))
    result = succeeded(curate(tmp_path, "--keep-splits", "--train", "0.5", "--val", "0", "--test", "0.5"))
    assert "warning" not in result.stderr
    result = succeeded(curate(tmp_path, "--keep-splits", "--train", "0.4", "--val", "0.4", "--test", "0.2"))
    assert "val: stated of no image, so taken out of train by groups" in result.stdout
    found = splits_of(tmp_path)
    assert {image for image, split in found.items() if split == "test"} == {f"s/test/{n}.png" for n in range(12, 15)}
    assert list(found.values()).count("val") > 2


def compared(hashes: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """By all pairs: whether each hash has an earlier one within `bits`; the first it is connected with."""
    near = np.bitwise_count(hashes[:, None] ^ hashes[None]).sum(axis=2) <= bits
    return np.tril(near, -1).any(axis=1), first_of_component(len(hashes), *np.nonzero(near))


def agree(hashes: np.ndarray, bits: int) -> None:
    """Assert that the search agrees with comparing every pair."""
    links = near_duplicates(hashes, bits)
    has_earlier, label = compared(hashes, bits)
    assert np.array_equal(links.earlier >= 0, has_earlier)
    assert np.array_equal(links.label, label)
    later = np.flatnonzero(links.earlier >= 0)
    earlier = links.earlier[later]
    assert np.all(earlier < later)
    assert np.all(np.bitwise_count(hashes[earlier] ^ hashes[later]).sum(axis=1) <= bits)


def crowds(seed: int, centres: int, members: int, spread: float, varying: int) -> np.ndarray:
    """Distinct hashes around some centres, in random order; of their bits only the first `varying` vary at all."""
    rng = np.random.default_rng(seed)
    around = rng.random((centres, 1, 256)) < 0.5
    bits = around ^ (rng.random((centres, members, 256)) < rng.uniform(0, spread, (1, members, 1)))
    bits[..., varying:] = True
    return rng.permutation(np.unique(np.packbits(bits.reshape(-1, 256), axis=1), axis=0))


CROWDS = {
    "seed": st.integers(0, 2**32),
    "centres": st.integers(1, 30),
    "members": st.integers(1, 12),
    "spread": st.sampled_from([0.0, 0.02, 0.05, 0.1, 0.2, 0.5]),
    "varying": st.sampled_from([4, 30, 100, 256]),
}


@settings(max_examples=60)
@given(bits=st.one_of(st.just(24), st.integers(0, 60), st.integers(0, 256)), **CROWDS)
def test_the_search_agrees_with_comparing_every_pair(bits, **crowd):
    agree(crowds(**crowd), bits)


def test_a_pair_at_exactly_the_bits_is_near_wherever_the_bits_lie():
    rng = np.random.default_rng(0)
    base = rng.random((500, 256)) < 0.5
    far = base.copy()
    for row, limit in zip(far, [24, 25] * 250, strict=True):
        row[rng.choice(256, limit, replace=False)] ^= True
    hashes = np.packbits(np.concatenate([base, far]), axis=1)
    found = near_duplicates(hashes, 24).earlier
    assert np.array_equal(found[500:], np.where(np.arange(500) % 2, -1, np.arange(500)))


def test_a_burst_of_frames_that_look_alike_makes_no_list_of_pairs():
    burst = crowds(0, 1, 10_000, 0.05, 256)
    links = near_duplicates(burst, 24)
    assert (links.earlier >= 0).mean() > 0.9
    assert len(links.earlier) == len(burst)
