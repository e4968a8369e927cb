"""Whatever Datumaro reads (https://github.com/open-edge-platform/datumaro): KITTI, WIDER FACE, Cityscapes and more.

`preset` is Datumaro's name of the format, such as kitti_detection; `annotations` the folder that it is to read, if not
the source itself. Datumaro cannot be installed beside this project, so it runs in an environment of its own: that of
the `datum` command on the PATH (`pipx install 'datumaro[cli]'`), or of the interpreter that DATUMARO_PYTHON names.

Areas become boxes, those of one group and label a single one; labels labels. Other kinds (points, captions, ...) are
left out. Datumaro does not tell an image that shows nothing from one that was never annotated: it counts as that.
"""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import msgspec

from Data_processing.readers import _datumaro_items
from Data_processing.shared.annotation_files import split_named
from Data_processing.shared.files import MissingFile, SourceFiles, folder_name, inside
from Data_processing.shared.imported import Imported, ImportedBox, ImportOptions
from Data_processing.shared.outlines import bounds, encode, rectangle, turned
from Datasets.format.records import is_safe_path
from Datasets.tools.errors import UserError

INSTALL = "`pipx install 'datumaro[cli]'`, or name the Python of an environment that has it in DATUMARO_PYTHON"


class Annotation(msgspec.Struct):
    """What _datumaro_items.py says of one."""

    type: str
    label: str | None
    group: int
    crowd: bool = False
    rotation: float = 0
    box: tuple[float, float, float, float] | None = None
    outline: list[list[float]] | dict[Literal["size", "counts"], list[int]] | None = None

    def __post_init__(self) -> None:
        if self.box and self.rotation:
            x1, y1, x2, y2 = self.box
            self.outline = [turned(rectangle(*self.box), self.rotation, (x1 + x2) / 2, (y1 + y2) / 2)]
            self.box = bounds(encode(self.outline))


class Item(msgspec.Struct):
    """What it says of an image."""

    image: str | None
    id: str
    subset: str
    annotations: list[Annotation]


def find(files: SourceFiles, options: ImportOptions) -> list[str]:
    """What to call it; the files Datumaro finds by itself. Raises UserError without `preset`."""
    if not options.preset:
        raise UserError(f"{files.path}: `preset` must be Datumaro's name of the format, such as kitti_detection")
    return [f"{options.annotations or files.path.name}, by Datumaro as {options.preset}"]


def read(files: SourceFiles, found: list[str], options: ImportOptions) -> tuple[str, Iterator[Imported]]:
    """The folder that the images are in, which is the source itself, and the records."""
    return "", _records(files, options)


def _records(files: SourceFiles, options: ImportOptions) -> Iterator[Imported]:
    folder = folder_name(options.annotations or ".")
    with _directory(files) as directory:
        for item in _items(directory / folder, str(options.preset)):
            yield _record(item, folder)


@contextmanager
def _directory(files: SourceFiles) -> Iterator[Path]:
    """The source as a directory, for as long as it takes: Datumaro reads no archives."""
    if files.path.is_dir():
        yield files.path
        return
    with tempfile.TemporaryDirectory() as temporary:
        for name in filter(is_safe_path, files.names()):
            target = Path(temporary, name)
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                target.write_bytes(files.read(name))
            except MissingFile as error:
                raise UserError(f"{files.path}: {error}") from error
        yield Path(temporary)


def _items(directory: Path, form: str) -> list[Item]:
    """What Datumaro reads. Raises UserError if there is no Datumaro, or it cannot."""
    beside = shutil.which("datum") or ""
    interpreter = os.environ.get("DATUMARO_PYTHON") or (beside and str(Path(beside).resolve().with_name("python")))
    if not interpreter:
        raise UserError(f"datumaro: not found: {INSTALL}")
    try:
        command = [interpreter, "-I", _datumaro_items.__file__, str(directory), form]
        done = subprocess.run(command, capture_output=True)
    except OSError as error:
        raise UserError(f"{interpreter}: {error.strerror}: {INSTALL}") from error
    if done.returncode:
        reason = (done.stderr.decode(errors="replace").strip() or f"exit code {done.returncode}").splitlines()[-1]
        remedy = f": {INSTALL}" if "No module named 'datumaro'" in reason else ""
        raise UserError(f"{directory}: not read by Datumaro as {form}: {reason:.2000}{remedy}")
    return msgspec.json.Decoder(Item).decode_lines(done.stdout)


def _record(item: Item, folder: str) -> Imported:
    row = Imported(inside(folder, item.image or item.id), f"item {item.id} of {item.subset}")
    row.split = split_named(item.subset)
    objects: dict[Any, list[Annotation]] = {}  # the areas of each: of the same group, other than 0, and label
    for number, each in enumerate(item.annotations):
        if each.box and not each.label:
            row.problems.append(("unknown category", f"a {each.type} without a class in {row.origin}"))
        elif each.box:
            objects.setdefault((each.group, each.label) if each.group else number, []).append(each)
        elif each.type != "label":
            row.left_out.append(each.type)
    row.labels = [each.label for each in item.annotations if each.type == "label" and each.label] or None
    row.boxes = [_box(parts, f"{row.origin}, box {number}") for number, parts in enumerate(objects.values())] or None
    return row


def _box(parts: Sequence[Annotation], origin: str) -> ImportedBox:
    """The box around all parts, or the one that the source states itself, with their outline."""
    stated = [each for each in parts if each.type == "bbox"] or parts
    x1, y1, x2, y2 = zip(*(each.box for each in stated if each.box), strict=True)
    outlines: list[Any] = [each.outline for each in parts if each.outline]
    polygons = [polygon for outline in outlines if isinstance(outline, list) for polygon in outline]
    outline = polygons or (outlines[0] if outlines else None)
    crowd = any(each.crowd for each in parts)
    encoded = msgspec.json.encode(outline) if outline else None
    return ImportedBox(parts[0].label or "", min(x1), min(y1), max(x2), max(y2), origin, crowd, encoded)
