"""Reads params.yaml and dvc.yaml, adds to them (every other byte of them stays), and checks what they name.

    python -m Datasets.tools.params

checks the names in params.yaml, which stages put into commands and paths.
"""

import io
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from Datasets.format.files import decode_text
from Datasets.tools.command import run
from Datasets.tools.errors import UserError, one_line

NAMES = {"sources": r"(?!no-)[A-Za-z][\w-]*", "pretrained": r"[a-z]\w*", "experiments": r"e\d+"}
UNKNOWN = "unknown"  # the licence where none is stated; licenses.allow can name it
BARE = ("script", "helpers", "init")  # of an experiment; a shell gets them as they are


def wrong_names(params: Mapping[str, Any]) -> Iterator[str]:
    """What a shell could take for more than a name, and experiments that start from themselves, each in a line."""
    for section, pattern in NAMES.items():
        for name, entry in (params.get(section) or {}).items():
            if not re.fullmatch(pattern, str(name), re.ASCII):
                yield f"{section}: {str(name)!r:.80}: is no name; write one of letters, digits, - and _"
            for bare in BARE if isinstance(entry, Mapping) else ():
                if not re.fullmatch(r"[\w./-]+", str(entry.get(bare, "-"))):
                    yield f"{section}: {name}: {bare}: {entry[bare]!r:.80} cannot stand in a command; rename it"
    if wrong := next((key for key in _keys(params) if not re.fullmatch(r"[\w.-]+", str(key))), None):
        yield f"{str(wrong)!r:.80} cannot be the name of an option"
    starts = {name: entry.get("init") for name, entry in (params.get("experiments") or {}).items()}
    for name, init in starts.items():
        chain = [name]
        while init in starts and init not in chain:
            chain, init = [*chain, init], starts[init]
        if init == name:
            yield f"experiments: {name}: init: {' starts from '.join([*chain, name])}; name another"


def _keys(params: Any) -> Iterator[Any]:
    for key, value in params.items() if isinstance(params, Mapping) else ():
        yield from (key, *_keys(value))


def check_licenses(found: Mapping[str, str], allowed: Iterable[str]) -> None:
    """Raise UserError, which names all that would have to be allowed, for licences that are not; [] allows all.

    found: the licence, an SPDX identifier or expression, of each source, weights and package, by what the message calls
    it; "" where none is stated.
    """
    allow = {each.casefold() for each in allowed} - {"none"}  # which DVC makes of an empty `allow:`
    lacking: dict[str, list[str]] = {}
    for what, license in found.items():
        for each in _lacking(license or UNKNOWN, allow) if allow else ():
            lacking.setdefault(each, []).append(what)
    if lacking:
        named = ", ".join(f"{name} (of {', '.join(of[:3])}{' …' * (len(of) > 3)})" for name, of in lacking.items())
        stated = ", or state it; of a source, by `license` in its entry, or --license" if UNKNOWN in lacking else ""
        raise UserError(f"licenses.allow in params.yaml lacks {named}; add what the project accepts{stated}")


def _lacking(license: str, allow: set[str]) -> list[str]:
    """The parts of an SPDX expression that are not allowed. `OR` asks for one side, in parentheses for both."""
    if license.casefold() in allow:
        return []
    plain = license.replace("(", "").replace(")", "")
    ways = plain.split(" OR ") if plain == license else [plain.replace(" OR ", " AND ")]
    return min(([part for part in way.split(" AND ") if part.casefold() not in allow] for way in ways), key=len)


def as_yaml(value: Any) -> str:
    """A value in one line of YAML, quoted where it must be."""
    yaml, text = YAML(), io.StringIO()
    yaml.width, yaml.default_flow_style = 10**6, True
    yaml.dump([value], text)
    return text.getvalue().strip()[1:-1]


def written_entry(name: str, entry: Mapping[str, Any], indent: str = "  ") -> str:
    """The lines of an entry; of an experiment, `train` and `model` have a line for each option."""
    lines = f"{indent}{as_yaml(name)}:\n"
    for key, value in entry.items():
        block = key in ("train", "model") and value
        lines += written_entry(key, value, f"{indent}  ") if block else f"{indent}  {key}: {as_yaml(value)}\n"
    return lines


