"""Versions and stages of bundles, as git tags: promote, fetch, serve, roll back."""

import json
import shutil
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from Deployment.package import seal
from tests.template.conftest import AUTHOR, DEMONSTRATION, run_in, succeeded
from tests.template.Deployment.made_export import write_manifest
from tests.template.Deployment.running_service import ROOT, command, serving

DVC_YAML = YAML(typ="safe").load(DEMONSTRATION["dvc.yaml"])


def test_every_experiment_has_a_bundle_and_an_export_in_the_registry() -> None:
    experiments = YAML(typ="safe").load(ROOT / "params.yaml")["experiments"]
    artifacts = YAML(typ="safe").load(ROOT / "dvc.yaml")["artifacts"]
    paths = {name: artifact["path"] for name, artifact in artifacts.items()}
    expected = {name: f"Deployment/bundles/{name}" for name in experiments}
    expected |= {f"{name}-export": f"Datasets/pretrained/{name}" for name in experiments}
    assert paths == expected, "name each experiment's bundle and export under `artifacts` in dvc.yaml"


@pytest.fixture
def team(bundle: Path, tmp_path: Path) -> Path:
    """A git repository with two commits, a bundle in each: what the artifact e001 was then."""
    repository = tmp_path / "team"
    place = repository / DVC_YAML["artifacts"]["e001"]["path"]
    place.parent.mkdir(parents=True)
    run(repository, "git", "init", "-q")
    run(repository, "dvc", "init", "-q")
    YAML().dump({"artifacts": {"e001": DVC_YAML["artifacts"]["e001"]}}, repository / "dvc.yaml")
    for commit in ("first", "second"):
        write_manifest(bundle / "export", git={"commit": commit})
        seal(bundle, "e900")
        shutil.copytree(bundle, place, dirs_exist_ok=True)
        run(repository, "dvc", "add", "-q", place)
        run(repository, "git", "add", "-A")
        run(repository, "git", "commit", "-qm", commit)
    return repository


def run(directory: Path, *words: object, hour: int = 1) -> str:
    """Run a command, as if at this hour of a day: the registry orders tags by their second."""
    date = {"GIT_COMMITTER_DATE": f"2026-01-01T{hour:02d}:00:00+0000"}
    return succeeded(run_in(directory, *map(str, words), **AUTHOR | date)).stdout


def commit_that_serves(team: Path, directory: Path) -> str:
    """Fetch what is in production, start it, and ask it."""
    shutil.rmtree(directory / "served", ignore_errors=True)
    run(directory, "dvc", "artifacts", "get", team, "e001", "--stage", "prod", "-o", "served")
    with serving(".", cwd=directory / "served") as service:
        return service.request("GET", "/manifest")[1]["git"]["commit"]


def test_promote_fetch_serve_and_roll_back(team: Path, tmp_path: Path) -> None:
    run(team, "gto", "register", "e001", "HEAD~1", "--version", "v1.0.0")
    run(team, "gto", "register", "e001", "--version", "v1.1.0")
    steps = (("v1.0.0", "first", ()), ("v1.1.0", "second", ()), ("v1.0.0", "first", ("--force",)))
    for hour, (version, commit, force) in enumerate(steps, 2):
        run(team, "gto", "assign", "e001", "--version", version, "--stage", "prod", *force, hour=hour)
        assert json.loads(run(team, "gto", "show", "e001#prod", "--json"))[0]["version"] == version
        assert commit_that_serves(team, tmp_path) == commit


def test_a_version_is_fetched_by_its_name(team: Path, tmp_path: Path) -> None:
    run(team, "gto", "register", "e001", "HEAD~1", "--version", "v1.0.0")
    run(tmp_path, "dvc", "artifacts", "get", team, "e001", "--rev", "v1.0.0", "-o", "old")
    assert json.loads((tmp_path / "old/export/manifest.json").read_text())["git"]["commit"] == "first"
    succeeded(command("Deployment.serve", "--help", cwd=tmp_path / "old"))
