"""Merge two versions of dvc.lock, as git's merge driver for it (`make setup` installs it).

    python -m Datasets.tools.merge_lock ANCESTOR OURS THEIRS

A stage's entry states that this command made these outputs from those inputs, so each entry is taken as a whole: a
merge by lines could mix two. A stage that one side changed comes from there. Of one that both changed, ours stays,
which is true but out of date: `dvc repro` runs it. The merged file replaces OURS.
"""

import sys
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from Datasets.format.files import decode_text
from Datasets.tools.atomic import replacing
from Datasets.tools.command import run
from Datasets.tools.params import parsed

Entries = dict[str, Any]
LOCK = Path("dvc.lock")  # what the files are versions of


def merge_stages(ancestor: Entries, ours: Entries, theirs: Entries) -> list[str]:
    """Apply to `ours` what only `theirs` changed, added or removed. Returns the names of stages that both changed."""
    both = []
    for name in dict.fromkeys([*ours, *theirs]):
        base, mine, other = ancestor.get(name), ours.get(name), theirs.get(name)
        if mine != base and other != base and mine != other:
            both.append(name)
        elif mine == base and other is None:
            del ours[name]
        elif mine == base:
            ours[name] = other
    return both


def main(ancestor: Path, ours: Path, theirs: Path) -> None:
    """Merge dvc.lock stage by stage, as git's merge driver: OURS and THEIRS, which began with ANCESTOR, into OURS."""
    texts = (decode_text(path.read_bytes(), LOCK) for path in (ancestor, ours, theirs))
    base, lock, other = (parsed(text, LOCK) or {} for text in texts)  # an empty file stands for a side without one
    both = merge_stages(base.get("stages", {}), lock.setdefault("stages", {}), other.get("stages", {}))
    lock.setdefault("schema", other.get("schema", "2.0"))
    with replacing(ours) as partial:
        YAML().dump(lock, partial)
    changed = f"{', '.join(both)} changed on both sides, ours kept; " if both else ""
    print(f"dvc.lock: {changed}run `dvc repro`, then commit dvc.lock", file=sys.stderr)


if __name__ == "__main__":
    run(main)
