"""Remove an experiment, or give it another id: in params.yaml, dvc.lock and among what its stages wrote."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

from Datasets.tools.atomic import editing, write_text
from Datasets.tools.errors import UserError
from Datasets.tools.params import parsed, text_of, with_other_name, without_entry
from Models.experimenting.log import LOG, ROOT, Id, read_text
from Models.experimenting.run import alone, lock_without

PARAMS, LOCK = ROOT / "params.yaml", ROOT / "dvc.lock"
STAGES = ("train", "evaluate", "review", "export", "package", "verify")
MADE = [
    "Datasets/pretrained/{}",
    "Deployment/bundles/{}",
    "Deployment/bundles/{}.tar.gz",
    "Deployment/bundles/{}.verification.json",
]


@alone()
def remove(experiment: Id) -> None:
    """Remove an experiment from params.yaml and dvc.lock, and what its stages wrote; the log and its script stay."""
    entries = parsed(text_of(PARAMS), PARAMS).get("experiments") or {}
    if started := [name for name, entry in entries.items() if entry.get("init") == experiment != name]:
        raise UserError(f"{experiment}: {', '.join(started)} in {PARAMS.name} starts from it; remove that first")
    found = delete(experiment, *MADE, "Models/outputs/{}")
    if experiment in entries:
        edit(PARAMS, lambda: without_entry(PARAMS, "experiments", experiment))
        print(f"Models/{entries[experiment]['script']}.py: stays; `git rm` it if no other experiment needs it")
    elif not found and f"@{experiment}:" not in read_text(LOCK, ""):
        raise UserError(f"{PARAMS}: has no experiment {experiment!r}; it has: {', '.join(entries) or 'none'}")
    if LOCK.exists():
        edit(LOCK, lambda: lock_without(f"{stage}@{experiment}" for stage in STAGES))
    print(f"{experiment} is removed; what it wrote stays in DVC's cache, and the last commit has its entry")


@alone()
def rename(experiment: Id, new: Id) -> None:
    """Give an experiment another id; what it learned stays, and its export and bundle are made again, with the id."""
    entries = parsed(text_of(PARAMS), PARAMS).get("experiments") or {}
    if experiment not in entries or new in entries or not re.fullmatch(r"e\d+", new):
        why = f"there is no {experiment}" if experiment not in entries else f"{new} is taken, or no id"
        raise UserError(f"{PARAMS}: {why}; the experiments are {', '.join(entries) or 'none'}")
    if (ROOT / "Models/outputs" / new).exists():
        raise UserError(f"Models/outputs/{new}: is there already; `python -m Models.experiment remove {new}`")
    edit(PARAMS, lambda: with_other_name(PARAMS, "experiments", experiment, new))
    edit(LOG, lambda: re.sub(rf"^## {experiment}\b", f"## {new}", read_text(LOG, ""), flags=re.MULTILINE))
    if LOCK.exists():
        made_again = [f"{stage}@{experiment}" for stage in STAGES[2:]]
        edit(LOCK, lambda: re.sub(rf"(?<=[@/]){experiment}\b", new, lock_without(made_again)))
    delete(experiment, *MADE)
    if (ROOT / "Models/outputs" / experiment).exists():
        (ROOT / "Models/outputs" / experiment).rename(ROOT / "Models/outputs" / new)
    print(f"{experiment} is {new} now; next: `dvc repro`, which trains again only what starts from it")


def edit(path: Path, changed: Callable[[], str]) -> None:
    """Replace the text of a file by what is made of it."""
    with editing(path):
        write_text(path, changed())


def delete(experiment: str, *places: str) -> list[Path]:
    """Delete what an experiment's stages wrote; returns what there was."""
    found = [ROOT / place.format(experiment) for place in places if (ROOT / place.format(experiment)).exists()]
    for path in found:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return found
