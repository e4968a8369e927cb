"""Where a delivery goes in Datasets/raw, and its copy there. The delivery itself is only ever read."""

import filecmp
import os
import re
import shutil
from pathlib import Path

from Data_processing.sources.files import DVC_CACHE
from Datasets.tools.atomic import replacing
from Datasets.tools.errors import UserError

RAW = Path("Datasets/raw")


def target_of(name: str, path: Path) -> Path:
    """Where the delivery will lie: itself if that is in Datasets/raw, else there by the name, with its suffix.

    Raises UserError for a path that is not there or holds Datasets/raw, and for a target that is something else.
    """
    if not path.exists():
        raise UserError(f"{path}: no such file or directory; name the delivery, a directory, .zip or .tar")
    whole, raw = path.resolve(), RAW.resolve()
    if raw.is_relative_to(whole):
        raise UserError(f"{path}: {RAW} is in it; name the delivery itself")
    if whole.is_relative_to(raw):
        target = RAW / whole.relative_to(raw)
        if re.search(r"[\"$`\\\n]", str(target)):
            raise UserError(f'{target}: a name with one of " $ ` \\ cannot stand in a command; rename it')
        return target
    suffix = re.search(r"(\.tar)?\.\w+$", path.name)
    target = RAW / f"{name}{suffix[0] if suffix and path.is_file() else ''}"
    if (target.exists() or target.is_symlink()) and not same(path, target):
        raise UserError(f"{target}: is there already, with other content; choose another name, or remove it")
    if not target.exists() and pointer_of(target).exists():
        raise UserError(
            f"{pointer_of(target)}: is there already; choose another name, or `dvc pull` it and add {target}"
        )
    return target


def pointer_of(target: Path) -> Path:
    """The file that `dvc add` writes."""
    return target.with_name(f"{target.name}.dvc")


def same(one: Path, other: Path) -> bool:
    """Whether two files or directories have the same content."""
    if one.is_file() or other.is_file():
        return one.is_file() and other.is_file() and filecmp.cmp(one, other, shallow=False)
    files = [{file.relative_to(top) for file in top.rglob("*") if not file.is_dir()} for top in (one, other)]
    return files[0] == files[1] and all(filecmp.cmp(one / name, other / name, shallow=False) for name in files[0])


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


def copy(path: Path, target: Path) -> None:
    """Copy a delivery; it appears under the target's name whole or not at all.

    Contents only: folders that may not be written to, as on a delivered disc, would be in DVC's way.
    """
    with replacing(target) as partial:
        if path.is_file():
            shutil.copyfile(path, partial)
            return
        for file in sorted(path.rglob("*")):
            if not file.is_dir():
                (partial / file.relative_to(path)).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, partial / file.relative_to(path))
