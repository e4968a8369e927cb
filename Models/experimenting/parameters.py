"""Changes of params.yaml that leave everything else in it as it was, comments and layout too."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.nodes import CollectionNode, MappingNode, Node

from Datasets.tools.errors import UserError, one_line


def with_parameters(path: Path, changes: Sequence[str]) -> str:
    """The text of `path` with each change `group.key=value` made; the value is YAML.

    Raises UserError for a key that is not there, for a group, and for a value that is no YAML.
    """
    text = path.read_bytes().decode("utf-8")  # as bytes, so that line ends stay
    for change in changes:
        key, equals, typed = change.partition("=")
        if not equals or not key.strip() or not typed.strip() or len(change.splitlines()) > 1:
            raise UserError(f"-S {change!r}: write KEY=VALUE on one line, like experiments.e001.train.epochs=20")
        text = _with_value(path, text, key.strip(), typed.strip())
    return text


def _with_value(path: Path, text: str, key: str, typed: str) -> str:
    value = _load(typed, f"-S {key}={typed}")
    node = _find(path, text, key)
    if isinstance(node, CollectionNode) and not node.flow_style:
        raise UserError(f"-S {key}: is a group in {path.name}; name one value in it, or edit the file")
    start, end = node.start_mark.index, node.end_mark.index
    changed = text[:start] + typed + text[end:]
    _load(changed, f"-S {key}={typed}")
    if _load(_text(_find(path, changed, key), changed), f"-S {key}={typed}") != value:
        raise UserError(f"-S {key}={typed}: does not fit into one line of {path.name}; edit the file")
    return changed


def _load(text: str, where: str) -> Any:
    try:
        return YAML(typ="safe", pure=True).load(text)
    except YAMLError as error:
        raise UserError(f"{where}: is no YAML: {one_line(error)}") from error


def _find(path: Path, text: str, key: str) -> Node:
    _load(text, str(path))
    node = YAML(pure=True).compose(text)
    done: list[str] = []
    for part in key.split("."):
        entries = {each.value: inner for each, inner in node.value} if isinstance(node, MappingNode) else {}
        if part not in entries:
            where = ".".join(done) or "the top"
            raise UserError(f"-S {key}: {path.name} has no {part!r} in {where}; it has: {', '.join(entries)}")
        node = entries[part]
        done.append(part)
    return node


def _text(node: Node, text: str) -> str:
    return text[node.start_mark.index : node.end_mark.index]
