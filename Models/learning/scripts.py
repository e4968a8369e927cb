"""Finding a model script, building its model from words of a command line, and what a trained model was made from."""

import importlib
import inspect
import json
import platform
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any, get_args, get_origin, get_type_hints

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from Datasets.format.import_closure import import_closure
from Datasets.format.predictions import OUTPUTS
from Datasets.tools.atomic import replacing
from Datasets.tools.errors import UserError

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Run:
    """What a model was trained from, written beside its weights: enough to build it again.

    script: its name, build: what build() was given, train: the options of the training, data: Curated.fingerprint(),
    init: source and sha256 of the weights that the training began with, None if it began with none. versions: of Python
    and of the libraries that the weights depend on; empty where an old training did not note them.
    """

    script: str
    build: dict[str, Any]
    train: dict[str, Any]
    classes: list[str]
    data: str
    init: dict[str, str] | None
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def task(self) -> str:
        """What the script learns, as in Datasets/format/predictions.py."""
        return load_script(self.script).TASK


def library_versions() -> dict[str, str]:
    """Of Python, and of what a training depends on, as they are here and now."""
    return {"python": platform.python_version(), **{name: version(name) for name in ("torch", "numpy", "pillow")}}


def script_file(name: str) -> Path:
    """The file of a model script, relative to the root. Raises UserError, naming those that there are."""
    file = Path("Models") / f"{name}.py"
    if not name.isidentifier() or not (ROOT / file).is_file():
        there = ", ".join(sorted(path.stem for path in (ROOT / "Models").glob("e[0-9]*_*.py")))
        raise UserError(f"script {name!r}: there is no Models/{name}.py; the scripts are: {there}")
    return file


def load_script(name: str) -> ModuleType:
    """Import a model script. Raises UserError if there is none of that name, or what it learns is no task."""
    script_file(name)
    try:
        script = importlib.import_module(f"Models.{name}")
    except Exception as error:  # whatever a script does when it is imported
        raise UserError(f"Models/{name}.py: cannot be imported: {type(error).__name__}: {error}") from error
    missing = [part for part in ("TASK", "build") if not hasattr(script, part)]
    if missing:
        raise UserError(f"Models/{name}.py: has no {missing[0]}; Models/README.md says what a model script holds")
    if script.TASK not in OUTPUTS:
        raise UserError(f"Models/{name}.py: TASK is {script.TASK!r}; it is one of: {', '.join(OUTPUTS)}")
    return script


def check_helpers(name: str, helpers: Path) -> None:
    """Raise UserError if a model script imports a file of Models outside `helpers`, a file or a folder.

    The experiment's stages depend on its script and `helpers`: an edit of another file would not run them again.
    """
    script = script_file(name)
    for file in import_closure([script], ROOT):
        empty = file.name == "__init__.py" and not (ROOT / file).read_text(encoding="utf-8").strip()
        if file.parts[0] == "Models" and file != script and not file.is_relative_to(helpers) and not empty:
            raise UserError(
                f"{script} imports {file}, which helpers ({helpers}) does not cover, so that an edit of it would not "
                f"train again; name it, or a folder with all that the script imports, in the experiment's entry"
            )


def parse_build_arguments(build: Callable[..., nn.Module], words: Sequence[str]) -> dict[str, Any]:
    """`["--width", "32"]` as `{"width": 32}`, by the annotations of `build`: int, float, str, bool, or a list of one.

    A bool is `--name` or `--no-name`; a list repeats its option. Raises UserError for a name that `build` does not
    take, for a value that is not of its type, and for an annotation that is none of these.
    """
    hints = get_type_hints(build)
    types = {name: hints.get(name, str) for name in inspect.signature(build).parameters if name != "classes"}
    for name, kind in types.items():
        if (get_args(kind)[0] if get_origin(kind) is list else kind) not in (int, float, str, bool):
            raise UserError(f"model: build() has {name}: {kind}; it may be int, float, str, bool, or a list of one")
    found: dict[str, Any] = {}
    waiting = list(words)
    while waiting:
        option = waiting.pop(0)
        name, equals, value = option.removeprefix("--").partition("=")
        name = name.replace("-", "_")
        if not option.startswith("--") or (name not in types and types.get(name.removeprefix("no_")) is not bool):
            raise UserError(f"model: build() takes no {option!r}; it takes {', '.join(f'--{n}' for n in types)}")
        if types.get(name) is bool or name not in types:
            flag = name if name in types else name.removeprefix("no_")
            if equals:
                raise UserError(f"model: {option}: a bool takes no value; write --{flag}, or --no-{flag}")
            found[flag] = name in types
            continue
        if not equals:
            if not waiting:
                raise UserError(f"model: {option} needs a value")
            value = waiting.pop(0)
        if get_origin(types[name]) is list:
            found.setdefault(name, []).append(_typed(option, value, get_args(types[name])[0]))
        else:
            found[name] = _typed(option, value, types[name])
    return found


def _typed(option: str, value: str, kind: Callable[[str], Any]) -> Any:
    try:
        return kind(value)
    except ValueError:
        raise UserError(f"model: {option}: {value!r} is no {getattr(kind, '__name__', kind)}") from None


