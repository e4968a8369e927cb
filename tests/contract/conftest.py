"""A copy of this project with a small made dataset, curated once and taken to a verified service once."""

from pathlib import Path

import pytest
from dvc.repo import Repo
from filelock import FileLock

from tests.contract.checkout import EXPERIMENTS, copy_checkout, edit_sources, run_in, succeeded
from tests.contract.shapes import write_shapes


def use_shapes(params: dict) -> None:
    """Parameters that fit the made dataset, and with which each experiment trains for some seconds."""
    params["work"] = {"engine": "local"}
    params["licenses"] = {"allow": []}  # the made dataset has none
    params["clean"] = {"keep": ["disc", "square"]}
    params["curate"] = {"near_duplicate_bits": 24, "train": 0.6, "val": 0.2, "test": 0.2, "draw_masks": True}
    for experiment in (params["experiments"] or {}).values():
        experiment["init"] = "random"
        train = experiment["train"]
        for name in ("device", "precision", "processes"):
            train.pop(name, None)
        train.update(size=min(train["size"], 96), epochs=10, batch=8, threads=1)


def own_rule(name: str) -> bool:
    """Whether a file is one of the team's cleaning rules, which may reject the made dataset."""
    return name.startswith("Data_processing/own_rules/") and Path(name).name != "__init__.py"


@pytest.fixture(scope="session")
def shared(tmp_path_factory, worker_id) -> Path:
    """A directory that all processes of pytest-xdist share."""
    base = tmp_path_factory.getbasetemp()
    return base if worker_id == "master" else base.parent


@pytest.fixture(scope="session")
def curated_project(shared: Path) -> Path:
    """A copy of this project in which the made dataset was added and curated. No test changes it."""
    directory = shared / "shapes project"
    with FileLock(shared / "shapes.lock"):
        if not (directory / "dvc.lock").exists():
            copy_checkout(directory, use_shapes, own_rule)
            edit_sources(directory, {})
            source = write_shapes(shared / "shapes")
            succeeded(run_in(directory, "python", "-m", "Data_processing.add_source", "shapes", source))
            succeeded(run_in(directory, "dvc", "repro", "report"))
    return directory


@pytest.fixture(scope="session")
def project(curated_project: Path, shared: Path) -> Path:
    """The same with the first experiment trained, exported, packaged and verified. No test changes it."""
    if not EXPERIMENTS:
        pytest.skip("params.yaml has no experiment")
    with FileLock(shared / "shapes.lock"):
        if not (curated_project / f"Deployment/bundles/{EXPERIMENTS[0]}.verification.json").exists():
            succeeded(run_in(curated_project, "dvc", "repro", f"verify@{EXPERIMENTS[0]}"))
    return curated_project


@pytest.fixture(scope="session")
def stages(tmp_path_factory) -> dict:
    """The stages of dvc.yaml as DVC resolves them with the made dataset, by their names."""
    directory = tmp_path_factory.mktemp("stages") / "copy"
    copy_checkout(directory, use_shapes)
    edit_sources(directory, {"shapes": {"format": "coco", "path": "Datasets/raw/shapes"}})
    succeeded(run_in(directory, "dvc", "init", "-q", "-f"))
    return {stage.name: stage for stage in Repo(str(directory)).index.stages if stage.cmd}
