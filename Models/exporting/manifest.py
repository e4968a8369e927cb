"""The manifest of an export: what it is, and the commit, the data and the weights that it was made from."""

import hashlib
import re
import subprocess
import tomllib
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from Datasets.format.curated import Curated
from Datasets.format.images import FILL
from Datasets.tools.errors import one_line
from Models.learning.scripts import ROOT, load_script
from Models.learning.weights import Run

FORMAT_VERSION = 1
INPUT = {"resize": "letterbox", "fill": FILL, "color": "RGB", "layout": "NCHW", "dtype": "uint8"}
CODE = re.compile(r"Models/|Deployment/|Datasets/(format|pretrained)\b|Data_processing/(?!intermediate/)|.*\.py$")


def describe(
    experiment: str, done: Run, metrics: dict[str, Any], curated: Curated, git: dict[str, Any]
) -> dict[str, Any]:
    """The manifest, except for what is known only once the files exist. git: as of git_state."""
    before = beginnings(done.init)
    own_groups = hasattr(load_script(done.script), "parameter_groups")
    unused = {"seed", *(["init_rate", "weight_decay"] if own_groups else [])}
    return {
        "format_version": FORMAT_VERSION,
        "project": project_name(ROOT),
        "experiment": experiment,
        "task": done.task,
        "classes": done.classes,
        "input": {"size": done.train["size"], **INPUT, "range": curated.value_range},
        "score_threshold": metrics["score_threshold"],
        "script": {"module": f"Models.{done.script}", "build": {"classes": len(done.classes), **done.build}},
        "hyperparameters": {name: value for name, value in done.train.items() if name not in unused},
        "seed": done.train["seed"],
        "init": done.init,
        "pretrained": next((each["card"] for each in before if "card" in each), None),
        "metrics": metrics,
        "data": data_hashes(ROOT, experiment),
        "curated_fingerprint": done.data,
        "versions": {**done.versions, **{name: version(name) for name in ("onnx", "onnxruntime")}},
        "git": git,
        "sources": {name: of for init in before for name, of in init.get("sources", {}).items()} | curated.licenses,
    }


def beginnings(init: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    """The weights that a model began with, those that these began with, and so on."""
    return [init, *beginnings(init.get("init"))] if init else []


def project_name(root: Path) -> str:
    """As the team named the project when it was made from the template; else as pyproject.toml does."""
    answers = root / ".copier-answers.yml"
    named = YAML(typ="safe").load(answers).get("name") if answers.exists() else None
    return one_line(named or tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["project"]["name"])


def git_state(root: Path, scripts: Sequence[Path]) -> dict[str, Any]:
    """commit: the last one, None without git. dirty: whether tracked files or `scripts` differ from it.

    diff: of `scripts` that git has. dvc.lock does not count: the run that makes an export writes it.
    """
    files = [file.as_posix() for file in scripts]

    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=root, capture_output=True, check=True)
        return done.stdout.decode("utf-8", errors="replace")

    try:
        commit = git("rev-parse", "--verify", "HEAD").strip()
    except (OSError, subprocess.CalledProcessError):
        return {"commit": None, "dirty": True, "diff": ""}
    changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", ":(exclude)dvc.lock")
    untracked = git("ls-files", "--others", "--", *files)
    diff = git("diff", "--no-ext-diff", "--no-color", "--relative", "HEAD", "--", *files)
    return {"commit": commit, "dirty": bool(changed or untracked), "diff": diff}


def data_hashes(root: Path, experiment: str) -> dict[str, str]:
    """The md5 by path, from dvc.lock, of the data an experiment was trained on and of all that it was made from.

    Only of stages that come before its training: the lock still has what others read in the run before. Empty where DVC
    has not run the training.
    """
    lock = root / "dvc.lock"
    stages = YAML(typ="safe").load(lock)["stages"] if lock.exists() else {}

    def data(stage: dict[str, Any], *kinds: str) -> dict[str, str]:
        """Without code and weights."""
        listed = [each for kind in kinds for each in stage.get(kind, []) if not CODE.match(each["path"])]
        return {each["path"]: each["md5"] for each in listed if "md5" in each}

    found = data(stages.get(f"train@{experiment}", {}), "deps")
    known = 0
    while known < len(found):
        known = len(found)
        for stage in stages.values():
            if data(stage, "outs").keys() & found.keys():
                found = data(stage, "outs", "deps") | found
    return dict(sorted(found.items()))


def file_hashes(directory: Path) -> dict[str, str]:
    """sha256 of every file in `directory` but manifest.json, by its path in it."""
    files = sorted(path for path in directory.rglob("*") if path.is_file() and path != directory / "manifest.json")
    return {path.relative_to(directory).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
