"""The report says what the stages found, shows what it should, and is safe to open."""

import csv
import hashlib
import json
import re
from base64 import b64decode
from functools import partial
from html import unescape
from io import BytesIO
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from Data_processing.cleaning.batches import ACCEPTED_SCHEMA, REJECTED_SCHEMA
from Data_processing.reporting.data import Dataset
from Data_processing.reporting.sections import gallery
from Data_processing.reporting.since import changed_images, read_images, tally
from Data_processing.shared.inspected import inspect
from Datasets.format.curated import Curated, write_annotations, write_curated, write_shard
from Datasets.format.records import SCHEMA, SPLITS, empty_record
from tests.template.conftest import copy_with_results, edit_params, refused, run_in, succeeded
from tests.template.Data_processing.sources import SIZE, picture, write_coco
from tests.template.Data_processing.stages import curate, stage, take_in_and_clean
from tests.template.Deployment.browser import chromium, needs_browser

HOSTILE_CLASS = "<script>alert('class')</script>"
HOSTILE_IMAGE = '"><img src=x onerror=alert(1)>&amp;.png'


def report(directory, *options):
    """Run the stage by hand on a directory laid out as tests of other stages lay it out."""
    inputs = ("--cleaned", "clean", "--curated", "curated")
    outputs = ("--numbers", "curated.json", "--out", "report.html", "--metrics", "report.json")
    words = [w if w.startswith("--") else directory / w for w in (*inputs, *outputs)]
    return stage("Data_processing.report", *words, *options)


def through_curate(directory, source, *clean_options):
    """Import, inspect, clean and curate a COCO source."""
    succeeded(take_in_and_clean(source, directory, "--max-rejected", "1", *clean_options))
    succeeded(curate(directory, "--seed", "7"))
    return directory


def text_of(page: Path) -> str:
    """What a reader sees, with one space for any white space."""
    shown = re.sub(r"<style>.*?</style>|<title>.*?</title>", "", page.read_text(encoding="utf-8"), flags=re.S)
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]*>", " ", shown.replace("<wbr>", ""))))


@pytest.fixture(scope="module")
def hostile(tmp_path_factory) -> Path:
    """A dataset whose names are attacks, with a class that only one image has."""
    directory = tmp_path_factory.mktemp("hostile")
    content = {f"{i}.png": [("cat", 3, 4, 20, 30)] for i in range(30)}
    content[HOSTILE_IMAGE] = [(HOSTILE_CLASS, 1, 2, 9, 9), ("cat", 5, 5, 40, 30)]
    content["outside" + HOSTILE_IMAGE] = [("cat", 500, 500, 600, 600)]
    source = write_coco(directory / "source", content)
    return through_curate(directory, source, "--rename", "cat=a domestic cat of any size, seen from the side")


def test_the_numbers_on_the_page_are_the_stages_numbers(project):
    text = text_of(project / "Data_processing/report.html")
    work = project / "Data_processing/intermediate"
    summary = json.loads((work / "clean.json").read_text())
    curated = json.loads((work / "curated.json").read_text())
    parts = summary["accepted"], summary["rejected"]
    assert f"{summary['imported']} imported = {parts[0]} accepted + {parts[1]} rejected." in text
    assert f"{summary['boxes']:,} boxes" in text
    assert f"{sum(curated['groups'].values())} groups" in text
    for split in SPLITS:
        assert f"{split} {curated['images'][split]}" in text
    further = json.loads((work / "report.json").read_text())
    assert sum(further["box_sizes"].values()) == summary["boxes"]
    for name, counts in curated["boxes"]["train"].items():
        images = sum(further["images_by_class"][split][name] for split in SPLITS)
        boxes = counts + curated["boxes"]["val"][name] + curated["boxes"]["test"][name]
        assert f"{name} {images} {boxes} " in text


