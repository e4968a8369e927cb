"""Sources that correct others, images that are excluded, and images that are kept out of val and test."""

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from Data_processing.adding.recognise import recognise
from Data_processing.shared.files import open_source
from Data_processing.shared.imported import ImportOptions
from Datasets.format.curated import read_origins
from Datasets.format.files import TASK_DIGITS
from Datasets.tools.errors import UserError
from tests.template.conftest import refused, succeeded
from tests.template.Data_processing.sources import SIZE, picture, write_coco
from tests.template.Data_processing.stages import clean, curate, splits_of, stage, table, take_in

CAT, DOG = ("cat", 3, 4, 20, 30), ("dog", 30, 5, 50, 35)
OLD = {f"{number}.png": [CAT] for number in range(8)}


def accepted(directory: Path) -> dict[str, dict]:
    rows = pq.read_table(directory / "clean/accepted.parquet").to_pylist()
    return {f"{row['source']}/{row['image']}": row for row in rows}


def boxes(row: dict) -> list[tuple]:
    return [(box["name"], box["x1"], box["y1"], box["x2"], box["y2"]) for box in row["boxes"]]


def test_a_correction_takes_the_place_of_a_record_and_moves_no_image(tmp_path):
    take_in(tmp_path, "old", write_coco(tmp_path / "old", OLD))
    succeeded(clean(tmp_path, "old"))
    halves = ("--train", "0.5", "--val", "0.25", "--test", "0.25", "--seed", "4")
    succeeded(curate(tmp_path, *halves))
    before = splits_of(tmp_path)
    fixed = {"0.png": [CAT, DOG], "1.png": [("dog", *CAT[1:])], "2.png": [], "3.png": [CAT], "new.png": [DOG]}
    source = write_coco(tmp_path / "fixed", fixed, folder="other/place")
    (source / "other/place/new.png").write_bytes(picture(77))
    shutil.copy(tmp_path / "old/images/5.png", source / "other/place/5.png")  # delivered along, not annotated
    take_in(tmp_path, "fixed", source, "coco", "--corrects", "old")
    result = succeeded(clean(tmp_path, "old", "fixed"))
    assert "fixed: 4 records correct old; 1 images, such as other/place/new.png, are not there" in result.stdout
    assert "9 images imported = 9 accepted + 0 rejected" in result.stdout
    rows = accepted(tmp_path)
    assert boxes(rows["old/images/0.png"]) == [CAT, DOG]
    assert boxes(rows["old/images/1.png"]) == [("dog", *CAT[1:])]
    assert boxes(rows["old/images/2.png"]) == rows["old/images/2.png"]["labels"] == []
    assert boxes(rows["old/images/4.png"]) == [CAT]
    assert set(rows) == {f"old/images/{image}" for image in OLD} | {"fixed/other/place/new.png"}
    repairs = table(tmp_path, "repairs").set_index("image")
    assert set(repairs["rule"]) == {"corrected"} and set(repairs["source"]) == {"old"}
    assert repairs[["before", "after"]].T.to_dict("list") == {
        "images/0.png": ["nothing", "dog (30, 5, 50, 35)"],
        "images/1.png": ["cat (3, 4, 20, 30)", "dog (3, 4, 20, 30)"],
        "images/2.png": ["cat (3, 4, 20, 30)", "nothing"],
    }
    assert repairs["origin"].str.startswith("fixed: annotations.json").all()
    succeeded(curate(tmp_path, *halves))
    assert before.items() <= splits_of(tmp_path).items()
    origins = read_origins(tmp_path / "curated")
    assert origins["old/images/0.png"] == {
        "image": "old/images/0.png",
        "sha256": rows["old/images/0.png"]["sha256"],
        "path": str(tmp_path / "old"),
        "origin": "fixed: annotations.json: image 0",
        "boxes": ["fixed: annotations.json: annotation 100", "fixed: annotations.json: annotation 101"],
    }
    assert origins["old/images/2.png"]["boxes"] == []
    assert origins["old/images/4.png"]["origin"] == "annotations.json: image 4"
    assert origins["old/images/4.png"]["boxes"] == ["annotations.json: annotation 104"]
    assert origins["fixed/other/place/new.png"]["path"] == str(tmp_path / "fixed")
    assert set(origins) == set(rows)


