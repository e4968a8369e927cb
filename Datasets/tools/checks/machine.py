"""Does something run that should not, and are the versions those that the tests ran with?"""

import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import distributions
from pathlib import Path
from re import match, sub
from typing import Any

from Datasets.tools.checks.finding import Finding, some

INSTALL = "python -m pip install --constraint constraints.txt"


def check_processes(root: Path) -> Iterator[Finding]:
    """No stage runs on whose `dvc` has ended: it would write where the next run does."""
    import psutil

    for process in psutil.process_iter():
        try:
            alone = _is_stage(process, root) and not _has_dvc(process)
            if alone:
                name = process.environ()["DVC_STAGE"]
                what = f"process {process.pid}: stage {name} runs on, although the dvc that started it has ended"
                yield Finding(what, f"kill {process.pid}")
        except psutil.Error:
            continue


def _is_stage(process: Any, root: Path) -> bool:
    environment = process.environ()
    return "DVC_STAGE" in environment and environment.get("DVC_ROOT") == str(root) and process.status() != "zombie"


def _has_dvc(process: Any) -> bool:
    """Whether one of its ancestors is no part of the stage, and not what orphans are given to."""
    parent = process.parent()
    if parent is None or parent.pid == 1:
        return False
    if "DVC_STAGE" in parent.environ():
        return True  # a worker of the stage, or the stage's own: the uppermost is told
    return any("dvc" in word for word in parent.cmdline())


def check_queue(repo: Any) -> Iterator[Finding]:
    """Queued experiments have a worker."""
    temporary = Path(repo.tmp_dir or "", "exps")
    if not temporary.is_dir():
        return
    queue = repo.experiments.celery_queue
    waiting, active = len(list(queue.iter_queued())), len(list(queue.iter_active()))
    working = bool(queue.worker_status()) if waiting or active else False
    if (waiting or active) and not working:
        what = f"queue: {waiting} experiments wait and {active} are said to run, but no worker does"
        yield Finding(what, "dvc queue start, or dvc queue remove --all")


def check_versions(root: Path) -> Iterator[Finding]:
    """What is installed is what constraints.txt says, and nothing that data work needs is missing."""
    from packaging.specifiers import SpecifierSet

    installed = {_same(found.name): found.version for found in distributions() if found.name}
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = [_same(match(r"[\w.-]+", each)[0]) for each in project["dependencies"]]  # type: ignore[index]
    if missing := [name for name in needed if name not in installed]:
        yield Finding(f"{some(missing)}: not installed", f"{INSTALL} .")
    pins = [line.partition("==") for line in (root / "constraints.txt").read_text().splitlines() if "==" in line]
    other = [
        f"{name} {installed[_same(name)]} instead of {pin}"
        for name, _, pin in pins
        if installed.get(_same(name), pin).partition("+")[0] != pin.partition("+")[0]
    ]
    if other:
        yield Finding(f"{some(other)}: not the versions that the tests ran with", f"{INSTALL} '.[train,serve,dev]'")
    wanted, python = project.get("requires-python", ""), sys.version.split()[0]
    if not SpecifierSet(wanted).contains(python, prereleases=True):
        yield Finding(f"Python {python}: not {wanted}, which pyproject.toml wants", "make test PYTHON=PATH")


def _same(name: str) -> str:
    return sub(r"[-_.]+", "-", name).lower()
