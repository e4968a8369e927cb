"""Run an exported model from its own script and weights, with nothing but the export at hand.

    cd script && python -m Models.rebuild ../sample/000.jpg

prints what the model sees in the images, as JSON. It needs torch, safetensors, NumPy and Pillow. This file travels with
each export, and the export's own check runs it there.
"""

import argparse
import importlib
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn

from Datasets.format.images import decode, letterbox
from Datasets.format.predictions import Prediction, to_prediction

EXPORT = Path(__file__).resolve().parents[2]  # where this file lies in an export
Detect = Callable[[np.ndarray], Mapping[str, np.ndarray]]  # uint8 [1, 3, H, W] to the outputs of forward


def torch_detector(model: nn.Module) -> Detect:
    """The model, run eagerly."""

    def detect(images: np.ndarray) -> Mapping[str, np.ndarray]:
        with torch.inference_mode():
            return {name: values.numpy() for name, values in model(torch.from_numpy(images)).items()}

    return detect


def predict_files(
    detect: Detect, files: Sequence[Path], manifest: Mapping[str, Any], threshold: float | None = None
) -> dict[str, Prediction]:
    """The answer for each image file, by its name. threshold: the lowest score, by default that of the manifest."""
    task, size, classes = manifest["task"], manifest["input"]["size"], manifest["classes"]
    threshold = manifest["score_threshold"] if threshold is None else threshold
    answers = {}
    for file in files:
        pixels = decode(file.read_bytes(), value_range=manifest["input"].get("range"))
        square = letterbox(pixels, size)
        outputs = detect(np.ascontiguousarray(square.pixels.transpose(2, 0, 1)[None]))
        arrays = {name: values[0] for name, values in outputs.items()}
        height, width = pixels.shape[:2]
        answers[file.name] = to_prediction(task, arrays, square, width, height, classes, threshold)
    return answers


def rebuilt_answers(export: Path, files: Sequence[Path], threshold: float | None = None) -> dict[str, Prediction]:
    """The answers of an export's weights in the model that the script on the path builds."""
    manifest = json.loads((export / "manifest.json").read_text(encoding="utf-8"))
    model = importlib.import_module(manifest["script"]["module"]).build(**manifest["script"]["build"]).eval()
    model.load_state_dict(load_file(export / "weights.safetensors"))
    return predict_files(torch_detector(model), files, manifest, threshold)


def main() -> None:
    """Predict the images named on the command line."""
    parser = argparse.ArgumentParser(description="Run an exported model from its own script and weights.")
    parser.add_argument("images", nargs="+", type=Path)
    parser.add_argument("--threshold", type=float, help="lowest score; by default the one in manifest.json")
    arguments = parser.parse_args()
    with redirect_stdout(sys.stderr):  # what a model script prints is no part of the answer
        answers = rebuilt_answers(EXPORT, arguments.images, arguments.threshold)
    print(json.dumps(answers, indent=1))


if __name__ == "__main__":
    main()
