"""Small sources in COCO and VOC form, with the same content."""

import io
import json
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

SIZE = (60, 40)


def picture(seed: int, size: tuple[int, int] = SIZE) -> bytes:
    """A PNG of smooth random colours; other seeds look different."""
    small = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(small).resize(size, Image.Resampling.BICUBIC).save(file, "PNG")
    return file.getvalue()


def write_coco(directory: Path, images: dict[str, list[tuple]], folder: str = "images", files: bool = True) -> Path:
    """A COCO source: file name to (class name, x1, y1, x2, y2) boxes."""
    names = sorted({box[0] for boxes in images.values() for box in boxes})
    coco = {"images": [], "annotations": [], "categories": [{"id": 7 + i, "name": n} for i, n in enumerate(names)]}
    for number, (image, boxes) in enumerate(images.items()):
        coco["images"].append({"id": number, "file_name": image, "width": SIZE[0], "height": SIZE[1]})
        for name, x1, y1, x2, y2 in boxes:
            fields = {"image_id": number, "category_id": 7 + names.index(name), "bbox": [x1, y1, x2 - x1, y2 - y1]}
            coco["annotations"].append({"id": 100 + len(coco["annotations"]), **fields})
        if files:
            (directory / folder / image).parent.mkdir(parents=True, exist_ok=True)
            (directory / folder / image).write_bytes(picture(number))
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "annotations.json").write_text(json.dumps(coco))
    return directory


def change_coco(source: Path, change: Callable[[dict], object]) -> None:
    """Change a COCO source's annotations."""
    coco = json.loads((source / "annotations.json").read_text())
    change(coco)
    (source / "annotations.json").write_text(json.dumps(coco))


def write_voc(directory: Path, images: dict[str, list[tuple]], annotations="Annotations", folder="JPEGImages") -> Path:
    """The same as a VOC source, whose pixels count from 1."""
    for part in (annotations, folder):
        (directory / part).mkdir(parents=True)
    for number, (image, boxes) in enumerate(images.items()):
        objects = "".join(
            f"<object>\n<name>{name}</name>\n<bndbox><xmin>{x1 + 1}</xmin><ymin>{y1 + 1}</ymin>"
            f"<xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox>\n</object>\n"
            for name, x1, y1, x2, y2 in boxes
        )
        size = f"<size><width>{SIZE[0]}</width><height>{SIZE[1]}</height><depth>3</depth></size>"
        xml = f"<annotation>\n<filename>{image}</filename>\n{size}\n{objects}</annotation>\n"
        (directory / annotations / f"{Path(image).stem}.xml").write_text(xml)
        (directory / folder / image).write_bytes(picture(number))
    return directory


def write_masks(directory: Path) -> Path:
    """Images and masks in pairs, with a list of classes and one of a split."""
    for folder, drawn in (("images", picture), ("masks", squares)):
        (directory / folder).mkdir(parents=True)
        for number in range(3):
            (directory / folder / f"{number}.png").write_bytes(drawn(number))
    (directory / "class_dict.csv").write_text("name,r,g,b\nbackground,0,0,0\ncat,128,0,0\n")
    (directory / "train.txt").write_text("0\n1\n")
    return directory


def squares(seed: int) -> bytes:
    """A PNG with a palette: a dark red square on black."""
    values = np.zeros(SIZE[::-1], np.uint8)
    values[5 : 20 + seed, 10:40] = 1
    image, file = Image.fromarray(values), io.BytesIO()
    image.putpalette([0, 0, 0, 128, 0, 0])
    image.save(file, "PNG")
    return file.getvalue()


def pack(directory: Path, archive: Path) -> Path:
    """Pack a directory into a .zip or a .tar of any compression."""
    files = [file for file in sorted(directory.rglob("*")) if file.is_file()]
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive, "w") as zipped:
            for file in files:
                zipped.write(file, file.relative_to(directory))
    else:
        with tarfile.open(archive, f"w:{archive.suffix[1:].replace('tar', '').replace('tgz', 'gz')}") as tar:
            for file in files:
                tar.add(file, f"./{file.relative_to(directory)}")
    return archive
