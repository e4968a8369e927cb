"""Make the demonstration's source: scenes of real handwritten digits, with the defects of real raw datasets.

    python -m Data_processing.digits --scenes 1500 --seed 1

Writes JPEG images of 96 x 96 pixels and COCO `annotations.json` with boxes and segmentations. The samples of
`digits_uci.npz` (see README.md) are dealt into pools; a scene draws from one pool, and the file name tells which:
POOL_SCENE_CAMERA.jpg. Besides the scenes asked for there is one for each defect that raw datasets are known for;
--defects lists them, for tests. The same options give the same bytes.
"""

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import typer
from PIL import Image, ImageDraw
from pycocotools import mask as coco_mask

from Datasets.tools.atomic import replacing
from Datasets.tools.command import progress, run

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
POOLS = 40
SIDE = 96
MISSPELT = "sevn"
DEFECTS_FILE = Path("Data_processing/intermediate/digits_defects.json")
Generator = np.random.Generator
Annotations = list[dict[str, Any]]  # COCO's, with a class name in place of ids
Scene = tuple[Image.Image, Annotations]
Plant = Callable[[Image.Image, Annotations], list["Entry"]]


def draw_background(rng: Generator, width: int, height: int) -> Image.Image:
    """Bright clutter: a gradient between two colours under random ellipses, lines and noise."""
    corners = rng.integers(150, 246, (2, 2, 3)).astype(np.uint8)
    canvas = Image.fromarray(corners).resize((width, height), Image.Resampling.BILINEAR)
    draw = ImageDraw.Draw(canvas)
    for _ in range(rng.integers(2, 6)):
        x, y, w, h = rng.integers(-10, SIDE), rng.integers(-10, SIDE), rng.integers(8, 50), rng.integers(8, 50)
        draw.ellipse((int(x), int(y), int(x + w), int(y + h)), fill=tuple(rng.integers(150, 246, 3).tolist()))
    for _ in range(rng.integers(2, 6)):
        ends = rng.integers(0, SIDE, 4).tolist()
        draw.line(ends, fill=tuple(rng.integers(120, 246, 3).tolist()), width=int(rng.integers(1, 3)))
    noisy = np.asarray(canvas, np.int16) + rng.integers(-8, 9, (height, width, 3))
    return Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))


def draw_digit(rng: Generator, sample: np.ndarray) -> np.ndarray:
    """A sample [8, 8] scaled to 16 to 40 pixels and turned by up to 20 degrees: ink in 0..1, cut to its extent."""
    side = int(rng.integers(16, 41))
    glyph = Image.fromarray((sample * 15).astype(np.uint8)).resize((side, side), Image.Resampling.BICUBIC)
    ink = np.asarray(glyph.rotate(rng.uniform(-20, 20), Image.Resampling.BICUBIC, expand=True)) / 255
    rows, columns = np.flatnonzero((ink > 0.3).any(1)), np.flatnonzero((ink > 0.3).any(0))
    return ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def find_place(rng: Generator, shape: tuple[int, int], taken: np.ndarray) -> tuple[int, int] | None:
    """Where (x, y) a digit of `shape` touches none of the pixels taken, or None after 20 tries."""
    for _ in range(20):
        y, x = (int(rng.integers(0, side - size + 1)) for side, size in zip(taken.shape, shape, strict=True))
        if not taken[y : y + shape[0], x : x + shape[1]].any():
            return x, y
    return None


def make_scene(rng: Generator, samples: np.ndarray, labels: np.ndarray, width: int, height: int) -> Scene:
    """A picture of 1 to 6 of the samples, in coloured ink darker than its background, and its COCO annotations."""
    canvas = np.asarray(draw_background(rng, width, height)).astype(np.float64)
    taken = np.zeros((height, width), bool)
    annotations: Annotations = []
    for index in rng.choice(len(samples), rng.integers(1, 7), replace=False):
        ink = draw_digit(rng, samples[index])
        colour = rng.integers(0, 110, 3)
        if (place := find_place(rng, ink.shape, taken)) is None:
            continue
        x, y = place
        area = slice(y, y + ink.shape[0]), slice(x, x + ink.shape[1])
        canvas[area] = canvas[area] * (1 - ink[..., None]) + colour * ink[..., None]
        taken[area] = True
        mask = np.zeros(taken.shape, np.uint8)
        mask[area] = ink > 0.3
        rle = coco_mask.encode(np.asfortranarray(mask))
        found = {"name": NAMES[labels[index]], "bbox": coco_mask.toBbox(rle).tolist(), "area": int(mask.sum())}
        segmentation = {"size": rle["size"], "counts": rle["counts"].decode("ascii")}
        annotations.append({**found, "iscrowd": 0, "segmentation": segmentation})
    return Image.fromarray(np.rint(canvas).astype(np.uint8)), annotations


