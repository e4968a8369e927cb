"""Starting a training from weights that are there already, and saying what became of each tensor."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import nn

from Datasets.tools.errors import UserError

RANDOM = "random"  # the file in Datasets/pretrained that a stage depends on when it starts from nothing


@dataclass(frozen=True)
class Initial:
    """Weights to start from. source: as given; sha256: of the file; classes: the export's, None of a bare file."""

    source: str
    sha256: str
    tensors: dict[str, torch.Tensor]
    classes: list[str] | None

    def origin(self) -> dict[str, str]:
        """What a manifest says of it."""
        return {"source": self.source, "sha256": self.sha256}


def read_initial(source: Path) -> Initial | None:
    """The weights of an export (a directory) or of a safetensors file; None for Datasets/pretrained/random.

    Raises UserError for what is not there or damaged.
    """
    if source.name == RANDOM:
        return None
    file = source / "weights.safetensors" if source.is_dir() else source
    if file.suffix != ".safetensors":
        raise UserError(f"init: {source} is neither an export nor a .safetensors file; `{RANDOM}` starts from nothing")
    try:
        data = file.read_bytes()
        tensors = load(data)
    except FileNotFoundError:
        raise UserError(f"init: {file}: not found; export that experiment, or `dvc pull` the file") from None
    except SafetensorError as error:
        raise UserError(f"init: {file}: damaged ({error}); export again, or `dvc pull`") from error
    return Initial(source.as_posix(), hashlib.sha256(data).hexdigest(), tensors, _classes(source))


def _classes(source: Path) -> list[str] | None:
    manifest = source / "manifest.json"
    if not manifest.is_file():
        return None
    try:
        return list(json.loads(manifest.read_text(encoding="utf-8"))["classes"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"init: {manifest}: damaged ({error!r}); export again, or `dvc pull`") from error


def start_from(model: nn.Module, initial: Initial, classes: Sequence[str]) -> list[str]:
    """Copy each tensor of the same name and shape into `model`, and return lines that say which, and why others not.

    Raises UserError if none fits.
    """
    mine = model.state_dict()
    given = initial.tensors
    fitting = [name for name in mine if name in given and given[name].shape == mine[name].shape]
    weights = [name for name in fitting if mine[name].dim()]
    if not weights:
        raise UserError(
            f"init: {initial.source}: none of its {len(given)} tensors fits this model, whose tensors are called "
            f"{_some(list(mine))}"
        )
    model.load_state_dict({name: given[name] for name in fitting}, strict=False)
    shapes = [f"{n} {_shape(given, n)} to {_shape(mine, n)}" for n in mine if n in given and n not in fitting]
    told = {
        "of another shape": shapes,
        "not in it": [name for name in mine if name not in given],
        "in it, but not in this model": sorted(name for name in given if name not in mine),
    }
    lines = [f"init: {len(fitting)} of {len(mine)} tensors from {initial.source}"]
    lines += [f"init: {len(names)} {what}: {_some(names)}" for what, names in told.items() if names]
    return lines + _class_lines(initial.classes, classes)


def _class_lines(theirs: Sequence[str] | None, ours: Sequence[str]) -> list[str]:
    if theirs is None or list(theirs) == list(ours):
        return []
    gone = [name for name in theirs if name not in ours]
    new = [name for name in ours if name not in theirs]
    told = [f"{what} {_some(names)}" for what, names in (("the data lacks its", gone), ("it lacks", new)) if names]
    why = "; ".join(told) or "their order is another"
    return [f"init: its classes are not the data's ({why}): what tells classes apart has to be learnt anew"]


def _shape(tensors: Mapping[str, torch.Tensor], name: str) -> str:
    return "x".join(str(side) for side in tensors[name].shape) or "a number"


def _some(names: Sequence[str], most: int = 6) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
