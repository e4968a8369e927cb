"""Put a raw dataset into Datasets/raw under DVC's control, and into params.yaml and dvc.yaml: all of it or nothing."""

import os
import re
import shutil
import signal
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from Data_processing.shared.files import DVC_CACHE
from Datasets.format.classes import ClassRules, parse_rules
from Datasets.tools.atomic import replacing
from Datasets.tools.command import dvc
from Datasets.tools.errors import UserError
from Datasets.tools.params import insert, node_at, parsed, text_of

RAW = Path("Datasets/raw")
FOLDERS = ("imported", "inspected")  # of Data_processing/intermediate; each has a file for each source


class Clean(msgspec.Struct):
    """What params.yaml says of classes."""

    keep: list[str | int | float] | None = None
    rename: list[str] | None = None
    merge: list[str] | None = None
    drop: list[str | int | float] | None = None


class Params(msgspec.Struct):
    """The parts of params.yaml that concern a source."""

    sources: dict[str, dict[str, Any]] | None = None
    clean: Clean | None = None
    curate: dict[str, Any] | None = None
    licenses: dict[str, list[str] | None] | None = None


def load_params(path: Path) -> Params:
    """The parameters. Raises UserError if the file is not YAML, or a part is of another kind."""
    try:
        return msgspec.convert(parsed(text_of(path), path), Params)
    except msgspec.ValidationError as error:
        raise UserError(f"{path}: {error}") from error


def class_rules(path: Path) -> ClassRules:
    """What params.yaml says of classes. Raises UserError if it makes no sense."""
    clean = load_params(path).clean or Clean()
    keep, drop = ([str(name) for name in names or ()] for names in (clean.keep, clean.drop))
    try:
        return parse_rules(keep, clean.rename or (), drop, clean.merge or ())
    except UserError as error:
        raise UserError(f"{path}: clean.{error}") from error


def not_kept(rules: ClassRules, names: Iterable[str]) -> list[str]:
    """Those of `names`, renamed and merged, that clean.keep leaves out, and that clean.drop does not name."""
    ours = {rules.ours(name): rules.name(name) for name in names}
    return sorted(name for name, kept in ours.items() if kept is None and name not in rules.drop)


def with_dependencies(path: Path, name: str) -> str:
    """The text of dvc.yaml where stage clean depends on a source's files. Raises UserError if its deps share a line."""
    text = text_of(path)
    files = [f"Data_processing/intermediate/{folder}/{name}.parquet" for folder in FOLDERS]
    deps = node_at(text, "stages", "clean", "deps")
    if getattr(deps, "flow_style", True):
        wanted = " and ".join(f"`- {file}`" for file in files)
        raise UserError(f"{path}: stage clean has no list of `deps` with a line for each; write {wanted} there")
    first = deps.start_mark
    place, listed = first.index - first.column - 1, [item.value for item in deps.value]
    for item in deps.value:
        if Path(item.value).parent.name in FOLDERS:
            place = item.end_mark.index
    return insert(text, place, "".join(f"{' ' * first.column}- {file}\n" for file in files if file not in listed))


def target_of(name: str, path: Path) -> Path:
    """Where the dataset will lie: where it is if that is in Datasets/raw, else there by the name. Raises UserError."""
    if not path.exists():
        raise UserError(f"{path}: no such file or directory; name the raw dataset, a directory, .zip or .tar")
    whole, raw = path.resolve(), RAW.resolve()
    if raw.is_relative_to(whole):
        raise UserError(f"{path}: {RAW} is in it; name the raw dataset itself")
    if whole.is_relative_to(raw):
        target = RAW / whole.relative_to(raw)
        if re.search(r"[\"$`\\\n]", str(target)):  # stages are run by a shell
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
    there = target.exists()
    try:
        if not there:
            _copy(path, target)
        try:
            dvc("add", target.as_posix())
        except UserError as error:
            raise UserError(f"{error}; nothing was added") from error
        for file, text in changes.items():
            with replacing(file) as partial:
                partial.write_bytes(text.encode())
                shutil.copymode(file, partial)
    except BaseException:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # from here on, nothing interrupts
            signal.signal(number, signal.SIG_IGN)
        if not there and target.is_dir():
            shutil.rmtree(target)
        elif not there:
            target.unlink(missing_ok=True)
        for file, content in before.items():
            if content is None:
                file.unlink(missing_ok=True)
            else:
                file.write_bytes(content)
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