def test_every_rejected_image_and_every_repair_is_shown_with_its_reason(project):
    text = text_of(project / "Data_processing/report.html")
    tables = {"rejected": ("rule", "image", "origin", "remedy"), "repairs": ("rule", "image", "before", "after")}
    for table, columns in tables.items():
        with (project / f"Data_processing/intermediate/clean/{table}.csv").open(encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        assert rows
        for row, column in product(rows, columns):
            assert row[column] in text


def test_the_same_inputs_give_the_same_bytes(hostile):
    pages = []
    for _ in range(2):
        succeeded(report(hostile))
        pages.append([(hostile / f"report.{suffix}").read_bytes() for suffix in ("html", "json")])
    assert pages[0] == pages[1]


def test_hostile_names_are_text_and_nothing_else(hostile):
    succeeded(report(hostile))
    page = (hostile / "report.html").read_text(encoding="utf-8")
    assert "<script" not in page
    assert "<img src=x" not in page
    text = text_of(hostile / "report.html")
    assert HOSTILE_CLASS in text
    assert f"s/images/outside{HOSTILE_IMAGE}" in text
    assert "box outside" in text


def test_a_class_missing_from_a_split_is_marked(hostile):
    succeeded(report(hostile))
    assert json.loads((hostile / "report.json").read_text())["classes_missing"] in (
        {"train": 0, "val": 1, "test": 1},
        {"train": 1, "val": 0, "test": 1},
        {"train": 1, "val": 1, "test": 0},
    )
    assert "1 class is missing from a split:" in text_of(hostile / "report.html")
    assert (hostile / "report.html").read_text().count('<span class="missing">none</span>') == 2


@needs_browser
@pytest.mark.parametrize(("which", "width"), [("project", 1280), ("hostile", 390)])
def test_a_browser_shows_it_without_complaint_and_without_overflow(request, which, width, tmp_path):
    directory = request.getfixturevalue(which)
    path = directory / "Data_processing/report.html" if which == "project" else directory / "report.html"
    if which == "hostile":
        succeeded(report(directory))
    with chromium(tmp_path) as page:
        page.open(path.as_uri(), width=width)
        page.wait("[...document.images].every((image) => image.complete && image.naturalWidth > 0)")
        assert page.run("document.documentElement.scrollWidth") <= width
        assert page.contrast(".tag, p, td, th") >= 4.5
        assert page.run("document.images.length") > 20
        assert page.run("document.scripts.length") == 0
        loaded = page.run("performance.getEntriesByType('resource').map((entry) => entry.name)")
        assert [name for name in loaded if not name.startswith("data:")] == []
        assert page.complaints == []


def test_a_rejected_image_that_changed_since_it_was_inspected_is_refused(hostile, tmp_path):
    succeeded(report(hostile))
    image = next(path for path in (hostile / "source/images").iterdir() if path.name.startswith("outside"))
    before, page = image.read_bytes(), (hostile / "report.html").read_bytes()
    try:
        image.write_bytes(before + b"x")
        refused(report(hostile), "outside", "changed since it was inspected", "dvc repro")
    finally:
        image.write_bytes(before)
    assert (hostile / "report.html").read_bytes() == page


def test_without_a_repository_there_is_no_version_to_compare_with(hostile):
    words = ("--cleaned", "clean", "--curated", "curated", "--numbers", "curated.json", "--since", "v1")
    refused(stage("Data_processing.report", *words, cwd=hostile), "report.since: ", "is not a git repository")


def made(directory: Path, records: list[dict]) -> Path:
    """A curated dataset of records without a source that could be imported, and what other stages would say of it."""
    files = {record["image"]: picture(number) for number, record in enumerate(records)}
    facts = [inspect(name, data, 10**6) for name, data in files.items()]
    rows = [
        {
            **empty_record(record["image"], "s"),
            **{key: fact[key] for key in ACCEPTED_SCHEMA.names if key in fact and key != "image"},
            "group": record["image"],
            "split": SPLITS[number % 3],
            **record,
        }
        for number, (record, fact) in enumerate(zip(records, facts, strict=True))
    ]
    for folder in ("clean", "curated"):
        (directory / folder).mkdir()
    schema = ACCEPTED_SCHEMA.with_metadata({"source_paths": json.dumps({"s": "/nowhere"})})
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), directory / "clean/accepted.parquet")
    parts = {split: [{k: r[k] for k in SCHEMA.names} for r in rows if r["split"] == split] for split in SPLITS}
    sizes = {split: [len(files[r["image"]]) for r in part] for split, part in parts.items()}
    list(write_curated(directory / "curated", parts, sizes, lambda record: (files[record["image"]], None)))
    write_annotations(directory / "curated", rows, {"cat": 0, "dog": 1})
    pq.write_table(REJECTED_SCHEMA.empty_table(), directory / "clean/rejected.parquet")
    (directory / "clean/repairs.csv").write_text("source,image,rule,origin,before,after\n")
    summary = {"imported": len(rows), "accepted": len(rows), "rejected": 0, "boxes": 0}
    summary |= {"rejected_by_rule": {}, "repairs_by_rule": {}, "left_out_by_class": {}, "renamed_by_source": {}}
    (directory / "clean.json").write_text(json.dumps(summary))
    (directory / "curated.json").write_text(json.dumps({"exact_duplicates": 0, "near_duplicates": 0}))
    return directory


