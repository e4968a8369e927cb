"""Predictions of every task come back from Parquet as they were written."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from Datasets.format.records import read_predictions, write_predictions

SIZE = {"width": 8, "height": 6}


def _mask():
    file = io.BytesIO()
    Image.fromarray(np.eye(6, 8, dtype=np.uint8)).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


BOX = {"name": "car", "x1": 0.5, "y1": 0.0, "x2": 7.25, "y2": 6.0, "score": 0.001}
PREDICTIONS = {
    "boxes": {"labels": ["car"], "counts": [{"name": "car", "count": 1}], "boxes": [BOX]},
    "no boxes": {"labels": [], "counts": [], "boxes": []},
    "mask": {"labels": ["car"], "mask": _mask()},
    "labels": {"labels": ["car"], "scores": {"car": 0.9, "dog": 0.1}},
    "counts": {
        "labels": ["car"],
        "scores": {"car": 0.9, "dog": 0.1},
        "counts": [{"name": "car", "count": 2}],
        "expected": {"car": 2.2, "dog": 0.1},
    },
}


@pytest.mark.parametrize("kind", PREDICTIONS)
def test_round_trip(kind, tmp_path):
    prediction = SIZE | PREDICTIONS[kind]
    rows = [{"image": "a/1.jpg", **prediction}, {"image": "a/2.jpg", "error": "damaged"}]
    write_predictions(rows, "e001", tmp_path / "predictions.parquet")
    assert read_predictions(tmp_path / "predictions.parquet") == {"a/1.jpg": prediction}
