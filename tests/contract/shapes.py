"""A raw dataset of coloured shapes in COCO's form, which teaches every task and is learned in seconds."""

import json
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

SIZE = (96, 72)
COLOURS = {"disc": (200, 40, 40), "square": (40, 60, 200)}


def write_shapes(directory: Path, images: int = 60) -> Path:
    """Write annotations.json and a folder of PNG files: at most one shape in each of three columns, on noise."""
    (directory / "images").mkdir(parents=True)
    names = list(COLOURS)
    coco: dict[str, list] = {"images": [], "annotations": []}
    coco["categories"] = [{"id": number, "name": name} for number, name in enumerate(names, 1)]
    for number in range(images):
        random = np.random.default_rng(number)
        picture = background(random)
        file = f"{number:03d}.png"
        coco["images"].append({"id": number, "file_name": file, "width": SIZE[0], "height": SIZE[1]})
        for column in range(3):
            if random.random() < 0.7:
                category = int(random.integers(len(names)))
                outline = draw_shape(picture, names[category], column, random)
                fields = {"image_id": number, "category_id": category + 1, "iscrowd": 0}
                shape = {"bbox": bounds(outline), "segmentation": [outline]}
                coco["annotations"].append({"id": len(coco["annotations"]) + 1, **fields, **shape})
        picture.save(directory / "images" / file)
    (directory / "annotations.json").write_text(json.dumps(coco))
    return directory


def background(random: np.random.Generator) -> Image.Image:
    """Smooth random colours: no two images are near duplicates."""
    small = random.integers(120, 240, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(small).resize(SIZE, Image.Resampling.BICUBIC)


def draw_shape(picture: Image.Image, name: str, column: int, random: np.random.Generator) -> list[float]:
    """Draw a shape somewhere in a column and return its outline, x and y in turn."""
    side = int(random.integers(16, 28))
    left = 32 * column + int(random.integers(0, 32 - side))
    top = int(random.integers(0, SIZE[1] - side))
    corners = 4 if name == "square" else 24
    angles = (np.arange(corners) + 0.5) * 2 * np.pi / corners
    radius = side / 2 * (2**0.5 if name == "square" else 1)
    points = np.stack([left + side / 2 + radius * np.cos(angles), top + side / 2 + radius * np.sin(angles)], 1)
    ImageDraw.Draw(picture).polygon([tuple(point) for point in points.tolist()], fill=COLOURS[name])
    return points.round(2).flatten().tolist()


def bounds(outline: list[float]) -> list[float]:
    """COCO's box of an outline: x, y, width, height."""
    x, y = outline[0::2], outline[1::2]
    return [min(x), min(y), max(x) - min(x), max(y) - min(y)]