def with_entry(path: Path, section: str, name: str, entry: Mapping[str, Any]) -> str:
    """The text of params.yaml with an entry at the end of a section. Raises UserError if entries share a line."""
    text = text_of(path)
    before, node = parsed(text, path), node_at(text, section)
    if node and not node.value:  # `{}`, or nothing
        head = text[: node.start_mark.index].rstrip(" ")
        changed = insert(head + text[node.end_mark.index :], len(head), written_entry(name, entry))
    elif not getattr(node, "flow_style", True):
        indent = " " * node.start_mark.column
        changed = insert(text, end_of(node), written_entry(name, entry, indent))
    else:
        changed = text
    if parsed(changed, path) != {**before, section: {**(before.get(section) or {}), name: entry}}:
        raise UserError(f"{path}: `{section}` has no line for each entry, so none can be added; write {name!r} there")
    return changed


def without_entry(path: Path, section: str, name: str) -> str:
    """The text of params.yaml without an entry that a section has. Raises UserError if entries share a line."""
    text = text_of(path)
    before, entries = parsed(text, path), node_at(text, section).value
    key, value = next(pair for pair in entries if pair[0].value == name)
    start, end = text.rfind("\n", 0, key.start_mark.index) + 1, text.find("\n", end_of(value)) + 1
    changed = text[:start] + text[end or len(text) :]
    if len(entries) == 1:  # nothing after the colon is no mapping
        changed = re.sub(rf"^({section}:)", r"\1 {}", changed, flags=re.MULTILINE)
    kept = {key: value for key, value in before[section].items() if key != name}
    if parsed(changed, path) != {**before, section: kept}:
        raise UserError(f"{path}: `{section}` has no line for each entry; delete {name!r} there by hand")
    return changed


def with_other_name(path: Path, section: str, name: str, new: str) -> str:
    """The text of params.yaml where an entry of a section, and what starts from it by `init`, has another name."""
    text = text_of(path)
    pairs = node_at(text, section).value
    places = [key for key, _ in pairs if key.value == name]
    places += [value for _, entry in pairs for key, value in entry.value if (key.value, value.value) == ("init", name)]
    for place in sorted(places, key=lambda each: -each.start_mark.index):
        text = text[: place.start_mark.index] + new + text[place.end_mark.index :]
    return text


def text_of(path: Path) -> str:
    """The text of a file in UTF-8. Raises UserError."""
    return decode_text(path.read_bytes(), path, "utf-8")


def parsed(text: str, path: Path) -> Any:
    """What a text of YAML says. Raises UserError."""
    try:
        return YAML(typ="safe").load(text)
    except (YAMLError, ValueError) as error:
        if re.search("^<<<<<<< ", text, re.MULTILINE):
            raise UserError(f"{path}: a merge left a conflict in it; keep the lines of both sides, or one's") from None
        raise UserError(f"{path}: not YAML: {one_line(error)[:300]}") from error


def node_at(text: str, *keys: str) -> Any:
    """What stands at a key, each inside the one before, as YAML's node, which knows its place; None if nothing does."""
    node = YAML(typ="safe", pure=True).compose(text)
    for key in keys:
        node = node and {name.value: value for name, value in node.value}.get(key)
    return node


def end_of(node: Any) -> int:
    """Where the text of a node ends, without what follows on lines of its own, such as remarks."""
    if isinstance(node.value, str) or node.flow_style:
        return node.end_mark.index
    last = node.value[-1]  # of a mapping a pair
    return end_of(last[1] if isinstance(last, tuple) else last)


def insert(text: str, place: int, new: str) -> str:
    """The text with more lines after the one of `place`, which end as the others do."""
    newline = "\r\n" if "\r\n" in text else "\n"
    last = len(text[:place].rstrip())  # what is empty ends where the next thing begins
    after = text.find("\n", last) + 1
    if not after:
        text, after = text + newline, len(text + newline)
    return text[:after] + new.replace("\n", newline) + text[after:]


def main() -> None:
    """Check the names in params.yaml."""
    path = Path("params.yaml")
    for problem in wrong_names(parsed(text_of(path), path) or {}):
        raise UserError(f"{path}: {problem}")


if __name__ == "__main__":
    run(main)