class Entry(NamedTuple):
    """One image of the raw dataset, and what the annotation file says of it."""

    file: bytes | None  # None if it was forgotten
    width: int  # pixels, as annotated
    height: int
    annotations: Annotations | None  # None if the annotation file does not list the image
    suffix: str = ".jpg"


def entry(image: Image.Image, annotations: Annotations, /, **wrong: Any) -> Entry:
    """A scene as it should be, but for the fields that are `wrong`."""
    return Entry(encode(image), image.width, image.height, annotations)._replace(**wrong)


def encode(image: Image.Image, form: str = "JPEG", **options: Any) -> bytes:
    """An image as the bytes of a file."""
    file = io.BytesIO()
    image.save(file, form, **{"quality": 90, **options})
    return file.getvalue()


def near_duplicate(image: Image.Image, annotations: Annotations) -> Entry:
    """A scene at three quarters of its size, compressed more."""
    small = image.resize((image.width * 3 // 4, image.height * 3 // 4), Image.Resampling.BICUBIC)
    areas = [{"bbox": [v * 0.75 for v in a["bbox"]], "area": a["area"] * 0.5625} for a in annotations]
    scaled = [{**a, **area, "segmentation": []} for a, area in zip(annotations, areas, strict=True)]
    return entry(small, scaled, file=encode(small, quality=60))


def rotated(image: Image.Image, annotations: Annotations) -> Entry:
    """A scene stored lying down, with the EXIF entry that it must be turned 90 degrees clockwise."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return entry(image, annotations, file=encode(image.transpose(Image.Transpose.ROTATE_90), exif=exif))


def sixteen_bit(image: Image.Image, annotations: Annotations) -> Entry:
    """A scene as a grey PNG of 16 bits."""
    deep = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    return entry(image, annotations, file=encode(deep, "PNG"), suffix=".png")


def first_box(change: Callable[[float, float, float, float], list[float]]) -> Plant:
    """The defect of a first box x, y, width, height that is changed."""
    return lambda image, a: [entry(image, [{**a[0], "bbox": change(*a[0]["bbox"])}, *a[1:]])]


# The defects that raw datasets are known for: what a scene with it comes as, one image, or the original and its double.
DEFECTS: dict[str, Plant] = {
    "truncated": lambda image, a: [entry(image, a, file=encode(image)[: len(encode(image)) * 6 // 10])],
    "not an image": lambda image, a: [entry(image, a, file=b"<html><body>404 Not Found</body></html>\n")],
    "image without annotation": lambda image, a: [entry(image, a, annotations=None)],
    "annotation without image": lambda image, a: [entry(image, a, file=None)],
    "exact duplicate": lambda image, a: [entry(image, a), entry(image, a)],
    "near duplicate": lambda image, a: [entry(image, a), near_duplicate(image, a)],
    "swapped corners": first_box(lambda x, y, w, h: [x + w, y + h, -w, -h]),
    "zero area": first_box(lambda x, y, w, h: [x, y, 0.0, h]),
    "partly outside": first_box(lambda x, y, w, h: [-5.0, y, x + w + 5, h]),
    "wholly outside": first_box(lambda x, y, w, h: [x + 1000, y, w, h]),
    "misspelt class": lambda image, a: [entry(image, [{**a[0], "name": MISSPELT}, *a[1:]])],
    "wrong size": lambda image, a: [entry(image, a, width=640, height=480)],
    "EXIF orientation 6": lambda image, a: [rotated(image, a)],
    "grey": lambda image, a: [entry(image.convert("L"), a)],
    "CMYK": lambda image, a: [entry(image.convert("CMYK"), a)],
    "16-bit PNG": lambda image, a: [sixteen_bit(image, a)],
}


def entries(scenes: int, seed: int) -> Iterator[tuple[str | None, int, list[Entry]]]:
    """The scenes without a defect, then one for each defect: its name, the pool, and its images."""
    with np.load(Path(__file__).with_name("digits_uci.npz"), allow_pickle=False) as file:
        samples, labels = file["images"], file["labels"]  # uint8 [1797, 8, 8] with ink from 0 to 16; uint8 [1797]
    shuffled = np.random.default_rng(seed).permutation(len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    pools = [by_class[pool::POOLS] for pool in range(POOLS)]  # each has its share of every class
    for number, defect in enumerate([None] * scenes + list(DEFECTS)):
        rng = np.random.default_rng([seed, number])
        pool = number % POOLS
        height = 72 if defect == "EXIF orientation 6" else SIDE  # not square, or nobody could tell that it was turned
        image, annotations = make_scene(rng, samples[pools[pool]], labels[pools[pool]], SIDE, height)
        yield defect, pool, DEFECTS[defect](image, annotations) if defect else [entry(image, annotations)]


def to_coco(listed: list[tuple[str, Entry]]) -> dict[str, Any]:
    """A COCO annotation file of images by their names."""
    ids = {name: number for number, name in enumerate([*NAMES, MISSPELT], 1)}
    images: list[dict[str, Any]] = []
    annotations: Annotations = []
    for image_id, (file_name, image) in enumerate(listed, 1):
        images.append({"id": image_id, "file_name": file_name, "width": image.width, "height": image.height})
        for annotation in image.annotations or ():
            fields = {**annotation}
            own = {"id": len(annotations) + 1, "image_id": image_id, "category_id": ids[fields.pop("name")]}
            annotations.append({**own, **fields})
    info = {"description": "Scenes of handwritten digits of UCI's Optical Recognition of Handwritten Digits"}
    categories = [{"id": number, "name": name, "supercategory": "digit"} for name, number in ids.items()]
    return {"info": info, "images": images, "annotations": annotations, "categories": categories}


def write_source(directory: Path, scenes: int, seed: int) -> list[dict[str, str | None]]:
    """Write the source into `directory` and return its planted defects: defect, image and of which other image."""
    planted: list[dict[str, str | None]] = []
    listed: list[tuple[str, Entry]] = []
    number = 0
    (directory / "images").mkdir(parents=True)
    for defect, pool, parts in progress(entries(scenes, seed), scenes + len(DEFECTS), "digits", "scenes"):
        original = None
        for double, image in enumerate(parts):  # a double pretends to come from another pool
            name = f"{(pool + double) % POOLS:02d}_{number:04d}_{1 + number // POOLS % 2}{image.suffix}"
            number += 1
            if image.file is not None:
                (directory / "images" / name).write_bytes(image.file)
            if image.annotations is not None:
                listed.append((name, image))
            if defect and (original or len(parts) == 1):
                planted.append({"defect": defect, "image": f"images/{name}", "of": original})
            original = f"images/{name}"
    (directory / "annotations.json").write_text(json.dumps(to_coco(listed)), encoding="utf-8")
    return planted


def main(
    out: Annotated[Path, typer.Option(help="directory to write the source to")] = Path("Datasets/raw/digits"),
    defects: Annotated[Path, typer.Option(help="JSON file to list the planted defects in")] = DEFECTS_FILE,
    scenes: Annotated[int, typer.Option(min=1, help="scenes without a defect")] = 1500,
    seed: Annotated[int, typer.Option(min=0, help="another seed, another dataset")] = 1,
) -> None:
    """Make the demonstration's source: scenes of handwritten digits, COCO annotations, and planted defects."""
    with replacing(out, "annotations.json", "images/00_0000_1.*") as partial, replacing(defects) as list_file:
        planted = write_source(partial, scenes, seed)
        list_file.write_text(json.dumps(planted, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    run(main)
