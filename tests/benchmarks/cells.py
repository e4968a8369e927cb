"""Drawn blood cells, which overlap: small and crowded objects, as a source in Fourfold's JSON form.

    python -m tests.benchmarks.cells TARGET [IMAGES]

No photograph of cells may be shipped here; these have the sizes and numbers of a smear at 640 x 480 pixels: a dozen
red cells of about 100 pixels, a white one now and then, platelets of about 35.
"""

import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

WIDTH, HEIGHT = 640, 480
KINDS = {  # mean number in an image, radius in pixels, colour, and that of the middle
    "RBC": (12, 48, (205, 150, 150), (222, 182, 180)),
    "WBC": (1.0, 75, (196, 170, 205), (95, 60, 150)),
    "Platelets": (1.0, 18, (150, 110, 175), (125, 80, 160)),
}


def write(target: Path, images: int = 300, seed: int = 0) -> None:
    """Write `images` JPEG files and metadata.json."""
    target.mkdir(parents=True)
    random = np.random.default_rng(seed)
    rows = []
    for number in range(images):
        name = f"cells_{number:04d}.jpg"
        image, boxes = draw(random)
        image.save(target / name, quality=85)
        rows.append([name, None, None, boxes])
    (target / "metadata.json").write_text(json.dumps(rows), encoding="utf-8")


def draw(random: np.random.Generator) -> tuple[Image.Image, list[dict]]:
    """An image and its boxes."""
    tone = random.normal(0, 8, 3)
    image = Image.new("RGB", (WIDTH, HEIGHT), shade((233, 218, 214), tone))
    boxes = []
    for name, (mean, radius, colour, middle) in KINDS.items():
        for _ in range(random.poisson(mean)):
            x, y = random.uniform(0, WIDTH), random.uniform(0, HEIGHT)
            a, b = radius * random.uniform(0.75, 1.25, 2)
            own = tone + random.normal(0, 10, 3)
            layer, mask = Image.new("RGB", image.size, shade(colour, own)), Image.new("L", image.size)
            ImageDraw.Draw(mask).ellipse((x - a, y - b, x + a, y + b), fill=int(random.uniform(140, 230)))
            image.paste(layer, mask=mask)
            inner = random.uniform(0.35, 0.6)
            ImageDraw.Draw(image).ellipse(
                (x - a * inner, y - b * inner, x + a * inner, y + b * inner), shade(middle, own)
            )
            x1, y1, x2, y2 = max(0, x - a), max(0, y - b), min(WIDTH, x + a), min(HEIGHT, y + b)
            if (x2 - x1) * (y2 - y1) > 0.3 * 4 * a * b:
                boxes.append({"name": name, "x1": x1, "x2": x2, "y1": y1, "y2": y2})
    pixels = np.asarray(image.filter(ImageFilter.GaussianBlur(random.uniform(1, 3))), np.float32)
    noisy = pixels + random.normal(0, random.uniform(4, 12), pixels.shape)
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8)), boxes


def shade(colour: tuple[int, int, int], change: np.ndarray) -> tuple[int, ...]:
    """The colour, changed."""
    return tuple(int(np.clip(value + by, 0, 255)) for value, by in zip(colour, change, strict=True))


if __name__ == "__main__":
    write(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 300)
