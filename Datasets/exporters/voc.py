"""Pascal VOC: an XML file of boxes for each image, lists of images, and palette images; README.md lists the files.

VOC cannot express crowds as objects, boxes narrower than a pixel, counts without boxes, and overlapping segmentations.
"""

import io
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

import numpy as np
from lxml import etree
from lxml.builder import E
from PIL import Image

from Datasets.exporters.files import Names, write_file
from Datasets.format.coco import draw
from Datasets.format.curated import Curated
from Datasets.format.images import VOID, read_mask
from Datasets.format.records import Box, Record
from Datasets.tools.errors import UserError


def write(directory: Path, dataset: Curated, splits: Sequence[str], lost: Counter[str]) -> Iterator[Record]:
    """Write `splits`, yielding each record once its image is written; count in `lost` what VOC cannot express."""
    names = Names()
    for split in splits:
        written, segmented = dict[str, Record](), []
        for record, data in zip(dataset.records(split), dataset.images(split), strict=True):
            name = names.flat(record["image"])
            stem = PurePosixPath(name).stem
            write_file(directory / "JPEGImages" / name, data)
            segmentations = segmentation_images(record, dataset.classes)
            for folder, pixels in segmentations.items():
                write_file(directory / folder / f"{stem}.png", _palette_png(pixels))
            if record["boxes"] is not None:
                text = annotation(record, name, data, bool(segmentations))
                write_file(directory / "Annotations" / f"{stem}.xml", text)
            written[stem] = record
            segmented += [stem] if segmentations else []
            _count_losses(record, lost)
            yield record
        for file, lines in _lists(split, written, segmented, dataset.classes).items():
            write_file(directory / f"ImageSets/{file}.txt", "".join(f"{line}\n" for line in lines).encode())
    labels = _labelmap_names(dataset.classes)
    lost["class names that labelmap.txt has with an underscore"] = len(set(dataset.classes).difference(labels[1:]))
    write_file(directory / "labelmap.txt", _labelmap(labels).encode())


def _lists(
    split: str, records: Mapping[str, Record], segmented: list[str], classes: Iterable[str]
) -> dict[str, list[str]]:
    """The lines of a split's lists of images, by file. records: by the name of their image without a suffix."""
    lists = {f"Main/{split}": [image for image, record in records.items() if record["boxes"] is not None]}
    if segmented:
        lists[f"Segmentation/{split}"] = segmented
    labels = {image: record["labels"] for image, record in records.items() if record["labels"] is not None}
    if any(_has_unboxed_label(record) for record in records.values()):
        for name in classes:
            lines = [f"{image} {1 if name in labels[image] else -1:2}" for image in labels]
            lists[f"Main/{name.replace('/', '_')}_{split}"] = lines
    return lists


def _has_unboxed_label(record: Record) -> bool:
    labels, boxes = record["labels"], record["boxes"]
    return labels is not None and (boxes is None or not {box["name"] for box in boxes}.issuperset(labels))


def objects(record: Record) -> list[Box]:
    """The boxes that VOC can express, in order: no crowds, and at least a pixel wide and high."""
    boxes = [box for box in record["boxes"] or [] if not box["crowd"]]
    return [box for box in boxes if box["x1"] + 1 <= box["x2"] and box["y1"] + 1 <= box["y2"]]


def annotation(record: Record, name: str, data: bytes, segmented: bool) -> bytes:
    """The XML file of a record whose boxes are known. name, data: its image file."""
    depth = len(Image.open(io.BytesIO(data)).getbands())
    root = E.annotation(
        E.folder("JPEGImages"),
        E.filename(name),
        E.source(E.database(record["source"]), E.image(record["image"])),
        E.size(E.width(str(record["width"])), E.height(str(record["height"])), E.depth(str(depth))),
        E.segmented(str(int(segmented))),
        *map(_object, objects(record)),
    )
    return etree.tostring(root, pretty_print=True, encoding="utf-8")


def _object(box: Box) -> etree._Element:
    edges = {"xmin": box["x1"] + 1, "ymin": box["y1"] + 1, "xmax": box["x2"], "ymax": box["y2"]}
    place = E.bndbox(*(E(edge, f"{value:.15g}") for edge, value in edges.items()))
    return E.object(E.name(box["name"]), E.pose("Unspecified"), E.truncated("0"), E.difficult("0"), place)


def segmentation_images(record: Record, classes: Mapping[str, int]) -> dict[str, np.ndarray]:
    """The pixels uint8 [height, width] of SegmentationObject and SegmentationClass, as far as a record knows them.

    Raises UserError for more objects or classes than there are pixel values.
    """
    found = {}
    boxes = record["boxes"] or []
    size = record["width"] or 0, record["height"] or 0
    if any(box["segmentation"] for box in boxes):
        numbered = [(box, number) for number, box in enumerate(objects(record), 1)]
        _check_limit(record, len(numbered), "objects")
        drawn, crowds = draw(numbered, *size), draw(((box, VOID) for box in boxes if box["crowd"]), *size)
        found["SegmentationObject"] = np.where(drawn, drawn, crowds)
    if record["mask"] is not None:
        found["SegmentationClass"] = read_mask(record["mask"]["bytes"])
    elif boxes and all(box["segmentation"] for box in boxes):
        _check_limit(record, len(classes), "classes")
        found["SegmentationClass"] = draw(((box, classes[box["name"]] + 1) for box in boxes), *size)
    return found


def _check_limit(record: Record, number: int, what: str) -> None:
    if number >= VOID:
        raise UserError(f"{record['image']}: {number} {what}; VOC's images hold {VOID - 1}: export to coco")


def _palette_png(pixels: np.ndarray) -> bytes:
    """A PNG file of pixels uint8 [H, W] with VOC's colours as its palette."""
    image = Image.fromarray(pixels)
    image.putpalette([part for value in range(256) for part in _colour(value)])
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def _colour(value: int) -> list[int]:
    """VOC's red, green and blue of a pixel value: its bits, three by three, from the colours' highest bits down."""
    return [sum((value >> 3 * i + part & 1) << 7 - i for i in range(3)) for part in range(3)]


def _labelmap_names(classes: Iterable[str]) -> list[str]:
    """The background and the classes, without colons, each name once: a class may be called `background` too."""
    names = ["background"]
    for name in classes:
        name = name.replace(":", "_")
        while name in names:
            name += "_"
        names.append(name)
    return names


def _labelmap(names: Sequence[str]) -> str:
    """A line for each pixel value, in their order, as CVAT, Datumaro and our reader expect."""
    lines = [f"{name}:{','.join(map(str, _colour(value % 256)))}::" for value, name in enumerate(names)]
    return "\n".join(["# label:color_rgb:parts:actions", *lines, ""])


def _count_losses(record: Record, lost: Counter[str]) -> None:
    boxes = [box for box in record["boxes"] or [] if not box["crowd"]]
    lost["crowds, which are left out"] += len(record["boxes"] or []) - len(boxes)
    lost["boxes narrower than a pixel, which are left out"] += len(boxes) - len(objects(record))
    lost["images with counts, but without boxes"] += record["boxes"] is None and bool(record["counts"])