def test_a_dataset_of_labels_alone_has_a_report(tmp_path):
    records = [{"image": f"{i}.png", "labels": [["cat"], ["dog"], []][i // 3 % 3]} for i in range(18)]
    succeeded(report(made(tmp_path, records)))
    text = text_of(tmp_path / "report.html")
    assert "18 images of 2 classes" in text
    assert "nothing to find" in text
    assert "COCO" not in text
    assert json.loads((tmp_path / "report.json").read_text())["images_of_nothing"] == 6
    assert "No image was rejected." in text


def test_classes_that_a_split_lacks_come_first_with_their_objects_in_pixels_and_sources_with_their_changes(tmp_path):
    content = {f"{n}.png": [("auto", 0, 0, 30, 30), ("bus", 0, 0, 6, 24)] for n in range(20)}
    content["last.png"] = [("dog", 10, 0, 35, 36)]
    source = write_coco(tmp_path / "source", content)
    through_curate(tmp_path, source, "--rename", "auto=car")
    succeeded(report(tmp_path))
    text = text_of(tmp_path / "report.html")
    rows = [text.index(f" {name} ", text.index("px at 640")) for name in ("dog", "bus", "car")]
    assert rows[0] < min(rows[1:])
    assert "dog 1 1 128 160 320" in text and "car 20 20 128 160 320" in text and "bus 20 20 51 64 128" in text
    assert "s 21 0 auto → car 20" in text
    assert "Each has 2." in text or "Half: 2 to 2." in text
    succeeded(report(tmp_path, "--size", "60"))
    assert "car 20 20 30 " in text_of(tmp_path / "report.html")


def test_masks_are_painted_in_the_colour_of_their_class(tmp_path):
    mask = np.zeros((SIZE[1], SIZE[0]), np.uint8)
    mask[:, :30] = 2
    file = BytesIO()
    Image.fromarray(mask).save(file, "PNG")
    records = [{"image": f"{i}.png", "labels": ["dog"]} for i in range(3)]
    records[0]["mask"] = {"bytes": file.getvalue(), "path": "0.png"}
    succeeded(report(made(tmp_path, records)))
    found = re.findall(r'base64,([^"]+)" alt="s/0.png"', (tmp_path / "report.html").read_text())
    painted, plain = (Image.open(BytesIO(data)).convert("RGB") for data in (b64decode(found[-1]), picture(0)))
    painted = painted.resize(plain.size)
    change = np.abs(np.asarray(painted).astype(int) - np.asarray(plain)).mean(axis=(0, 2))
    assert change[2:28].mean() > 5 * change[32:58].mean()


def records_of(curated: Path) -> dict[str, dict]:
    dataset = Curated(curated)
    return {record["image"]: record for split in SPLITS for record in dataset.records(split)}


def state(**images: tuple[str, str, list[str]]) -> pd.DataFrame:
    """Images of a source as they are compared: sha256, split and labels by name."""
    rows = [
        {"image": f"s/{name}", "sha256": sha256, "source": "s", "split": split, "labels": labels, "stated": f"{labels}"}
        for name, (sha256, split, labels) in images.items()
    ]
    return pd.DataFrame(rows, columns=["image", "sha256", "source", "split", "labels", "stated"])


def test_an_image_is_the_same_by_its_file_or_else_by_its_name():
    cat, dog, twice = ["cat"], ["dog"], ("3", "val", ["dog"])
    old = state(a=("1", "train", cat), b=("2", "train", cat), c=twice, copy=twice, e=("5", "test", []))
    moved = {"a": ("1", "test", dog), "e": ("6", "train", [])}
    new = state(**moved, z=("2", "train", cat), copy=("3", "val", cat), f=("7", "val", dog))
    kinds = changed_images(old, new)
    assert kinds["added"]["image"].tolist() == ["s/f"]
    assert kinds["removed"]["image"].tolist() == ["s/c"]
    assert kinds["moved"][["split_old", "split_new"]].to_numpy().tolist() == [["train", "test"], ["test", "train"]]
    assert kinds["relabelled"]["labels"].tolist() == [["cat", "dog"], ["cat", "dog"]]
    assert tally(kinds, "source") == [("s", [1, 1, 2, 2])]
    assert tally(kinds, "labels") == [("cat", [0, 0, 1, 2]), ("dog", [1, 1, 1, 2])]
    assert {len(rows) for rows in changed_images(old, old).values()} == {0}
    assert [len(rows) for rows in changed_images(state(), new).values()] == [5, 0, 0, 0]


def test_masks_are_compared_by_class_whatever_its_id(tmp_path):
    found = []
    record = empty_record("a.png", "s") | {"labels": ["dog"], "sha256": "1", "mask": {"bytes": None, "path": "a"}}
    for classes, value in ((["cat", "dog"], 2), (["bird", "dog"], 2), (["dog"], 1), (["dog", "cat"], 2)):
        file, shard = BytesIO(), tmp_path / f"{len(found)}.parquet"
        Image.fromarray(np.full(SIZE[::-1], value, np.uint8)).save(file, "PNG")
        write_shard(shard, [record], partial(lambda data, _: (b"x", data), file.getvalue()))
        found.append(read_images(([shard], classes), ["bird", "cat", "dog"])["stated"][0])
    assert found[0] == found[1] == found[2] != found[3]


def test_the_page_lists_what_changed_since_a_tag(project, tmp_path):
    checkout = copy_with_results(project, tmp_path / "checkout")
    assert "Changed since" not in text_of(checkout / "Data_processing/report.html")
    succeeded(run_in(checkout, "git", "tag", "v1"))
    edit_params(checkout, lambda params: params["clean"].update(rename=["one=two"], keep=["two", "three"]))
    edit_params(checkout, lambda params: params["report"].update(since="v1"))
    succeeded(run_in(checkout, "dvc", "repro", "report"))
    text = text_of(checkout / "Data_processing/report.html")
    assert "Changed since v1" in text
    assert re.search(r"\bleft_out_by_class / zero . \d+ \+\d+", text)
    before, after = (records_of(place / "Datasets/curated") for place in (project, checkout))
    both = before.keys() & after.keys()
    moved = sum(before[image]["split"] != after[image]["split"] for image in both)
    relabelled = sum(before[image]["boxes"] != after[image]["boxes"] for image in both)
    assert f"all {len(after) - len(both)} {len(before) - len(both)} {moved} {relabelled} digits" in text
    assert f"{relabelled} relabelled, 12 shown" in text and "Test figure" not in text
    figures = checkout / "Models/outputs/e001/evaluate/metrics.json"
    content = json.loads(figures.read_text())
    figures.unlink()
    figures.write_text(json.dumps({**content, "mAP50": content["mAP50"] + 0.25}))
    by_hand = ("python", "-m", "Data_processing.report", "--since", "v1", "--out", "changes.html")
    succeeded(run_in(checkout, *by_hand))
    text = text_of(checkout / "changes.html")
    assert re.search(r"Test figure of a model .* e001 / mAP50 [\d.]+ [\d.]+ \+0.25 ", text)
    edit_params(checkout, lambda params: params["report"].update(since="v2"))
    result = run_in(checkout, "dvc", "repro", "report")
    assert "report.since: 'v2' is no revision of this repository" in result.stderr
    assert "Traceback" not in result.stderr


def dataset(labels: list[list[int]], classes: int) -> Dataset:
    """Images of which only the classes matter, dealt to the splits in turn."""
    images = pd.DataFrame({"sha256": [hashlib.sha256(bytes([i])).hexdigest() for i in range(len(labels))]})
    images["split"] = [SPLITS[i % 3] for i in range(len(labels))]
    images["labels"] = [float(len(names)) for names in labels]
    images["boxes"] = np.nan
    rows = [(row, name) for row, names in enumerate(labels) for name in names]
    table = pd.DataFrame(rows, columns=["row", "name"])
    return Dataset([f"c{k}" for k in range(classes)], images, table, pd.DataFrame({"row": []}), [])


def test_the_gallery_covers_every_class_in_every_split():
    rng = np.random.default_rng(0)
    labels = [[0] if rng.random() < 0.9 else [int(rng.integers(1, 7))] for _ in range(240)]
    chosen = gallery(dataset(labels, 7), 24)
    assert len(chosen) == len(set(chosen)) == 24
    assert {(labels[i][0], i % 3) for i in chosen} == {(labels[i][0], i % 3) for i in range(240)}
