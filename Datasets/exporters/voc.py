"""Pascal VOC: an XML file of boxes for each image, lists of images, and palette images of segmentations.

Specification: "The PASCAL Visual Object Classes Challenge 2012 Development Kit".

    JPEGImages/NAME.jpg                the image files, as delivered, JPEG or not; NAME is the record's path with `_`
                                       for `/`; the path itself and the source stand in <source>
    Annotations/NAME.xml               boxes, if they are known; without an <object> there is nothing
    ImageSets/Main/SPLIT.txt           the images of a split that have an XML file
    ImageSets/Main/CLASS_SPLIT.txt     1 or -1 for each image whose labels are known; only where some label has no
                                       box, since they follow from boxes otherwise
    SegmentationObject/NAME.png        pixels of the n-th <object>: n; of a crowd: 255 (void); 0 where there is none
    SegmentationClass/NAME.png         class id + 1, 0 for background: the record's mask; without one, the classes of
                                       the segmentations, if every box has one
    ImageSets/Segmentation/SPLIT.txt   the images of a split that have one of the two
    labelmap.txt                       the colour of each class, as CVAT and Datumaro read it; `_` for a colon in a name

The first pixel is (1, 1) and a box includes its last pixel: xmin is x1 + 1, xmax is x2, decimals kept. Coordinates are
of the upright image: a reader that ignores EXIF orientation sees other pixels than the annotators did, where an image
has one. Nothing is known of pose, truncation and difficulty: they have the values of an ordinary object, since readers
want some.

What it cannot say: crowds as objects, and boxes narrower than a pixel, whose xmax would lie before xmin (both are left
out); counts that no boxes stand behind; where segmentations overlap (the smaller lies on top); an image's group.
"""

import io
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path, PurePosixPath

from lxml import etree
from PIL import Image

from Datasets.exporters.names import Names
from Datasets.exporters.rows import rows, write_file
from Datasets.exporters.voc_pictures import labelmap, objects, palette_png, pictures, sayable
from Datasets.format.curated import Curated
from Datasets.format.images import FORMATS
from Datasets.format.records import Box, Record
from Datasets.tools.errors import UserError


def write(directory: Path, dataset: Curated, splits: Sequence[str], lost: Counter[str]) -> Iterator[Record]:
    """Write `splits`, yielding each record once its image is written; count in `lost` what VOC cannot say."""
    names = Names()
    for split in splits:
        lists = Lists()
        for record, data in rows(dataset, split):
            name = names.flat(record["image"])
            stem = PurePosixPath(name).stem
            write_file(directory / "JPEGImages" / name, data)
            drawn = pictures(record, dataset.classes)
            for folder, pixels in drawn.items():
                write_file(directory / folder / f"{stem}.png", palette_png(pixels))
            if record["boxes"] is not None:
                write_file(directory / "Annotations" / f"{stem}.xml", annotation(record, name, data, bool(drawn)))
            lists.add(stem, record, bool(drawn))
            lost.update(_losses(record))
            yield record
        lists.write(directory / "ImageSets", split, list(dataset.classes))
    lost["class names with : or # that labelmap.txt has with _"] += sum(not sayable(name) for name in dataset.classes)
    write_file(directory / "labelmap.txt", labelmap(list(dataset.classes)).encode())


@dataclass
class Lists:
    """The lists of one split: images with boxes, images with segmentations, and the labels of images."""

    boxed: list[str] = field(default_factory=list)
    segmented: list[str] = field(default_factory=list)
    labelled: list[tuple[str, set[str]]] = field(default_factory=list)
    labels_follow: bool = True  # from boxes, in every image so far

    def add(self, stem: str, record: Record, segmented: bool) -> None:
        """Enter an image by its name without suffix."""
        if record["boxes"] is not None:
            self.boxed.append(stem)
        if segmented:
            self.segmented.append(stem)
        if record["labels"] is not None:
            self.labelled.append((stem, set(record["labels"])))
            boxes = record["boxes"]
            self.labels_follow &= boxes is not None and {box["name"] for box in boxes}.issuperset(record["labels"])

    def write(self, directory: Path, split: str, classes: Sequence[str]) -> None:
        """Write the lists that have something to say."""
        files = Names()
        write_file(directory / f"Main/{files.keep(f'{split}.txt')}", _lines(self.boxed))
        if self.segmented:
            write_file(directory / f"Segmentation/{split}.txt", _lines(self.segmented))
        if not self.labels_follow:
            for name in classes:
                lines = [f"{stem} {1 if name in labels else -1:2}" for stem, labels in self.labelled]
                write_file(directory / f"Main/{files.keep(f'{_file_name(name)}_{split}.txt')}", _lines(lines))


def annotation(record: Record, name: str, data: bytes, segmented: bool) -> bytes:
    """The XML file of a record whose boxes are known. name, data: its image file. Raises UserError."""
    root = etree.Element("annotation")
    _add(root, "folder", "JPEGImages")
    _add(root, "filename", name)
    source = etree.SubElement(root, "source")
    _add(source, "database", record["source"])
    _add(source, "image", record["image"])
    size = etree.SubElement(root, "size")
    for key, value in (("width", record["width"]), ("height", record["height"]), ("depth", _bands(record, data))):
        _add(size, key, str(value))
    _add(root, "segmented", str(int(segmented)))
    for box in objects(record):
        _add_object(root, box)
    return etree.tostring(root, pretty_print=True, encoding="utf-8")


def _add_object(root: etree._Element, box: Box) -> None:
    element = etree.SubElement(root, "object")
    for key, value in (("name", box["name"]), ("pose", "Unspecified"), ("truncated", "0"), ("difficult", "0")):
        _add(element, key, value)
    bounds = etree.SubElement(element, "bndbox")
    _add(bounds, "xmin", _decimal(box["x1"] + 1))
    _add(bounds, "ymin", _decimal(box["y1"] + 1))
    _add(bounds, "xmax", _decimal(box["x2"]))
    _add(bounds, "ymax", _decimal(box["y2"]))


def _add(parent: etree._Element, tag: str, text: str) -> None:
    try:
        etree.SubElement(parent, tag).text = text
    except ValueError:
        raise UserError(f"{tag} {text!r} has a character that XML cannot hold; rename it, or export to coco") from None


def _decimal(value: float) -> str:
    """All digits, and no exponent."""
    return format(Decimal(repr(value)), "f").removesuffix(".0")


def _bands(record: Record, data: bytes) -> int:
    try:
        return len(Image.open(io.BytesIO(data), formats=FORMATS).getbands())
    except (OSError, ValueError, SyntaxError) as error:
        raise UserError(f"{record['image']}: not an image file: {error}; run the curate stage") from error


def _file_name(name: str) -> str:
    return name.translate({ord(sign): "_" for sign in "/\\\0"})


def _lines(lines: Sequence[str]) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode()


def _losses(record: Record) -> Counter[str]:
    boxes = record["boxes"] or []
    crowds = sum(box["crowd"] for box in boxes)
    return Counter(
        {
            "crowds, which are left out": crowds,
            "boxes narrower than a pixel, which are left out": len(boxes) - crowds - len(objects(record)),
            "images with counts, but without boxes": int(record["boxes"] is None and bool(record["counts"])),
        }
    )
