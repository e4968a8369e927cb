"""Packages work without each other, and an edit makes only those stages due whose results it can change."""

import json
import os
import random
import re
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import networkx
import psutil
import pytest
from dvc.repo import Repo
from ruamel.yaml import YAML

from tests.contract.checkout import PACKAGES
from tests.template.conftest import USUAL, copy_checkout, run_in, succeeded, until


def stages_of(directory: Path) -> dict:
    """The stages of dvc.yaml as DVC resolves them, by their names."""
    return {stage.name: stage for stage in Repo(str(directory)).index.stages if stage.cmd}


def package_of(stage) -> str:
    return re.match(r"python -m (\w+)\.", stage.cmd)[1]


def test_each_package_runs_without_the_others_and_killed_and_run_again_writes_the_same_bytes(project, tmp_path):
    """All but the export, which takes as long as all others: Deployment gets the one that is there."""
    stages, alone = stages_of(project), tmp_path / "alone"
    stages.pop("export@e001")
    copy_checkout(alone)
    kills = {"Data_processing": os.killpg}  # all processes
    if sys.platform == "linux":  # elsewhere a stage outlives its DVC
        kills["Models"] = os.kill  # DVC's alone, which takes its stage along
    for package in ("Data_processing", "Models", "Deployment"):
        if package == "Deployment":  # a bundle holds git's state when its export was made
            shutil.copytree(project / "Datasets/pretrained/e001", alone / "Datasets/pretrained/e001")
        succeeded(run_in(alone, "git", "checkout", "-q", "--", package))
        for other in set(PACKAGES) - {"Datasets", package}:
            shutil.rmtree(alone / other, ignore_errors=True)
        names = [name for name, stage in stages.items() if package_of(stage) == package]
        assert names
        if kill := kills.get(package):
            kill_on_the_way(alone, kill, "dvc", "repro", "--single-item", *names)
        succeeded(run_in(alone, "dvc", "repro", "--single-item", *names, timeout=600))
        written = {out.def_path: content(project / out.def_path) for name in names for out in stages[name].outs}
        assert [path for path, before in written.items() if content(alone / path) != before] == []
    assert YAML(typ="safe").load(alone / "dvc.lock")["stages"].keys() == stages.keys()
    assert list(alone.rglob(".*.partial")) == []


def kill_on_the_way(directory: Path, kill: Callable[[int, int], None], *command: str) -> None:
    """Start DVC, and kill it at a random moment at which a stage runs, for DVC is not safe while it writes dvc.lock."""
    delay = random.uniform(1, 3)
    print(f"{kill.__name__} after {delay:.3f} s")  # pytest shows it if the test fails
    process = psutil.Popen(command, cwd=directory, env=USUAL, start_new_session=True)
    time.sleep(delay)
    until(lambda: process.poll() is not None or process.children())
    assert process.poll() is None, "it ended before it could be killed"
    kill(process.pid, signal.SIGKILL)
    process.wait()
    until(lambda: str(directory) not in [each.info["cwd"] for each in psutil.process_iter(["cwd"])])


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
