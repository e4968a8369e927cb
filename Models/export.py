"""Export a trained model: weights, the script that builds it, an ONNX graph, samples, and a manifest of it all.

    python -m Models.export --experiment e001 --script e001_center_detector --trained Models/outputs/e001/train \\
        --evaluated Models/outputs/e001/evaluate --out Datasets/pretrained/e001

The export is checked before it appears: the model built anew from the exported script, by a Python that sees nothing
else, and the ONNX graph must answer as the trained model does on the samples. `Models/README.md` lists its files.
"""

import json
import os
import shutil
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # before torch is imported; Models/train.py says why

import torch
import typer
from torch import nn

from Datasets.format.curated import Curated
from Datasets.format.images import FILL
from Datasets.format.predictions import TOLERANCE, Prediction
from Datasets.tools.atomic import replacing
from Datasets.tools.command import run
from Datasets.tools.errors import UserError
from Models.exporting.parts import (
    LOWEST_SCORE,
    agreement,
    copy_scripts,
    foreign_imports,
    onnx_detector,
    rebuilt_answers,
    write_onnx,
    write_samples,
)
from Models.exporting.provenance import data_hashes, file_hashes, git_state
from Models.exporting.rebuild import Detect, predict_files, torch_detector
from Models.learning.data_loading import Samples
from Models.learning.scripts import ROOT, Run, read_run, script_file, trained_model

FORMAT_VERSION = 1


def main(
    experiment: Annotated[str, typer.Option(help="id of the experiment, as in params.yaml")],
    script: Annotated[str, typer.Option(help="name of the model script that was trained")],
    trained: Annotated[Path, typer.Option(help="what Models.train wrote")],
    evaluated: Annotated[Path, typer.Option(help="what Models.evaluate wrote")],
    out: Annotated[Path, typer.Option(help="directory to write to")],
    curated: Annotated[Path, typer.Option(help="curated dataset")] = Path("Datasets/curated"),
    samples: Annotated[int, typer.Option(min=1, help="test images that go along")] = 8,
) -> None:
    """Export a trained model: weights, script, ONNX graph, samples and manifest."""
    done = read_run(trained, script)
    metrics = read_metrics(evaluated / "metrics.json")
    model = trained_model(done, trained)
    torch.set_num_threads(done.train["threads"])
    test = Samples(Curated(curated), "test", done.train["size"], done.task)
    with replacing(out, "manifest.json", "model.onnx", "weights.safetensors") as partial:
        partial.mkdir()
        shutil.copyfile(trained / "weights.safetensors", partial / "weights.safetensors")
        scripts = copy_scripts(script_file(script), ROOT, partial / "script")
        write_onnx(model, done.train["size"], partial / "model.onnx")
        images = write_samples(test, samples, partial / "sample")
        manifest = {**describe(experiment, done, metrics), "git": git_state(ROOT, scripts)}
        expected = answers(torch_detector(model), images, done, metrics["score_threshold"])
        write_json(expected, partial / "sample" / "expected.json")
        write_json(manifest, partial / "manifest.json")  # the exported script reads it when it is checked
        manifest["agreement"] = compare(model, partial, images, done, min(LOWEST_SCORE, metrics["score_threshold"]))
        manifest["files"] = file_hashes(partial)
        write_json(manifest, partial / "manifest.json")
    if foreign := foreign_imports(scripts, ROOT):
        print(f"{out}: who runs its script must install {', '.join(foreign)}, too; its ONNX graph needs nothing of it")
    for what in ("script", "onnx"):
        apart = ", ".join(f"{name} {value:.1g}" for name, value in manifest["agreement"][what].items())
        print(f"{out}: {what} and training differ on the samples by at most: {apart}")


def answers(detect: Detect, images: Sequence[Path], done: Run, threshold: float) -> dict[str, Prediction]:
    """What a detector says of the samples, by their file names."""
    return predict_files(detect, done.task, images, done.train["size"], done.classes, threshold)


def compare(model: nn.Module, export: Path, images: Sequence[Path], done: Run, threshold: float) -> dict[str, Any]:
    """How far the exported script and the ONNX graph are from the trained model on the samples.

    Raises UserError if that is more than the tolerance.
    """
    task = done.task
    eager = answers(torch_detector(model), images, done, threshold)
    graph = answers(onnx_detector(export / "model.onnx", task), images, done, threshold)
    rebuilt = rebuilt_answers(export, images, threshold)
    return {
        "samples": len(images),
        "script": agreement(task, eager, rebuilt, threshold, "the exported script"),
        "onnx": agreement(task, eager, graph, threshold, "the ONNX graph"),
        "tolerance": TOLERANCE[task],
    }


def describe(experiment: str, done: Run, metrics: dict[str, Any]) -> dict[str, Any]:
    """The manifest, less what is known only once the files are there."""
    options = {name: value for name, value in done.train.items() if name != "seed"}
    return {
        "format_version": FORMAT_VERSION,
        "experiment": experiment,
        "task": done.task,
        "classes": done.classes,
        "input": {
            "size": done.train["size"],
            "resize": "letterbox",
            "fill": FILL,
            "color": "RGB",
            "layout": "NCHW",
            "dtype": "uint8",
        },
        "score_threshold": metrics["score_threshold"],
        "script": {"module": f"Models.{done.script}", "build": {"classes": len(done.classes), **done.build}},
        "hyperparameters": options,
        "seed": done.train["seed"],
        "init": done.init,
        "metrics": metrics,
        "data": data_hashes(ROOT, experiment),
        "curated_fingerprint": done.data,
        "versions": {**done.versions, **{name: version(name) for name in ("onnx", "onnxruntime")}},
    }


def read_metrics(path: Path) -> dict[str, Any]:
    """What the evaluate stage measured. Raises UserError if it is missing or damaged."""
    try:
        metrics = json.loads(path.read_text(encoding="utf-8"))
        return {**metrics, "score_threshold": float(metrics["score_threshold"])}
    except FileNotFoundError:
        raise UserError(f"{path}: not found; run the evaluate stage first") from None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: damaged ({error!r}); run the evaluate stage again") from error


def write_json(value: Any, path: Path) -> None:
    """Write JSON for people and programs; NaN and infinity, which are no JSON, are a programmer's mistake."""
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    run(main)
