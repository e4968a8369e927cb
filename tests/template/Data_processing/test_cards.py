"""Licences from a source's entry to the curated dataset, and the cards that others read it by."""

import datasets
import pytest
from ruamel.yaml import YAML

from Datasets.format.curated import Curated
from tests.template.conftest import refused, succeeded
from tests.template.Data_processing.sources import picture, write_coco
from tests.template.Data_processing.stages import clean, curate, stage, take_in

HOSTILE = 'cat | "x" <b>\\'


def import_(tmp_path, name: str, form: str, *options: str):
    words = ("--source", name, "--format", form, "--path", tmp_path / name)
    return stage("Data_processing.import_source", *words, "--out", tmp_path / f"imported/{name}.parquet", *options)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Curated of boxes under a licence, and of labels alone without one."""
    directory = tmp_path_factory.mktemp("cards")
    write_coco(directory / "boxes", {f"{n}.png": [(HOSTILE, 3, 4, 20, 30)] for n in range(6)})
    for number in range(6):
        file = directory / f"labels/{'cat' if number % 2 else 'dog'}/{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(picture(50 + number))
    take_in(directory, "boxes", directory / "boxes", "coco", "--license", "CC-BY-4.0")
    take_in(directory, "labels", directory / "labels", "folders")
    succeeded(clean(directory, "boxes", "labels"))
    succeeded(curate(directory, "--train", "0.6", "--val", "0.4", "--test", "0"))
    return directory / "curated"


def test_the_dataset_knows_the_licence_of_each_source(dataset):
    assert Curated(dataset).licenses == {"boxes": "CC-BY-4.0", "labels": ""}


def test_hugging_face_loads_the_folder_by_its_card(dataset, tmp_path):
    loaded = datasets.load_dataset(str(dataset), cache_dir=str(tmp_path))
    ours = Curated(dataset)
    assert {split: len(part) for split, part in loaded.items()} == {
        "train": len(ours.records("train")),
        "validation": len(ours.records("val")),
    }
    assert loaded["train"][0]["image"].size == (60, 40)
    head, card = (dataset / "README.md").read_text().removeprefix("---\n").split("\n---\n")
    assert YAML(typ="safe").load(head)["license"] == ["cc-by-4.0", "unknown"]
    assert "| labels | unknown |" in card and '| cat \\| "x" \\<b\\>\\\\ |' in card


def test_croissant_validates_and_gives_every_record(dataset):
    mlcroissant = pytest.importorskip("mlcroissant", reason="mlcroissant, of the extra template, is not installed")
    about = mlcroissant.Dataset(dataset / "croissant.json")
    assert about.metadata.conforms_to == ["http://mlcommons.org/croissant/1.1"] and not about.metadata.ctx.issues.errors
    found = {record["images/path"].decode(): record for record in about.records("images")}
    ours = [record for split in ("train", "val") for record in Curated(dataset).records(split)]
    assert found.keys() == {record["image"] for record in ours}
    boxed, labelled = found["boxes/images/0.png"], found["labels/cat/1.png"]
    assert boxed["images/image"].size == (60, 40)
    assert [box["images/boxes/name"].decode() for box in boxed["images/boxes"]] == [HOSTILE]
    assert [name.decode() for name in labelled["images/labels"]] == ["cat"]
    assert [box["images/boxes/name"] for box in labelled["images/boxes"]] == [None]  # unknown, where [] is none


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (["--license", "CC-BY-NC-4.0"], ["CC-BY-NC-4.0 (of source s)"]),
        (["--license", "MIT AND X11"], ["X11 (of source s)"]),
        (["--license", "(MIT OR X11) AND 0BSD"], ["X11 (of source s)", "0BSD (of source s)"]),
        (["--license", "MIT", "--license", "X11"], ["X11 (of source s)"]),  # a list in the entry
        (["--license", "None"], ["unknown (of source s)"]),  # nothing in the entry
        ([], ["unknown (of source s)", "`license` in its entry"]),
    ],
)
def test_a_licence_that_is_not_allowed_is_refused_with_what_to_write(tmp_path, options, parts):
    write_coco(tmp_path / "s", {"a.png": []})
    refused(import_(tmp_path, "s", "coco", *options, "--allow", "MIT"), "licenses.allow in params.yaml lacks", *parts)
    assert not (tmp_path / "imported/s.parquet").exists()


@pytest.mark.parametrize("license", ["mit", "MIT OR GPL-3.0-only", "CC0-1.0 AND (MIT OR X11)"])
def test_a_licence_that_is_allowed_is_not(tmp_path, license):
    write_coco(tmp_path / "s", {"a.png": []})
    allow = [word for each in ("MIT", "0BSD", "CC0-1.0 AND (MIT OR X11)") for word in ("--allow", each)]
    succeeded(import_(tmp_path, "s", "coco", "--license", license, *allow))
    succeeded(import_(tmp_path, "s", "coco", "--allow", "None"))  # nothing in params.yaml
