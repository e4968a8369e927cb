"""Export a trained model: weights, the script that builds it, an ONNX graph, samples, and a manifest of it all.

    python -m Models.export --experiment e001 --script e001_center_detector

The export is checked before it appears: the model built anew from the exported script, by a Python that sees nothing
else, and the ONNX graph must answer as the trained model does on the samples. `Models/README.md` lists its files.
"""

import hashlib
import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from ruamel.yaml import YAML

from Datasets.format.curated import Curated
from Datasets.format.images import FILL
from Datasets.format.predictions import TOLERANCE, Prediction
from Datasets.tools.atomic import replacing
from Datasets.tools.command import run
from Models.exporting.parts import (
    agreement,
    copy_scripts,
    foreign_imports,
    isolated_answers,
    onnx_detector,
    write_onnx,
    write_samples,
)
from Models.exporting.rebuild import Detect, predict_files, torch_detector
from Models.learning.data_loading import Samples
from Models.learning.scripts import ROOT, Run, read_run, script_file, trained_model

if TYPE_CHECKING:
    from torch import nn

FORMAT_VERSION = 1
INPUT = {"resize": "letterbox", "fill": FILL, "color": "RGB", "layout": "NCHW", "dtype": "uint8"}
LOWEST_SCORE = 0.01  # detections from this score on are compared, many more than the samples' answers show
PREDICTIONS = "predictions.parquet"
CODE = re.compile(r"Models/|Deployment/|Datasets/(format|pretrained)\b|Data_processing/(?!intermediate/)|.*\.py$")


def main(
    experiment: Annotated[str, typer.Option(help="id of the experiment, as in params.yaml")],
    script: Annotated[str, typer.Option(help="name of the model script that was trained")],
    trained: Annotated[Path | None, typer.Option(help="what Models.train wrote")] = None,
    evaluated: Annotated[Path | None, typer.Option(help="what Models.evaluate wrote")] = None,
    out: Annotated[Path | None, typer.Option(help="directory to write to, Datasets/pretrained/ID")] = None,
    curated: Annotated[Path, typer.Option(help="curated dataset")] = Path("Datasets/curated"),
    samples: Annotated[int, typer.Option(min=1, help="test images that go along")] = 8,
) -> None:
    """Export a trained model: weights, script, ONNX graph, samples and manifest."""
    trained = trained or Path(f"Models/outputs/{experiment}/train")
    evaluated = evaluated or Path(f"Models/outputs/{experiment}/evaluate")
    out = out or Path(f"Datasets/pretrained/{experiment}")
    done = read_run(trained, script)
    metrics = json.loads((evaluated / "metrics.json").read_text(encoding="utf-8"))
    threshold = metrics["score_threshold"]
    model = trained_model(done, trained)
    test = Samples(Curated(curated), "test", done.train["size"], done.task)
    with replacing(out, "manifest.json", "model.onnx", "weights.safetensors") as partial:
        partial.mkdir()
        shutil.copyfile(trained / "weights.safetensors", partial / "weights.safetensors")
        shutil.copyfile(evaluated / PREDICTIONS, partial / PREDICTIONS)
        scripts = copy_scripts(script_file(script), ROOT, partial / "script")
        write_onnx(model, done.train["size"], partial / "model.onnx")
        images = write_samples(test, samples, partial / "sample")
        write_json(answers(torch_detector(model), images, done, threshold), partial / "sample" / "expected.json")
        manifest = {**describe(experiment, done, metrics), "git": git_state(ROOT, scripts)}
        write_json(manifest, partial / "manifest.json")  # the exported script reads it when it is checked
        manifest["agreement"] = compare(model, partial, images, done, min(LOWEST_SCORE, threshold))
        manifest["files"] = file_hashes(partial)
        write_json(manifest, partial / "manifest.json")
    if foreign := foreign_imports(scripts, ROOT):
        print(f"{out}: its script also needs {', '.join(foreign)} installed; its ONNX graph does not")
    for what in ("script", "onnx"):
        apart = ", ".join(f"{name} {value:.1g}" for name, value in manifest["agreement"][what].items())
        print(f"{out}: largest difference between {what} and training on the samples: {apart}")


def answers(detect: Detect, images: Sequence[Path], done: Run, threshold: float) -> dict[str, Prediction]:
    """A detector's answers for the samples, by their file names."""
    return predict_files(detect, done.task, images, done.train["size"], done.classes, threshold)


