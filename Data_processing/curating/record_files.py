"""The files of an accepted record, as they go into the curated dataset: its image, and its semantic mask."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from Data_processing.shared import masks
from Data_processing.sources.files import MissingFile, open_once
from Datasets.format.records import Record
from Datasets.tools.errors import UserError


@dataclass(frozen=True)
class RecordFiles:
    """Reads the files of records.

    paths: the directory or archive of each source. classes: ids by name. draw: make a mask where a source has none, but
    outlines all objects.
    """

    paths: Mapping[str, str]
    classes: Mapping[str, int]
    draw: bool = False

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
            file = self._read(record, record["mask"]["path"])
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
