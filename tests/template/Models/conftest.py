"""A curated dataset of coloured shapes, and a model that was trained, evaluated and exported from it."""

import pytest
from filelock import FileLock

from tests.template.Models.shape_scenes import TINY, box, run_stage, write_scenes


def unusual(split, number, record, files):
    """One image of each split is empty, one not annotated, and one has a crowd."""
    if number == 1:
        record["boxes"] = []
    elif number == 2:
        record["boxes"] = record["mask"] = None
    elif number == 3:
        record["boxes"].append(box("disc", 40, 0, 64, 48, crowd=True))


@pytest.fixture(scope="session")
def shapes(tmp_path_factory):
    counts = {"train": 60, "val": 12, "test": 12}
    return write_scenes(tmp_path_factory.mktemp("shapes") / "curated", counts, change=unusual)


@pytest.fixture(scope="session")
def outputs(shapes, tmp_path_factory, worker_id):
    """What train, evaluate and export wrote: in the folders train, evaluate and export.

    The processes of pytest-xdist share it: the first makes it, the others wait. No test changes it.
    """
    base = tmp_path_factory.getbasetemp()
    out = (base if worker_id == "master" else base.parent) / "outputs"
    with FileLock(f"{out}.lock"):
        if not (out / "export/manifest.json").exists():
            write_outputs(shapes, out)
    return out


def write_outputs(shapes, out):
    """Train, evaluate and export."""
    script, curated, trained = ["--script", "e001_center_detector"], ["--curated", shapes], ["--trained", out / "train"]
    run_stage("train", *script, *curated, "--out", out / "train", *TINY, "--", "--width", "16", home=out)
    run_stage("evaluate", *curated, *trained, home=out)
    served = ["--precisions", "int8", "--precisions", "fp16", "--max_loss", "1"]
    run_stage("export", "--experiment", "e001", *curated, *trained, "--out", out / "export", *served, home=out)
