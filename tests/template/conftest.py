"""What many tests use: the checkout, commands run as a user runs them, and a small project that was reproduced once."""

import os
import shutil
import signal
import struct
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from filelock import FileLock
from hypothesis import settings

from tests.contract import checkout
from tests.contract.checkout import AUTHOR, ROOT, Result, edit_params, environment, succeeded
from tests.template import forked
from tests.template.forked import USUAL

__all__ = ["AUTHOR", "ROOT", "USUAL", "Result", "edit_params", "environment", "succeeded"]  # for the tests
os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # before torch is imported, as Models/train.py does
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # each command would compile what it imports
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it, and so would children
settings.register_profile("without deadline", deadline=None)  # a busy machine is no failure
settings.load_profile("without deadline")


def pytest_configure() -> None:
    """Have commands, those of tests/contract too, start in no time, and stages start no processes in turn."""
    checkout.QUICK.update(forked.quick())


def run_in(directory: Path, *command: str | Path, timeout: float = 300, **changes: str) -> Result:
    """Run a command in a directory as tests/contract does, forked from a process with its libraries where it can be."""
    words = [str(word) for word in command]
    if module := forked.module_of(words):
        return forked.run(*module, directory, environment(**changes), timeout)
    return checkout.run_in(directory, *words, timeout=timeout, **changes)


def stage(module: str, *options: str | Path, cwd: Path = ROOT) -> Result:
    """Run `python -m MODULE OPTIONS`."""
    return run_in(cwd, "python", "-m", module, *options)


def refused(result: Result, *parts: str) -> str:
    """The one line on stderr of a command that refused bad input; it has all of `parts`."""
    lines = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert result.returncode == 1, result.stdout + result.stderr
    assert "Traceback" not in result.stderr
    assert len(lines) == 1, result.stderr
    for part in parts:
        assert part in lines[0]
    return lines[0]


def until(condition: Callable[[], Any], seconds: float = 60) -> None:
    """Wait for something to hold; it fails the test if it does not after so many seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} seconds"
        time.sleep(0.005)


def has_ended(process: psutil.Process) -> bool:
    """Whether a process has ended, even if nobody has waited for it."""
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def png_bomb(side: int = 100_000) -> bytes:
    """A PNG file of less than 1 kB that announces `side` x `side` pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 999)) + chunk(b"IEND", b"")


def make_small(params: dict) -> None:
    """Parameters with which the whole chain runs in well under a minute."""
    params["digits"]["scenes"] = 240
    params["experiments"] = {"e001": params["experiments"]["e001"]}
    params["experiments"]["e001"]["train"].update(size=64, epochs=2, threads=1)
    params["clean"]["max_rejected"] = 0.2


def copy_checkout(target: Path, edit: Callable[[dict], None] = make_small) -> None:
    """Copy this checkout, uncommitted files too, with changed parameters into a new repository with one commit."""
    checkout.copy_checkout(target, edit)


def copy_code(target: Path, *folders: str) -> None:
    """Copy the Python files of folders of this checkout, without those of the folders in them."""
    for folder in folders:
        (target / folder).mkdir(parents=True, exist_ok=True)
        for file in (ROOT / folder).glob("*.py"):
            shutil.copy(file, target / folder)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with tests that take long, for else one process still has one when others are done.

    Each process of pytest-xdist gets as many tests of the list as others, one after the other, and later takes some
    from others' ends. So that none waits for another, the first begins with those that use the small project, which it
    makes, and the second with tests/contract, which makes one of its own.
    """
    count = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    begins: list[list[pytest.Item]] = [[] for _ in range(count)]
    others = []
    for item in items:
        if item.path.parent == ROOT / "tests/contract":
            begins[1 % count].append(item)
        elif item.path.parent != ROOT / "tests/template" and not item.get_closest_marker("long"):
            others.append(item)
        elif "project" in getattr(item, "fixturenames", ()):
            begins[0].append(item)
        else:
            min(begins[1:] or begins, key=len).append(item)
    ordered: list[pytest.Item] = []
    for number, begin in enumerate(begins):
        rest = max(0, (len(items) - len(ordered)) // (count - number) - len(begin))
        ordered += begin + others[:rest]
        del others[:rest]
    items[:] = ordered + others


@pytest.fixture(scope="session", autouse=True)
def scratch(tmp_path_factory) -> None:
    """Where this process and the forked ones, which delete nothing at their end, unpack compressed archives."""
    os.environ["FOURFOLD_SCRATCH"] = str(tmp_path_factory.mktemp("scratch"))


@pytest.fixture(scope="session")
def project(tmp_path_factory, worker_id) -> Path:
    """A small project, in a folder with a space and an umlaut in its name, in which `dvc repro` ran once.

    The processes of pytest-xdist share it: the first makes it, the others wait. No test changes it.
    """
    base = tmp_path_factory.getbasetemp()
    directory = (base if worker_id == "master" else base.parent) / "project" / "ein Prüfling"
    with FileLock(directory.parent.parent / "project.lock"):
        if not (directory / "Deployment/bundles/e001.verification.json").exists():
            copy_checkout(directory)
            succeeded(run_in(directory, "dvc", "repro", timeout=600))
    return directory


def copy_with_results(project: Path, target: Path) -> Path:
    """A copy of the small project with dvc.lock committed."""
    shutil.copytree(project, target, symlinks=True)
    succeeded(run_in(target, "git", "add", "-A"))
    succeeded(run_in(target, "git", "commit", "-qm", "Results", **AUTHOR))
    return target


@pytest.fixture(scope="session")
def curated(project: Path) -> Path:
    """The small project's curated dataset."""
    return project / "Datasets/curated"


@pytest.fixture(scope="session")
def export(project: Path) -> Path:
    """The small project's export."""
    return project / "Datasets/pretrained/e001"
