"""Exports made without training: their graphs find the red, the green and the blue rectangles of an image."""

import base64
import hashlib
import io
import json
from itertools import chain
from pathlib import Path

import numpy as np
import onnx
from PIL import Image

from Datasets.format.curated import write_annotations, write_curated
from Datasets.format.records import SPLITS, Record, empty_record, implied
from Deployment.service.artifact import Predictor, load

SIZE = 64
CLASSES = ["red", "green", "blue"]
INKS = {"red": (230, 0, 0), "green": (0, 220, 0), "blue": (0, 0, 240)}
HEAD = """
<ir_version: 9, opset_import: ["" : 18]>
colours (uint8[N, 3, H, W] images) => (OUTPUTS) {
  pixels = Cast <to = 1> (images)
  bright = Constant <value = float {128}> ()
  dark = Constant <value = float {330}> ()
  one = Constant <value = float {1}> ()
  zero = Constant <value = float {0}> ()
  some = Constant <value = float {64}> ()
  channel = Constant <value = int64[1] {1}> ()
  plane = Constant <value = int64[2] {2, 3}> ()
  sum = ReduceSum (pixels, channel)
  vivid = Greater (pixels, bright)
  pure = Less (sum, dark)
  inside = And (vivid, pure)
  weight = Where (inside, one, zero)
  area = ReduceSum <keepdims = 0> (weight, plane)
  more = Add (area, some)
  share = Div (area, more)
"""
OUTPUTS = {
    "boxes": "float[N, K, 4] boxes, float[N, K] scores, int64[N, K] classes",
    "mask": "int64[N, H, W] mask",
    "labels": "float[N, C] scores",
    "counts": "float[N, C] scores, float[N, C] counts",
}
# A class's score grows with its area. Rectangles are counted by their upper left corners.
BODIES = {
    "boxes": """
  far = Constant <value = float {1000000}> ()
  last = Constant <value = int64[1] {2}> ()
  three = Constant <value = int64[1] {3}> ()
  repeats = Constant <value = int64[3] {1, 1, 4}> ()
  height = Shape <start = 2, end = 3> (images)
  width = Shape <start = 3, end = 4> (images)
  x_ones = Expand (one, width)
  y_ones = Expand (one, height)
  axis = Constant <value = int64 {0}> ()
  x_ends = CumSum (x_ones, axis)
  y_ends_flat = CumSum (y_ones, axis)
  y_shape = Constant <value = int64[2] {-1, 1}> ()
  y_ends = Reshape (y_ends_flat, y_shape)
  x_starts = Sub (x_ends, one)
  y_starts = Sub (y_ends, one)
  x_near = Where (inside, x_starts, far)
  y_near = Where (inside, y_starts, far)
  x_far = Where (inside, x_ends, zero)
  y_far = Where (inside, y_ends, zero)
  x1 = ReduceMin (x_near, plane)
  y1 = ReduceMin (y_near, plane)
  x2 = ReduceMax (x_far, plane)
  y2 = ReduceMax (y_far, plane)
  sides = Concat <axis = 3> (x1, y1, x2, y2)
  found = Squeeze (sides, last)
  scores, classes = TopK <axis = 1> (share, three)
  order = Unsqueeze (classes, last)
  order4 = Tile (order, repeats)
  boxes = GatherElements <axis = 1> (found, order4)
""",
    "mask": """
  value = Constant <value = float[3] {1, 2, 3}> ()
  shape = Constant <value = int64[4] {1, 3, 1, 1}> ()
  values = Reshape (value, shape)
  coloured = Mul (weight, values)
  highest = ReduceMax <keepdims = 0> (coloured, channel)
  mask = Cast <to = 7> (highest)
""",
    "labels": """
  scores = Identity (share)
""",
    "counts": """
  scores = Identity (share)
  right = Constant <value = int64[8] {0, 0, 0, 1, 0, 0, 0, -1}> ()
  down = Constant <value = int64[8] {0, 0, 1, 0, 0, 0, -1, 0}> ()
  before = Pad (weight, right)
  above = Pad (weight, down)
  covered = Max (before, above)
  corners = Greater (weight, covered)
  corner = Cast <to = 1> (corners)
  counts = ReduceSum <keepdims = 0> (corner, plane)
""",
}


def scene(width: int, height: int, rectangles: dict[str, tuple[int, int, int, int]]) -> Image.Image:
    """A white image with a filled rectangle (x1, y1, x2, y2) of each colour."""
    pixels = np.full((height, width, 3), 255, np.uint8)
    for name, (x1, y1, x2, y2) in rectangles.items():
        pixels[y1:y2, x1:x2] = INKS[name]
    return Image.fromarray(pixels)


