"""Nothing large is in git, and nothing that lies among the data is in neither git nor DVC."""

import shutil
from pathlib import Path

from dvc.repo import Repo

from tests.template.conftest import ROOT, run_in, succeeded

LARGEST = 500_000  # bytes of a file in git
DATA = ("Datasets/raw", "Datasets/curated", "Datasets/pretrained")


def in_git(directory: Path) -> set[Path]:
    listed = succeeded(run_in(directory, "git", "ls-files", "-z")).stdout.split("\0")
    return {directory / name for name in listed if name}


def in_neither(directory: Path) -> list[str]:
    """What lies among the data and is in neither git nor DVC; leftovers of interrupted commands are not counted."""
    outs, ours = [Path(out.fs_path) for out in Repo(str(directory)).index.outs], in_git(directory)
    files = [f for name in DATA for f in (directory / name).rglob("*") if f.is_file() and not f.match(".*.partial")]
    lost = [file for file in files if file not in ours and not any(file.is_relative_to(out) for out in outs)]
    return sorted(str(file.relative_to(directory)) for file in lost)


def test_git_has_no_large_file():
    files = [file for file in in_git(ROOT) if file.is_file()]
    assert len(files) > 100
    assert [str(file) for file in files if file.stat().st_size > LARGEST] == []


def test_all_data_is_versioned(project, tmp_path):
    assert in_neither(ROOT) == in_neither(project) == []
    copy = shutil.copytree(project, tmp_path / "copy", symlinks=True)
    for name in ("raw/loose.jpg", "pretrained/other/weights.safetensors"):
        (copy / "Datasets" / name).parent.mkdir(exist_ok=True)
        (copy / "Datasets" / name).write_text("lost, if this machine is")
    assert in_neither(copy) == ["Datasets/pretrained/other/weights.safetensors", "Datasets/raw/loose.jpg"]
