"""Put a raw dataset into Datasets/raw under DVC's control and list it: all of it, or nothing.

The dataset itself is only ever read.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from Data_processing.adding.params_file import write_text
from Data_processing.sources.files import DVC_CACHE
from Datasets.tools.atomic import replacing
from Datasets.tools.errors import UserError

RAW = Path("Datasets/raw")


def target_of(name: str, path: Path) -> Path:
    """Where the dataset will lie: itself if that is in Datasets/raw, else there by the name, with its suffix.

    Raises UserError for a path that is not there or holds Datasets/raw, and for a target that is something else.
    """
    if not path.exists():
        raise UserError(f"{path}: no such file or directory; name the raw dataset, a directory, .zip or .tar")
    whole, raw = path.resolve(), RAW.resolve()
    if raw.is_relative_to(whole):
        raise UserError(f"{path}: {RAW} is in it; name the raw dataset itself")
    if whole.is_relative_to(raw):
        target = RAW / whole.relative_to(raw)
        if re.search(r"[\"$`\\\n]", str(target)):
            raise UserError(f'{target}: a name with one of " $ ` \\ cannot stand in a command; rename it')
        return target
    suffix = re.search(r"(\.tar)?\.\w+$", path.name)
    target = RAW / f"{name}{suffix[0] if suffix and path.is_file() else ''}"
    for file in (target, pointer_of(target)):
        if file.exists() or file.is_symlink():
            raise UserError(f"{file}: is there already; choose another name, or `dvc pull` it and add {target}")
    return target


def pointer_of(target: Path) -> Path:
    """The file that `dvc add` writes."""
    return target.with_name(f"{target.name}.dvc")


def check_links(path: Path) -> None:
    """Raise UserError for what cannot be copied into a source: links out of it, or to directories; pipes and such."""
    for file in path.rglob("*") if path.is_dir() else ():
        if file.is_symlink():
            end = Path(os.path.realpath(file))  # Path.resolve fails for a link that leads to itself
            inside = end.is_relative_to(path.resolve()) or DVC_CACHE.search(end.as_posix())
            if not inside or not end.is_file():
                raise UserError(f"{file}: is a link that leads to no file inside {path}; put the file itself there")
        elif not file.is_file() and not file.is_dir():
            raise UserError(f"{file}: is neither a file nor a directory; remove it")


def add(path: Path, target: Path, changes: Mapping[Path, str]) -> None:
    """Copy the dataset, `dvc add` it, and change the text of files; or raise, and leave all as it was."""
    touched = (pointer_of(target), target.with_name(".gitignore"), *changes)  # `dvc add` may add a line to .gitignore
    before = {file: file.read_bytes() if file.is_file() else None for file in touched}
    there, done = target.exists(), False
    try:
        if not there:
            _copy(path, target)
        _dvc_add(target)
        with _uninterrupted():
            for file, text in changes.items():
                write_text(file, text)
            done = True
    except BaseException:
        if not done:
            with _uninterrupted():
                _undo(target, there, before)
        raise


def _copy(path: Path, target: Path) -> None:
    """Copy contents only: folders that may not be written to, as on a disc, would be in DVC's way."""
    with replacing(target) as partial:
        if path.is_file():
            shutil.copyfile(path, partial)
            return
        for file in sorted(path.rglob("*")):
            if not file.is_dir():
                (partial / file.relative_to(path)).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, partial / file.relative_to(path))


def _dvc_add(target: Path) -> None:
    command = [sys.executable, "-m", "dvc", "add", target.as_posix()]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace")
    if done.returncode:
        lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        last = next((line for line in lines if "ERROR" in line), lines[-1] if lines else "no message")
        reason = re.sub(r"\x1b\[[\d;]*m|^ERROR:\s*", "", last).removeprefix("ERROR: ").strip(" .")
        raise UserError(f"dvc add {target}: {reason}; nothing was added")


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Ignore Ctrl-C meanwhile."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _undo(target: Path, there: bool, before: Mapping[Path, bytes | None]) -> None:
    if not there and target.is_dir():
        shutil.rmtree(target)
    elif not there:
        target.unlink(missing_ok=True)
    for file, content in before.items():
        if content is None:
            file.unlink(missing_ok=True)
        elif file.read_bytes() != content:
            file.write_bytes(content)
