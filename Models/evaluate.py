"""Evaluate a trained model on the test split.

    python -m Models.evaluate --trained Models/outputs/e001/train

The score threshold is chosen on the val split. Writes into --out: predictions.parquet (the answer for each test image,
boxes from a score of 0.001; Datasets/format/scored_records.py), precision_recall.csv and confusion.csv (plots),
worst.png (the test images with most mistakes, truth and prediction drawn) and, last, metrics.json. Models/learning/
*metrics.py define each task's figures.
"""

import colorsys
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import typer
from PIL import Image, ImageDraw

from Datasets.format.curated import Curated
from Datasets.format.images import VOID
from Datasets.format.predictions import mask_of
from Datasets.format.scored_records import write_predictions
from Datasets.tools.atomic import replacing
from Datasets.tools.command import run
from Datasets.tools.errors import UserError
from Models.learning.box_metrics import Measured, above, match
from Models.learning.data_loading import Samples
from Models.learning.hardware import usable_device
from Models.learning.metrics import TASKS, predict, predicted_counts, scores_of
from Models.learning.scripts import read_run, trained_model, write_json

PANEL = 300  # pixels of the longer side of an image as drawn
MARGIN, LINE, FONT_SIZE = 8, 20, 13
COLUMNS = 2
OPACITY = 0.6  # of a mask on its image
RIGHT, WRONG, IGNORED = (0, 150, 60), (215, 30, 30), (90, 90, 90)
LEGEND = "left: truth, red where missed; right: prediction, red where wrong; grey is ignored"
Colour = tuple[int, int, int]
Panels = tuple[Image.Image, Image.Image]  # one picture twice, for the truth and for the prediction


def main(
    trained: Annotated[Path, typer.Option(help="what Models.train wrote")],
    out: Annotated[Path | None, typer.Option(help="directory to write to, `evaluate` beside it")] = None,
    curated: Annotated[Path, typer.Option(help="curated dataset")] = Path("Datasets/curated"),
    worst: Annotated[int, typer.Option(min=1, help="how many images to draw")] = 8,
    device: Annotated[str, typer.Option(help="cpu, cuda or auto, the GPU where there is one")] = "auto",
) -> None:
    """Evaluate a trained model on the test split."""
    out = out or trained.with_name("evaluate")
    done = read_run(trained)
    data = Curated(curated)
    if list(data.classes) != done.classes:
        raise UserError(f"{curated}: has other classes than {trained}/run.json was trained on; train again")
    model = trained_model(done, trained).to(usable_device(device))
    task, size, batch = done.task, done.train["size"], done.train["batch"]
    val, test = (Samples(data, split, size, task) for split in ("val", "test"))

    threshold = TASKS[task].best_threshold(val, predict(model, val, batch))
    predictions = predict(model, test, batch)
    measured = TASKS[task].measure(test, predictions, threshold)
    report_absent(measured.metrics, test.classes)

    answers = zip(test.records, predictions, strict=True)
    rows = [{"image": record["image"], "sha256": record["sha256"], **answer} for record, answer in answers]
    write_predictions(rows, done.script, out / "predictions.parquet")
    write_csv(out / "precision_recall.csv", ["recall", "precision"], measured.curve)
    write_csv(out / "confusion.csv", ["actual", "predicted"], named_confusion(measured, test.classes))
    with replacing(out / "worst.png") as partial:
        draw_worst(test, predictions, measured.mistakes, threshold, worst).save(partial, "PNG")
    learned = sum(record[task] is not None for record in data.records("train", masks=False))  # type: ignore[literal-required]
    metrics = {"images": len(test), "train_images": learned, "score_threshold": threshold, **measured.metrics}
    write_json(metrics, out / "metrics.json")
    print(f"{len(test)} test images: " + ", ".join(f"{name} {metrics[name]:.3f}" for name in measured.printed))


def report_absent(metrics: Mapping[str, Any], classes: Sequence[str]) -> None:
    """Report the classes without a test image, which have no figure."""
    groups = {name: group for name, group in metrics.items() if isinstance(group, dict)}
    absent = [each for each in classes if any(each not in group for group in groups.values())]
    if absent:
        print(f"no test image has {', '.join(absent)}: without {', '.join(groups)}, and in no mean", file=sys.stderr)


def named_confusion(measured: Measured, classes: Sequence[str]) -> list[tuple[str, str]]:
    """The pairs of the confusion with a name for `no object` that no class has."""
    nothing = "background"
    while nothing in classes:
        nothing = f"({nothing})"
    return [(actual or nothing, predicted or nothing) for actual, predicted in measured.confusion]


