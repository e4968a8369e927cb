"""params.yaml and dvc.yaml as a person keeps them: a source's lines are added, and every other byte stays."""

import io
import re
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedSeq
from ruamel.yaml.error import YAMLError
from ruamel.yaml.nodes import CollectionNode, MappingNode, Node, SequenceNode

from Datasets.format.classes import ClassRules, parse_merges, parse_renames
from Datasets.format.files import decode_text
from Datasets.tools.atomic import replacing
from Datasets.tools.errors import UserError, one_line


def load_params(path: Path) -> dict[str, Any]:
    """The parameters. Raises UserError if the file is no YAML of groups, or `sources` none of entries."""
    return _parse(_text(path), path)


def _text(path: Path) -> str:
    return decode_text(path.read_bytes(), path, "utf-8")


def _parse(text: str, path: Path) -> dict[str, Any]:
    try:
        params = YAML(typ="safe").load(text)
    except (YAMLError, ValueError) as error:
        raise UserError(f"{path}: not YAML: {one_line(error)[:300]}") from error
    if not isinstance(params, dict) or not isinstance(params.get("sources") or {}, dict):
        raise UserError(f"{path}: no groups of parameters, or `sources` is no mapping of names to entries")
    return params


def written_entry(name: str, entry: dict[str, Any], indent: str = "  ") -> str:
    """The lines of an entry of `sources`."""
    yaml, text = YAML(), io.StringIO()
    yaml.width = 10**6
    lists = {key: _in_brackets(value) if isinstance(value, list) else value for key, value in entry.items()}
    yaml.dump({name: lists}, text)
    return "".join(f"{indent}{line}\n" for line in text.getvalue().splitlines())


def _in_brackets(values: Sequence[str]) -> CommentedSeq:
    sequence = CommentedSeq(values)
    sequence.fa.set_flow_style()
    return sequence


def in_brackets(values: Sequence[str]) -> str:
    """A list as one line of YAML, quoted where it must be."""
    yaml, text = YAML(), io.StringIO()
    yaml.width = 10**6
    yaml.dump(_in_brackets(values), text)
    return text.getvalue().strip()


FOLDERS = ("Data_processing/intermediate/imported", "Data_processing/intermediate/inspected")  # a file a source in each


def write_text(path: Path, text: str) -> None:
    """Replace the text of a file, which keeps its mode."""
    with replacing(path) as partial:
        partial.write_bytes(text.encode())
        shutil.copymode(path, partial)


def with_dependencies(path: Path, name: str) -> str:
    """The text of dvc.yaml in which stage clean depends on a source's files, too.

    Raises UserError where the stage's deps are no list with a line for each.
    """
    text, files = _text(path), [f"{folder}/{name}.parquet" for folder in FOLDERS]
    deps = _find(YAML().compose(text), ("stages", "clean", "deps"))
    if not isinstance(deps, SequenceNode) or deps.flow_style or not deps.value:
        lines = " and ".join(f"`- {file}`" for file in files)
        raise UserError(f"{path}: stage clean has no list of `deps` with a line for each; write {lines} there")
    new = [file for file in files if file not in [node.value for node in deps.value]]
    sources = [node for node in deps.value if str(node.value).startswith(FOLDERS)]
    first = deps.value[0].start_mark
    at = _next_line(text, _end(sources[-1])) if sources else first.index - first.column
    newline = "\r\n" if "\r\n" in text else "\n"
    lines = "".join(f"{' ' * deps.start_mark.column}- {file}{newline}" for file in new)
    return text[:at] + lines + text[at:]


def _find(node: Node | None, keys: Sequence[str]) -> Node | None:
    """The node below mappings by their keys, if there is one."""
    for key in keys:
        pairs = node.value if isinstance(node, MappingNode) else ()
        node = next((value for name, value in pairs if name.value == key), None)
    return node


def with_entry(path: Path, name: str, entry: dict[str, Any]) -> str:
    """The file's text with an entry at the end of `sources`. Raises UserError where it would mean something else."""
    text = _text(path)
    params, changed = _parse(text, path), _insert(text, name, entry)
    expected = {**params, "sources": {**(params.get("sources") or {}), name: entry}}
    try:
        right = _parse(changed, path) == expected
    except UserError:
        right = False
    if not right:
        raise UserError(f"{path}: `sources` is written in a way that no entry can be added to; write {name!r} there")
    return changed


def _insert(text: str, name: str, entry: dict[str, Any]) -> str:
    newline = "\r\n" if "\r\n" in text else "\n"
    node = _find(YAML().compose(text), ["sources"])
    if node is None:
        lines, at = f"sources:\n{written_entry(name, entry)}", len(text)
    elif isinstance(node, MappingNode) and node.value and node.flow_style:
        at = _end(node.value[-1][1])
        return f"{text[:at]}, {_in_braces(name, entry)}{text[at:]}"
    elif isinstance(node, MappingNode) and node.value:
        lines, at = written_entry(name, entry, " " * node.value[0][0].start_mark.column), _end(node)
    else:
        at = node.start_mark.index
        text = text[:at].rstrip(" ") + text[node.end_mark.index :]
        lines, at = written_entry(name, entry), min(at, len(text))
    at = _next_line(text, at)
    broken = newline if at == len(text) and not text.endswith("\n") else ""
    return text[:at] + broken + lines.replace("\n", newline) + text[at:]


def _next_line(text: str, at: int) -> int:
    if at and text[at - 1] == "\n":
        return at
    return text.find("\n", at) + 1 or len(text)


def _end(node: Node) -> int:
    """Where a value ends, without the comments and empty lines that follow."""
    if not isinstance(node, CollectionNode) or node.flow_style or not node.value:
        return int(node.end_mark.index)
    last = node.value[-1]
    return _end(last[1] if isinstance(last, tuple) else last)


def _in_braces(name: str, entry: dict[str, Any]) -> str:
    yaml, text = YAML(), io.StringIO()
    yaml.width, yaml.default_flow_style = 10**6, True
    yaml.dump({name: entry}, text)
    return re.sub(r"^\{|\}\n?$", "", text.getvalue())


LISTS = {"keep": "classes", "rename": "OLD=NEW", "drop": "classes", "merge": "NEW=OLD+OLD"}  # of clean


def class_rules(path: Path) -> ClassRules:
    """What `clean` says of classes. Raises UserError if that cannot be what stage clean is to do."""
    clean = load_params(path).get("clean") or {}
    if not isinstance(clean, dict):
        raise UserError(f"{path}: clean: {clean!r} is no group of parameters")
    rules = {}
    for key, what in LISTS.items():
        value = [] if clean.get(key) is None else clean[key]
        if not isinstance(value, list) or not all(isinstance(part, str | int | float) for part in value):
            raise UserError(f"{path}: clean.{key}: {value!r} is no list of {what}")
        rules[key] = [str(part) for part in value]
    try:
        return ClassRules(rules["keep"], parse_renames(rules["rename"]), rules["drop"], parse_merges(rules["merge"]))
    except UserError as error:
        raise UserError(f"{path}: clean.{error}") from error


def not_kept(rules: ClassRules, names: Iterable[str]) -> list[str]:
    """Those of `names`, renamed and merged, that clean.keep leaves out, and that clean.drop does not name."""
    ours = {rules.ours(name): rules.name(name) for name in names}
    return sorted(name for name, kept in ours.items() if kept is None and name not in rules.drop)
