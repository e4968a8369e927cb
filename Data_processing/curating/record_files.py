"""The files of an accepted record, as they go into the curated dataset: its image, and its semantic mask."""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from Data_processing.shared import masks
from Data_processing.sources.archives import open_once
from Data_processing.sources.files import MissingFile, SourceFiles
from Datasets.format.records import Record
from Datasets.tools.errors import UserError


@dataclass(frozen=True)
class MaskCopies:
    """Masks in one file; places: by source and path, where a mask begins and how many bytes it has."""

    file: Path
    places: Mapping[tuple[str, str], tuple[int, int]]

    def read(self, source: str, path: str) -> bytes:
        """The mask, if it was copied; else nothing."""
        if (source, path) not in self.places:
            return b""
        start, size = self.places[source, path]
        with self.file.open("rb") as file:
            file.seek(start)
            return file.read(size)


@contextmanager
def copy_masks(records: pa.Table, files: Mapping[str, SourceFiles], scratch: Path) -> Iterator[MaskCopies]:
    """The masks of all `records` (source, mask) in archives that one sweep should read, copied to `scratch` meanwhile.

    Asked for one by one, between images that lie elsewhere, each would have the archive decompressed from its start.
    """
    places = {}
    try:
        with scratch.open("wb") as copies:
            for source in (name for name, of_source in files.items() if of_source.sequential):
                masked = records.filter(pc.equal(records["source"], source))["mask"]
                wanted = set(pc.struct_field(masked, "path").to_pylist())
                for path in filter(wanted.__contains__, files[source].names()):
                    with suppress(MissingFile):  # which is told when its record is read
                        places[source, path] = copies.tell(), copies.write(files[source].read(path))
        yield MaskCopies(scratch, places)
    finally:
        scratch.unlink(missing_ok=True)


NO_COPIES = MaskCopies(Path(), {})


@dataclass(frozen=True)
class RecordFiles:
    """Reads the files of records.

    paths: the directory or archive of each source. classes: ids by name. draw: make a mask where a source has none, but
    outlines all objects. copies: masks that were read beforehand (see copy_masks).
    """

    paths: Mapping[str, str]
    classes: Mapping[str, int]
    draw: bool = False
    copies: MaskCopies = NO_COPIES

    def __call__(self, record: Record) -> tuple[bytes, bytes | None]:
        """The image file, and the mask as a PNG file of class ids + 1, if there is one.

        Raises UserError if the image is not the file that was inspected, or the mask is gone.
        """
        image = self._read(record, record["image"])
        if hashlib.sha256(image).hexdigest() != record["sha256"]:
            where = f"{self.paths[record['source']]}: {record['image']}"
            raise UserError(f"{where}: changed since it was inspected; run `dvc repro` again")
        return image, self._mask(record)

    def _mask(self, record: Record) -> bytes | None:
        if record["mask"] is not None:
            masks.check_number(self.classes)
            names = dict(record["mask_names"] or ())  # type: ignore[typeddict-item]
            path = record["mask"]["path"]
            file = self.copies.read(record["source"], path) or self._read(record, path)
            return masks.encode(masks.remap(file, names, self.classes))
        if not self.draw or record["boxes"] is None:
            return None
        masks.check_number(self.classes)
        assert record["width"] is not None
        assert record["height"] is not None
        drawn = masks.draw(record["boxes"], self.classes, record["width"], record["height"])
        return None if drawn is None else masks.encode(drawn)

    def _read(self, record: Record, name: str) -> bytes:
        path = self.paths[record["source"]]
        try:
            return open_once(Path(path)).read(name)
        except MissingFile as error:
            raise UserError(f"{path}: {name}: {error}, though it was inspected; run `dvc repro` again") from error
