"""Finds a model script, builds its model, and checks both against what Models/README.md asks of them."""

import argparse
import ast
import importlib
import inspect
import math
import platform
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import distributions, version
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn, get_args, get_origin, get_type_hints

import numpy as np
import torch
from packaging.requirements import Requirement
from torch import Tensor, nn

from Datasets.format.import_closure import uncovered
from Datasets.format.predictions import OUTPUTS
from Datasets.tools.errors import UserError
from Models.learning.data_loading import Samples

ROOT = Path(__file__).resolve().parents[2]
MAX_WEIGHTS = 2_000_000_000  # bytes; protobuf, which ONNX is written in, ends at 2 GiB


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
        problem = f"{script} imports {file}, which helpers ({helpers}) does not cover: an edit of it would not train"
        raise UserError(f"{problem} again; name it in the experiment's entry, or a folder with all that it imports")


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