def build_model(script: ModuleType, classes: int, arguments: Mapping[str, Any]) -> nn.Module:
    """The model with random weights. Raises UserError for what build() refuses, and for what cannot be trained."""
    try:
        model = script.build(classes=classes, **arguments)
    except (ValueError, TypeError, RuntimeError) as error:  # torch says with the last that memory is short
        raise UserError(f"model: {str(error).splitlines()[0]}") from error
    if not isinstance(model, nn.Module) or not callable(getattr(model, "loss", None)):
        file = f"{script.__name__.replace('.', '/')}.py"
        raise UserError(f"{file}: build() gives no torch.nn.Module with a method loss()")
    return model


def check_outputs(script: ModuleType, model: nn.Module, size: int, classes: int) -> None:
    """Raise UserError if forward's outputs for two black images are not those of Datasets/format/predictions.py.

    Told before a training, for it would fail after the first epoch. The order of the outputs is free.
    """
    with torch.no_grad():
        given = model.eval()(torch.zeros(2, 3, size, size, dtype=torch.uint8))
    model.train()
    task, file = script.TASK, f"{script.__name__.replace('.', '/')}.py"
    for name in OUTPUTS[task]:
        if not isinstance(given, Mapping) or name not in given:
            raise UserError(f"{file}: forward() gives no {name!r}; a task of {task} has: {', '.join(OUTPUTS[task])}")
    places = given["boxes"].shape[1:2] if task == "boxes" and isinstance(given["boxes"], Tensor) else (classes,)
    shapes = {"boxes": (2, *places, 4), "scores": (2, *places), "classes": (2, *places), "mask": (2, size, size)}
    limits = {"scores": (0, 1), "classes": (-1, classes - 1), "mask": (0, classes)}  # a class of -1: no box there
    for name in OUTPUTS[task]:
        wrong = _unfit(given[name], shapes.get(name, (2, classes)), name in ("classes", "mask"), limits.get(name))
        if wrong:
            raise UserError(f"{file}: of two images of {classes} classes, forward() gives {name} as {wrong}")


def _unfit(values: Any, shape: tuple[int, ...], whole: bool, limits: tuple[int, int] | None) -> str:
    """What is wrong with an output that should have this shape, numbers, whole or not, and limits; empty if nothing."""
    if not isinstance(values, Tensor):
        return f"a {type(values).__name__}, not a tensor"
    if values.shape != shape:
        return f"{list(values.shape)}, not {list(shape)}"
    kind = str(values.dtype).removeprefix("torch.")
    if whole == values.is_floating_point() or values.dtype == torch.bfloat16:
        return f"{kind}, not {'int64' if whole else 'float32'}"
    if limits and values.numel() and not limits[0] - 1e-3 <= values.min() <= values.max() <= limits[1] + 1e-3:
        return f"numbers from {values.min():g} to {values.max():g}, not {limits[0]} to {limits[1]}"
    return ""


def check_losses(losses: Any, before: Collection[str]) -> None:
    """Raise UserError if a step's loss is no dict of scalars to learn from, of the same names as the steps before.

    before: the names of all the steps before, none at the first.
    """
    if not isinstance(losses, Mapping) or not losses:
        raise UserError("loss() gives no dict with a scalar for each of its parts")
    for name, value in losses.items():
        if not isinstance(value, Tensor) or value.dim():
            shape = f"of shape {list(value.shape)}" if isinstance(value, Tensor) else f"as a {type(value).__name__}"
            raise UserError(f"loss() gives {name!r} {shape}, not as a scalar tensor")
    if not any(value.requires_grad for value in losses.values()):
        raise UserError("loss() gives nothing that depends on the weights: there is nothing to learn")
    if before and set(before) != set(losses):
        told = f"{', '.join(losses)}, and before: {', '.join(before)}"
        raise UserError(f"loss() gives other parts than in the steps before: {told}; give 0 where there is nothing")


def write_run(run: Run, directory: Path) -> None:
    """Write `run.json` into `directory`."""
    with replacing(directory / "run.json") as partial:
        partial.write_text(json.dumps(asdict(run), indent=1) + "\n", encoding="utf-8")


def read_run(directory: Path, script: str) -> Run:
    """Read `run.json`. Raises UserError if it is missing or damaged, or is of another script."""
    path = directory / "run.json"
    try:
        run = Run(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise UserError(f"{path}: not found; run the train stage first") from None
    except (ValueError, TypeError) as error:
        raise UserError(f"{path}: damaged ({error}); run the train stage again") from error
    if run.script != script:
        raise UserError(f"{path}: was trained with the script {run.script!r}, not {script!r}; train again")
    return run


def trained_model(run: Run, directory: Path) -> nn.Module:
    """The model of `run` with the weights in `directory`, ready to predict."""
    model = build_model(load_script(run.script), len(run.classes), run.build)
    path = directory / "weights.safetensors"
    try:
        model.load_state_dict(load_file(path))
    except FileNotFoundError:
        raise UserError(f"{path}: not found; run the train stage first") from None
    except Exception as error:  # safetensors and torch each raise their own for a damaged or unfitting file
        reason = " ".join(str(error).split()[:40])  # torch says in the second line which weights
        raise UserError(f"{path}: does not fit Models/{run.script}.py ({reason}); train again") from error
    return model.eval()