def write_csv(path: Path, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Write a table that `dvc plots` reads."""
    with replacing(path) as partial:
        pd.DataFrame(rows, columns=list(columns)).to_csv(partial, index=False, float_format="%.6g")


def draw_worst(
    samples: Samples, predictions: Sequence[Any], mistakes: Sequence[float], threshold: float, count: int
) -> Image.Image:
    """The images with most mistakes, each with its truth on the left and its prediction on the right."""
    draw = {"boxes": draw_boxes, "mask": draw_mask}.get(samples.task, draw_labels)
    indices = sorted(range(len(samples)), key=lambda i: (-mistakes[i], i))[:count]
    columns, width, height = min(COLUMNS, len(indices)), 2 * PANEL + 2 * MARGIN, PANEL + LINE + MARGIN
    sheet = Image.new("RGB", (columns * width, LINE + -(-len(indices) // columns) * height), "white")
    pen = ImageDraw.Draw(sheet)
    pen.text((MARGIN, 3), LEGEND, "black", font_size=FONT_SIZE)
    for number, index in enumerate(indices):
        x, y = number % columns * width + MARGIN, number // columns * height + LINE
        amount = f"{mistakes[index]:.1%} of the pixels" if samples.task == "mask" else f"{mistakes[index]:g}"
        caption = f"{amount} wrong: {samples.records[index]['image']}"
        pen.text((x, y + 3), caption, "black", font_size=FONT_SIZE)
        image = Image.fromarray(samples.pixels(index))
        scale = PANEL / max(image.size)
        left = image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))))
        right = left.copy()
        draw(samples, index, predictions[index], threshold, (left, right))
        sheet.paste(left, (x, y + LINE))
        sheet.paste(right, (x + PANEL + MARGIN // 2, y + LINE))
    return sheet


def draw_boxes(samples: Samples, index: int, prediction: Any, threshold: float, panels: Panels) -> None:
    """Draw boxes with their names, and scores of predictions."""
    prediction = above(prediction, threshold)
    matched = match(samples, index, prediction, same_class=True)
    boxes = samples.records[index]["boxes"] or []
    singles = [box for box in boxes if not box["crowd"]]
    truth: list[tuple[Any, str, Colour]]
    truth = [(box, f"{box['name']} (crowd)", IGNORED) for box in boxes if box["crowd"]]
    truth += [(box, box["name"], WRONG if number in matched.missed else RIGHT) for number, box in enumerate(singles)]
    predicted = [
        (box, f"{box['name']} {box['score']:.2f}", WRONG if number in matched.extra else RIGHT)
        for number, box in enumerate(prediction["boxes"])
    ]
    scale = panels[0].width / prediction["width"]
    for image, drawn in zip(panels, (truth, predicted), strict=True):
        pen = ImageDraw.Draw(image)
        drawn.sort(key=lambda each: each[2] == WRONG)  # drawn last, over the others
        for box, _, colour in drawn:
            x1, y1, x2, y2 = (box[side] * scale for side in ("x1", "y1", "x2", "y2"))
            pen.rectangle((x1, y1, max(x1, x2 - 1), max(y1, y2 - 1)), outline=colour, width=2)
        for box, name, colour in drawn:
            draw_text(image, box["x1"] * scale, box["y1"] * scale - LINE, name, colour)


def draw_mask(samples: Samples, index: int, prediction: Any, threshold: float, panels: Panels) -> None:
    """Tint the image with the colours of its classes, whose names are listed."""
    palette = np.array([class_colour(value) for value in range(256)], np.uint8)
    for image, mask in zip(panels, (samples.mask(index), mask_of(prediction)), strict=True):
        sized = np.asarray(Image.fromarray(mask).resize(image.size, Image.Resampling.NEAREST))
        tinted = Image.blend(image, Image.fromarray(palette[sized]), OPACITY)
        image.paste(tinted, mask=Image.fromarray(sized > 0))
        for line, value in enumerate(sorted({*np.unique(mask).tolist()} - {0, VOID})):
            draw_text(image, 0, line * LINE, samples.classes[value - 1], class_colour(value))


def class_colour(value: int) -> Colour:
    """The colour of a mask's value; neighbouring values have colours far apart."""
    red, green, blue = colorsys.hsv_to_rgb(value * 0.381966 % 1, 0.9, 0.6 + 0.35 * (value % 2))
    return IGNORED if value == VOID else (round(255 * red), round(255 * green), round(255 * blue))


def draw_labels(samples: Samples, index: int, prediction: Any, threshold: float, panels: Panels) -> None:
    """List the classes: with their counts, if the task is counts, and with the scores of predictions."""
    scores = scores_of(samples, [prediction])[0]
    truth = getattr(samples, samples.task)(index).astype(int)
    predicted = predicted_counts(samples, [prediction], threshold)[0]
    for image, counts in zip(panels, (truth, predicted), strict=True):
        for line, kind in enumerate(np.flatnonzero(counts)):
            text = f"{counts[kind]} {samples.classes[kind]}" if samples.task == "counts" else samples.classes[kind]
            text += f" {scores[kind]:.2f}" if counts is predicted else ""
            draw_text(image, 0, line * LINE, text, RIGHT if truth[kind] == predicted[kind] else WRONG)


def draw_text(image: Image.Image, x: float, y: float, text: str, colour: Colour) -> None:
    """Write text on a background of a colour, moved inside the image."""
    pen = ImageDraw.Draw(image)
    width = pen.textlength(text, font_size=FONT_SIZE) + 4
    x, y = max(0, min(x, image.width - width)), max(0, min(y, image.height - LINE))
    pen.rectangle((x, y, x + width, y + LINE - 2), fill=colour)
    pen.text((x + 2, y + 1), text, "white" if sum(colour) < 400 else "black", font_size=FONT_SIZE)


if __name__ == "__main__":
    run(main)
