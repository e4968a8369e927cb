"""Images of 12 bits mean the same in training, evaluation, the export and the service."""

import io
import json
import shutil

import numpy as np
from PIL import Image

from Datasets.format.curated import Curated
from Datasets.format.images import decode
from Datasets.format.predictions import TOLERANCE, largest_difference
from Datasets.format.records import read_predictions
from Deployment.service.artifact import Predictor, load
from Models.learning.data_loading import Samples
from tests.template.conftest import ROOT, copy_code, stage, succeeded
from tests.template.Models.shape_scenes import POOLED, write_scenes

TINY = ["--size", "48", "--epochs", "3", "--batch", "8", "--threads", "1", "--learning-rate", "0.05"]


def as_twelve_bits(split, number, record, files):
    """The grey image, 0 to 4095, in a PNG of 16 bits; every third as a float TIFF with the same values."""
    grey = np.asarray(Image.open(io.BytesIO(files[record["image"]])).convert("L"))
    values = np.rint(grey / 255 * 4095).astype(np.float32 if number % 3 == 0 else np.uint16)
    file = io.BytesIO()
    Image.fromarray(values).save(file, "TIFF" if number % 3 == 0 else "PNG")
    files[record["image"]] = file.getvalue()


def test_the_served_answer_is_the_evaluated_one(tmp_path):
    counts, stated = {"train": 24, "val": 6, "test": 6}, [0, 4095]
    curated = write_scenes(tmp_path / "curated", counts, change=as_twelve_bits, value_range=stated)
    assert Curated(curated).value_range == stated
    samples = Samples(Curated(curated), "test", 48)
    for index in range(len(samples)):
        with Image.open(io.BytesIO(samples.file(index))) as image:
            expected = np.rint(np.asarray(image, np.float64) / 4095 * 255)
        assert np.array_equal(samples.pixels(index)[:, :, 2], expected) and expected.max() > 100
    out, code = tmp_path / "out", tmp_path / "code"
    copy_code(code, "Datasets", "Datasets/format", "Datasets/tools", "Models", "Models/exporting", "Models/learning")
    shutil.copy(ROOT / "pyproject.toml", code)
    (code / "Models/e900_pooled.py").write_text(POOLED)
    (code / "Models/blocks").mkdir()
    (code / "Models/blocks/sizes.py").write_text("KERNEL = 8\n")
    common = ["--curated", curated, "--trained", out / "train"]

    def run(name, *words):
        succeeded(stage(f"Models.{name}", *words, cwd=code))

    run("train", "--script", "e900_pooled", "--helpers", "Models/blocks", *common[:2], "--out", out / "train", *TINY)
    run("evaluate", *common)
    int8 = ["--precisions", "int8", "--serve", "int8", "--max_loss", "1"]
    run("export", "--experiment", "e900", *common, "--out", out / "export", *int8)
    manifest = json.loads((out / "export/manifest.json").read_text())
    assert (manifest["input"]["range"], manifest["graph"]) == (stated, "model.int8.onnx")
    predictor, evaluated = Predictor(load(out / "export")), dict(read_predictions(out / "export/predictions.parquet"))
    assert len(evaluated) == 6
    for index, record in enumerate(samples.records):
        served = predictor(samples.file(index), threshold=0.1)
        apart = largest_difference("labels", evaluated[record["image"]], served, 0.1)
        assert all(apart[what] <= tolerance for what, tolerance in TOLERANCE["labels"].items())


def test_another_range_is_other_data(tmp_path):
    counts = {"train": 2, "val": 1, "test": 1}
    ranges = ([0, 4095], [0, 8191], "image", None)
    sets = [Curated(write_scenes(tmp_path / str(n), counts, value_range=each)) for n, each in enumerate(ranges)]
    assert len({each.fingerprint() for each in sets}) == 4
    assert [each.value_range for each in sets] == list(ranges)
    assert np.array_equal(decode(sets[0].images("val")[0]), decode(sets[0].images("val")[0], value_range=[0, 4095]))
