"""Export a trained model: weights, the script that builds it, an ONNX graph, samples, and a manifest of it all.

    python -m Models.export --experiment e001

The export is checked before it appears: the model built anew from the exported script, by a Python that sees nothing
else, and the ONNX graph must answer as the trained model does on the samples. `Models/README.md` lists its files.
"""

import base64
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from Datasets.format.graphs import Device
from Datasets.format.import_closure import import_closure, imported_modules
from Datasets.format.records import Record
from Datasets.tools.atomic import replacing
from Datasets.tools.command import run
from Datasets.tools.errors import UserError
from Models.exporting.agreement import compare
from Models.exporting.graphs import Precision, add_graph, write_onnx
from Models.exporting.manifest import describe, file_hashes, git_state
from Models.learning.data_loading import Samples
from Models.learning.scripts import ROOT, load_script, script_file
from Models.learning.weights import read_trained, write_json
from Models.rebuild import predict_files, torch_detector

REBUILD = Path("Models/rebuild.py")
NEEDED = {"torch", "typing_extensions", "safetensors", "numpy", "PIL"}  # by every export, to run its script


def main(
    experiment: Annotated[str, typer.Option(help="id of the experiment, as in params.yaml")],
    trained: Annotated[Path | None, typer.Option(help="what Models.train wrote, Models/outputs/ID/train")] = None,
    out: Annotated[Path | None, typer.Option(help="directory to write to, Datasets/pretrained/ID")] = None,
    curated: Annotated[Path, typer.Option(help="curated dataset")] = Path("Datasets/curated"),
    samples: Annotated[int, typer.Option(min=1, help="test images that go along")] = 8,
    precisions: Annotated[list[Precision] | None, typer.Option(help="of the graphs; fp32 is always there")] = None,
    serve: Annotated[Precision, typer.Option(help="of the graph that a bundle has")] = Precision.fp32,
    max_loss: Annotated[float, typer.Option(min=0, help="of a figure on test that int8 or fp16 may cost")] = 0.01,
    device: Annotated[Device, typer.Option(help="where those are measured; auto: a GPU, if any")] = Device.auto,
) -> None:
    """Export a trained model: weights, script, ONNX graphs, samples and manifest."""
    if serve not in (precisions := list(dict.fromkeys([Precision.fp32, *(precisions or [])]))):
        raise UserError(f"serve: {serve} is not among precisions; add it there")
    trained = trained or Path(f"Models/outputs/{experiment}/train")
    evaluated = trained.with_name("evaluate")
    out = out or Path(f"Datasets/pretrained/{experiment}")
    done, model, data = read_trained(trained, curated)
    metrics = json.loads((evaluated / "metrics.json").read_text(encoding="utf-8"))
    script = load_script(done.script)
    test = Samples(data, "test", done.train["size"], done.task)
    with replacing(out, "manifest.json", "model.onnx", "weights.safetensors") as partial:
        partial.mkdir()
        shutil.copyfile(trained / "weights.safetensors", partial / "weights.safetensors")
        shutil.copyfile(evaluated / "predictions.parquet", partial / "predictions.parquet")
        scripts = copy_scripts(script_file(done.script), ROOT, partial / "script")
        images = write_samples(test, samples, partial / "sample")
        manifest = describe(experiment, done, metrics, data, git_state(ROOT, scripts))
        exportable = script.exportable(model).eval() if hasattr(script, "exportable") else model
        write_onnx(exportable, manifest, partial / "model.onnx")
        write_json(predict_files(torch_detector(model), images, manifest), partial / "sample" / "expected.json")
        write_json(manifest, partial / "manifest.json")  # the exported script reads it when it is checked
        manifest["agreement"] = compare(script, model, partial, images, manifest)
        manifest["graph"] = serve.file
        for precision in precisions[1:]:
            add_graph(partial, precision, images, data, manifest, max_loss, device)
        manifest["files"] = file_hashes(partial)
        write_json(manifest, partial / "manifest.json")
    if foreign := foreign_imports(scripts, ROOT):
        print(f"{out}: its script also needs {', '.join(foreign)} installed; its ONNX graph does not")
    for what in ("script", "onnx"):
        apart = ", ".join(f"{name} {value:.1g}" for name, value in manifest["agreement"][what].items())
        print(f"{out}: largest difference between {what} and training on the samples: {apart}")


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
    """Copy `count` image files, evenly spread over the samples, byte for byte, and return them.

    Beside them, in truth.json, their annotations in the form of a Prediction, without scores.
    """
    out.mkdir()
    truth = {}
    indices = np.linspace(0, len(samples), min(count, len(samples)), endpoint=False, dtype=int)
    for number, index in enumerate(indices):
        name = f"{number:03d}{Path(samples.records[index]['image']).suffix.lower()}"
        (out / name).write_bytes(samples.file(index))
        truth[name] = truth_of(samples.records[index], samples.task)
    write_json(truth, out / "truth.json")
    return [out / name for name in truth]


def truth_of(record: Record, task: str) -> dict[str, Any]:
    """A record's annotations in the form of a Prediction, without scores; a mask may have VOID in it."""
    known = ("width", "height", "labels", "counts")
    truth: dict[str, Any] = {name: record[name] for name in known if record[name] is not None}  # type: ignore[literal-required]
    sides = ("name", "x1", "y1", "x2", "y2")
    if task == "boxes":
        truth["boxes"] = [{side: box[side] for side in sides} for box in record["boxes"] or []]  # type: ignore[literal-required]
    if task == "mask":
        truth["mask"] = base64.b64encode((record["mask"] or {})["bytes"]).decode()
    return truth


if __name__ == "__main__":
    run(main)
