"""Class names, their integer ids, and which of a source's classes are wanted under which name."""

import difflib
import json
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from Datasets.tools.errors import UserError


@dataclass(frozen=True)
class ClassRules:
    """How a source's classes become ours.

    rename: from a source's name to ours, all at once. merge: from one of ours to a class of several, applied next.

    keep: the names then wanted, in id order; empty means all that occur. drop: names that are left out on purpose,
    though they look like a misspelling of one that is kept. All names here are `composed`, and are compared as such: on
    paper they are the same.
    """

    keep: Sequence[str] = ()
    rename: Mapping[str, str] = field(default_factory=dict)
    drop: Sequence[str] = ()
    merge: Mapping[str, str] = field(default_factory=dict)

    def ours(self, name: str) -> str:
        """The name of a source's class once it is renamed and merged, wanted or not."""
        name = composed(name)
        renamed = self.rename.get(name, name)
        return self.merge.get(renamed, renamed)

    def name(self, name: str) -> str | None:
        """The name to use for a source's class, or None if the class is not wanted."""
        ours = self.ours(name)
        return ours if not self.keep or ours in self.keep else None

    def meant(self, name: str) -> str | None:
        """The kept name of which an unwanted `name` looks like a misspelling, or None (also if `drop` has it)."""
        name = composed(name)
        return None if self.name(name) or name in self.drop else _closest(name, tuple(self.keep))


def composed(name: str) -> str:
    """The name with a space for control characters, such as a line break, and in Unicode's composed form (NFC)."""
    name = " ".join(filter(None, re.split(r" *[\x00-\x1f\x7f]+ *", name)))
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def nearly_alike(names: Iterable[str]) -> list[list[str]]:
    """The names that differ from others in case, spaces, _ and - only, as `Car` and `car`."""
    alike: dict[str, list[str]] = {}
    for name in sorted(set(names)):
        alike.setdefault(re.sub(r"[\s_-]+", " ", name.casefold()), []).append(name)
    return [each for each in alike.values() if len(each) > 1]


@cache
def _closest(name: str, kept: tuple[str, ...]) -> str | None:
    folded = {each.casefold(): each for each in kept}
    close = difflib.get_close_matches(name.casefold().strip(), folded, n=1, cutoff=0.8)
    return folded[close[0]] if close else None


def parse_renames(pairs: Iterable[str]) -> dict[str, str]:
    """`["auto=car"]` as `{"auto": "car"}`. Raises UserError for a part that is no pair, or for two targets of one."""
    renames: dict[str, str] = {}
    for pair in pairs:
        old, equals, new = composed(pair).partition("=")
        if not (old and equals and new):
            raise UserError(f"rename: {pair!r} is not of the form OLD=NEW")
        if renames.setdefault(old, new) != new:
            raise UserError(f"rename: {old!r} is renamed to both {renames[old]!r} and {new!r}")
    return renames


def parse_merges(groups: Iterable[str]) -> dict[str, str]:
    """`["vehicle=car+truck"]` as `{"car": "vehicle", "truck": "vehicle"}`.

    Raises UserError for another form, for a class that is merged into two, or into one that is itself merged.
    """
    merges: dict[str, str] = {}
    for group in groups:
        new, equals, olds = composed(group).partition("=")
        if not (new and equals and all(olds.split("+"))):
            raise UserError(f"merge: {group!r} is not of the form NEW=OLD+OLD")
        for old in olds.split("+"):
            if merges.setdefault(old, new) != new:
                raise UserError(f"merge: {old!r} is merged into both {merges[old]!r} and {new!r}")
    for old, new in merges.items():
        if (last := merges.get(new, new)) != new:
            raise UserError(f"merge: {old!r} is merged into {new!r}, and that into {last!r}; merge it into {last!r}")
    return merges


def parse_rules(keep: Sequence[str], rename: Iterable[str], drop: Sequence[str], merge: Iterable[str]) -> ClassRules:
    """The rules that options state.

    Raises UserError for a part of `rename` or `merge` that is none, if `keep` names a class twice, and if `merge` has a
    name that `rename` replaces.
    """
    rules = ClassRules([*map(composed, keep)], parse_renames(rename), [*map(composed, drop)], parse_merges(merge))
    for number, name in enumerate(rules.keep):
        if name in rules.keep[:number]:
            raise UserError(f"keep: {name!r} is named twice; a class has one id")
    for old, new in rules.merge.items():
        renamed = rules.rename.get(old, old)
        if renamed not in (old, new) and old not in rules.rename.values():
            raise UserError(f"merge: {old!r} is renamed to {renamed!r}; merge {renamed!r}")
    return rules


def class_ids(names: Iterable[str], keep: Sequence[str] = (), others: Iterable[str] = ()) -> dict[str, int]:
    """Contiguous ids from 0: in the order of `keep`, or else in alphabetical order of the names that occur.

    others: names that occur and are not kept, for the message. Raises UserError for a kept name that does not occur.
    """
    occurring = set(names)
    for name in keep:
        if name not in occurring:
            seen = ", ".join(sorted(occurring.union(others))) or "none"
            raise UserError(f"keep: no accepted image has the class {name!r}; classes that occur: {seen}")
    return {name: number for number, name in enumerate(keep or sorted(occurring))}


def write_classes(classes: Mapping[str, int], path: Path) -> None:
    """Write the mapping of name to id as JSON, in id order."""
    path.write_text(json.dumps(dict(classes), ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def read_classes(path: Path) -> dict[str, int]:
    """Read what write_classes wrote. Raises UserError if it is missing, or its ids are not 0, 1, 2, ..."""
    try:
        classes = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: not found; run the curate stage, or `dvc pull`") from None
    if sorted(classes.values()) != list(range(len(classes))):
        raise UserError(f"{path}: ids are not 0, 1, 2, ... without a gap")
    return dict(sorted(classes.items(), key=lambda item: item[1]))
