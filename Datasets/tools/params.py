"""Reads params.yaml and dvc.yaml, and adds to them; every other byte of them stays."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from Datasets.format.files import decode_text
from Datasets.tools.errors import UserError, one_line


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


def text_of(path: Path) -> str:
    """The text of a file in UTF-8. Raises UserError."""
    return decode_text(path.read_bytes(), path, "utf-8")


def parsed(text: str, path: Path) -> Any:
    """What a text of YAML says. Raises UserError."""
    try:
        return YAML(typ="safe").load(text)
    except (YAMLError, ValueError) as error:
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
