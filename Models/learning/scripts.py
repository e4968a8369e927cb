"""Finds a model script, builds its model, and loads weights into it: those to start from, and trained ones."""

import argparse
import ast
import hashlib
import importlib
import inspect
import json
import math
import os
import platform
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import distributions, version
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn, get_args, get_origin, get_type_hints

import numpy as np
import torch
from packaging.requirements import Requirement
from safetensors import SafetensorError
from safetensors.torch import load, load_file, save_file
from torch import Tensor, nn

from Datasets.format.import_closure import uncovered
from Datasets.format.predictions import OUTPUTS
from Datasets.tools.atomic import replacing, write_text
from Datasets.tools.errors import UserError, some
from Models.learning.data_loading import Samples

ROOT = Path(__file__).resolve().parents[2]
ABOUT = ("card.json", "manifest.json")  # beside weights: of pretrained ones, and of an export
MAX_WEIGHTS = 2_000_000_000  # bytes; protobuf, which ONNX is written in, ends at 2 GiB
RANDOM = "random"  # the file in Datasets/pretrained that a stage depends on when it starts from random weights


@dataclass(frozen=True)
class Run:
    """What a model was trained from, written beside its weights: enough to build it again.

    script: its name. build: the arguments of build(). train: the training's options. data: Curated.fingerprint(). init:
    source and sha256 of the initial weights, None for random ones. versions: of Python and of the libraries that the
    weights depend on.
    """

    script: str
    build: dict[str, Any]
    train: dict[str, Any]
    classes: list[str]
    data: str
    init: dict[str, Any] | None
    versions: dict[str, str]

    @property
    def task(self) -> str:
        """What the script learns, as in Datasets/format/predictions.py."""
        return load_script(self.script).TASK


def library_versions(script: ModuleType) -> dict[str, str]:
    """The versions of Python and of what a training depends on."""
    names = ["torch", "numpy", "pillow", *(Requirement(each).name for each in getattr(script, "REQUIRES", []))]
    return {"python": platform.python_version(), **{name: version(name) for name in names}}


def check_requirements(name: str, requires: Sequence[str]) -> None:
    """Raise UserError if a package that a model script names in REQUIRES is missing, or of another version."""
    for each in requires:
        wanted = Requirement(each)
        found = next((package.version for package in distributions(name=wanted.name)), None)
        if found is None or not wanted.specifier.contains(found, prereleases=True):
            there = f"{found} is installed" if found else "it is not installed"
            raise UserError(f"Models/{name}.py: REQUIRES {each}, and {there}: pip install {each!r}")


def required(file: Path) -> list[str]:
    """REQUIRES of a model script, read without running it, which may need the packages. Raises UserError."""
    for node in ast.parse((ROOT / file).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and any(getattr(target, "id", "") == "REQUIRES" for target in node.targets):
            try:
                return [str(each) for each in ast.literal_eval(node.value)]
            except (ValueError, TypeError):
                raise UserError(f'{file}: REQUIRES must be a list such as ["transformers==5.1"]') from None
    return []


def script_file(name: str) -> Path:
    """The file of a model script, relative to the root. Raises UserError, which lists the scripts, if it is missing."""
    file = Path("Models") / f"{name}.py"
    if not name.isidentifier() or not (ROOT / file).is_file():
        scripts = ", ".join(sorted(path.stem for path in (ROOT / "Models").glob("e[0-9]*_*.py")))
        raise UserError(f"script {name!r}: there is no Models/{name}.py; the scripts are: {scripts}")
    return file


def load_script(name: str) -> ModuleType:
    """Import a model script. Raises UserError if it is missing, or has no build() or no known TASK."""
    file = script_file(name)
    check_requirements(name, required(file))
    script = importlib.import_module(f"Models.{name}")
    missing = [part for part in ("TASK", "build") if not hasattr(script, part)]
    if missing:
        raise UserError(f"{file}: has no {missing[0]}; Models/README.md explains model scripts")
    if script.TASK not in OUTPUTS:
        raise UserError(f"{file}: TASK is {script.TASK!r}; it is one of: {', '.join(OUTPUTS)}")
    return script


def check_helpers(name: str, helpers: Path) -> None:
    """Raise UserError if a model script imports a file of Models outside `helpers`, a file or a folder."""
    script = script_file(name)
    for file in uncovered(script, helpers, ROOT):
        problem = (
            f"{script} imports {file}, which helpers ({helpers}) does not cover: an edit of it would not train again"
        )
        raise UserError(f"{problem}; name it in the experiment's entry, or a folder with all that the script imports")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"model: {message}; {' '.join(self.format_usage().split())}")


