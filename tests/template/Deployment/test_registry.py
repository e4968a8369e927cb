"""Versions and stages of bundles, as git tags: promote, fetch, serve, roll back."""

import shutil
from pathlib import Path

import pytest

from Deployment.package import seal
from tests.template.conftest import AUTHOR, run_in, succeeded
from tests.template.Deployment.made_export import write_manifest
from tests.template.Deployment.running_service import serving

BUNDLE = Path("Deployment/bundles/e001")


@pytest.fixture
def team(bundle: Path, tmp_path: Path) -> Path:
    """A git repository with two commits, each with its own bundle of e001."""
    repository = tmp_path / "team"
    (repository / BUNDLE).parent.mkdir(parents=True)
    run(repository, "git", "init", "-q")
    run(repository, "dvc", "init", "-q")
    for commit in ("first", "second"):
        write_manifest(bundle / "export", git={"commit": commit})
        seal(bundle, "e900")
        shutil.copytree(bundle, repository / BUNDLE, dirs_exist_ok=True)
        run(repository, "dvc", "add", "-q", BUNDLE)
        run(repository, "git", "add", "-A")
        run(repository, "git", "commit", "-qm", commit)
    return repository


def run(directory: Path, *words: object, hour: int = 1) -> str:
    """Run a command, as if at this hour of a day: gto orders tags by their second."""
    date = {"GIT_COMMITTER_DATE": f"2026-01-01T{hour:02d}:00:00+0000"}
    return succeeded(run_in(directory, *map(str, words), **AUTHOR | date)).stdout


def test_promote_fetch_serve_and_roll_back(team: Path, tmp_path: Path) -> None:
    run(team, "gto", "register", "e001", "HEAD~1", "--version", "v1.0.0")
    run(team, "gto", "register", "e001", "--version", "v1.1.0")
    steps = (("v1.0.0", "first", ()), ("v1.1.0", "second", ()), ("v1.0.0", "first", ("--force",)))
    for hour, (version, commit, force) in enumerate(steps, 2):
        run(team, "gto", "assign", "e001", "--version", version, "--stage", "prod", *force, hour=hour)
        tag = run(tmp_path, "gto", "show", "--repo", team, "e001#prod", "--ref").strip()
        assert tag == f"e001@{version}"
        shutil.rmtree(tmp_path / "served", ignore_errors=True)
        run(tmp_path, "dvc", "get", team, BUNDLE, "--rev", tag, "-o", "served")
        with serving(".", cwd=tmp_path / "served") as service:
            assert service.request("GET", "/manifest")[1]["git"]["commit"] == commit
