"""Sources generated for the benchmarks, alike in what counts for speed: boxes an image, points an outline, names."""

from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np

IMAGES, BOXES, CLASSES = 118_287, 860_001, 80  # of COCO's train2017
SIDES = (640, 480)
BLOCK = 5000


def class_name(number: int) -> str:
    """The name of a class; the numbers begin at 0."""
    return f"class {number}"


def annotations(seed: int, first: int, number: int, images: int) -> Iterator[dict[str, object]]:
    """Entries of COCO's `annotations`: a box and a polygon of 6 to 40 points inside it, about 460 bytes of JSON."""
    rng = np.random.default_rng([seed, first])
    corner, size = rng.uniform(0, 440, (number, 2)).round(2), rng.uniform(1, 40, (number, 2)).round(2)
    points = rng.integers(6, 41, number)
    places = rng.uniform(0, 1, (int(points.sum()), 2))
    polygons = (np.repeat(corner, points, 0) + places * np.repeat(size, points, 0)).round(2)
    outlines = (part.ravel().tolist() for part in np.split(polygons, points.cumsum()[:-1]))
    of_image, of_class = rng.integers(0, images, number).tolist(), rng.integers(0, CLASSES, number).tolist()
    boxes = np.hstack([corner, size]).tolist()
    for place, (image, kind, box, outline) in enumerate(zip(of_image, of_class, boxes, outlines, strict=True)):
        stated = {"segmentation": [outline], "area": round(box[2] * box[3], 3), "iscrowd": 0}
        yield {**stated, "image_id": image, "bbox": box, "category_id": kind, "id": first + place}


def write_coco(path: Path, images: int = IMAGES, boxes: int = BOXES, seed: int = 0) -> None:
    """Write a COCO file of annotations, of images that are not there."""
    encode = msgspec.json.encode
    with path.open("wb") as file:
        file.write(b'{"info": {}, "licenses": [], "images": [')
        for image in range(images):
            entry = {"license": 3, "file_name": f"{image:012d}.jpg", "height": SIDES[1], "width": SIDES[0]}
            file.write((b"," if image else b"") + encode(entry | {"id": image}))
        file.write(b'], "annotations": [')
        for first in range(0, boxes, BLOCK):
            block = annotations(seed, first, min(BLOCK, boxes - first), images)
            file.write((b"," if first else b"") + b",".join(map(encode, block)))
        categories = [{"supercategory": "", "id": number, "name": class_name(number)} for number in range(CLASSES)]
        file.write(b'], "categories": ' + encode(categories) + b"}")


def _boxes(images: int, seed: int) -> Iterator[tuple[int, list[int], list[list[int]]]]:
    """Of each image its number, the classes, and the corners x1, y1, x2, y2 of its boxes; as many as COCO has."""
    rng = np.random.default_rng(seed)
    for image in range(images):
        number = int(rng.poisson(BOXES / IMAGES))
        corner, size = rng.integers(0, 400, (number, 2)), rng.integers(1, 80, (number, 2))
        yield image, rng.integers(0, CLASSES, number).tolist(), np.hstack([corner, corner + size]).tolist()


def write_voc(directory: Path, images: int, seed: int = 0) -> None:
    """Write a Pascal VOC file for each of many images, which are not there, with the lists that Datumaro needs."""
    for folder in ("Annotations", "ImageSets/Main"):
        (directory / folder).mkdir(parents=True)
    names = ["background", *map(class_name, range(CLASSES))]
    (directory / "labelmap.txt").write_text("".join(f"{name}:::\n" for name in names))
    (directory / "ImageSets/Main/train.txt").write_text("".join(f"{image:012d}\n" for image in range(images)))
    size = f"<size><width>{SIDES[0]}</width><height>{SIDES[1]}</height><depth>3</depth></size>"
    for image, classes, boxes in _boxes(images, seed):
        objects = "\n".join(
            f"<object><name>{class_name(kind)}</name><pose>Unspecified</pose><truncated>0</truncated>"
            f"<difficult>0</difficult><bndbox><xmin>{x1 + 1}</xmin><ymin>{y1 + 1}</ymin><xmax>{x2}</xmax>"
            f"<ymax>{y2}</ymax></bndbox></object>"
            for kind, (x1, y1, x2, y2) in zip(classes, boxes, strict=True)
        )
        text = f"<annotation><folder>JPEGImages</folder><filename>{image:012d}.jpg</filename>{size}\n{objects}"
        (directory / f"Annotations/{image:012d}.xml").write_text(text + "</annotation>\n")


