"""Reads and writes weights: trained ones with what they were made from, and those that a training starts from."""

import hashlib
import json
import os
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, load_file, save_file
from torch import Tensor, nn

from Datasets.format.curated import Curated
from Datasets.tools.atomic import replacing, write_text
from Datasets.tools.errors import UserError, one_line, some
from Models.learning.scripts import build_model, load_script

ABOUT = ("card.json", "manifest.json")  # beside weights: of pretrained ones, and of an export
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


def read_run(directory: Path) -> Run:
    """Read `run.json`. Raises UserError if it is damaged, or of another version of this template."""
    file = directory / "run.json"
    try:
        return Run(**json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise UserError(f"{file}: damaged, or of another version ({one_line(error)}); train again") from error


def read_trained(directory: Path, curated: Path) -> tuple[Run, nn.Module, Curated]:
    """What a training made, its model, ready to predict with that training's number of threads, and the data.

    Raises UserError if the data has other classes now, the script builds another model, or a file is damaged.
    """
    run, data = read_run(directory), Curated(curated)
    if list(data.classes) != run.classes:
        raise UserError(f"{curated}: has other classes than {directory}/run.json was trained on; train again")
    torch.set_num_threads(run.train["threads"])
    model = build_model(load_script(run.script), len(run.classes), run.build)
    file = directory / "weights.safetensors"
    try:
        model.load_state_dict(load_file(file))
    except (SafetensorError, RuntimeError) as error:
        problem = f"{file}: damaged, or not of the model that Models/{run.script}.py builds now"
        raise UserError(f"{problem}: {one_line(error)[:200]}; train again") from error
    return run, model.eval(), data


def write_json(value: Any, path: Path) -> None:
    """Write JSON for people and programs; NaN and infinity, which JSON does not have, are a programmer's mistake."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def write_weights(weights: Mapping[str, Tensor], path: Path) -> None:
    """Write all weights and running statistics as safetensors; what layers share is written for each of them."""
    with replacing(path) as partial:
        try:
            save_file({name: values.cpu().contiguous().clone() for name, values in weights.items()}, partial)
        except SafetensorError as error:  # of the file system, in the library's words
            raise UserError(f"{path}: {error}; is the disk full?") from error


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
