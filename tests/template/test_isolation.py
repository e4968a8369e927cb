"""Packages work without each other, and an edit makes only those stages due whose results it can change."""

import json
import re
import shutil
from pathlib import Path

import networkx
import pytest
from dvc.repo import Repo

from tests.contract.checkout import PACKAGES
from tests.template.conftest import run_in, succeeded


def stages_of(directory: Path) -> dict:
    """The stages of dvc.yaml as DVC resolves them, by their names."""
    return {stage.name: stage for stage in Repo(str(directory)).index.stages if stage.cmd}


def package_of(stage) -> str:
    return re.match(r"python -m (\w+)\.", stage.cmd)[1]


@pytest.mark.parametrize("package", ["Data_processing", "Models", "Deployment"])
def test_the_stages_of_a_package_run_without_the_others_and_write_the_same_bytes(project, package, tmp_path):
    stages, alone = stages_of(project), tmp_path / "alone"
    shutil.copytree(project, alone, symlinks=True)
    for other in set(PACKAGES) - {"Datasets", package}:
        shutil.rmtree(alone / other)
    names = [name for name, stage in stages.items() if package_of(stage) == package]
    ran = succeeded(run_in(alone, "dvc", "repro", "--single-item", "--force", *names)).stdout
    assert sorted(re.findall(r"Running stage '(.*)'", ran)) == sorted(names) != []
    written = {out.def_path: content(project / out.def_path) for name in names for out in stages[name].outs}
    assert [path for path, before in written.items() if content(alone / path) != before] == []


def content(path: Path) -> dict[str, object]:
    """What a file holds, or those in a directory by name; of a manifest all but git's state, of latencies nothing."""
    files = {str(file.relative_to(path)): file for file in [path, *path.rglob("*")] if file.is_file()}
    found = {name: file.read_bytes() for name, file in files.items() if not file.name.endswith("verification.json")}
    if "manifest.json" in found:
        found["manifest.json"] = json.loads(found["manifest.json"]) | {"git": None}
    return found


@pytest.fixture(scope="module")
def copy(project, tmp_path_factory) -> Path:
    """A copy of the small project, to edit code in."""
    return Path(shutil.copytree(project, tmp_path_factory.mktemp("edited") / "copy", symlinks=True))


def due_after(copy: Path, *files: str) -> set[str]:
    """The stages that DVC calls changed after an edit of these files, which is taken back."""
    before = {copy / file: (copy / file).read_bytes() for file in files}
    for path in before:
        with path.open("a", encoding="utf-8") as file:
            file.write("# edited\n")
    try:
        return {name.rpartition(":")[2] for name in Repo(str(copy)).status()}
    finally:
        for path, data in before.items():
            path.write_bytes(data)


def followers(copy: Path, stage: str) -> set[str]:
    """The stages that use what a stage makes, directly or not."""
    graph = Repo(str(copy)).index.graph
    (node,) = [each for each in graph if each.cmd and each.name == stage]
    return {each.name for each in networkx.ancestors(graph, node)}


def test_an_edit_of_messages_progress_and_errors_makes_no_stage_due(copy):
    code = [path.relative_to(copy).as_posix() for path in (copy / "Datasets/tools").rglob("*.py")]
    assert len(code) > 4
    assert due_after(copy, *code) == set()


def test_an_edit_of_a_cleaning_rule_makes_clean_due_and_no_import(copy):
    after = followers(copy, "clean")
    assert "clean" in (due := due_after(copy, "Data_processing/cleaning/rules.py")) and due <= {"clean"} | after
    assert {"curate", "report", "train@e001", "verify@e001"} <= after
    assert not {"digits", "import@digits", "inspect@digits"} & after


def test_an_edit_of_the_service_makes_only_package_and_verify_due(copy):
    assert due_after(copy, "Deployment/service/artifact.py") == {"package@e001", "verify@e001"}


def test_other_versions_of_packages_make_bundles_due(copy):
    assert due_after(copy, "constraints.txt") == {"package@e001"}
