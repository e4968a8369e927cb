"""Makes a curated dataset of coloured shapes, small enough to learn in seconds, and runs stages as a user does."""

import hashlib
import io

import numpy as np
from PIL import Image

from Datasets.format.curated import write_annotations, write_curated
from Datasets.format.records import empty_record, implied
from tests.template.conftest import ROOT, run_in
from tests.template.Data_processing.stages import stage as run_here

CLASSES = {"disc": 0, "square": 1}
COLOURS = {"disc": (200, 40, 40), "square": (40, 60, 200)}
POOLED = """
from torch import nn

from Models.blocks.sizes import KERNEL

TASK = "labels"

def build(classes: int, width: int = 8) -> nn.Module:
    return Pooled(classes, width)

class Pooled(nn.Module):
    def __init__(self, classes, width):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, width, KERNEL, 4), nn.ReLU(), nn.Conv2d(width, classes, 1))

    def logits(self, images):
        return self.layers(images.float() / 255).amax((2, 3))

    def forward(self, images):
        return {"scores": self.logits(images).sigmoid()}

    def loss(self, images, targets):
        return {"label": nn.functional.binary_cross_entropy_with_logits(self.logits(images), targets["labels"].float())}
"""  # a model of labels whose graph is made in a second
TINY = ["--size", "48", "--epochs", "12", "--batch", "8", "--threads", "1"]


def box(name, x1, y1, x2, y2, crowd=False):
    sides = {"x1": float(x1), "y1": float(y1), "x2": float(x2), "y2": float(y2)}
    return {"name": name, **sides, "crowd": crowd, "segmentation": None}


def scene(seed):
    """A 64 x 48 picture and its mask as PNG bytes, and its boxes: at most one shape in each of three columns."""
    random = np.random.default_rng(seed)
    pixels = random.integers(150, 220, (48, 64, 3), dtype=np.uint8)
    mask = np.zeros((48, 64), np.uint8)
    boxes = []
    for column in range(3):
        name = str(random.choice(list(CLASSES)))
        side = int(random.integers(10, 18))
        left, top = 21 * column + int(random.integers(0, 21 - side)), int(random.integers(0, 48 - side))
        y, x = np.mgrid[:side, :side] - (side - 1) / 2
        shape = (np.hypot(x, y) <= side / 2) if name == "disc" else np.ones((side, side), bool)
        if random.random() < 0.7:
            pixels[top : top + side, left : left + side][shape] = COLOURS[name]
            mask[top : top + side, left : left + side][shape] = CLASSES[name] + 1
            boxes.append(box(name, left, top, left + side, top + side))
    return png(pixels), png(mask), boxes


def png(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def write_scenes(directory, counts, seed=0, change=None, value_range=None):
    """Write a curated dataset. change(split, number, record, files) may alter a record or its file."""
    directory.mkdir(parents=True)
    records, files = {}, {}
    for split_number, (split, count) in enumerate(counts.items()):
        records[split] = []
        for number in range(count):
            record = empty_record(f"{split}_{number}.png", "shapes")
            files[record["image"]], mask, record["boxes"] = scene([seed, split_number, number])
            record["mask"] = {"bytes": mask, "path": f"shapes/{record['image']}.mask.png"}
            record.update(width=64, height=48, split=split, group=str(number))
            if change:
                change(split, number, record, files)
            record["sha256"] = hashlib.sha256(files[record["image"]]).hexdigest()
            records[split].append(implied(record))
    sizes = {split: [len(files[record["image"]]) for record in rows] for split, rows in records.items()}
    read = lambda record: (files[record["image"]], None)  # noqa: E731
    list(write_curated(directory, records, sizes, read, value_range=value_range))
    write_annotations(directory, [record for rows in records.values() for record in rows], CLASSES)
    return directory


def stage(name, *words, home):
    """Run a stage of Models as a user does; `home` is where its checkpoints go."""
    return run_in(ROOT, "python", "-m", f"Models.{name}", *words, DVC_ROOT=str(home))


def run_stage(name, *words, home):
    """Run a stage that must not fail."""
    done = stage(name, *words, home=home)
    assert done.returncode == 0, done.stderr
    return done


def refused(name, *words):
    """The one line with which a stage refuses; run in this process, for a start takes seconds."""
    done = run_here(f"Models.{name}", *words)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    return line
