"""Export a trained model: weights, the script that builds it, an ONNX graph, samples, and a manifest of it all.

    python -m Models.export --experiment e001

The export is checked before it appears: the model built anew from the exported script, by a Python that sees nothing
else, and the ONNX graph must answer as the trained model does on the samples. `Models/README.md` lists its files.
"""

import base64
import hashlib
import json
import logging
import re
import shutil
import subprocess
import sys
import tomllib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import onnx
import typer
from ruamel.yaml import YAML

from Datasets.format.curated import Curated
from Datasets.format.graphs import Device
from Datasets.format.images import FILL, Letterbox, decode, letterbox
from Datasets.format.import_closure import import_closure, imported_modules
from Datasets.format.predictions import TOLERANCE, Prediction, largest_difference, to_prediction
from Datasets.format.records import Record
from Datasets.tools.atomic import replacing
from Datasets.tools.command import run
from Datasets.tools.errors import UserError, one_line
from Models.exporting.precisions import Precision, add_graph, onnx_detector
from Models.learning.data_loading import Samples
from Models.learning.scripts import ROOT, Run, load_script, read_run, script_file, trained_model, write_json
from Models.rebuild import predict_files, torch_detector

if TYPE_CHECKING:
    from torch import nn

FORMAT_VERSION = 1
OPSET = 20
REBUILD = Path("Models/rebuild.py")
NEEDED = {"torch", "typing_extensions", "safetensors", "numpy", "PIL"}  # by every export, to run its script
INPUT = {"resize": "letterbox", "fill": FILL, "color": "RGB", "layout": "NCHW", "dtype": "uint8"}
LOWEST_SCORE = 0.1  # detections from here on are compared: below, two cells with all but equal heat may trade places
PREDICTIONS = "predictions.parquet"
CODE = re.compile(r"Models/|Deployment/|Datasets/(format|pretrained)\b|Data_processing/(?!intermediate/)|.*\.py$")


def main(
    experiment: Annotated[str, typer.Option(help="id of the experiment, as in params.yaml")],
    trained: Annotated[Path | None, typer.Option(help="what Models.train wrote, Models/outputs/ID/train")] = None,
    out: Annotated[Path | None, typer.Option(help="directory to write to, Datasets/pretrained/ID")] = None,
    curated: Annotated[Path, typer.Option(help="curated dataset")] = Path("Datasets/curated"),
    samples: Annotated[int, typer.Option(min=1, help="test images that go along")] = 8,
    precisions: Annotated[list[Precision] | None, typer.Option(help="of the graphs; fp32 is always there")] = None,
    serve: Annotated[Precision, typer.Option(help="of the graph that a bundle has")] = Precision.fp32,
    max_loss: Annotated[float, typer.Option(min=0, help="of a figure on test that int8 or fp16 may cost")] = 0.01,
    device: Annotated[
        Device, typer.Option(help="where those are measured; auto: a GPU, if there is one")
    ] = Device.auto,
) -> None:
    """Export a trained model: weights, script, ONNX graphs, samples and manifest."""
    if serve not in (precisions := list(dict.fromkeys([Precision.fp32, *(precisions or [])]))):
        raise UserError(f"serve: {serve} is not among precisions; add it there")
    trained = trained or Path(f"Models/outputs/{experiment}/train")
    evaluated = trained.with_name("evaluate")
    out = out or Path(f"Datasets/pretrained/{experiment}")
    done = read_run(trained)
    metrics = json.loads((evaluated / "metrics.json").read_text(encoding="utf-8"))
    script, model = load_script(done.script), trained_model(done, trained)
    test = Samples(Curated(curated), "test", done.train["size"], done.task)
    with replacing(out, "manifest.json", "model.onnx", "weights.safetensors") as partial:
        partial.mkdir()
        shutil.copyfile(trained / "weights.safetensors", partial / "weights.safetensors")
        shutil.copyfile(evaluated / PREDICTIONS, partial / PREDICTIONS)
        scripts = copy_scripts(script_file(done.script), ROOT, partial / "script")
        images = write_samples(test, samples, partial / "sample")
        manifest = {**describe(experiment, done, metrics), "git": git_state(ROOT, scripts)}
        manifest["input"]["range"] = test.value_range
        learned_before = {
            name: each for init in beginnings(done.init) for name, each in init.get("sources", {}).items()
        }
        manifest["sources"] = {**learned_before, **Curated(curated).licenses}
        write_onnx(exportable(script, model, images, manifest), manifest, partial / "model.onnx")
        write_json(predict_files(torch_detector(model), images, manifest), partial / "sample" / "expected.json")
        write_json(manifest, partial / "manifest.json")  # the exported script reads it when it is checked
        manifest["agreement"] = compare(script, model, partial, images, manifest)
        manifest["graph"] = serve.file
        for precision in precisions[1:]:
            add_graph(partial, precision, images, Curated(curated), manifest, max_loss, device)
        manifest["files"] = file_hashes(partial)
        write_json(manifest, partial / "manifest.json")
    if foreign := foreign_imports(scripts, ROOT):
        print(f"{out}: its script also needs {', '.join(foreign)} installed; its ONNX graph does not")
    for what in ("script", "onnx"):
        apart = ", ".join(f"{name} {value:.1g}" for name, value in manifest["agreement"][what].items())
        print(f"{out}: largest difference between {what} and training on the samples: {apart}")


