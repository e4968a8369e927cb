"""Pascal VOC: one XML file an image.

Specification: "The PASCAL Visual Object Classes Challenge 2012 Development Kit", section 10. The first pixel is (1, 1)
and a box includes its last pixel, so xmin - 1 and xmax are a box's edges in the record's coordinates. `filename` is
relative to the folder of images.
"""

from collections.abc import Iterator
from pathlib import PurePosixPath

from lxml import etree

from Data_processing.imported import Imported
from Data_processing.source_files import SourceFiles, images_below
from Datasets.errors import UserError
from Datasets.records import Box, empty_record

ANNOTATIONS = "Annotations"
IMAGES = "JPEGImages"


def find(files: SourceFiles, annotations: str | None) -> list[str]:
    """The XML files of a folder, by default VOC's own. Raises UserError naming the folders that hold XML files."""
    folder = (annotations or ANNOTATIONS).rstrip("/")
    every = [name for name in files.names() if name.endswith(".xml") and not name.startswith("__MACOSX/")]
    names = [name for name in every if folder == "." or name.startswith(f"{folder}/")]
    if not names:
        folders = sorted({str(PurePosixPath(name).parent) for name in every})
        raise UserError(
            f"{files.path}: no XML files in the folder {folder}; folders that have some: "
            f"{', '.join(folders[:5]) or 'none'}; set `annotations`"
        )
    return names


def read(files: SourceFiles, found: list[str], images: str | None, source: str) -> tuple[str, Iterator[Imported]]:
    """The folder that the images are in (`images`, by default VOC's own) and the records."""
    folder = IMAGES if images is None else images
    present = {str(PurePosixPath(name).with_suffix("")): name for name in images_below(files, folder)}
    elsewhere = sorted({str(PurePosixPath(name).parent) for name in images_below(files, "")})
    if elsewhere and not present:
        raise UserError(
            f"{files.path}: no images in the folder {folder}; folders that have some: {', '.join(elsewhere[:5])}; "
            "set `images`"
        )
    return folder, (_record(files, name, folder, source, present) for name in found)


def _record(files: SourceFiles, file: str, folder: str, source: str, present: dict[str, str]) -> Imported:
    stem = str(PurePosixPath(folder, PurePosixPath(file).stem))
    try:
        parser = etree.XMLParser(resolve_entities=False, no_network=True)
        root = etree.fromstring(files.read(file), parser)
    except etree.XMLSyntaxError as error:
        problem = ("malformed annotation", f"{file}: {error}")
        return Imported(empty_record(present.get(stem, f"{stem}.jpg"), source), file, problems=[problem])
    row = Imported(empty_record(_image(root, folder, stem, present), source), file)
    size = root.find("size")
    if size is not None:
        row.record["width"], row.record["height"] = _pixels(size.findtext("width")), _pixels(size.findtext("height"))
    _add_boxes(row, root, file)
    return row


def _image(root: etree._Element, folder: str, stem: str, present: dict[str, str]) -> str:
    """The image that `filename` names; where there is none of that name, the one named like the XML file."""
    name = (root.findtext("filename") or "").strip()
    path = str(PurePosixPath(folder, name))
    if name and path in present.values():
        return path
    return present.get(str(PurePosixPath(path).with_suffix("")) if name else stem) or present.get(stem) or path


def _add_boxes(row: Imported, root: etree._Element, file: str) -> None:
    boxes: list[Box] = []
    for element in root.findall("object"):
        origin = f"{file}:{element.sourceline}"
        name = (element.findtext("name") or "").strip()
        texts = [element.findtext(f"bndbox/{key}") for key in ("xmin", "ymin", "xmax", "ymax")]
        try:
            x1, y1, x2, y2 = (float(text or "") for text in texts)
        except ValueError:
            row.problems.append(("malformed box", f"bndbox {texts} at {origin}"))
            continue
        if not name:
            row.problems.append(("malformed box", f"an object without a name at {origin}"))
            continue
        (x1, x2), (y1, y2) = _edges(x1, x2), _edges(y1, y2)
        boxes.append(Box(name=name, x1=x1, y1=y1, x2=x2, y2=y2, crowd=False, segmentation=None))
        row.box_origins.append(origin)
    row.record["boxes"] = boxes


def _edges(first: float, last: float) -> tuple[float, float]:
    """The outer edges of pixels first to last, counted from 1; swapped ones stay swapped, for clean to see."""
    return (first - 1, last) if first <= last else (first, last - 1)


def _pixels(text: str | None) -> int | None:
    try:
        return int(float(text or 0)) or None
    except ValueError:
        return None
