"""Merge two versions of dvc.lock, as git's merge driver for it: `make setup` tells git so.

    python -m Datasets.tools.merge_lock ANCESTOR OURS THEIRS

What a lock file has of a stage is one statement: this command made these outputs from those inputs. So each is taken as
a whole; a merge by lines could state that ours made what theirs made. A stage that only one side changed is taken from
there. Of one that both changed, ours stays, which is true, if out of date: `dvc repro` then says what is to be done.

The merged file replaces OURS. DVC's own driver (`dvc git-hook merge-driver`) merges .dvc files only.
"""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from Datasets.tools.atomic import replacing
from Datasets.tools.command import run
from Datasets.tools.errors import UserError, one_line

Entries = dict[str, Any]


def read_lock(path: Path) -> Entries:
    """A lock file's contents, in order; of an empty file, which a side without one has, nothing. Raises UserError."""
    try:
        lock = YAML(typ="safe").load(path.read_text(encoding="utf-8")) or {}
        stages = lock.get("stages", {}) if isinstance(lock, dict) else None
    except (YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"dvc.lock: no YAML, so it is left to you: {one_line(error)[:200]}") from error
    if not isinstance(stages, dict):
        raise UserError("dvc.lock: `stages` is no mapping, so it is left to you")
    return lock


def merge_stages(ancestor: Entries, ours: Entries, theirs: Entries) -> list[str]:
    """Put into `ours` what only `theirs` changed, added or removed. Returns the names of those that both changed."""
    both = []
    for name in [*ours, *(name for name in theirs if name not in ours)]:
        base, mine, other = ancestor.get(name), ours.get(name), theirs.get(name)
        if mine != base and other != base and mine != other:
            both.append(name)
        elif mine == base and other is None:
            del ours[name]
        elif mine == base:
            ours[name] = other
    return both


def main(
    ancestor: Annotated[Path, typer.Argument(help="the version that both sides began with")],
    ours: Annotated[Path, typer.Argument(help="our version, which is replaced")],
    theirs: Annotated[Path, typer.Argument(help="their version")],
) -> None:
    """Merge dvc.lock by stages, as git's merge driver."""
    base, lock, other = map(read_lock, (ancestor, ours, theirs))
    both = merge_stages(base.get("stages", {}), lock.setdefault("stages", {}), other.get("stages", {}))
    lock.setdefault("schema", other.get("schema", "2.0"))
    with replacing(ours) as partial:
        YAML().dump(lock, partial)
    changed = f"{', '.join(both)} changed on both sides, ours kept; " if both else ""
    print(f"dvc.lock: {changed}now `dvc repro`, then commit dvc.lock", file=sys.stderr)


if __name__ == "__main__":
    run(main)