def compare(model: "nn.Module", export: Path, images: Sequence[Path], done: Run, threshold: float) -> dict[str, Any]:
    """The largest differences of the exported script and the ONNX graph from the trained model on the samples.

    Raises UserError if one is above its tolerance.
    """
    eager = answers(torch_detector(model), images, done, threshold)
    graph = answers(onnx_detector(export / "model.onnx", done.task), images, done, threshold)
    script = isolated_answers(export, images, threshold)
    return {
        "samples": len(images),
        "script": agreement(done.task, eager, script, threshold, "the exported script"),
        "onnx": agreement(done.task, eager, graph, threshold, "the ONNX graph"),
        "tolerance": TOLERANCE[done.task],
    }


def describe(experiment: str, done: Run, metrics: dict[str, Any]) -> dict[str, Any]:
    """The manifest, except for what is known only once the files exist."""
    return {
        "format_version": FORMAT_VERSION,
        "experiment": experiment,
        "task": done.task,
        "classes": done.classes,
        "input": {"size": done.train["size"], **INPUT},
        "score_threshold": metrics["score_threshold"],
        "script": {"module": f"Models.{done.script}", "build": {"classes": len(done.classes), **done.build}},
        "hyperparameters": {name: value for name, value in done.train.items() if name != "seed"},
        "seed": done.train["seed"],
        "init": done.init,
        "metrics": metrics,
        "data": data_hashes(ROOT, experiment),
        "curated_fingerprint": done.data,
        "versions": {**done.versions, **{name: version(name) for name in ("onnx", "onnxruntime")}},
    }


def git_state(root: Path, scripts: Sequence[Path]) -> dict[str, Any]:
    """commit: the last one, None without git. dirty: whether tracked files or `scripts` differ from it.

    diff: of `scripts` that git has. dvc.lock does not count: the run that makes an export writes it.
    """
    files = [file.as_posix() for file in scripts]
    try:
        commit = _git(root, "rev-parse", "--verify", "HEAD").strip()
    except (OSError, subprocess.CalledProcessError):
        return {"commit": None, "dirty": True, "diff": ""}
    changed = _git(root, "status", "--porcelain", "--untracked-files=no", "--", ".", ":(exclude)dvc.lock")
    untracked = _git(root, "ls-files", "--others", "--", *files)
    diff = _git(root, "diff", "--no-ext-diff", "--no-color", "--relative", "HEAD", "--", *files)
    return {"commit": commit, "dirty": bool(changed or untracked), "diff": diff}


def _git(root: Path, *words: str) -> str:
    done = subprocess.run(["git", *words], cwd=root, capture_output=True, check=True)
    return done.stdout.decode("utf-8", errors="replace")


def data_hashes(root: Path, experiment: str) -> dict[str, str]:
    """The md5 by path, from dvc.lock, of the data an experiment was trained on and of all that it was made from.

    Only of stages that come before its training: the lock still has what others read in the run before. Empty where DVC
    has not run the training.
    """
    lock = root / "dvc.lock"
    stages = YAML(typ="safe").load(lock)["stages"] if lock.exists() else {}
    waiting = _data(stages.get(f"train@{experiment}", {}), "deps")
    found: dict[str, str] = {}
    while waiting:
        path, md5 = waiting.popitem()
        found[path] = md5
        for stage in stages.values():
            outs = _data(stage, "outs")
            if path in outs:
                before = outs | _data(stage, "deps")
                waiting |= {name: value for name, value in before.items() if name not in found}
    return dict(sorted(found.items()))


def _data(stage: dict[str, Any], kind: str) -> dict[str, str]:
    """The md5 by path of a stage's deps or outs that are data, not code or weights."""
    return {each["path"]: each["md5"] for each in stage.get(kind, []) if "md5" in each and not CODE.match(each["path"])}


def file_hashes(directory: Path) -> dict[str, str]:
    """sha256 of every file in `directory` but manifest.json, by its path in it."""
    files = sorted(path for path in directory.rglob("*") if path.is_file() and path != directory / "manifest.json")
    return {path.relative_to(directory).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def write_json(value: Any, path: Path) -> None:
    """Write JSON for people and programs; NaN and infinity, which JSON does not have, are a programmer's mistake."""
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    run(main)