def encoded(image: Image.Image, kind: str = "JPEG", **options: object) -> bytes:
    """An image file's bytes."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **({"quality": 95, "subsampling": 0} | options if kind == "JPEG" else options))
    return buffer.getvalue()


SAMPLES = {
    "000.jpg": scene(64, 64, {"red": (8, 8, 40, 24), "blue": (30, 40, 60, 60)}),
    "001.jpg": scene(128, 64, {"green": (20, 10, 70, 50)}),
    "002.jpg": scene(48, 96, {}),
}


TRUTH = [
    {"red": (8, 8, 40, 24), "blue": (30, 40, 60, 60)},
    {"green": (2, 10, 60, 50)},
    {},
]


def truth_of(name: str) -> dict[str, object]:
    """What a sample shows, for each task: a red rectangle, and of a mask one that is not annotated."""
    image, sides = SAMPLES[name], ("x1", "y1", "x2", "y2")
    boxes = [{"name": "red", **dict(zip(sides, (8, 8, 40, 24), strict=True))}]
    mask = np.zeros((image.height, image.width), np.uint8)
    mask[8:24, 8:40], mask[40:60, 30:60] = 1, 255
    file = base64.b64encode(encoded(Image.fromarray(mask), "PNG")).decode()
    size = {"width": image.width, "height": image.height}
    return {**size, "labels": ["red"], "counts": [{"name": "red", "count": 1}], "boxes": boxes, "mask": file}


def write_scenes(directory: Path) -> None:
    """A curated dataset: in each split the images of TRUTH, in the size that the model sees."""
    files = [encoded(scene(SIZE, SIZE, rectangles), "PNG") for rectangles in TRUTH]
    records = {split: [_record(split, number, files) for number in range(len(TRUTH))] for split in SPLITS}
    sizes = {split: [len(file) for file in files] for split in SPLITS}
    masks = [encoded(Image.fromarray(mask_of_truth(rectangles)), "PNG") for rectangles in TRUTH]
    list(write_curated(directory, records, sizes, lambda record: (files[number(record)], masks[number(record)])))
    write_annotations(directory, chain(*records.values()), {name: number for number, name in enumerate(CLASSES)})


def number(record: Record) -> int:
    """Which of TRUTH a record is of."""
    return int(record["image"][0])


def mask_of_truth(rectangles: dict[str, tuple[int, int, int, int]]) -> np.ndarray:
    """The semantic mask of a scene, uint8 [SIZE, SIZE]."""
    mask = np.zeros((SIZE, SIZE), np.uint8)
    for name, (x1, y1, x2, y2) in rectangles.items():
        mask[y1:y2, x1:x2] = CLASSES.index(name) + 1
    return mask


def _record(split: str, number: int, files: list[bytes]) -> Record:
    boxes = [
        {"name": name, **dict(zip(("x1", "y1", "x2", "y2"), sides, strict=True)), "crowd": False, "segmentation": None}
        for name, sides in TRUTH[number].items()
    ]
    record = empty_record(f"{number}_{split}.png", "made")
    record.update(width=SIZE, height=SIZE, boxes=boxes, split=split)
    record["sha256"] = hashlib.sha256(files[number]).hexdigest()
    return implied(record)


def write_manifest(export: Path, **changes: object) -> None:
    """The manifest of the files that are there, with `changes` to its keys."""
    files = {
        path.relative_to(export).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(export.rglob("*"))
        if path.is_file() and path.name != "manifest.json"
    }
    manifest = {
        "format_version": 1,
        "experiment": "e900",
        "task": "boxes",
        "classes": CLASSES,
        "input": {
            "size": SIZE,
            "resize": "letterbox",
            "fill": 114,
            "color": "RGB",
            "layout": "NCHW",
            "dtype": "uint8",
        },
        "score_threshold": 0.25,
        "metrics": {"mAP50": 1.0},
        "git": {"commit": None, "dirty": False, "diff": ""},
        "files": files,
    }
    (export / "manifest.json").write_text(json.dumps(manifest | changes))


def graph(task: str) -> str:
    """The model of a task, as the text of an ONNX graph."""
    return HEAD.replace("OUTPUTS", OUTPUTS[task]) + BODIES[task] + "}"


def write_export(export: Path, task: str = "boxes") -> None:
    """A whole export, with weights and a script that no service needs."""
    (export / "sample").mkdir(parents=True)
    (export / "script").mkdir()
    (export / "weights.safetensors").write_bytes(b"weights")
    (export / "script/model.py").write_text("import torch\n")
    onnx.save(onnx.parser.parse_model(graph(task)), export / "model.onnx")
    for name, image in SAMPLES.items():
        (export / "sample" / name).write_bytes(encoded(image))
    (export / "sample/expected.json").write_text("{}")
    (export / "sample/truth.json").write_text(json.dumps({"000.jpg": truth_of("000.jpg")}))
    chosen = {"task": task, "score_threshold": 0.0 if task == "mask" else 0.25, "experiment": export.name}
    write_manifest(export, **chosen)
    write_expected(export, **chosen)


def write_expected(export: Path, **changes: object) -> None:
    """What the model answers for the samples, as their expected answers."""
    predictor = Predictor(load(export))
    expected = {name: predictor((export / "sample" / name).read_bytes()) for name in SAMPLES}
    (export / "sample/expected.json").write_text(json.dumps(expected))
    write_manifest(export, **changes)
