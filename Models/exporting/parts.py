"""The parts of an export: scripts, ONNX graph, samples, and the check that they answer alike."""

import json
import logging
import os
import re
import shutil
import subprocess
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import nn

from Datasets.format.import_closure import import_closure, imported_modules
from Datasets.format.predictions import OUTPUTS, TOLERANCE, Prediction, largest_difference
from Datasets.tools.errors import UserError
from Models.exporting.rebuild import Detect
from Models.learning.data_loading import Samples

OPSET = 20
REBUILD = Path("Models/exporting/rebuild.py")
NEEDED = {"torch", "typing_extensions", "safetensors", "numpy", "PIL"}  # by every export, to run its script


def copy_scripts(script: Path, root: Path, out: Path) -> list[Path]:
    """Copy a model script and rebuild.py, with all files that they import, keeping folders; return the files."""
    files = import_closure([script, REBUILD], root)
    for file in files:
        (out / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(root / file, out / file)
    return files


def foreign_imports(files: Sequence[Path], root: Path) -> list[str]:
    """The packages that these files import beyond the standard library and what every export needs."""
    names = {module.partition(".")[0] for file in files for module in imported_modules(file, root)}
    return sorted(names - {file.parts[0] for file in files} - sys.stdlib_module_names - NEEDED)


def write_samples(samples: Samples, count: int, out: Path) -> list[Path]:
    """Copy `count` image files, evenly spread over the samples, byte for byte, and return them."""
    out.mkdir()
    indices = np.linspace(0, len(samples), min(count, len(samples)), endpoint=False, dtype=int)
    for number, index in enumerate(indices):
        suffix = Path(samples.records[index]["image"]).suffix.lower()
        (out / f"{number:03d}{suffix}").write_bytes(samples.file(index))
    return sorted(out.iterdir())


def write_onnx(model: nn.Module, size: int, path: Path) -> None:
    """Write `forward` as an ONNX graph: input "images" uint8 [N, 3, H, W] of any N, H, W; outputs as of `forward`.

    Raises UserError if `forward` does what a graph cannot.
    """
    model.cpu()
    example = torch.randint(0, 256, (2, 3, size, size), dtype=torch.uint8)
    sides = {0: torch.export.Dim.DYNAMIC, 2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with torch.no_grad():
        names = list(model(example))  # the graph's outputs are in the order of this dict, whatever that is
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            program = torch.onnx.export(
                model,
                (example,),
                dynamo=True,
                opset_version=OPSET,
                input_names=["images"],
                output_names=names,
                dynamic_shapes=(sides,),
                verbose=False,
            )
        except torch.onnx.OnnxExporterError as error:
            raise UserError(f"forward() cannot become an ONNX graph: {_reason(error)}") from error
    assert program is not None
    graph = program.model_proto
    _strip(graph)
    onnx.checker.check_model(graph, full_check=True)
    path.write_bytes(graph.SerializeToString(deterministic=True))


def _reason(error: Exception) -> str:
    """The first line of torch.export's message, and the last place in code that it names."""
    text = str(error.__cause__ or error)
    places = re.findall(r'^  File "(.+)", line (\d+), in ', text, re.MULTILINE)
    return text.partition("\n")[0] + "".join(f" ({Path(file).name}, line {line})" for file, line in places[-1:])


def _strip(graph: onnx.ModelProto) -> None:
    """Remove the stack trace that the exporter notes for each node: it holds the paths of this machine."""
    parts = [graph, graph.graph, *graph.graph.node, *graph.graph.input, *graph.graph.output]
    for part in [*parts, *graph.graph.value_info, *graph.graph.initializer, *graph.functions]:
        del part.metadata_props[:]
        part.doc_string = ""


def onnx_detector(path: Path, task: str) -> Detect:
    """The graph in onnxruntime."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # its import alone reports to its maker, from version 1.29 on
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def detect(images: np.ndarray) -> Mapping[str, np.ndarray]:
        return dict(zip(OUTPUTS[task], session.run(list(OUTPUTS[task]), {"images": images}), strict=True))

    return detect


def isolated_answers(export: Path, files: Sequence[Path], threshold: float) -> dict[str, Prediction]:
    """The answers of the exported script, run by a Python that sees nothing of this repository."""
    images = [f"../{file.relative_to(export).as_posix()}" for file in files]
    isolated = [sys.executable, "-E", "-s", "-B"]  # no PYTHONPATH, no user's packages, and no caches left behind
    command = [*isolated, "-m", "Models.exporting.rebuild", "--threshold", repr(threshold), *images]
    done = subprocess.run(command, cwd=export / "script", capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise UserError(
            f"the exported script does not run on its own: {reason}; a model script may import torch, "
            f"the standard library and files of Models that it names"
        )
    return json.loads(done.stdout)


def agreement(
    task: str, expected: Mapping[str, Prediction], actual: Mapping[str, Prediction], threshold: float, what: str
) -> dict[str, float]:
    """The largest differences over all samples, by the names in TOLERANCE. Raises UserError if one is above it."""
    each = [largest_difference(task, expected[name], actual[name], threshold) for name in expected]
    worst = {name: max(difference[name] for difference in each) for name in TOLERANCE[task]}
    for name, tolerance in TOLERANCE[task].items():
        if worst[name] > tolerance:
            raise UserError(
                f"{what} and the trained model differ in {name} by {worst[name]:.3g}, more than {tolerance:g}: "
                f"forward() does not mean the same in both"
            )
    return worst
