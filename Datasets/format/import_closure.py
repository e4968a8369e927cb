"""Which files of this project a file imports, directly or not, found by reading and without running anything.

The same answer serves three uses: the stages' dependencies in dvc.yaml, the scripts that travel with an export, and
the code that goes into a bundle.
"""

import ast
from collections.abc import Iterable
from pathlib import Path


def imported_modules(file: Path, root: Path) -> set[str]:
    """Every dotted name that may be a module imported by `file` (relative to `root`), at any depth of its code."""
    names: set[str] = set()
    package = file.parent.parts
    for node in ast.walk(ast.parse((root / file).read_text(encoding="utf-8"), filename=str(file))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*above, *([node.module] if node.module else [])])
            names.update({module, *(f"{module}.{alias.name}" for alias in node.names)})
    return names


def import_closure(files: Iterable[Path], root: Path) -> list[Path]:
    """`files` and all files below `root` that they import, with the `__init__.py` of each package, sorted.

    Paths are relative to `root`. A name computed at run time (importlib) is not seen: pass such a file in `files`.
    """
    found: set[Path] = set()
    waiting = list(files)
    while waiting:
        file = waiting.pop()
        if file in found:
            continue
        found.add(file)
        imported = [Path(*name.split(".")) for name in imported_modules(file, root)]
        modules = [path.with_suffix(".py") for path in imported]
        packages = [folder / "__init__.py" for folder in (*file.parents, *imported)]
        waiting += [path for path in (*modules, *packages) if (root / path).is_file()]
    return sorted(found)


def uncovered(script: Path, helpers: Path, root: Path) -> list[Path]:
    """The files beside a model script that it imports, and that are not `helpers`, a file or a folder, nor in it.

    The experiment's stages depend on its script and `helpers`: an edit of another file would not run them again.
    """
    beside = [file for file in import_closure([script], root) if file.parts[0] == script.parts[0] and file != script]
    outside = [file for file in beside if not file.is_relative_to(helpers)]
    return [file for file in outside if (root / file).read_text(encoding="utf-8").strip()]  # not an empty __init__.py
