"""A curated dataset of coloured shapes, and a model that was trained, evaluated and exported from it."""

import pytest
from shape_scenes import TINY, box, run_stage, write_scenes


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
def outputs(shapes, tmp_path_factory):
    """What train, evaluate and export wrote: in the folders train, evaluate and export."""
    out = tmp_path_factory.mktemp("outputs")
    common = ["--script", "e001_center_detector", "--curated", shapes]
    run_stage("train", *common, "--out", out / "train", *TINY, "--", "--width", "16", home=out)
    trained = ["--trained", out / "train"]
    run_stage("evaluate", *common, *trained, "--out", out / "evaluate", home=out)
    evaluated = ["--evaluated", out / "evaluate"]
    run_stage("export", "--experiment", "e001", *common, *trained, *evaluated, "--out", out / "export", home=out)
    return out
