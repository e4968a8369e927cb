"""The walls between the four rooms: in imports, in what stages read and write, and in what a room can do alone."""

import json
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
from dvc.repo import Repo
from ruamel.yaml import YAML

from Datasets.format import import_closure as imports
from tests.template.conftest import ROOT, run_in, succeeded

ROOMS = ("Datasets", "Data_processing", "Models", "Deployment")
READS = {
    "Data_processing": ("Datasets/raw", "Data_processing/intermediate", "Datasets/curated"),
    "Models": ("Datasets/curated", "Datasets/pretrained", "Models/outputs"),
    "Deployment": ("Datasets/pretrained", "Datasets/curated", "Deployment/bundles"),
}
WRITES = {
    "Data_processing": (
        "Datasets/raw/digits",
        "Data_processing/intermediate",
        "Data_processing/report.html",
        "Datasets/curated",
    ),
    "Models": ("Datasets/pretrained", "Models/outputs"),
    "Deployment": ("Deployment/bundles",),
}


@pytest.fixture(scope="module")
def stages() -> dict:
    """The stages of this project."""
    return stages_of(ROOT)


def stages_of(directory: Path) -> dict:
    """The stages of dvc.yaml as DVC resolves them, by their names."""
    return {stage.name: stage for stage in Repo(str(directory)).index.stages if stage.cmd}


def entry_files(command: str) -> list[Path]:
    """The files that a stage's command runs: its module, and those that it finds by name at run time."""
    module = re.match(r"python -m (\S+)", command)
    files = [Path(*module[1].split(".")).with_suffix(".py")]
    if script := re.search(r"--script (\S+)", command):
        files.append(Path("Models", f"{script[1]}.py"))
    if module[1] == "Data_processing.import_source":
        form = re.search(r"--format (\S+)", command)
        files.append(Path("Data_processing/readers", f"{form[1]}.py"))
    if module[1] == "Deployment.package":
        files += [Path("Deployment/serve.py"), Path("Deployment/service/worker.py")]  # what it copies
    return files


def room_of(stage) -> str:
    return re.match(r"python -m (\w+)\.", stage.cmd)[1]


def test_the_dependencies_of_each_stage_are_its_import_closure(stages, monkeypatch):
    monkeypatch.setattr(imports, "imported_modules", cache(imports.imported_modules))  # each file is read once
    wrong = []
    for name, stage in stages.items():
        files = imports.import_closure(entry_files(stage.cmd), ROOT)
        closure = {path.as_posix() for path in files if path.name != "__init__.py"}
        listed = {dep.def_path for dep in stage.deps if dep.def_path.endswith(".py")}
        wrong += [f"{name}: add {path}" for path in sorted(closure - listed)]
        wrong += [f"{name}: remove {path}" for path in sorted(listed - closure - shared_by_importers(name))]
    assert not wrong, "\n".join(wrong)


def shared_by_importers(stage: str) -> set[str]:
    """What some importers import and others not: import@ lists it for every format."""
    importers = {path.relative_to(ROOT) for path in (ROOT / "Data_processing/readers").glob("*.py")}
    shared = set(imports.import_closure(sorted(importers), ROOT)) - importers
    return {path.as_posix() for path in shared} if stage.startswith("import@") else set()


def test_bundles_are_made_anew_when_other_versions_of_packages_are_chosen():
    stages = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]  # as written, for a project may have no experiment yet
    assert "constraints.txt" in stages["package"]["do"]["deps"]  # requirements.txt names what was installed by it


def test_packages_have_empty_init_files():
    assert [str(path) for room in ROOMS for path in (ROOT / room).rglob("__init__.py") if path.read_text()] == []


def test_stages_read_and_write_only_what_their_room_may(stages):
    wrong = []
    for name, stage in stages.items():
        room = room_of(stage)
        for dep in stage.deps:
            code = re.match(rf"({room}|Datasets)/([^/]+/)?([^/]+\.(py|npz|html)|container_files/[^/]+)$", dep.def_path)
            if not code and not dep.def_path.startswith((*READS[room], "constraints.txt")):
                wrong.append(f"{name} reads {dep.def_path}")
        wrong += [f"{name} writes {out.def_path}" for out in stage.outs if not out.def_path.startswith(WRITES[room])]
    assert not wrong, "\n".join(wrong)


def test_imports_keep_the_walls():
    succeeded(run_in(ROOT, "lint-imports", "--no-cache"))


def test_a_forbidden_import_is_found(tmp_path):
    for room in ROOMS:
        shutil.copytree(ROOT / room, tmp_path / room, ignore=shutil.ignore_patterns("[!_a-zA-Z]*", "raw", "outputs"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / "Models/peek.py").write_text("import Data_processing.clean\n")
    result = run_in(tmp_path, "lint-imports", "--no-cache")
    assert result.returncode == 1
    assert "Models.peek" in result.stdout


@pytest.mark.parametrize("room", ["Data_processing", "Models", "Deployment"])
def test_a_rooms_stages_run_without_the_other_rooms_and_write_the_same_bytes(project, room, tmp_path):
    stages, alone = stages_of(project), tmp_path / "alone"
    shutil.copytree(project, alone, symlinks=True)
    for other in set(ROOMS) - {"Datasets", room}:
        shutil.rmtree(alone / other)
    names = [name for name, stage in stages.items() if room_of(stage) == room]
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


@pytest.mark.parametrize(
    ("module", "forbidden"),
    [
        ("Datasets.format.records", ["torch", "dvc"]),
        ("Deployment.serve", ["torch", "dvc", "pandas", "pyarrow"]),
        ("Data_processing.clean", ["torch", "dvc"]),
        ("Models.train", ["torch", "dvc", "pandas", "pyarrow"]),
    ],
)
def test_costly_libraries_are_imported_only_where_they_are_used(module, forbidden):
    code = f"import sys, {module}; print([m for m in {forbidden} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True).stdout == "[]\n"