def write_yolo(directory: Path, images: int, seed: int = 0) -> None:
    """Write data.yaml, a list of the images, which are not there, and a label file for each of them.

    And what Datumaro needs to read the same label files without images: Darknet's obj.data, names, and a list of sizes.
    """
    (directory / "labels").mkdir(parents=True)
    names = "\n".join(f"  {number}: {class_name(number)}" for number in range(CLASSES))
    (directory / "data.yaml").write_text(f"train: train.txt\nnames:\n{names}\n")
    (directory / "train.txt").write_text("".join(f"images/{image:012d}.jpg\n" for image in range(images)))
    (directory / "obj.data").write_text("train = darknet.txt\nnames = obj.names\n")
    (directory / "obj.names").write_text("".join(f"{class_name(number)}\n" for number in range(CLASSES)))
    (directory / "darknet.txt").write_text("".join(f"labels/{image:012d}.jpg\n" for image in range(images)))
    sizes = (f"{image:012d} {SIDES[1]} {SIDES[0]}\n" for image in range(images))
    (directory / "images.meta").write_text("".join(sizes))
    for image, classes, boxes in _boxes(images, seed):
        places = ((np.array(boxes).reshape(-1, 4) @ _CENTRE) / [*SIDES, *SIDES]).tolist()
        lines = (
            f"{kind} {x:.6f} {y:.6f} {w:.6f} {h:.6f}\n" for kind, (x, y, w, h) in zip(classes, places, strict=True)
        )
        (directory / f"labels/{image:012d}.txt").write_text("".join(lines))


_CENTRE = np.array([[0.5, 0, -1, 0], [0, 0.5, 0, -1], [0.5, 0, 1, 0], [0, 0.5, 0, 1]])  # of corners: centre and size


def write_csv(directory: Path, images: int, seed: int = 0) -> None:
    """Write a table with a row a box."""
    directory.mkdir(parents=True)
    with (directory / "boxes.csv").open("w") as file:
        file.write("filename,width,height,class,xmin,ymin,xmax,ymax\n")
        for image, classes, boxes in _boxes(images, seed):
            for kind, box in zip(classes, boxes, strict=True):
                stated = ",".join(map(str, box))
                file.write(f"{image:012d}.jpg,{SIDES[0]},{SIDES[1]},{class_name(kind)},{stated}\n")


def write_images(directory: Path, images: int, seed: int = 0) -> None:
    """Write JPEG files of 640 x 480 that compress about as photographs do, and a COCO file without boxes."""
    from PIL import Image

    (directory / "images").mkdir(parents=True, exist_ok=True)
    for image in range(images):
        rng = np.random.default_rng([seed, image])
        coarse = rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)
        smooth = np.asarray(Image.fromarray(coarse).resize(SIDES, Image.Resampling.BICUBIC), np.int16)
        pixels = (smooth + rng.normal(0, 6, (SIDES[1], SIDES[0], 1)).astype(np.int16)).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(directory / f"images/{image:06d}.jpg", quality=85)
    entries = [{"id": n, "file_name": f"{n:06d}.jpg", "width": SIDES[0], "height": SIDES[1]} for n in range(images)]
    stated = {"images": entries, "annotations": [], "categories": []}
    (directory / "annotations.json").write_bytes(msgspec.json.encode(stated))