def compare(
    script: ModuleType, model: "nn.Module", export: Path, images: Sequence[Path], manifest: Mapping[str, Any]
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


def exportable(
    script: ModuleType, model: "nn.Module", images: Sequence[Path], manifest: Mapping[str, Any]
) -> "nn.Module":
    """What the graph is made of: what the script's exportable() makes of the model, if it has one, else the model.

    Raises UserError if the two do not answer alike.
    """
    if not hasattr(script, "exportable"):
        return model
    made, threshold = script.exportable(model).eval(), min(LOWEST_SCORE, manifest["score_threshold"])
    one, other = (predict_files(torch_detector(each), images, manifest, threshold) for each in (model, made))
    agreement(manifest["task"], one, other, threshold, "what exportable() makes")
    return made


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


def describe(experiment: str, done: Run, metrics: dict[str, Any]) -> dict[str, Any]:
    """The manifest, except for what is known only once the files exist."""
    own_groups = hasattr(load_script(done.script), "parameter_groups")
    unused = {"seed", *(["init_rate", "weight_decay"] if own_groups else [])}
    return {
        "format_version": FORMAT_VERSION,
        "project": project_name(ROOT),
        "experiment": experiment,
        "task": done.task,
        "classes": done.classes,
        "input": {"size": done.train["size"], **INPUT},
        "score_threshold": metrics["score_threshold"],
        "script": {"module": f"Models.{done.script}", "build": {"classes": len(done.classes), **done.build}},
        "hyperparameters": {name: value for name, value in done.train.items() if name not in unused},
        "seed": done.train["seed"],
        "init": done.init,
        "pretrained": next((each["card"] for each in beginnings(done.init) if "card" in each), None),
        "metrics": metrics,
        "data": data_hashes(ROOT, experiment),
        "curated_fingerprint": done.data,
        "versions": {**done.versions, **{name: version(name) for name in ("onnx", "onnxruntime")}},
    }


def beginnings(init: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    """The weights that a model began with, those that these began with, and so on."""
    return [init, *beginnings(init.get("init"))] if init else []


def project_name(root: Path) -> str:
    """As the team named the project when it was made from the template; else as pyproject.toml does."""
    answers = root / ".copier-answers.yml"
    named = YAML(typ="safe").load(answers).get("name") if answers.exists() else None
    return one_line(named or tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["project"]["name"])


def git_state(root: Path, scripts: Sequence[Path]) -> dict[str, Any]:
    """commit: the last one, None without git. dirty: whether tracked files or `scripts` differ from it.

    diff: of `scripts` that git has. dvc.lock does not count: the run that makes an export writes it.
    """
    files = [file.as_posix() for file in scripts]

    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=root, capture_output=True, check=True)
        return done.stdout.decode("utf-8", errors="replace")

    try:
        commit = git("rev-parse", "--verify", "HEAD").strip()
    except (OSError, subprocess.CalledProcessError):
        return {"commit": None, "dirty": True, "diff": ""}
    changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", ":(exclude)dvc.lock")
    untracked = git("ls-files", "--others", "--", *files)
    diff = git("diff", "--no-ext-diff", "--no-color", "--relative", "HEAD", "--", *files)
    return {"commit": commit, "dirty": bool(changed or untracked), "diff": diff}


def data_hashes(root: Path, experiment: str) -> dict[str, str]:
    """The md5 by path, from dvc.lock, of the data an experiment was trained on and of all that it was made from.

    Only of stages that come before its training: the lock still has what others read in the run before. Empty where DVC
    has not run the training.
    """
    lock = root / "dvc.lock"
    stages = YAML(typ="safe").load(lock)["stages"] if lock.exists() else {}

    def data(stage: dict[str, Any], *kinds: str) -> dict[str, str]:
        """Without code and weights."""
        listed = [each for kind in kinds for each in stage.get(kind, []) if not CODE.match(each["path"])]
        return {each["path"]: each["md5"] for each in listed if "md5" in each}

    found = data(stages.get(f"train@{experiment}", {}), "deps")
    known = 0
    while known < len(found):
        known = len(found)
        for stage in stages.values():
            if data(stage, "outs").keys() & found.keys():
                found = data(stage, "outs", "deps") | found
    return dict(sorted(found.items()))


def file_hashes(directory: Path) -> dict[str, str]:
    """sha256 of every file in `directory` but manifest.json, by its path in it."""
    files = sorted(path for path in directory.rglob("*") if path.is_file() and path != directory / "manifest.json")
    return {path.relative_to(directory).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


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


def write_onnx(model: "nn.Module", manifest: Mapping[str, Any], path: Path) -> None:
    """Write `forward` as an ONNX graph: input "images" uint8 [N, 3, H, W] of any N, H, W; outputs as of `forward`.

    Its metadata has what one needs to use it: task, classes, size, resize rule and threshold. Raises UserError if
    `forward` does what a graph cannot.
    """
    import torch  # not before Datasets.tools.command, which sets how its threads wait

    model.cpu()
    size = manifest["input"]["size"]
    example = torch.randint(0, 256, (2, 3, size, size), dtype=torch.uint8)
    sides = dict.fromkeys((0, 2, 3), torch.export.Dim.DYNAMIC)
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
    about = {**manifest["input"], **{name: manifest[name] for name in ("task", "classes", "score_threshold")}}
    onnx.helper.set_model_props(
        graph, {name: each if isinstance(each, str) else json.dumps(each) for name, each in about.items()}
    )
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


def isolated_answers(export: Path, files: Sequence[Path], threshold: float) -> dict[str, Prediction]:
    """The answers of the exported script, run by a Python that sees nothing of this repository."""
    images = [f"../{file.relative_to(export).as_posix()}" for file in files]
    isolated = [sys.executable, "-E", "-s", "-B"]  # no PYTHONPATH, no user's packages, and no caches left behind
    command = [*isolated, "-m", "Models.rebuild", "--threshold", repr(threshold), *images]
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


if __name__ == "__main__":
    run(main)
