"""Where an export comes from: commit, data, and the hashes of its files."""

import difflib
import hashlib
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML


def git_state(root: Path, scripts: Sequence[Path]) -> dict[str, Any]:
    """commit: the last one, None without git. dirty: whether tracked files or `scripts` differ from it.

    diff: of `scripts` against the commit. dvc.lock does not count: the run that makes an export writes it.
    """
    commit = _git(root, "rev-parse", "--verify", "HEAD")
    if commit is None:
        return {"commit": None, "dirty": True, "diff": ""}
    changed = _git(root, "status", "--porcelain", "--untracked-files=no", "--", ".", ":(exclude)dvc.lock")
    diff = "".join(_difference(root, file.as_posix()) for file in scripts)
    return {"commit": commit.strip(), "dirty": bool(changed or diff), "diff": diff}


def _difference(root: Path, file: str) -> str:
    old = (_git(root, "show", f"HEAD:./{file}") or "").splitlines(keepends=True)
    new = (root / file).read_bytes().decode("utf-8").splitlines(keepends=True)  # as bytes, so that line ends stay
    return "".join(difflib.unified_diff(old, new, f"a/{file}", f"b/{file}"))


def _git(root: Path, *words: str) -> str | None:
    try:
        done = subprocess.run(["git", *words], cwd=root, capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.decode("utf-8", errors="replace")


def data_hashes(root: Path, experiment: str) -> dict[str, str]:
    """The md5 by path, from dvc.lock, of the data that an experiment was trained on and of all that it was made of.

    Only of the stages that come before its training: of others dvc.lock still has what they read in the run before.
    Empty where DVC has not run the training.
    """
    try:
        lock = YAML(typ="safe").load((root / "dvc.lock").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    stages = lock.get("stages") or {}
    waiting = _data(stages.get(f"train@{experiment}", {}).get("deps", []))
    found: dict[str, str] = {}
    while waiting:
        path, md5 = waiting.popitem()
        found[path] = md5
        for stage in stages.values():
            deps, outs = stage.get("deps", []), stage.get("outs", [])
            if any(_overlap(out["path"], path) for out in outs):
                waiting |= {name: value for name, value in _data([*deps, *outs]).items() if name not in found}
    return dict(sorted(found.items()))


def _overlap(one: str, other: str) -> bool:
    """Whether one path is the other, or inside it."""
    return f"{one}/".startswith(f"{other}/") or f"{other}/".startswith(f"{one}/")


def _data(entries: Sequence[dict[str, Any]]) -> dict[str, str]:
    """The md5 by path of those entries that are neither code nor made of curated data."""
    beyond = ("Models/", "Deployment/", "Datasets/pretrained")
    data = [entry for entry in entries if "md5" in entry and not entry["path"].endswith(".py")]
    return {entry["path"]: entry["md5"] for entry in data if not entry["path"].startswith(beyond)}


def file_hashes(directory: Path) -> dict[str, str]:
    """sha256 of every file in `directory` but manifest.json, by its path in it."""
    files = sorted(path for path in directory.rglob("*") if path.is_file() and path != directory / "manifest.json")
    return {path.relative_to(directory).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
