"""Sources that come from another project's repository, and from a store."""

import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import s3fs
from ruamel.yaml import YAML

from Datasets.format.curated import Curated
from tests.contract.checkout import edit_sources
from tests.template.conftest import AUTHOR, copy_with_results, edit_params, run_in, succeeded
from tests.template.s3_server import KEY, SECRET, serving

SOURCES = {
    "other": {"format": "parquet", "path": "Datasets/raw/other"},
    "photos": {"format": "coco", "path": "Datasets/raw/photos.zip"},
}


def zipped(project: Path, target: Path, scenes: int) -> bytes:
    """A few scenes of the demonstration's source."""
    source = project / "Datasets/raw/digits"
    coco = json.loads((source / "annotations.json").read_text())
    coco["images"] = coco["images"][20 : 20 + scenes]
    kept = {image["id"] for image in coco["images"]}
    coco["annotations"] = [box for box in coco["annotations"] if box["image_id"] in kept]
    for image in coco["images"]:
        (target / "images" / image["file_name"]).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source / "images" / image["file_name"], target / "images" / image["file_name"])
    (target / "annotations.json").write_text(json.dumps(coco))
    return Path(shutil.make_archive(str(target), "zip", target)).read_bytes()


def count(directory: Path, source: str) -> int:
    """How many records a source has."""
    return pq.read_metadata(directory / f"Data_processing/intermediate/imported/{source}.parquet").num_rows


def run(directory: Path, *words: str | Path, **environment: str) -> str:
    return succeeded(run_in(directory, *words, **AUTHOR, **environment)).stdout


def test_another_projects_dataset_and_an_archive_on_s3_are_sources_that_can_be_renewed(project, tmp_path):
    other, ann = (copy_with_results(project, tmp_path / name) for name in ("ein anderes", "Ann"))
    files = ("Datasets/raw/other.dvc", "Datasets/raw/photos.zip.dvc")
    with serving(tmp_path / "s3") as s3:
        store = s3fs.S3FileSystem(key=KEY, secret=SECRET, endpoint_url=s3.url)
        store.pipe_file("bucket/photos.zip", zipped(project, tmp_path / "first", 20))
        run(ann, "dvc", "import", other, "Datasets/curated", "-o", "Datasets/raw/other")
        run(ann, "dvc", "import-url", "s3://bucket/photos.zip", "Datasets/raw/photos.zip", **s3.environment)
        run(ann, "git", "add", *files)
        edit_sources(ann, SOURCES)
        run(ann, "dvc", "repro", "import@other", "import@photos")
        theirs = json.loads((other / "Datasets/curated/metadata.json").read_text())
        assert (count(ann, "other"), count(ann, "photos")) == (len(theirs), 20)
        store.pipe_file("bucket/photos.zip", zipped(project, tmp_path / "second", 30))
        curate_anew(other)
        assert "up to date" in run(ann, "dvc", "repro", "import@other", "import@photos")
        before = revision(ann)
        run(ann, "dvc", "update", *files, **s3.environment)
    assert "Running stage 'import@other'" in run(ann, "dvc", "repro", "curate")
    assert revision(ann) != before
    assert count(ann, "photos") == 30
    assert {record["source"] for record in Curated(ann / "Datasets/curated").records("train")} == {"other", "photos"}


def curate_anew(other: Path) -> None:
    """Another version of their dataset, committed."""
    edit_params(other, lambda params: params["curate"].update(seed=1))
    run(other, "dvc", "repro", "curate")
    run(other, "git", "commit", "-qam", "Split anew")
    run(other, "dvc", "push", "curate")


def revision(ann: Path) -> str:
    """The commit that the other dataset came from."""
    return YAML(typ="safe").load(ann / "Datasets/raw/other.dvc")["deps"][0]["repo"]["rev_lock"]
