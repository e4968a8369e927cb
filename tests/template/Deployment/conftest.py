"""A small export, its bundle, and a small curated dataset."""

import shutil
from pathlib import Path

import pytest

from tests.template.Deployment.made_export import write_export, write_scenes
from tests.template.Deployment.running_service import command


@pytest.fixture(scope="session")
def pristine_export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export that nobody may change."""
    export = tmp_path_factory.mktemp("pristine") / "e900"
    write_export(export)
    return export


@pytest.fixture(scope="session")
def exports(pristine_export: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """By task an export that nobody may change."""
    made = {"boxes": pristine_export}
    for number, task in enumerate(("mask", "labels", "counts"), 901):
        made[task] = tmp_path_factory.mktemp("made") / f"e{number}"
        write_export(made[task], task)
    return made


@pytest.fixture
def export(pristine_export: Path, tmp_path: Path) -> Path:
    """An export to change at will."""
    return Path(shutil.copytree(pristine_export, tmp_path / "e900"))


@pytest.fixture(scope="session")
def pristine_bundle(pristine_export: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that nobody may change."""
    bundle = tmp_path_factory.mktemp("bundles") / "e900"
    assert command("Deployment.package", "--export", pristine_export, "--out", bundle).returncode == 0
    return bundle


@pytest.fixture
def bundle(pristine_bundle: Path, tmp_path: Path) -> Path:
    """A bundle to change at will."""
    return Path(shutil.copytree(pristine_bundle, tmp_path / "bundle"))


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A curated dataset of coloured rectangles on which the export makes no mistake, three images in each split."""
    directory = tmp_path_factory.mktemp("scenes")
    write_scenes(directory)
    return directory