def parse_build_arguments(build: Callable[..., nn.Module], words: Sequence[str]) -> dict[str, Any]:
    """`["--width", "32"]` as `{"width": 32}`, by the annotations of `build`: int, float, str, bool, or list[int] etc.

    A bool is `--name` or `--no-name`; a list repeats its option. Raises UserError for other annotations, and for
    options and values that do not fit.
    """
    parser = _Parser("build()", add_help=False, allow_abbrev=False, argument_default=argparse.SUPPRESS)
    hints = get_type_hints(build)
    for name in [name for name in inspect.signature(build).parameters if name != "classes"]:
        options = dict.fromkeys([f"--{name}", f"--{name.replace('_', '-')}"])
        kind = hints.get(name, str)
        kind = next((each for each in get_args(kind) if get_origin(each) is list), kind)  # of `list[int] | None`
        element = get_args(kind)[0] if get_origin(kind) is list else kind
        if kind is bool:
            parser.add_argument(*options, dest=name, action=argparse.BooleanOptionalAction)
        elif element in (int, float, str):
            parser.add_argument(*options, dest=name, type=element, action="store" if element is kind else "append")
        else:
            raise UserError(f"model: build() has {name}: {kind}; it may be int, float, str, bool, or a list")
    return vars(parser.parse_args(words))


def arguments_of_data(build: Callable[..., nn.Module], given: Mapping[str, Any], samples: Samples) -> dict[str, Any]:
    """What build() takes of the data and was not given: `exclusive`, whether each image shows exactly one class, and
    `images`, how many of the images show each.
    """
    taken = inspect.signature(build).parameters.keys() & {"exclusive", "images"} - given.keys()
    shown = np.array([samples.labels(index) for index in range(len(samples))]) if taken else np.zeros((0, 0))
    found = {"exclusive": bool((shown.sum(1) == 1).all()) and len(samples.classes) > 1, "images": shown.sum(0).tolist()}
    return {name: found[name] for name in sorted(taken)}


def check_size(script: ModuleType, size: int) -> None:
    """Raise UserError if the size is below 32, or no multiple of the script's SIZE_MULTIPLE."""
    multiple = getattr(script, "SIZE_MULTIPLE", 1)
    if size < 32 or size % multiple:
        also = f", and a multiple of {multiple}, as {_file(script)} needs" if multiple > 1 else ""
        raise UserError(f"size: {size} must be 32 or more{also}")


def build_model(script: ModuleType, classes: int, arguments: Mapping[str, Any]) -> nn.Module:
    """The model with random weights. Raises UserError for what build() refuses, and for what cannot be trained."""
    try:
        model = script.build(classes=classes, **arguments)
    except (ValueError, TypeError, RuntimeError) as error:  # torch raises RuntimeError where memory is short
        raise UserError(f"model: {str(error).splitlines()[0]}") from error
    if not isinstance(model, nn.Module) or not callable(getattr(model, "loss", None)):
        raise UserError(f"{_file(script)}: build() gives no torch.nn.Module with a method loss()")
    size = sum(values.numel() * values.element_size() for values in model.state_dict().values())
    if size > MAX_WEIGHTS:
        raise UserError(f"model: its weights take {size / 1e9:.1f} GB, and an ONNX graph has room for 2")
    return model if model.training else model.train()  # some libraries give it in evaluation mode


def _file(script: ModuleType) -> str:
    return f"{script.__name__.replace('.', '/')}.py"


