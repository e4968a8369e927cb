"""The checks of an export: its script, run by itself, and its graph must answer as the trained model does."""

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from torch import nn

from Datasets.format.images import Letterbox, decode, letterbox
from Datasets.format.predictions import TOLERANCE, Prediction, largest_difference, to_prediction
from Datasets.tools.errors import UserError
from Models.exporting.graphs import onnx_detector
from Models.rebuild import predict_files, torch_detector

LOWEST_SCORE = 0.1  # detections from here on are compared: below, two cells with all but equal heat may trade places


def compare(
    script: ModuleType, model: nn.Module, export: Path, images: Sequence[Path], manifest: Mapping[str, Any]
) -> dict[str, Any]:
    """The largest differences of the exported script and the ONNX graph from the trained model on the samples.

    Raises UserError if one is above its tolerance.
    """
    task, threshold = manifest["task"], min(LOWEST_SCORE, manifest["score_threshold"])
    detect, infer = torch_detector(model), onnx_detector(export / "model.onnx", task)
    trained, graph = (predict_files(each, images, manifest, threshold) for each in (detect, infer))
    rebuilt = isolated_answers(export, images, threshold)
    for batch in batches(images, manifest["input"], getattr(script, "SIZE_MULTIPLE", 1)):
        shape = "x".join(map(str, batch.shape))
        one, other = (unboxed(each(batch), manifest, batch.shape, threshold) for each in (detect, infer))
        agreement(task, one, other, threshold, f"for images of {shape}, the ONNX graph")
    return {
        "samples": len(images),
        "script": agreement(task, trained, rebuilt, threshold, "the exported script"),
        "onnx": agreement(task, trained, graph, threshold, "the ONNX graph"),
        "tolerance": TOLERANCE[task],
    }


def batches(images: Sequence[Path], about: Mapping[str, Any], multiple: int) -> Iterator[np.ndarray]:
    """Batches of samples, uint8 [N, 3, H, W], as the checks of one image at the training square do not have them.

    Of 1, 2 and 5 images, and of sides that differ from the square's: odd ones, or by the multiple that they must be of.
    about: the manifest's input.
    """
    size, value_range = about["size"], about["range"]
    large, small = (size + 5, size - 3) if multiple == 1 else (size + multiple, max(multiple, size - multiple))
    for count, height, width in ((1, size, size), (5, size, size), (2, large, small)):
        files = [images[number % len(images)] for number in range(count)]
        decoded = [decode(file.read_bytes(), value_range=value_range) for file in files]
        squares = [letterbox(pixels, large).pixels[:height, :width] for pixels in decoded]
        yield np.ascontiguousarray(np.stack(squares).transpose(0, 3, 1, 2))


def unboxed(
    outputs: Mapping[str, np.ndarray], manifest: Mapping[str, Any], shape: Sequence[int], threshold: float
) -> dict[str, Prediction]:
    """The predictions for a batch [N, 3, H, W] in its own pixels, by their number."""
    count, _, height, width = shape
    square = Letterbox(np.zeros((height, width, 3), np.uint8), 1, 1, 0, 0)
    rows = [{name: values[row] for name, values in outputs.items()} for row in range(count)]
    task, classes = manifest["task"], manifest["classes"]
    return {str(n): to_prediction(task, row, square, width, height, classes, threshold) for n, row in enumerate(rows)}


def isolated_answers(export: Path, files: Sequence[Path], threshold: float) -> dict[str, Prediction]:
    """The answers of the exported script, run by a Python that sees nothing of this repository."""
    images = [f"../{file.relative_to(export).as_posix()}" for file in files]
    isolated = [sys.executable, "-E", "-s", "-B"]  # no PYTHONPATH, no user's packages, and no caches left behind
    command = [*isolated, "-m", "Models.rebuild", "--threshold", repr(threshold), *images]
    done = subprocess.run(command, cwd=export / "script", capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        may = "a model script may import torch, the standard library and files of Models that it names"
        raise UserError(f"the exported script does not run on its own: {reason}; {may}")
    return json.loads(done.stdout)


def agreement(
    task: str, expected: Mapping[str, Prediction], actual: Mapping[str, Prediction], threshold: float, what: str
) -> dict[str, float]:
    """The largest differences over all samples, by the names in TOLERANCE. Raises UserError if one is above it."""
    each = [largest_difference(task, expected[name], actual[name], threshold) for name in expected]
    worst = {name: max(difference[name] for difference in each) for name in TOLERANCE[task]}
    for name, tolerance in TOLERANCE[task].items():
        if worst[name] > tolerance:
            problem = f"{what} and the trained model differ in {name} by {worst[name]:.3g}, more than {tolerance:g}"
            raise UserError(f"{problem}: forward() does not mean the same in both")
    return worst
