"""The picture of the worst predictions: truth on the left, prediction on the right."""

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from Datasets.images import decode
from Datasets.predictions import Detection
from Models.data_loading import Samples
from Models.evaluation import Match, match

PANEL = 300  # pixels of the longer side of an image as drawn
MARGIN = 8
CAPTION = 22
RIGHT, WRONG, CROWD = (0, 150, 60), (215, 30, 30), (90, 90, 90)
COLUMNS = 2
FONT_SIZE = 13


def worst_images(samples: Samples, predictions: Sequence[Detection], count: int) -> list[int]:
    """The images with most mistakes (missed objects and detections of nothing or of a wrong class), worst first."""
    matches = [match(samples, i, prediction, same_class=True) for i, prediction in enumerate(predictions)]
    return sorted(range(len(matches)), key=lambda i: (-_mistakes(matches[i]), i))[:count]


def _mistakes(matched: Match) -> int:
    return len(matched.extra) + len(matched.missed)


def draw_worst(samples: Samples, predictions: Sequence[Detection], indices: Sequence[int]) -> Image.Image:
    """Two panels for each image. Green: truth and prediction agree; red: an object not found, or a false detection."""
    tiles = [_tile(samples, index, predictions[index]) for index in indices]
    width, height = 2 * PANEL + 2 * MARGIN, PANEL + CAPTION + MARGIN
    columns = min(COLUMNS, len(tiles))
    sheet = Image.new("RGB", (columns * width, CAPTION + -(-len(tiles) // columns) * height), "white")
    heading = "left: truth, red where missed; right: prediction with its score, red where wrong"
    ImageDraw.Draw(sheet).text((MARGIN, 3), heading, "black", ImageFont.load_default(FONT_SIZE))
    for number, tile in enumerate(tiles):
        sheet.paste(tile, (number % columns * width, CAPTION + number // columns * height))
    return sheet


def _tile(samples: Samples, index: int, prediction: Detection) -> Image.Image:
    matched = match(samples, index, prediction, same_class=True)
    image = Image.fromarray(decode(samples.file(index)))
    scale = PANEL / max(image.size)
    image = image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))))
    left, right = image.copy(), image.copy()
    for sides, kind in zip(*samples.boxes(index, crowd=True), strict=True):
        _box(left, sides * scale, f"{samples.classes[kind]} (crowd)", CROWD)
    for number, (sides, kind) in enumerate(zip(*samples.boxes(index, crowd=False), strict=True)):
        _box(left, sides * scale, samples.classes[kind], WRONG if number in matched.missed else RIGHT)
    for number, box in reversed(list(enumerate(prediction["boxes"]))):  # the surest on top
        sides = [box["x1"] * scale, box["y1"] * scale, box["x2"] * scale, box["y2"] * scale]
        _box(right, sides, f"{box['name']} {box['score']:.2f}", WRONG if number in matched.extra else RIGHT)
    tile = Image.new("RGB", (2 * PANEL + 2 * MARGIN, PANEL + CAPTION + MARGIN), "white")
    caption = f"{samples.records[index]['image']}: {len(matched.missed)} missed, {len(matched.extra)} false"
    ImageDraw.Draw(tile).text((MARGIN, 3), caption, "black", ImageFont.load_default(FONT_SIZE))
    tile.paste(left, (MARGIN, CAPTION))
    tile.paste(right, (MARGIN + PANEL + MARGIN // 2, CAPTION))
    return tile


def _box(image: Image.Image, sides: Sequence[float], text: str, colour: tuple[int, int, int]) -> None:
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(FONT_SIZE)
    x1, y1, x2, y2 = (float(side) for side in sides)
    draw.rectangle((x1, y1, x2 - 1, y2 - 1), outline=colour, width=2)
    _, _, width, height = draw.textbbox((0, 0), text, font)
    at = min(x1, image.width - width - 4), y1 - height - 4 if y1 > height + 4 else y2
    at = max(0.0, at[0]), max(0.0, min(at[1], image.height - height - 4))
    draw.rectangle((at[0], at[1], at[0] + width + 3, at[1] + height + 3), fill=colour)
    draw.text((at[0] + 2, at[1] + 1), text, "white", font)