def check_outputs(script: ModuleType, model: nn.Module, size: int, classes: int) -> None:
    """Raise UserError if forward's outputs for two black images are not those of Datasets/format/predictions.py.

    Checked before a training, which would fail after its first epoch. The order of the outputs is free.
    """
    try:
        with torch.no_grad(), evaluating(model):
            outputs = model(torch.zeros(2, 3, size, size, dtype=torch.uint8))
    except ValueError as error:
        raise UserError(f"model: {error}") from error
    task = script.TASK
    wanted = OUTPUTS[task]
    if not isinstance(outputs, Mapping) or not all(isinstance(outputs.get(name), Tensor) for name in wanted):
        names = ", ".join(wanted)
        raise UserError(f"{_file(script)}: forward() gives no dict with the tensors of a task of {task}: {names}")
    each = outputs["boxes"].shape[1] if task == "boxes" else classes
    expected = {  # shape, kind of numbers, lowest and highest
        "boxes": ((2, each, 4), "float32", -math.inf, math.inf),
        "scores": ((2, each), "float32", 0, 1),
        "classes": ((2, each), "int64", -1, classes - 1),  # -1: no box there
        "counts": ((2, each), "float32", -math.inf, math.inf),
        "mask": ((2, size, size), "int64", 0, classes),
    }
    for name in wanted:
        values, (shape, kind, low, high) = outputs[name], expected[name]
        wrong = ""
        if values.shape != shape:
            wrong = f"{list(values.shape)}, not {list(shape)}"
        elif values.is_floating_point() != (kind == "float32") or values.dtype == torch.bfloat16:
            wrong = f"{values.dtype}, not {kind}"
        elif values.numel() and not low - 1e-3 <= values.min() <= values.max() <= high + 1e-3:
            wrong = f"numbers from {values.min():g} to {values.max():g}, not {low} to {high}"
        if wrong:
            raise UserError(f"{_file(script)}: of two images of {classes} classes, forward() gives {name} as {wrong}")


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode; afterwards, each of its parts is again in the mode that it was in."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def check_losses(losses: Any, before: Collection[str]) -> None:
    """Raise UserError if a step's loss is not a dict of scalars to learn from, with the same names in each step.

    before: the names of the steps before, none at the first.
    """
    values = list(losses.values()) if isinstance(losses, Mapping) else []
    scalars = [value for value in values if isinstance(value, Tensor) and not value.dim()]
    if len(scalars) < len(values) or not any(value.requires_grad for value in scalars):
        raise UserError("loss() must return a dict of scalar tensors, at least one of which depends on the weights")
    if before and set(before) != set(losses):
        names = f"{', '.join(losses)}, and before: {', '.join(before)}"
        raise UserError(f"loss() gives other parts than in the steps before: {names}; give 0 where there is nothing")


def write_json(value: Any, path: Path) -> None:
    """Write JSON for people and programs; NaN and infinity, which JSON does not have, are a programmer's mistake."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def read_run(directory: Path) -> Run:
    """Read `run.json`."""
    return Run(**json.loads((directory / "run.json").read_text(encoding="utf-8")))


def write_weights(weights: Mapping[str, Tensor], path: Path) -> None:
    """Write all weights and running statistics as safetensors; what layers share is written for each of them."""
    with replacing(path) as partial:
        try:
            save_file({name: values.cpu().contiguous().clone() for name, values in weights.items()}, partial)
        except SafetensorError as error:  # of the file system, in the library's words
            raise UserError(f"{path}: {error}; is the disk full?") from error


def trained_model(run: Run, directory: Path) -> nn.Module:
    """The model of `run` with the weights in `directory`, ready to predict with the training's number of threads."""
    torch.set_num_threads(run.train["threads"])
    model = build_model(load_script(run.script), len(run.classes), run.build)
    model.load_state_dict(load_file(directory / "weights.safetensors"))
    return model.eval()


@dataclass(frozen=True)
class Initial:
    """Weights to start from. classes: the export's, None of others.

    origin: source, as given, and sha256 of the file; `card`, of pretrained weights; `init`, what an export began with.
    """

    origin: dict[str, Any]
    tensors: dict[str, Tensor]
    classes: list[str] | None