def test_labels_of_other_files_find_their_images_by_path_or_stem_and_later_ones_win(tmp_path):
    """As a program exports them: without the images, or with images that it has written anew."""
    take_in(tmp_path, "old", write_coco(tmp_path / "old", OLD))
    first = write_coco(tmp_path / "first", {"0.png": [DOG], "1.png": [DOG]}, files=False)
    take_in(tmp_path, "first", first, "coco", "--corrects", "old")
    second = write_coco(tmp_path / "second", {"1.jpg": [CAT, DOG], "2.jpg": [DOG], "3.jpg": [DOG]}, folder="new")
    for number in (1, 2, 3):
        picture_of = tmp_path / f"old/images/{number}.png"
        Image.open(picture_of).convert("RGB").save(second / f"new/{number}.jpg", quality=80)
    (second / "new/3.jpg").write_bytes(picture(99))  # another image of the same name
    take_in(tmp_path, "second", second, "coco", "--corrects", "old", "--corrects", "first")
    result = succeeded(clean(tmp_path, "old", "first", "second"))
    assert "second: 2 records correct old, first; 1 images, such as new/3.jpg" in result.stdout
    rows = accepted(tmp_path)
    assert [boxes(rows[f"old/images/{n}.png"]) for n in range(4)] == [[DOG], [CAT, DOG], [DOG], [CAT]]
    assert len(rows) == 9
    (tmp_path / "yolo/labels").mkdir(parents=True)
    (tmp_path / "yolo/labels/5.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    (tmp_path / "yolo/classes.txt").write_text("dog\n")
    take_in(tmp_path, "yolo", tmp_path / "yolo", "yolo", "--corrects", "old")
    succeeded(clean(tmp_path, "old", "yolo"))
    assert boxes(accepted(tmp_path)["old/images/5.png"]) == [("dog", 15, 10, 45, 30)]
    take_in(tmp_path, "third", first, "coco", "--corrects", "gone")
    refused(clean(tmp_path, "old", "third"), "sources.third.corrects: 'gone' is no other source")


def test_boxes_of_an_image_of_another_size_do_not_correct(tmp_path):
    take_in(tmp_path, "old", write_coco(tmp_path / "old", OLD))
    fixed = write_coco(tmp_path / "fixed", {"0.png": [CAT]})
    Image.open(tmp_path / "old/images/0.png").resize((30, 20)).save(fixed / "images/0.png")
    coco = json.loads((fixed / "annotations.json").read_text())
    del coco["images"][0]["width"], coco["images"][0]["height"]
    (fixed / "annotations.json").write_text(json.dumps(coco))
    take_in(tmp_path, "fixed", fixed, "coco", "--corrects", "old")
    succeeded(clean(tmp_path, "--max-rejected", "1", "--trust-image-size", "old", "fixed"))
    (out,) = table(tmp_path, "rejected").to_dict("records")
    assert (out["source"], out["image"], out["rule"]) == ("old", "images/0.png", "resized image")
    assert "is of one of 30 x 20, the image is 60 x 40" in out["value"]


def write_masks(directory: Path, masks: dict[str, np.ndarray], drawn: dict[str, list]) -> Path:
    """A source in our JSON form: masks with the classes cat and dog, and boxes."""
    (directory / "images").mkdir(parents=True)
    (directory / "masks").mkdir()
    entries = []
    for image, found in drawn.items():
        number = int(Path(image).stem)
        (directory / "images" / image).write_bytes(picture(number))
        named = [dict(zip(("name", "x1", "y1", "x2", "y2"), box, strict=True)) for box in found]
        entries.append([f"images/{image}", None, None, named or None])
        if image in masks:
            Image.fromarray(masks[image]).save(directory / f"masks/{image}")
            entries[-1].append(f"masks/{image}")
    (directory / "metadata.json").write_text(json.dumps(entries))
    (directory / "classes.json").write_text(json.dumps({"cat": 0, "dog": 1}))
    return directory


def test_a_mask_stays_where_a_correction_of_boxes_shows_its_classes_and_is_replaced_by_a_mask(tmp_path):
    cats = np.zeros(SIZE[::-1], np.uint8)
    cats[4:30, 3:20] = 1
    names = [f"{number}.png" for number in range(3)]
    old = write_masks(tmp_path / "old", dict.fromkeys(names, cats), {name: [CAT] for name in names})
    take_in(tmp_path, "old", old, "json")
    moved = ("cat", 3, 5, 20, 30)
    fixed = write_masks(tmp_path / "fixed", {"2.png": cats * 2}, {"0.png": [moved], "1.png": [CAT, DOG], "2.png": []})
    take_in(tmp_path, "fixed", fixed, "json", "--corrects", "old")
    succeeded(clean(tmp_path, "old", "fixed"))
    rows = accepted(tmp_path)
    assert [rows[f"old/images/{name}"]["mask"] is not None for name in names] == [True, False, True]
    assert [rows[f"old/images/{name}"]["labels"] for name in names] == [["cat"], ["cat", "dog"], ["dog"]]
    succeeded(curate(tmp_path, "--train", "1", "--val", "0", "--test", "0"))
    (shard,) = (tmp_path / "curated").glob("train-*.parquet")
    packed = {row["image"]["path"]: row["mask"] for row in pq.read_table(shard).to_pylist()}
    found = {name: np.asarray(Image.open(io.BytesIO(mask["bytes"]))) for name, mask in packed.items() if mask}
    assert (found["old/images/0.png"] == cats).all() and (found["old/images/2.png"] == cats * 2).all()
    words = table(tmp_path, "repairs").set_index("image")
    assert words["after"]["images/1.png"] == "dog (30, 5, 50, 35), mask none"
    origins = read_origins(tmp_path / "curated")
    entries = ["fixed: metadata.json: entry 0", "fixed: metadata.json: entry 1", "fixed: metadata.json: entry 2"]
    assert [origins[f"old/images/{name}"]["origin"] for name in names] == entries
    drawn = [[f"{entries[0]}, box 0"], [f"{entries[1]}, box 0", f"{entries[1]}, box 1"], None]
    assert [origins[f"old/images/{name}"]["boxes"] for name in names] == drawn
    assert words["before"]["images/2.png"] == "cat (3, 4, 20, 30), mask masks/2.png"


def test_a_correction_of_a_correction_counts_and_two_of_one_image_in_one_source_do_not(tmp_path):
    take_in(tmp_path, "old", write_coco(tmp_path / "old", OLD))
    digits = accepted_after(tmp_path)["old/images/2.png"]["sha256"][:TASK_DIGITS]
    first = write_coco(tmp_path / "first", {"0.png": [DOG], "1.png": [DOG]}, files=False)
    take_in(tmp_path, "first", first, "coco", "--corrects", "old")
    twice = {"1.png": [CAT, DOG], f"aaaaaaaa-2-{digits}.png": [CAT], f"bbbbbbbb-2-{digits}.png": [DOG]}
    take_in(tmp_path, "second", write_coco(tmp_path / "second", twice, files=False), "coco", "--corrects", "first")
    result = succeeded(clean(tmp_path, "--max-rejected", "1", "old", "first", "second"))
    assert "8 images imported = 7 accepted + 1 rejected" in result.stdout
    assert boxes(accepted(tmp_path)["old/images/1.png"]) == [CAT, DOG]
    (left,) = table(tmp_path, "rejected").to_dict("records")
    assert (left["image"], left["rule"]) == ("images/2.png", "second record")
    assert "in second, which corrects it; also annotations.json: image" in left["value"]
    take_in(tmp_path, "other", write_coco(tmp_path / "other", {"0.png": [CAT]}, files=False))
    tasks = tmp_path / "second"
    take_in(tmp_path, "second", tasks, "coco", "--corrects", "other")
    refused(
        clean(tmp_path, "old", "other", "second"),
        f"2-{digits}.png is a task of old's image",
        "`corrects: [other, old]`",
    )


def test_excluded_images_are_rejected_with_their_reason_and_do_not_count(tmp_path):
    take_in(tmp_path, "old", write_coco(tmp_path / "old", OLD))
    sha256 = accepted_after(tmp_path)["old/images/3.png"]["sha256"]
    listed = tmp_path / "excluded.csv"
    lines = ["source,image,sha256,reason", 'old,images/1.png,,"blurred, by hand"', f",,{sha256},face visible"]
    listed.write_text("\n".join([*lines, "old,images/99.png,,gone", ",old/images/2.png,,twice"]) + "\n")
    result = succeeded(clean(tmp_path, "--exclude", listed, "--max-rejected", "0", "old"))
    assert "8 images imported = 5 accepted + 3 rejected" in result.stdout
    assert "warning: clean.exclude: no source has the image old/images/99.png" in result.stderr
    assert result.stderr.count("warning") == 1
    out = table(tmp_path, "rejected").set_index("image")
    assert out["value"].to_dict() == {
        "images/1.png": "blurred, by hand",
        "images/2.png": "twice",
        "images/3.png": "face visible",
    }
    assert set(out["rule"]) == {"excluded"}
    listed.write_bytes(b"\xef\xbb\xbfimage;reason\r\nold/images/1.png;too dark\r\n;\r\n")  # a spreadsheet in Europe
    succeeded(clean(tmp_path, "--exclude", listed, "old"))
    assert table(tmp_path, "rejected")["image"].to_list() == ["images/1.png"]
    listed.write_text("source,image,sha256,reason\nold,images/1.png,,\n")
    refused(clean(tmp_path, "--exclude", listed, "old"), "excluded.csv: line 2: needs an image or sha256, and a reason")
    listed.write_text("Source, Image, Reason\nold,images/1.png,by hand\n")
    succeeded(clean(tmp_path, "--exclude", listed, "old"))
    assert table(tmp_path, "rejected")["value"].to_list() == ["by hand"]
    for text in ("old,images/1.png,,a face is visible\n", "source\timage\tsha256\treason\nold\timages/1.png\t\tface\n"):
        listed.write_text(text)  # without a header, and with tabs: no line would exclude anything
        refused(clean(tmp_path, "--exclude", listed, "old"), "excluded.csv: its first line is", "must name the columns")


def accepted_after(directory: Path) -> dict[str, dict]:
    succeeded(clean(directory, "old"))
    return accepted(directory)


def test_annotations_alone_can_be_added_where_they_correct_a_source(tmp_path):
    first = write_coco(tmp_path / "first", {"0.png": [DOG], "1.png": [DOG]}, files=False)
    with pytest.raises(UserError, match="none of its images is there"):
        recognise(open_source(first), ImportOptions(), None, pytest.fail)
    found, _ = recognise(open_source(first), ImportOptions(corrects=["old"]), None, pytest.fail)
    assert found.format == "coco"


def test_images_placed_in_train_move_none_and_those_like_images_of_other_splits_are_left_out(tmp_path):
    take_in(tmp_path, "old", write_coco(tmp_path / "old", {f"{n}.png": [CAT] for n in range(20)}))
    succeeded(clean(tmp_path, "old"))
    succeeded(curate(tmp_path, "--seed", "3"))
    before = splits_of(tmp_path)
    of_test = next(image for image, split in before.items() if split == "test").removeprefix("old/")
    of_train = next(image for image, split in before.items() if split == "train").removeprefix("old/")
    new = write_coco(tmp_path / "new", {f"n{n}.png": [CAT] for n in range(20)})
    for number in range(20):
        (new / f"images/n{number}.png").write_bytes(picture(100 + number))
    shutil.copy(tmp_path / "old" / of_test, new / "images/n0.png")
    shutil.copy(tmp_path / "old" / of_train, new / "images/n1.png")
    take_in(tmp_path, "new", new, "coco", "--split", "train")
    for order in (("old", "new"), ("new", "old")):  # whatever comes first gives groups their names
        succeeded(clean(tmp_path, *order))
        result = succeeded(curate(tmp_path, "--seed", "3"))
        assert "warning: 1 images, such as images/n0.png, are left out" in result.stderr
        after = splits_of(tmp_path)
        assert before.items() <= after.items()
        placed = {image: split for image, split in after.items() if image not in before}
        assert placed == {f"new/images/n{n}.png": "train" for n in range(1, 20)}
    sources = ("--train", "0.5", "--val", "0", "--test", "0.5")
    take_in(tmp_path, "old", tmp_path / "old", "coco", "--split", "test")
    succeeded(clean(tmp_path, "old", "new"))
    succeeded(curate(tmp_path, *sources))
    assert {image.split("/")[0] + split for image, split in splits_of(tmp_path).items()} == {"oldtest", "newtrain"}
    refused(
        stage("Data_processing.import_source", "--source", "s", "--format", "coco", "--path", new, "--split", "x"),
        "'x'",
    )


def test_another_annotation_file_of_the_same_folder_corrects_and_completes_it(tmp_path):
    source = write_coco(tmp_path / "old", OLD)
    write_coco(tmp_path / "again", {**dict.fromkeys(OLD, (DOG,)), "8.png": [DOG]}, files=False)
    shutil.move(tmp_path / "again/annotations.json", source / "again.json")
    (source / "images/8.png").write_bytes(picture(8))
    take_in(tmp_path, "old", source, "coco", "--annotations", "annotations.json")
    take_in(tmp_path, "again", source, "coco", "--annotations", "again.json", "--corrects", "old")
    result = succeeded(clean(tmp_path, "old", "again"))
    assert "9 images imported = 9 accepted + 0 rejected" in result.stdout
    assert {image: boxes(row) for image, row in accepted(tmp_path).items()} == {
        f"old/images/{number}.png": [DOG] for number in range(9)
    }
