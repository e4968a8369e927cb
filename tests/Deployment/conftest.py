"""A small export and its bundle."""

import shutil
from pathlib import Path

import pytest
from made_export import write_export
from running_service import command


@pytest.fixture(scope="session")
def pristine_export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export that nobody may change."""
    export = tmp_path_factory.mktemp("pristine") / "e900"
    write_export(export)
    return export


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