def read_initial(source: Path) -> Initial | None:
    """The weights of an export (a directory) or of a safetensors file; None for Datasets/pretrained/random.

    Raises UserError for weights that are missing or damaged.
    """
    if source.name == RANDOM:
        return None
    file = source / "weights.safetensors" if source.is_dir() else source
    if file.suffix != ".safetensors":
        raise UserError(f"init: {source} is neither an export nor a .safetensors file; `{RANDOM}` starts from nothing")
    if not file.is_file():
        raise UserError(f"init: {file}: not found; run its stage (pretrained@NAME, export@ID), or `dvc pull` it")
    data = file.read_bytes()
    origin: dict[str, Any] = {"source": source.as_posix(), "sha256": hashlib.sha256(data).hexdigest()}
    about = {name: json.loads((source / name).read_text("utf-8")) for name in ABOUT if (source / name).is_file()}
    origin |= {"card": about["card.json"]} if "card.json" in about else {}
    manifest = about.get("manifest.json", {})
    origin |= {name: manifest[name] for name in ("init", "sources") if manifest.get(name)}
    try:
        return Initial(origin, load(data), manifest.get("classes"))
    except SafetensorError as error:
        raise UserError(f"init: {file}: damaged ({error}); export again, or `dvc pull`") from error


def start_from(
    model: nn.Module, initial: Initial, classes: Sequence[str], script: ModuleType | None = None
) -> tuple[Collection[str], list[str]]:
    """Copy what fits into `model`; return the names of its tensors that were set, and lines that report them.

    The script's load_initial does it, or else copy_fitting. Modules with a method `freeze`, all of whose tensors were
    set, are frozen by it. Raises UserError if no tensor fits.
    """
    load_initial = getattr(script, "load_initial", copy_fitting)
    source, given = initial.origin["source"], initial.tensors
    became, mine = load_initial(model, given), model.state_dict()
    taken = {mine[name].data_ptr() for name in became.values() if name}  # layers may share tensors
    fitting = {name for name, values in mine.items() if values.data_ptr() in taken}
    if not any(mine[name].dim() for name in fitting):  # a number, such as a counter, fits anywhere
        names = f"they are called {some(sorted(given))}; the model's {some(list(mine))}"
        raise UserError(f"init: {source}: none of its {len(given)} tensors fits this model: {names}")
    for name, module in model.named_modules():
        if hasattr(module, "freeze") and fitting.issuperset(f"{name}.{inner}" for inner in module.state_dict()):
            module.freeze()
    lines = [f"init: {len(fitting)} of {len(mine)} tensors from {source}"]
    anew = [f"{name} {_shape(mine[name])}" for name in mine if name not in fitting]
    unused = [f"{name} {_shape(given[name])}" for name, target in sorted(became.items()) if not target]
    others = {"of the model begin anew": anew, "in it, but not used": unused}
    lines += [f"init: {len(names)} {what}: {some(names)}" for what, names in others.items() if names]
    if initial.classes not in (None, list(classes)):
        lines.append(f"init: its classes ({some(initial.classes or [])}) are not the data's ({some(classes)})")
    return fitting, lines


def copy_fitting(model: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, str | None]:
    """Copy each tensor of the same name and shape; return the model's tensor that each became, or None.

    What names have in common may be taken away, and the path to a part of the model put before them; what fits most
    tensors is done, nothing if nothing fits more.
    """
    mine = model.state_dict()
    common = os.path.commonprefix(list(tensors)).rpartition(".")  # noqa: RUF071 - of letters
    parts = dict.fromkeys(name[:end] for name in mine for end in (dot.start() + 1 for dot in re.finditer(r"\.", name)))
    ways = [(cut, before) for cut in dict.fromkeys(["", common[0] + common[1]]) for before in ["", *parts]]
    shapes = {name: values.shape for name, values in mine.items()}

    def fitting(way: tuple[str, str]) -> dict[str, str]:
        named = {name: way[1] + name.removeprefix(way[0]) for name in tensors}
        return {name: own for name, own in named.items() if shapes.get(own) == tensors[name].shape}

    found = max(map(fitting, ways), key=len)
    model.load_state_dict({own: tensors[name] for name, own in found.items()}, strict=False)
    return {name: found.get(name) for name in tensors}


def _shape(values: Tensor) -> str:
    return "x".join(str(side) for side in values.shape) or "a number"
