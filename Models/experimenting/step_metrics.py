"""Metrics at commits, from DVC's cache, and tables of how they differ."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from Datasets.tools.errors import UserError

Metrics = Mapping[str, float]  # by FILE:NAME, names within names joined by dots


def metrics_at(root: Path, commits: Sequence[str]) -> dict[str, dict[str, float]]:
    """By commit: every number in its metrics files, by FILE:NAME. Files that DVC's cache lacks are left out."""
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    logging.getLogger("dvc").setLevel(logging.ERROR)
    try:
        with Repo(str(root)) as repo:
            shown = repo.metrics.show(revs=list(commits), hide_workspace=False)
    except DvcException as error:
        raise UserError(f"dvc: {error}") from error
    return {commit: _numbers(shown.get(commit, {}).get("data") or {}) for commit in commits}


def _numbers(files: Mapping[str, Any]) -> dict[str, float]:
    return {
        f"{file}:{name}": value
        for file, result in sorted(files.items())
        for name, value in _leaves(result.get("data") or {})
    }


def _leaves(tree: Any, prefix: str = "") -> list[tuple[str, float]]:
    if isinstance(tree, Mapping):
        return [leaf for name, inner in tree.items() for leaf in _leaves(inner, f"{prefix}.{name}" if prefix else name)]
    return [(prefix, tree)] if isinstance(tree, int | float) and not isinstance(tree, bool) else []


def changes(before: Metrics, after: Metrics) -> list[str]:
    """A line for each metric that a run changed, with the difference to before, under the name of its file."""
    lines: list[str] = []
    file = ""
    for key, value in after.items():
        where, name = key.split(":", 1)
        if before.get(key) == value:
            continue
        if where != file:
            lines.append(where)
            file = where
        lines.append(f"  {name} {number(value)}{_difference(before.get(key), value)}")
    return lines or ["no metric changed"]


def _difference(old: float | None, new: float) -> str:
    return " (new)" if old is None else f" ({new - old:+.6g})"


def number(value: float | None) -> str:
    """A number with at most six digits; a dash where there is none."""
    return "-" if value is None else f"{value:.6g}"


def table(columns: Mapping[str, Metrics], folder: str) -> list[str]:
    """A line for each metric of the folder, a column for each step; after the first, with the difference to it.

    Metrics within groups, such as those of each class, are left out, and those that no column has.
    """
    keys = sorted({key for metrics in columns.values() for key in metrics if _shown(key, folder)})
    base = next(iter(columns))
    rows = [["", *columns]]
    for key in keys:
        cells = [_cell(metrics.get(key), columns[base].get(key), name == base) for name, metrics in columns.items()]
        rows.append([key.removeprefix(folder), *cells])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _shown(key: str, folder: str) -> bool:
    where, name = key.split(":", 1)
    return where.startswith(folder) and where.endswith("evaluate/metrics.json") and "." not in name


def _cell(value: float | None, base: float | None, is_base: bool) -> str:
    if value is None or base is None or is_base:
        return number(value)
    return f"{number(value)} ({value - base:+.4g})"
